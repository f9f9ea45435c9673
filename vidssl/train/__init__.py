"""Training: the loop, the optimizer and its schedule, the run's folder and its checkpoints."""
