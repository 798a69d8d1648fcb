"""Tensors in, tensors out; frozen specs. Imports nothing else of Boxwood."""
