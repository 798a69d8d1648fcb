"""From modules to named tensors: evidence, masks and training under masks."""
