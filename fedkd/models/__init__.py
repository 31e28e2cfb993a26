"""Backbones as ordered blocks, shallow to deep."""
