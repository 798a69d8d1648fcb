"""Inputs as `Splits`: own tensors, small sets that ship with packages, and the papers' sets."""
