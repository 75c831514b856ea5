"""Training: configuration, losses, the step, the trainer, checkpoints, loggers."""
