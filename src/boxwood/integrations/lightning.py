"""Masks and policies as callbacks of a Lightning ``Trainer`` (``pip install 'boxwood[lightning]'``)."""

from boxwood._internal.adapters.lightning import MaskCallback, SparseTrainingCallback

__all__ = ["MaskCallback", "SparseTrainingCallback"]
