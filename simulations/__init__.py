"""How messages travel and where clients run: command line, grids, run wrapper. Never what is computed."""
