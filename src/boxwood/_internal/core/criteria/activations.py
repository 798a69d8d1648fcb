"""Criteria from the inputs and outputs of a layer."""

import torch
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


def squared_activations(input_norm: Tensor) -> Tensor:
    """Score by activations alone: ``‖X_j‖₂²`` of each input, whatever its weights.

    Units are ranked by the mean square of their outputs: neurons by the inputs of the next layer,
    heads by the context that the output projection reads, and hidden channels by what all layers
    read after their norms. All weights of one input have the same score.

    Args:
        input_norm: root of the summed squares of each input over the calibration examples and
            positions, [1, in, ...].

    Returns:
        Scores that broadcast to the weight, never negative: a sum over the positions, which ranks as
        the mean does.

    Example:
        >>> import torch
        >>> squared_activations(torch.tensor([[1.0, 3.0]]))
        tensor([[1., 9.]])

    Source: Muralidharan et al. (2024), section 2.2.
    Differs from the paper: it ranks heads and neurons by means over samples of norms over positions,
    and tries several ways to aggregate; here all are sums of squares.
    """
    return input_norm.square()


def ria(weight: Tensor, input_norm: Tensor, *, power: float = 0.5) -> Tensor:
    """Score by relative importance and activations: a weight's shares in its input and its output.

    ``(|W_ij| / Σ_k |W_kj| + |W_ij| / Σ_k |W_ik|) · ‖X_j‖₂^power``: a large weight among large ones
    counts less than the same weight alone, so fewer inputs and outputs lose all of their weights.

    In a convolution an input is one position in the kernel of one input channel, as in its unfolded
    form: the first sum is over the filters, the second over a whole filter. A zero weight scores
    0, also where a sum is 0. Scores do not change with the scale of ``weight``. The shares in an
    output of n weights are 1/n on average, so a ranking over several layers prefers those with few
    inputs and outputs: use ``allocation=uniform``, as the paper does.

    Args:
        weight: [out, in, ...].
        input_norm: root of the summed squares of each input over the calibration examples and
            positions, [1, in, ...], or of the shape of ``weight``.
        power: exponent of the activations, in [0, ∞); 0 uses the relative importance only.

    Returns:
        Scores of the shape of ``weight``, never negative.

    Example:
        >>> import torch
        >>> ria(torch.tensor([[1.0, -3.0], [1.0, 0.0]]), torch.tensor([[4.0, 16.0]]))
        tensor([[1.5000, 7.0000],
                [3.0000, 0.0000]])

    Source: Zhang, Bai, Lin, Zhao, Hou and Cannistraci (2024): the score called RIA, as in
    the authors' code.
    Differs from the paper: it is about linear layers; in a grouped convolution the first sum runs
    over the filters of all groups, which the shape of a weight does not tell apart. The
    permutation of channels that the paper adds for n:m patterns is not part of the score.
    """
    size = weight.abs()
    size = size.to(torch.result_type(size, input_norm))  # sums in 16 bits would tie many scores
    shares = _share(size, (0,)) + _share(size, tuple(range(1, size.dim())))
    return shares * input_norm**power


def _share(size: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Divide by the sum over some dimensions; where all are zero, there is nothing to share."""
    total = size.sum(dims, keepdim=True)
    return size / total.where(total > 0, 1)
