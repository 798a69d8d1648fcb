"""Hugging Face models: callbacks of a ``Trainer``, pruning, shrinking and evaluation of pretrained
folders.

Needs ``pip install 'boxwood[transformers]'``.
"""

from boxwood._internal.adapters.calibration_text import batches_for
from boxwood._internal.adapters.configurations import configured
from boxwood._internal.adapters.evaluating import FolderScore, evaluate_pretrained
from boxwood._internal.adapters.heavy_tails import heavy_tail_sparsities
from boxwood._internal.adapters.outliers import outlier_sparsities
from boxwood._internal.adapters.perplexity import perplexity
from boxwood._internal.adapters.pretrained import prune_pretrained
from boxwood._internal.adapters.shrunken import save_pretrained, shrink_pretrained
from boxwood._internal.adapters.transformers import MaskTrainerCallback, SparseTrainerCallback

__all__ = [
    "FolderScore",
    "MaskTrainerCallback",
    "SparseTrainerCallback",
    "batches_for",
    "configured",
    "evaluate_pretrained",
    "heavy_tail_sparsities",
    "outlier_sparsities",
    "perplexity",
    "prune_pretrained",
    "save_pretrained",
    "shrink_pretrained",
]
