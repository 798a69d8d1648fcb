"""Pruning of trained networks without training, from a few batches of calibration data."""

from boxwood._internal.core.surgeon import Surgery, remove_weights
from boxwood._internal.files.streaming import PrunedTensor, prune_checkpoint
from boxwood._internal.model.blockwise import by_criterion, by_sparse_gpt
from boxwood._internal.model.dead import DeadRemoval, remove_dead, remove_dead_
from boxwood._internal.model.fisher_reconstruction import reconstruct_by_fisher
from boxwood._internal.model.oneshot import find_masks_in_rounds, masks_from_zeros
from boxwood._internal.model.reconstruct import (
    Reconstruction,
    load_,
    prune_and_reconstruct,
    reconstruct,
)

__all__ = [
    "DeadRemoval",
    "PrunedTensor",
    "Reconstruction",
    "Surgery",
    "by_criterion",
    "by_sparse_gpt",
    "find_masks_in_rounds",
    "load_",
    "masks_from_zeros",
    "prune_and_reconstruct",
    "prune_checkpoint",
    "reconstruct",
    "reconstruct_by_fisher",
    "remove_dead",
    "remove_dead_",
    "remove_weights",
]
