"""Budgets: what a smaller network may cost."""

from boxwood._internal.graph.budgets import Budget, multiply_adds, parameters
from boxwood._internal.graph.latency import latency

__all__ = [
    "Budget",
    "latency",
    "multiply_adds",
    "parameters",
]
