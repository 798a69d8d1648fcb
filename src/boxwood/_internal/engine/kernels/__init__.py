"""Kernels: one file each with its problem, an obvious numpy reference and an emitter."""
