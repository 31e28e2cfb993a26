"""One driver per system: reads a workload's inputs, runs the rounds, says when each ended, keeps the first average."""
