"""First-order criteria: scores from the gradient of the loss, or of a substitute for it."""

from torch import Tensor


def snip(weight: Tensor, gradient: Tensor) -> Tensor:
    """Score by the connection's sensitivity: ``|g · w|``.

    Meant for one batch at initialisation and one ranking over all tensors.

    Args:
        weight: any shape.
        gradient: mean gradient of the loss, of the same shape.

    Returns:
        Scores of the shape of ``weight``, never negative.

    Example:
        >>> import torch
        >>> snip(torch.tensor([2.0, -1.0]), torch.tensor([-1.0, 0.5]))
        tensor([2.0000, 0.5000])

    Source: Lee, Ajanthan and Torr (2019), equation 6.
    Differs from the paper: the scores are not divided by their sum, which no ranking sees.
    Batch norm runs with its stored statistics, not those of the batch.
    """
    return (gradient * weight).abs()


def grasp(weight: Tensor, hessian_gradient: Tensor) -> Tensor:
    """Score by the weight's effect on the gradient flow: ``w · (H g)``, of either sign.

    The paper scores ``-w · (H g)`` and removes the largest. Here the highest scores are kept, so
    the sign is opposite and the result is the same. The paper's loss divides logits by T = 200:
    pass ``loss=Call.of(cross_entropy, temperature=200.0)``.

    Args:
        weight: any shape.
        hessian_gradient: the Hessian times the mean gradient, of the same shape.

    Example:
        >>> import torch
        >>> grasp(torch.tensor([2.0, -1.0]), torch.tensor([-1.0, -3.0]))
        tensor([-2.,  3.])

    Source: Wang, Zhang and Grosse (2020), equation 8 and algorithm 1.
    Differs from ports that negate this once more, or take the absolute value.
    """
    return weight * hessian_gradient


def synflow(weight: Tensor, flow_gradient: Tensor) -> Tensor:
    """Score by the flow through the weight: ``|∂R/∂w · w|`` of the network of absolute values.

    R is the sum of the outputs for an input of ones. Use it in about 100 rounds that multiply the
    density by the same factor: `boxwood.oneshot.find_masks_in_rounds` with the schedule
    ``Geometric``. In a single round it may empty a layer like any other criterion.

    Args:
        weight: any shape.
        flow_gradient: ∂R/∂|w|, float64 of the same shape.

    Returns:
        Scores of the shape of ``weight``, float64, never negative.

    Example:
        >>> import torch
        >>> synflow(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 3.0], dtype=torch.float64))
        tensor([2., 3.], dtype=torch.float64)

    Source: Tanaka, Kunin, Yamins and Ganguli (2020), equation 4 and algorithm 1.
    """
    return (flow_gradient * weight).abs()


def taylor(weight: Tensor, batch_gradient_square: Tensor) -> Tensor:
    """Score by the squared first-order change of the loss: ``mean_b (g_b · w)²``.

    For a filter, pool with ``Slices(pooling=total)``: ``Σ (g w)²`` over its weights.

    Args:
        weight: any shape.
        batch_gradient_square: mean over batches of the squared gradient, of the same shape.

    Returns:
        Scores of the shape of ``weight``, never negative.

    Example:
        >>> import torch
        >>> taylor(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 3.0]))
        tensor([4., 3.])

    Source: Molchanov, Mallya, Tyree, Frosio and Kautz (2019), equations 7 and 8.
    """
    return weight.square() * batch_gradient_square


def movement(weight_movement: Tensor) -> Tensor:
    """Score by how far training pushed the weight away from zero: ``-Σ_t g_t · w_t``.

    The evidence comes from `boxwood.criteria.TrackMovement`.

    Args:
        weight_movement: the accumulated score, any shape, of either sign.

    Example:
        >>> import torch
        >>> movement(torch.tensor([0.5, -0.25]))
        tensor([ 0.5000, -0.2500])

    Source: Sanh, Wolf and Rush (2020), equation 5.
    """
    return weight_movement


def gradient_magnitude(gradient: Tensor) -> Tensor:
    """Score by the size of the gradient, ``|g|``: a zero weight with a large gradient would grow fastest.

    Args:
        gradient: dense mean gradient: pruned positions have one too.

    Returns:
        Scores of the shape of ``gradient``, never negative.

    Example:
        >>> import torch
        >>> gradient_magnitude(torch.tensor([-0.5, 0.25]))
        tensor([0.5000, 0.2500])

    Source: Evci, Gale, Menick, Castro and Elsen (2020), section 3, the criterion of growth.
    """
    return gradient.abs()
