"""Training: optimizer, step, checkpoints, progress, log lines and metrics."""
