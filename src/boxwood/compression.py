"""Compress a trained network within an accuracy limit, into a folder with a smaller, faster one."""

from boxwood._internal.compress.candidates import Candidate
from boxwood._internal.compress.result import Compressed
from boxwood._internal.compress.scores import Drop, agreement
from boxwood._internal.compress.search import Attempt
from boxwood._internal.compress.task import Task

__all__ = [
    "Attempt",
    "Candidate",
    "Compressed",
    "Drop",
    "Task",
    "agreement",
]
