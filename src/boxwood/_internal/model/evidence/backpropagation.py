"""Second derivatives by back-propagation, as Optimal Brain Damage has them.

With ``a = w x`` the inputs of the units and ``x = f(a)`` their outputs, per example and from the
loss backwards:

    ∂²E/∂w_ij² = ∂²E/∂a_i² · x_j², summed over all places where a weight is used
    ∂²E/∂x_j²  = Σ_i w_ij² ∂²E/∂a_i²
    ∂²E/∂a_i²  = f'(a_i)² ∂²E/∂x_i² + f''(a_i) ∂E/∂x_i

That is the ordinary back-propagation through the network of squared weights and squared inputs.
The middle line leaves out how units of one layer act together (∂²E/∂a_i∂a_k), which is exact where
the loss is a sum over units, so for one hidden layer with squared error, and where a layer is one
unit wide. Levenberg–Marquardt leaves out f'' as well.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.model.evidence.calibration import Calibration, accumulator
from boxwood._internal.model.evidence.layers import input_sums, weight_sums
from boxwood._internal.model.evidence.second_order import refusing_first_order
from boxwood._internal.model.feedforward import Link, chain
from boxwood._internal.model.steps import Flatten, Pointwise, Pool, Step
from boxwood.errors import UnsupportedModel


def levenberg_marquardt(seen: Calibration) -> dict[str, Tensor]:
    """Mean over the examples of ∂²E/∂w² without the terms of f''.

    Never negative for a convex loss.

    Raises:
        UnsupportedModel: the network is no plain chain of linear and convolution layers, or a weight
            is not one of theirs.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False))
        >>> loss = lambda outputs, targets: outputs.square().mean()
        >>> batches = [(torch.full((1, 1), 3.0), None)]
        >>> levenberg_marquardt(Calibration(net, {"0.weight": net[0].weight}, batches, loss))
        {'0.weight': tensor([[18.]])}

    Source: LeCun, Denker and Solla (1990), section 2.2.
    """
    return _back_propagated(seen, full=False)


def second_derivative(seen: Calibration) -> dict[str, Tensor]:
    """Mean over the examples of ∂²E/∂w², back-propagated with f''.

    Raises:
        UnsupportedModel: as for `levenberg_marquardt`.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 1, bias=False))
        >>> loss = lambda outputs, targets: outputs.square().mean()
        >>> batches = [(torch.full((1, 1), 3.0), None)]
        >>> second_derivative(Calibration(net, {"0.weight": net[0].weight}, batches, loss))
        {'0.weight': tensor([[18.]])}

    Source: LeCun, Denker and Solla (1990), section 2.2; the scanned paper prints a minus before
    f'', the chain rule gives a plus.
    """
    return _back_propagated(seen, full=True)


def _back_propagated(seen: Calibration, *, full: bool) -> dict[str, Tensor]:
    links = chain(seen.model)
    _check_covered(seen, links)
    sums = {name: accumulator(weight) for name, weight in seen.weights.items()}
    names = {id(weight): name for name, weight in seen.weights.items()}
    examples = 0
    with seen.at_rest(), ExitStack() as stack:
        record = _Record(seen.model, links, stack)
        for loss, count in seen.losses():
            examples += count
            slope, curve = _at_the_outputs(record, loss, full=full)
            del loss
            for place in range(len(links) - 1, -1, -1):
                layer, inputs = links[place].layer, record.inputs[place]
                if id(layer.weight) in names:
                    found = weight_sums(layer, inputs.square(), curve)
                    sums[names[id(layer.weight)]] += count * found
                if layer.bias is not None and id(layer.bias) in names:
                    shared = [d for d in range(curve.dim()) if d != _unit_dim(layer, curve)]
                    sums[names[id(layer.bias)]] += count * curve.sum(shared)
                if place == 0:
                    break
                below = record.outputs[place - 1]
                slope = input_sums(layer, layer.weight, inputs, slope)
                curve = input_sums(layer, layer.weight.square(), inputs, curve)
                slope, curve = _through_steps(
                    links[place].before, seen.model, below, slope, curve, full=full
                )
    sums, examples = seen.over_ranks(sums, examples)
    return {name: value / examples for name, value in sums.items()}


class _Record:
    """What each layer of the chain read and made in the last forward pass.

    The last layer's outputs become a leaf, from which the loss is differentiated.
    """

    def __init__(self, model: nn.Module, links: tuple[Link, ...], stack: ExitStack) -> None:
        self.inputs: list[Tensor] = [torch.empty(0)] * len(links)
        self.outputs: list[Tensor] = [torch.empty(0)] * len(links)
        self.handed_on = self.answer = torch.empty(0)
        for place, link in enumerate(links):
            hook = self._hook(place, last=place == len(links) - 1)
            stack.callback(link.layer.register_forward_hook(hook).remove)
        stack.callback(model.register_forward_hook(self._keep_answer).remove)

    def _hook(self, place: int, *, last: bool) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def after(module: nn.Module, args: Any, outputs: Tensor) -> Tensor | None:  # noqa: ARG001
            # Copies, because an activation may write into what it is given.
            self.inputs[place] = args[0].detach().clone()
            self.outputs[place] = outputs.detach().clone()
            if not last:
                return None
            self.outputs[place].requires_grad_()
            self.handed_on = self.outputs[place].view_as(outputs)
            return self.handed_on

        return after

    def _keep_answer(self, module: nn.Module, args: Any, outputs: Tensor) -> None:  # noqa: ARG002
        self.answer = outputs


def _at_the_outputs(record: _Record, loss: Tensor, *, full: bool) -> tuple[Tensor, Tensor]:
    """∂E/∂a and ∂²E/∂a² of the last layer's outputs, through whatever follows it."""
    units, answer = record.outputs[-1], record.answer
    if units.dim() != 2 or answer.dim() != 2:
        raise UnsupportedModel(
            f"Expected outputs [batch, units] to back-propagate second derivatives from, got "
            f"{tuple(units.shape)}; use the criterion hutchinson."
        )
    (slope,) = torch.autograd.grad(loss, units, retain_graph=True)
    if full or answer is record.handed_on:
        rows = enumerate(_hessian_rows(loss, units))
        return slope, torch.stack([row[:, unit].clone() for unit, row in rows], 1)
    # f' of what follows the last layer stays, f'' goes: Jᵀ (∂²E/∂x²) J, the Gauss–Newton term.
    curves = torch.stack(list(_hessian_rows(loss, answer)))  # [outputs, batch, outputs]
    jacobian = torch.stack(
        [
            torch.autograd.grad(answer[:, k].sum(), units, retain_graph=True)[0]
            for k in range(answer.shape[1])
        ]
    )  # [outputs, batch, units]
    return slope, torch.einsum("knu,knl,lnu->nu", jacobian, curves, jacobian)


def _hessian_rows(loss: Tensor, outputs: Tensor) -> Iterator[Tensor]:
    """∂²E/∂x_k∂x for each output k, [batch, outputs]; examples do not act on each other."""
    (slope,) = torch.autograd.grad(loss, outputs, create_graph=True)
    for k in range(outputs.shape[1]):
        if not slope.requires_grad:
            yield torch.zeros_like(outputs)
            continue
        with refusing_first_order():
            (row,) = torch.autograd.grad(
                slope[:, k].sum(), outputs, retain_graph=True, materialize_grads=True
            )
        yield row


def _through_steps(
    steps: tuple[Step, ...],
    model: nn.Module,
    start: Tensor,
    slope: Tensor,
    curve: Tensor,
    *,
    full: bool,
) -> tuple[Tensor, Tensor]:
    """Carry both derivatives back from the end of the steps to their start."""
    values, value = [], start
    for step in steps:
        values.append(value)
        value = _forward(step, model, value)
    for step, value in zip(reversed(steps), reversed(values), strict=True):
        if isinstance(step, Pointwise):
            slope, curve = _through_pointwise(step, value, slope, curve, full=full)
        elif isinstance(step, Pool):
            slope, curve = _through_pool(_pool_of(step, model), value, slope, curve)
        else:
            slope, curve = slope.reshape(value.shape), curve.reshape(value.shape)
    return slope, curve


def _forward(step: Step, model: nn.Module, value: Tensor) -> Tensor:
    if isinstance(step, Pointwise):
        return step.apply(value.clone())
    if isinstance(step, Pool):
        pooled: Tensor = _pool_of(step, model)(value)
        return pooled
    return value.flatten(1) if isinstance(step, Flatten) else value


def _through_pointwise(
    step: Pointwise, value: Tensor, slope: Tensor, curve: Tensor, *, full: bool
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = value.detach().requires_grad_()
        (first,) = torch.autograd.grad(step.apply(leaf.clone()).sum(), leaf, create_graph=full)
        second = torch.zeros_like(value)
        if full and first.requires_grad:
            with refusing_first_order():
                (second,) = torch.autograd.grad(first.sum(), leaf, materialize_grads=True)
    first = first.detach()
    return first * slope, first.square() * curve + second * slope


def _through_pool(
    pool: nn.Module, value: Tensor, slope: Tensor, curve: Tensor
) -> tuple[Tensor, Tensor]:
    """A maximum passes derivatives on; a mean of n divides the first by n, the second by n²."""
    with torch.enable_grad():
        leaf = value.detach().requires_grad_()
        outputs = pool(leaf)
        (slope,) = torch.autograd.grad(outputs, leaf, slope, retain_graph=True)
        (curve,) = torch.autograd.grad(outputs, leaf, curve / _averaged(pool, value, outputs))
    return slope, curve


def _averaged(pool: nn.Module, value: Tensor, outputs: Tensor) -> int:
    """How many values a pool takes the mean of: 1 for a maximum."""
    if isinstance(pool, nn.MaxPool2d | nn.AdaptiveMaxPool2d):
        return 1
    high, wide = (a / b for a, b in zip(value.shape[-2:], outputs.shape[-2:], strict=True))
    if isinstance(pool, nn.AdaptiveAvgPool2d) and high.is_integer() and wide.is_integer():
        return int(high * wide)
    if isinstance(pool, nn.AvgPool2d) and not pool.ceil_mode and not _padded(pool):
        size = pool.kernel_size
        return size * size if isinstance(size, int) else size[0] * size[1]
    raise UnsupportedModel(
        f"Expected pools that take the same number of values for each output, got {pool}; use the "
        f"criterion hutchinson, or pool without padding."
    )


def _padded(pool: nn.AvgPool2d) -> bool:
    padding = pool.padding
    return (
        bool(pool.divisor_override) or (padding if isinstance(padding, int) else max(padding)) > 0
    )


def _pool_of(step: Pool, model: nn.Module) -> nn.Module:
    try:
        return model.get_submodule(step.name)
    except AttributeError as error:
        raise UnsupportedModel(
            f"Expected pools that are modules, got the function call {step.name!r}; use "
            f"nn.MaxPool2d or nn.AvgPool2d, or the criterion hutchinson."
        ) from error


def _unit_dim(layer: nn.Module, outputs: Tensor) -> int:
    return outputs.dim() - 1 if isinstance(layer, nn.Linear) else 1


def _check_covered(seen: Calibration, links: tuple[Link, ...]) -> None:
    inside = {id(p) for link in links for p in link.layer.parameters()}
    for name, weight in seen.weights.items():
        if id(weight) not in inside:
            raise UnsupportedModel(
                f"Expected weights of the network's linear and convolution layers, got {name!r}; "
                f"leave it out with layers=, or use the criterion hutchinson."
            )
