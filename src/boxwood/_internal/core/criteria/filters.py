"""Criteria that score whole filters: one score per output, [out, 1, ...].

Use them with ``granularity=Slices()``; a filter is a slice of the weight's first dimension.
"""

import torch
from torch import Tensor


def geometric_median(weight: Tensor) -> Tensor:
    """Score a filter by its distances from all others: ``Σ_j ‖F_i - F_j‖₂``.

    The filter with the lowest score is nearest to the geometric median of the filters, and the
    others can replace it.

    Args:
        weight: [out, ...].

    Returns:
        [out, 1, ...], never negative.

    Example:
        >>> import torch
        >>> geometric_median(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]))
        tensor([[ 5.],
                [10.],
                [ 5.]])

    Source: He, Liu, Wang, Hu and Yang (2019), equation 5.
    """
    weight = weight.detach()
    real = torch.view_as_real(weight) if weight.is_complex() else weight
    filters = real.reshape(len(weight), -1)  # one number each, of a bias
    # The quick way through the scalar product loses the small distances, which decide.
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(filters, filters, compute_mode=exact).sum(1)
    return _per_filter(distances, weight)


def network_slimming(weight: Tensor, norm_scale: Tensor) -> Tensor:
    """Score a filter by the scale of the batch norm after it: ``|γ|``.

    The paper first trains with an L1 penalty on γ, which makes small values meaningful.

    Args:
        weight: [out, ...]; only its shape counts.
        norm_scale: γ, [out].

    Returns:
        [out, 1, ...], never negative.

    Example:
        >>> import torch
        >>> network_slimming(torch.ones(2, 3), torch.tensor([0.5, -2.0]))
        tensor([[0.5000],
                [2.0000]])

    Source: Liu, Li, Shen, Huang, Yan and Zhang (2017), section 3.
    """
    return _per_filter(norm_scale.abs(), weight)


def rank_of_features(weight: Tensor, feature_rank: Tensor) -> Tensor:
    """Score a filter by the mean rank of the feature maps that it makes (HRank).

    Args:
        weight: [out, ...]; only its shape counts.
        feature_rank: [out], each in [0, min(height, width)].

    Returns:
        [out, 1, ...], never negative.

    Example:
        >>> import torch
        >>> rank_of_features(torch.ones(2, 3, 1, 1), torch.tensor([7.5, 3.0])).flatten()
        tensor([7.5000, 3.0000])

    Source: Lin, Ji, Wang, Zhang, Zhang, Tian and Shao (2020), equation 5.
    Differs from the authors' code, which takes the ranks after the activation function.
    """
    return _per_filter(feature_rank, weight)


def taylor_gate(weight: Tensor, gate_gradient_square: Tensor) -> Tensor:
    """Score a filter by a gate after it: ``mean_b (gate · ∂E_b/∂gate)²`` at gate = 1.

    Args:
        weight: [out, ...]; only its shape counts.
        gate_gradient_square: mean over batches of the squared gradient of the gate, [out].

    Returns:
        [out, 1, ...], never negative.

    Example:
        >>> import torch
        >>> taylor_gate(torch.ones(2, 3), torch.tensor([0.25, 4.0]))
        tensor([[0.2500],
                [4.0000]])

    Source: Molchanov, Mallya, Tyree, Frosio and Kautz (2019), section 3.1, gates after batch norm.
    """
    return _per_filter(gate_gradient_square, weight)


def _per_filter(scores: Tensor, weight: Tensor) -> Tensor:
    return scores.view(-1, *(1,) * (weight.dim() - 1))
