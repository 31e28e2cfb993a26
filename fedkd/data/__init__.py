"""Data sets: where they come from, their hash, their licence."""
