"""Hugging Face models: callbacks of a ``Trainer``, pruning, shrinking, healing and evaluation of
pretrained folders.

Needs ``pip install 'boxwood[transformers]'``.
"""

from boxwood._internal.adapters.calibration_text import batches_for
from boxwood._internal.adapters.configurations import configured
from boxwood._internal.adapters.depth import (
    block_influences,
    block_perplexities,
    drop_blocks,
    greedy_blocks,
)
from boxwood._internal.adapters.depth_folders import drop_blocks_pretrained
from boxwood._internal.adapters.evaluating import FolderScore, evaluate_pretrained
from boxwood._internal.adapters.expert_layers import expert_scores
from boxwood._internal.adapters.experts import (
    drop_experts,
    drop_experts_pretrained,
    least_experts,
)
from boxwood._internal.adapters.healing import heal_pretrained, plan_healing
from boxwood._internal.adapters.healing_settings import Healed, Healing, HealingPlan
from boxwood._internal.adapters.heavy_tails import heavy_tail_sparsities
from boxwood._internal.adapters.outliers import outlier_sparsities
from boxwood._internal.adapters.perplexity import perplexity
from boxwood._internal.adapters.pretrained import prune_pretrained
from boxwood._internal.adapters.shrunken import save_pretrained, shrink_pretrained
from boxwood._internal.adapters.transformers import MaskTrainerCallback, SparseTrainerCallback

__all__ = [
    "FolderScore",
    "Healed",
    "Healing",
    "HealingPlan",
    "MaskTrainerCallback",
    "SparseTrainerCallback",
    "batches_for",
    "block_influences",
    "block_perplexities",
    "configured",
    "drop_blocks",
    "drop_blocks_pretrained",
    "drop_experts",
    "drop_experts_pretrained",
    "evaluate_pretrained",
    "expert_scores",
    "greedy_blocks",
    "heal_pretrained",
    "heavy_tail_sparsities",
    "least_experts",
    "outlier_sparsities",
    "perplexity",
    "plan_healing",
    "prune_pretrained",
    "save_pretrained",
    "shrink_pretrained",
]
