"""Compare methods under one budget: equal steps, one grid of learning rates, the controls that reviewers ask for.

    boxwood compare examples/own_method.py:comparison --seeds 3 --out league.html

A method is a function of a `ComparisonTask` and a sparsity that returns a recipe; `compare` runs a `Comparison`
of some, and returns a `League`.
"""

from boxwood._internal.recipes.compared_methods import CONTROLS, METHODS, three_step
from boxwood._internal.recipes.comparison import Comparison, Place
from boxwood._internal.recipes.task import ComparisonTask, Method
from boxwood._internal.report.league import League, Standing, compare
from boxwood._internal.report.ranks import Ranking, ranked_over_tasks

__all__ = [
    "CONTROLS",
    "METHODS",
    "Comparison",
    "ComparisonTask",
    "League",
    "Method",
    "Place",
    "Ranking",
    "Standing",
    "compare",
    "ranked_over_tasks",
    "three_step",
]
