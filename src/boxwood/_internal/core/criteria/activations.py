"""Criteria from what flows through a layer."""

from torch import Tensor


def wanda(weight: Tensor, input_norm: Tensor) -> Tensor:
    """Score by weight times activation: ``|W_ij| · ‖X_j‖₂``.

    The paper compares weights within each output row only: use ``granularity=PerRow()``.

    Args:
        weight: [out, in, ...].
        input_norm: root of the summed squares of each input over the calibration examples and
            positions, [1, in, ...].

    Returns:
        Scores of the shape of ``weight``, never negative.

    Example:
        >>> import torch
        >>> wanda(torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 3.0]]))
        tensor([[2., 3.]])

    Source: Sun, Liu, Bair and Kolter (2024), equation 1.
    """
    return weight.abs() * input_norm
