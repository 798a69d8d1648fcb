"""Gradients of the smaller network: those of the masked one, or the derivative of its outputs.

The two differ in networks that are right, where code has a backward pass of its own: a statistic
over channels that it takes there counts the removed ones as well, which nobody can restate. Then
finite differences decide.

Rounding in half precision takes gradients apart by up to a third, as large as a mistake may be. So
they are compared in double or in single precision, also where the code itself converts to a coarser
type; where it does not run without these conversions, the report says that nothing is known.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.graph.comparison import (
    gradient_tolerance,
    is_coarser,
    name_of,
)
from boxwood._internal.graph.equivalence_report import Gradients
from boxwood._internal.graph.pair import Pair
from boxwood._internal.graph.reference import restated
from boxwood._internal.graph.running import in_finest, noise_of
from boxwood._internal.graph.slicing import sliced
from boxwood._internal.graph.surgery import cuts_of

_DIRECTIONS = 3

_LEAST = 1e-3
"""Gradients that are smaller than this part of the largest are measured by it."""


@dataclass(frozen=True)
class _Steps:
    """Of finite differences: how far, and how near the result must be, over the gradient's norm."""

    length: float
    tolerance: float


_STEPS = {torch.float64: _Steps(1e-6, 1e-4)}
_COARSE = _Steps(1e-3, 3e-2)

_By = dict[str, Tensor]


def compare_gradients(pair: Pair, example: Any) -> Gradients:
    """Compare the gradients of what is kept, of a weighted sum of the outputs.

    Args:
        pair: the networks; their weights have noise.
        example: inputs.

    Example:
        >>> from boxwood import find_units, select_units, shrink
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> selection = select_units(find_units(net, torch.ones(1, 4)), 0.5)
        >>> pair = Pair(net, shrink(net, selection), selection, seed=0)
        >>> compare_gradients(pair, torch.ones(1, 4)).equal
        True
    """
    return in_finest(pair.model, lambda dtype: _compared(pair, example, dtype))


def _compared(pair: Pair, example: Any, dtype: torch.dtype | None) -> Gradients:
    wide, narrow = pair.networks(perturbed=True, dtype=dtype)
    try:
        masked, own = _gradients(pair, wide, example, dtype, masked=True)
    except Exception as failure:
        if dtype is not None:
            raise
        named = f"{type(failure).__name__}: {str(failure).splitlines()[0]}"
        return Gradients(None, 0.0, said=f"the masked network cannot be differentiated ({named})")
    small, _ = _gradients(pair, narrow, example, dtype, masked=False)
    if masked is None or small is None:
        return Gradients(None, 0.0, said="no output depends on a parameter")
    expected = _kept(pair, masked, small)
    finite = all(each.isfinite().all() for each in expected.values())
    if not finite and dtype is not None:
        raise ValueError("overflow that the network's own type may not have")
    kind = dtype or _type_of(small)
    found = Gradients(_difference(expected, small), gradient_tolerance(kind), name_of(kind))
    agree = finite and found.equal
    if not agree:
        # Where the code itself computes in a coarser type, the difference can show no more.
        coarsest = pair.coarsest(example, perturbed=True, dtype=dtype)
        if is_coarser(coarsest, kind):
            exact = pair.in_double_throughout(
                lambda finer: _compared(finer, example, torch.float64), example, perturbed=True
            )
            if exact is not None:
                said = f"float64, conversions to {name_of(coarsest)} left out"
                return replace(exact, dtype=said)
            kind, said = coarsest, f"{found.dtype} with parts in {name_of(coarsest)}"
            found = replace(found, tolerance=gradient_tolerance(kind), dtype=said)
            agree = finite and found.equal
    if not gradient_tolerance(kind) and not agree:
        said = f"they differ by {found.difference:.2g}, which may be rounding in {name_of(kind)}"
        return replace(found, difference=None, said=said)
    if agree and not (own and gradient_tolerance(kind)):
        return found
    steps = _STEPS.get(kind, _COARSE)
    derive = _Derivatives(pair, example, dtype, steps)
    apart = None if agree or not finite else {n: small[n] - expected[n] for n in small}
    named = f" (with a backward pass of its own: {', '.join(own)})" if own else ""
    error = derive.error(narrow, small, apart)
    if error.none(steps.tolerance):
        if agree:
            return found
        said = (
            f"from finite differences of the outputs; the masked network's own differ by "
            f"{found.difference:.2g}{named}"
        )
        return replace(found, difference=error.typical, tolerance=steps.tolerance, said=said)
    whole = pair.whole(perturbed=True, dtype=dtype)
    original, _ = _gradients(pair, whole, example, dtype, masked=False)
    wider = None if apart is None else _spread(pair, apart, original or {})
    before = derive.error(whole, original or {}, wider)
    if before.none(steps.tolerance):
        said = f"not the derivative of its outputs, as those of the original are{named}"
        return replace(found, difference=max(error.typical, found.difference or 0.0), said=said)
    if agree:
        return found
    if before.clear(steps.tolerance):
        said = (
            f"they differ by {found.difference:.2g}, and already those of the original are not the "
            f"derivative of its outputs{named}"
        )
        return replace(found, difference=None, said=said)
    return replace(found, said="finite differences cannot decide which are right")


def _gradients(
    pair: Pair, network: nn.Module, example: Any, dtype: torch.dtype | None, *, masked: bool
) -> tuple[_By | None, tuple[str, ...]]:
    """Differentiate; and name the functions on the way that have a backward pass of their own."""
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
        parameter.grad = None
    total = _value(pair, network, example, dtype, masked=masked)
    if total is None or not total.requires_grad:
        return None, ()
    own = _functions(total)
    with ExitStack() as stack:
        for each in pair.widening():
            stack.enter_context(each)
        total.backward()
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}, own


def _value(
    pair: Pair, network: nn.Module, example: Any, dtype: torch.dtype | None, *, masked: bool
) -> Tensor | None:
    contexts = [restated(pair.selection)] if masked else []
    with torch.enable_grad():
        return _weighted_sum(pair.run(network, example, dtype, *contexts), pair.seed)


def _weighted_sum(outputs: Sequence[Tensor], seed: int) -> Tensor | None:
    total, noise = (
        None,
        noise_of(seed + 1),
    )  # weights without a pattern: gradients are not to cancel
    for output in outputs:
        if output.requires_grad:
            real = torch.view_as_real(output.resolve_conj()) if output.is_complex() else output
            weights = noise.repeat(-(-real.numel() // len(noise)))[: real.numel()]
            part = (real * weights.view(real.shape).to(real)).sum()
            total = part if total is None else total + part
    return total


def _functions(total: Tensor) -> tuple[str, ...]:
    found: set[str] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [total.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.add(type(node).__name__.removesuffix("Backward"))
        waiting += [each for each, _ in node.next_functions]
    return tuple(sorted(found))


def _kept(pair: Pair, masked: Mapping[str, Tensor], small: Mapping[str, Tensor]) -> _By:
    cuts = cuts_of(pair.selection)
    return {
        name: sliced(masked[name], cuts.get(name, ())) if name in masked else torch.zeros_like(each)
        for name, each in small.items()
    }


def _spread(pair: Pair, small: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> _By:
    """Put what belongs to kept weights where it is in the original, zeros elsewhere."""
    cuts, made = cuts_of(pair.selection), {}
    for name in small.keys() & like.keys():
        each = small[name]
        for dim, indices in reversed(list(cuts.get(name, ()))):
            shape = [*each.shape[:dim], like[name].shape[dim], *each.shape[dim + 1 :]]
            each = each.new_zeros(shape).index_copy(dim, indices.to(each.device), each)
        made[name] = each
    return made


def _difference(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> float:
    """Find the largest difference of a parameter's gradients, over the largest entry of its own.

    What is all but zero next to the gradients of others is measured by those.
    """
    largest = max((float(each.abs().max()) for each in got.values() if each.numel()), default=0.0)
    worst = 0.0
    for name, gradient in got.items():
        if gradient.numel():
            apart = float((expected[name] - gradient).abs().max())
            scale = max(float(gradient.abs().max()), _LEAST * largest)
            ratio = apart / scale if scale > 0 else apart
            worst = max(worst, ratio) if ratio == ratio else math.inf
    return worst


def _type_of(gradients: Mapping[str, Tensor]) -> torch.dtype:
    return next((each.dtype for each in gradients.values()), torch.float32)


@dataclass(frozen=True)
class _Error:
    """How far gradients are from the derivative.

    Args:
        typical: in random directions, over the norm of the gradients.
        along: in the direction in which two networks' gradients differ, over that difference.
    """

    typical: float
    along: float = 0.0

    def none(self, tolerance: float) -> bool:
        return self.typical <= tolerance and self.along <= 0.01

    def clear(self, tolerance: float) -> bool:
        return self.typical > 10 * tolerance or self.along > 0.1


@dataclass(frozen=True)
class _Derivatives:
    """Finite differences of one weighted sum of outputs."""

    pair: Pair
    example: Any
    dtype: torch.dtype | None
    steps: _Steps

    def error(self, network: nn.Module, gradients: _By, apart: _By | None) -> _Error:
        """Find how far gradients are from the derivative.

        In random directions the median counts, for a step may cross the edge of a piecewise
        function.
        """
        norm = _product(gradients, gradients) ** 0.5
        if not 0 < norm < math.inf:
            return _Error(0.0 if norm == 0 else math.inf)
        generator = torch.Generator().manual_seed(self.pair.seed)
        errors = []
        for _ in range(_DIRECTIONS):
            way = {
                n: torch.randn(g.shape, generator=generator, dtype=torch.float32).to(g)
                for n, g in gradients.items()
            }
            errors.append(self._off(network, gradients, way) / norm)
        length = 0.0 if apart is None else _product(apart, apart) ** 0.5
        if apart is None or not 0 < length < math.inf:
            return _Error(median(errors))
        way = {name: each / length for name, each in apart.items()}
        return _Error(median(errors), self._off(network, gradients, way) / length)

    def _off(self, network: nn.Module, gradients: _By, way: _By) -> float:
        parameters = dict(network.named_parameters())
        values = []
        for step in (self.steps.length, -self.steps.length):
            before = {name: parameters[name].detach().clone() for name in way}
            with torch.no_grad():
                for name, change in way.items():
                    parameters[name].add_(change, alpha=step)
            total = _value(self.pair, network, self.example, self.dtype, masked=False)
            with torch.no_grad():
                for name, old in before.items():
                    parameters[name].copy_(old)
            values.append(float("nan") if total is None else float(total.detach()))
        slope = (values[0] - values[1]) / (2 * self.steps.length)
        off = abs(slope - _product(gradients, way))
        return off if off == off else math.inf


def _product(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return sum(float((one[name].conj() * each).sum().real) for name, each in other.items())
