"""Evidence from gradients of the loss."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from boxwood._internal.model.evidence.calibration import Calibration, accumulator
from boxwood._internal.model.evidence.second_order import refusing_first_order, twice_differentiable
from boxwood.errors import InvalidInput


def gradient(seen: Calibration) -> dict[str, Tensor]:
    """Mean gradient over the examples, ``1/N Σ_n ∂E_n/∂w``, dense under masks.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.tensor([[1.0], [3.0]]), None)]
        >>> loss = lambda outputs, targets: outputs.mean()
        >>> gradient(Calibration(net, {"weight": net.weight}, batches, loss))
        {'weight': tensor([[2.]])}
    """
    with seen.at_rest():
        return _weighted_mean(seen, lambda value: value)


def gradient_square(seen: Calibration) -> dict[str, Tensor]:
    """Diagonal of the empirical Fisher matrix, ``1/N Σ_n (∂E_n/∂w)²``, example by example.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.tensor([[1.0], [3.0]]), None)]
        >>> loss = lambda outputs, targets: outputs.mean()
        >>> gradient_square(Calibration(net, {"weight": net.weight}, batches, loss))
        {'weight': tensor([[5.]])}
    """
    with seen.at_rest():
        return _weighted_mean(seen, torch.square, singly=True)


def batch_gradient_square(seen: Calibration) -> dict[str, Tensor]:
    """Mean over the batches of the squared gradient of each, ``1/B Σ_b (∂E_b/∂w)²``.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.tensor([[1.0], [3.0]]), None), (torch.tensor([[1.0]]), None)]
        >>> loss = lambda outputs, targets: outputs.mean()
        >>> batch_gradient_square(Calibration(net, {"weight": net.weight}, batches, loss))
        {'weight': tensor([[2.5000]])}
    """
    sums, batches = _zeros(seen.weights), 0
    with seen.at_rest():
        for loss, _ in seen.losses():
            batches += 1
            for name, value in gradients_of(loss, seen.weights).items():
                sums[name] += value.to(sums[name].dtype).square()
            del loss
    sums, batches = seen.over_ranks(sums, batches)
    return {name: value / batches for name, value in sums.items()}


def hessian_gradient(seen: Calibration) -> dict[str, Tensor]:
    """The Hessian times the gradient, ``H g``, both means over all examples.

    The Hessian is taken over the given weights only. Two passes over the batches.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> net.weight.data.fill_(3.0)
        tensor([[3.]])
        >>> loss = lambda outputs, targets: outputs.square().mean()
        >>> hessian_gradient(
        ...     Calibration(net, {"weight": net.weight}, [(torch.ones(1, 1), None)], loss)
        ... )
        {'weight': tensor([[12.]])}
    """
    sums, examples = _zeros(seen.weights), 0
    with seen.at_rest(), twice_differentiable():
        mean = _weighted_mean(seen, lambda value: value)
        for loss, count in seen.losses():
            examples += count
            for name, value in hessian_times(loss, seen.weights, mean).items():
                sums[name] += count * value
            del loss
    sums, examples = seen.over_ranks(sums, examples)
    return {name: value / examples for name, value in sums.items()}


def flow_gradient(seen: Calibration) -> dict[str, Tensor]:
    """∂R/∂|w| of the network of absolute values, R its summed outputs for an input of ones.

    All parameters and buffers are made positive, in float64 because R grows with every layer.
    Of the batches only the shape of one example is used.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> _ = net[0].weight.data.fill_(-2.0), net[1].weight.data.fill_(3.0)
        >>> flow = flow_gradient(Calibration(net, dict(net.named_parameters()), [torch.rand(4, 1)]))
        >>> {name: float(value) for name, value in flow.items()}
        {'0.weight': 3.0, '1.weight': 2.0}

    Source: Tanaka, Kunin, Yamins and Ganguli (2020), equation 4.
    """
    with seen.at_rest():
        tensors = {**dict(seen.model.named_parameters()), **dict(seen.model.named_buffers())}
        positive = {
            name: tensor.detach().abs().double()
            for name, tensor in tensors.items()
            if tensor.is_floating_point()
        }
        wanted = [positive[name].requires_grad_() for name in seen.weights]
        inputs = _ones_like_one(next(seen.inputs()))
        with torch.enable_grad():
            outputs = functional_call(
                seen.model,
                positive,
                inputs if isinstance(inputs, tuple) else (inputs,),
            )
            flow = outputs.sum()
        found = torch.autograd.grad(flow, wanted, materialize_grads=True)
    # Ranks may hold different buffers, such as the statistics of batch norms.
    flows, ranks = seen.over_ranks(dict(zip(seen.weights, found, strict=True)), 1)
    return {name: value / ranks for name, value in flows.items()}


def gradients_of(
    loss: Tensor, weights: Mapping[str, nn.Parameter], *, again: bool = False
) -> dict[str, Tensor]:
    """Gradients by name; zero for a weight that the loss does not depend on.

    Args:
        loss: a scalar.
        weights: what to differentiate by.
        again: keep what a second differentiation needs.
    """
    found = torch.autograd.grad(
        loss, list(weights.values()), create_graph=again, materialize_grads=True
    )
    return dict(zip(weights, found, strict=True))


def hessian_times(
    loss: Tensor, weights: Mapping[str, nn.Parameter], vector: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The loss's Hessian times a vector, by differentiating ``g · v``."""
    first = gradients_of(loss, weights, again=True)
    return derivative_along(first, weights, vector)


def derivative_along(
    first: Mapping[str, Tensor],
    weights: Mapping[str, nn.Parameter],
    vector: Mapping[str, Tensor],
    *,
    more: bool = False,
) -> dict[str, Tensor]:
    """Differentiate ``g · v`` once gradients are at hand.

    Args:
        first: gradients, made with ``again=True``.
        weights: what to differentiate by.
        vector: v, by name.
        more: another vector follows.

    Raises:
        InvalidInput: an operation has no second derivative.
    """
    product = sum((first[name] * vector[name]).sum() for name in weights)
    if not isinstance(product, Tensor) or not product.requires_grad:  # a loss linear in all weights
        return {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with refusing_first_order():
        found = torch.autograd.grad(
            product, list(weights.values()), retain_graph=more, materialize_grads=True
        )
    return dict(zip(weights, found, strict=True))


def _weighted_mean(
    seen: Calibration, change: Callable[[Tensor], Tensor], *, singly: bool = False
) -> dict[str, Tensor]:
    sums, examples = _zeros(seen.weights), 0
    for loss, count in seen.losses(singly=singly):
        examples += count
        for name, value in gradients_of(loss, seen.weights).items():
            sums[name] += count * change(value.to(sums[name].dtype))
        del loss
    sums, examples = seen.over_ranks(sums, examples)
    return {name: value / examples for name, value in sums.items()}


def _zeros(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: accumulator(weight) for name, weight in weights.items()}


def _ones_like_one(inputs: Any) -> Any:
    if isinstance(inputs, tuple):
        return tuple(_ones_like_one(each) for each in inputs)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InvalidInput(
            f"Expected inputs that are float tensors for SynFlow, whose input is all ones, got "
            f"{got}; prune the part of the network that takes floats."
        )
    return torch.ones_like(inputs[:1], dtype=torch.float64)
