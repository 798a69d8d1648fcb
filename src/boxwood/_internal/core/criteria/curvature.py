"""Second-order criteria: the rise of the loss, in quadratic approximation, if a weight is removed.

All are ``½ h w²`` and differ in where the second derivative h comes from. With a mean loss the
score is itself a prediction: the sum of the scores of what is deleted is the expected rise.

Where training minimised a penalised loss ``E + λ Σ w²``, that is what is at a minimum, and what is
predicted: its second derivative is ``h + 2 λ``, and ``decay=λ`` makes the score ``½ (h + 2 λ) w²``.
At such a minimum E alone has the gradient ``-2 λ w``, so its rise is another one.
"""

from torch import Tensor


def obd(weight: Tensor, levenberg_marquardt: Tensor, *, decay: float = 0.0) -> Tensor:
    """Score by ``½ h w²`` with h back-propagated and f'' dropped, the variant the paper prefers.

    Args:
        weight: any shape.
        levenberg_marquardt: h, of the same shape, never negative for a convex loss.
        decay: strength λ of a penalty ``λ · Σ w²`` on the weights, see the top of the module.

    Returns:
        Predicted rise of the loss for each weight alone, never negative for a convex loss.

    Example:
        >>> import torch
        >>> obd(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 4.0]))
        tensor([2., 2.])

    Source: LeCun, Denker and Solla (1990), equations 3 to 6 and section 2.2.
    """
    return _quadratic(weight, levenberg_marquardt, decay)


def obd_full(weight: Tensor, second_derivative: Tensor, *, decay: float = 0.0) -> Tensor:
    """Score by ``½ h w²`` with h back-propagated, f'' included; it may be negative.

    Args:
        weight: any shape.
        second_derivative: h, of the same shape.
        decay: strength λ of a penalty ``λ · Σ w²`` on the weights, see the top of the module.

    Example:
        >>> import torch
        >>> obd_full(torch.tensor([2.0, -1.0]), torch.tensor([-1.0, 4.0]))
        tensor([-2.,  2.])

    Source: LeCun, Denker and Solla (1990), equations 3 to 6.
    """
    return _quadratic(weight, second_derivative, decay)


def fisher(weight: Tensor, gradient_square: Tensor, *, decay: float = 0.0) -> Tensor:
    """Score by ``½ F w²`` with F the diagonal of the empirical Fisher matrix.

    F is close to the Hessian if the loss is a negative log-likelihood and the network fits the
    data.

    Args:
        weight: any shape.
        gradient_square: F, mean over examples of the squared gradient, of the same shape.
        decay: strength λ of a penalty ``λ · Σ w²`` on the weights, see the top of the module.

    Returns:
        Scores of the shape of ``weight``, never negative.

    Example:
        >>> import torch
        >>> fisher(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 4.0]))
        tensor([2., 2.])

    Source: Theis, Korshunova, Tejani and Huszár (2018), equation 6.
    """
    return _quadratic(weight, gradient_square, decay)


def hutchinson(weight: Tensor, hessian_diagonal: Tensor, *, decay: float = 0.0) -> Tensor:
    """Score by ``½ h w²`` with h Hutchinson's estimate ``E[z ⊙ H z]``; it may be negative.

    Unlike the back-propagated criteria it works for every network and loss, but it is noisy.

    Args:
        weight: any shape.
        hessian_diagonal: h, of the same shape.
        decay: strength λ of a penalty ``λ · Σ w²`` on the weights, see the top of the module.

    Example:
        >>> import torch
        >>> hutchinson(torch.tensor([2.0, -1.0]), torch.tensor([1.0, -4.0]))
        tensor([ 2., -2.])

    Source: Bekas, Kokiopoulou and Saad (2007), equation 1, for the estimate; LeCun et al. (1990)
    for the score.
    """
    return _quadratic(weight, hessian_diagonal, decay)


def obs(weight: Tensor, inverse_hessian_diagonal: Tensor) -> Tensor:
    """Score by ``w² / (2 [H⁻¹]_qq)``: the rise of the loss if the weight is removed and the others adjust.

    H is the Hessian of the layer's squared output error, ``2 X Xᵀ / n``, the same for every row of
    weights. Adjust the remaining weights with `boxwood.oneshot.reconstruct`.

    Args:
        weight: [out, ...].
        inverse_hessian_diagonal: [H⁻¹]_qq > 0, broadcast to the weight.

    Returns:
        Scores of the shape of ``weight``, never negative.

    Example:
        >>> import torch
        >>> obs(torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 1.0]]))
        tensor([[4.0000, 0.5000]])

    Source: Hassibi and Stork (1993), equation 5; per layer as Dong, Chen and Pan (2017).
    """
    return weight.square() / (2 * inverse_hessian_diagonal)


def woodfisher(weight: Tensor, inverse_fisher_diagonal: Tensor) -> Tensor:
    """Score by ``w² / (2 [F⁻¹]_qq)`` with F the empirical Fisher matrix in blocks of 50 weights.

    This is the rise of the loss if the weight is removed and the others of its block adjust, for
    any network with gradients. Adjust the remaining weights with
    `boxwood.oneshot.reconstruct_by_fisher`.

    Args:
        weight: any shape.
        inverse_fisher_diagonal: [F⁻¹]_qq > 0, of the same shape.

    Returns:
        Scores of the shape of ``weight``, never negative.

    Example:
        >>> import torch
        >>> woodfisher(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0]))
        tensor([4.0000, 0.5000])

    Source: Singh and Alistarh (2020), equation 5; Kurtic et al. (2022), equation 4, in blocks of 50.
    Differs from the papers: blocks do not reach from one output to the next, and F is summed and
    inverted where the papers update its inverse gradient by gradient, which gives the same.
    """
    return weight.square() / (2 * inverse_fisher_diagonal)


def cap(elimination_cost: Tensor) -> Tensor:
    """Score by the cost of a weight after the cheaper ones of its block are removed: correlation-aware pruning.

    The weights of a block are removed one after another, the cheapest first by the cost of
    `woodfisher`, and the others are adjusted before the next is chosen. If two weights can replace
    each other, one scores low and the other high.

    Args:
        elimination_cost: of any shape, never negative; zero for weights that are already pruned.

    Example:
        >>> import torch
        >>> cap(torch.tensor([0.5, 2.0]))
        tensor([0.5000, 2.0000])

    Source: Kuznedelev, Kurtic, Frantar and Alistarh (2022), algorithm 1.
    Differs from the paper: blocks do not reach from one output to the next, and a weight costs at
    least what those that went before it did, so that ranking several blocks keeps their order.
    """
    return elimination_cost


def _quadratic(weight: Tensor, curvature: Tensor, decay: float) -> Tensor:
    return (0.5 * curvature + decay) * weight.square()
