"""Trainings as data, the loop that runs them, optimizers, losses and metrics."""
