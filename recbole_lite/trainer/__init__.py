"""Training: loop, checkpoints, resuming, several processes, numeric checks."""
