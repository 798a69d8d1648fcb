"""Neural-network pruning for PyTorch."""
