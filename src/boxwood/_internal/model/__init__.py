"""nn.Module on one side, named tensors on the other."""
