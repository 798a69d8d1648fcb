"""Data as `Splits`: your own tensors, small sets that ship with packages, and the papers' sets."""
