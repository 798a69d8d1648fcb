"""The training loop, its optimizers, losses and metrics."""
