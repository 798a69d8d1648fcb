"""From a trained network and a floor of its accuracy to a smaller, faster one in a folder."""

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
