"""Federated methods: one file each, client and server half as pure functions."""
