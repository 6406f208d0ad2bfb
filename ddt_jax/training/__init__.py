"""Training: optimizer, step, losses of several models, checkpoints, progress, metrics."""
