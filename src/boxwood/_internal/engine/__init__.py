"""Sparse execution on CPUs: programs of native kernels that skip zero weights."""
