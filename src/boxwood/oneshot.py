"""Pruning of trained networks without training, from a few batches of calibration data."""

from boxwood._internal.core.surgeon import Surgery, remove_weights
from boxwood._internal.files.streaming import PrunedTensor, prune_checkpoint
from boxwood._internal.model.block_methods import (
    by_alps,
    by_dsnot,
    with_least_squares,
    with_tuning,
)
from boxwood._internal.model.blockwise import by_criterion, by_sparse_gpt
from boxwood._internal.model.dead import DeadRemoval, remove_dead, remove_dead_
from boxwood._internal.model.fisher_reconstruction import reconstruct_by_fisher
from boxwood._internal.model.mask_refinement import refine_masks
from boxwood._internal.model.oneshot import find_masks_in_rounds, masks_from_zeros
from boxwood._internal.model.reconstruct import (
    Reconstruction,
    load_,
    prune_and_reconstruct,
    prune_by_alps,
    reconstruct,
)

__all__ = [
    "DeadRemoval",
    "PrunedTensor",
    "Reconstruction",
    "Surgery",
    "by_alps",
    "by_criterion",
    "by_dsnot",
    "by_sparse_gpt",
    "find_masks_in_rounds",
    "load_",
    "masks_from_zeros",
    "prune_and_reconstruct",
    "prune_by_alps",
    "prune_checkpoint",
    "reconstruct",
    "reconstruct_by_fisher",
    "refine_masks",
    "remove_dead",
    "remove_dead_",
    "remove_weights",
    "with_least_squares",
    "with_tuning",
]
