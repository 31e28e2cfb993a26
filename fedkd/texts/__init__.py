"""Corpora: texts with the natural client of each record."""
