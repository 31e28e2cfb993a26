"""Studies and benchmarks whose results are committed below docs/results."""
