"""Losses: per-sample terms in float32, one file each."""
