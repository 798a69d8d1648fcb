"""Stores of runs: run experiments, list what is finished, and compare phases."""

from boxwood._internal.report.study import Finding, Measurement, collect
from boxwood._internal.runs.difference import Difference, difference
from boxwood._internal.runs.garbage import collect_garbage
from boxwood._internal.runs.runner import Job, RunSettings, jobs_of, run_all, run_recipe
from boxwood._internal.runs.store import Store

__all__ = [
    "Difference",
    "Finding",
    "Job",
    "Measurement",
    "RunSettings",
    "Store",
    "collect",
    "collect_garbage",
    "difference",
    "jobs_of",
    "run_all",
    "run_recipe",
]
