"""Optimizer, step, checkpoints and metrics."""
