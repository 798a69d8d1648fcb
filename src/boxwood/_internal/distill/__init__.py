"""Distillation: losses, ensembles of teachers, their logits kept on disk, and specialists."""
