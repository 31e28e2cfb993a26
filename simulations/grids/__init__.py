"""Grids: the same apps and messages over different transports."""
