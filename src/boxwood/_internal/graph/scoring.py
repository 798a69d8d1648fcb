"""How much each unit matters: a criterion on the weights that layers compute with."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.core.placement import check_whole
from boxwood._internal.graph.computed import computed, numbers_of
from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.recording import Ref, Trace
from boxwood._internal.graph.reparametrised import baked, reparametrised
from boxwood._internal.graph.units import Units
from boxwood.errors import InvalidInput

UnitScores = NDArray[np.float64]
"""One score per unit, higher is kept."""


def score_units(
    units: Units,
    criterion: Callable[..., Tensor] = magnitude,
    *,
    evidence: Mapping[str, Mapping[str, Tensor]] | None = None,
    normalise: bool = True,
) -> UnitScores:
    """Score units: score every single weight by a criterion, and add up the scores of each unit.

    Weights are those that layers compute with: masked, normed, or whatever PyTorch's
    parametrisations or the network's own code make of its parameters. A unit whose incoming or
    outgoing matrices and kernels are all zero has the lowest score. If the criterion needs
    evidence, weights that the network's own code computes count as their parameters.

    Args:
        units: of the network.
        criterion: its positional parameters, out of ``weight``, ``name`` and the names of the
            evidence, determine what it gets; it returns a score per weight, or one per filter.
        evidence: by its name, then by parameter name, where the criterion asks for more than
            weights: ``{"gradient": {"fc1.weight": …}}``, or what
            `boxwood.criteria.Evidence` holds. Parameters that it says nothing
            about have no score.
        normalise: divide by the mean of each group, so that groups can be compared.

    Raises:
        InvalidInput: the criterion needs evidence that is missing, or a score is not finite.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from boxwood import find_units
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
        >>> with torch.no_grad():
        ...     _ = net[0].weight.copy_(torch.tensor([[1.0], [3.0]])), net[1].weight.fill_(1)
        >>> score_units(find_units(net, torch.ones(1, 1)), normalise=False)
        array([2., 4.])

    Source: Li, Kadav, Durdanovic, Samet and Graf (2017) for the sum of magnitudes; Fang, Ma,
    Song, Mi and Wang (2023) for taking all coupled weights together.
    """
    total = np.zeros(len(units))
    evidence, needs = evidence or {}, evidence_of(criterion)
    given = ("weight", "name", *evidence)
    missing = [need for need in needs if need not in given]
    if missing:
        raise InvalidInput(
            f"Expected a criterion whose positional parameters are among {', '.join(given)}, got "
            f"{missing[0]!r}; give evidence={{{missing[0]!r}: …}}, or another criterion."
        )
    asked = {need: evidence[need] for need in needs if need in evidence}
    for computed_by in map(str, reparametrised(units.model)):
        lacking = [need for need, each in asked.items() if computed_by not in each]
        if lacking:
            raise InvalidInput(
                f"Expected {lacking[0]} of {computed_by!r}, got none, for the layer computes this "
                "weight from others; gather evidence and find units in "
                "boxwood.structure.baked(model)."
            )
    owned = _owned(units, as_computed=not asked)
    check_whole({each.name: each.weight for each in owned})
    scored: dict[int, Tensor] = {}
    for each in owned:
        if not all(each.name in one for one in asked.values()):
            continue
        if id(each.weight) not in scored:
            at_hand: dict[str, Any] = {need: one[each.name] for need, one in asked.items()}
            at_hand |= {"weight": each.weight, "name": each.name}
            made = scored[id(each.weight)] = criterion(*(at_hand[need] for need in needs))
            if made.is_complex():
                raise InvalidInput(
                    f"Expected real scores, got complex ones for {each.name!r}; let the criterion "
                    "return a magnitude, such as scores.abs()."
                )
        along = scored[id(each.weight)]
        if along.shape[each.dim] != each.weight.shape[each.dim]:
            continue  # a score per filter says nothing about the other axes
        others = [dim for dim in range(along.dim()) if dim != each.dim]
        wide = torch.promote_types(along.dtype, torch.float32)
        along = along.sum(others, dtype=wide) if others else along
        mine = each.units >= 0
        total += np.bincount(
            each.units[mine], along.double().cpu().numpy()[mine], minlength=len(units)
        )
    if not np.isfinite(total).all():
        raise InvalidInput(
            "Expected finite scores, got NaN or infinite ones; the network has probably diverged: "
            "train it with a lower learning rate, or repair the checkpoint."
        )
    total[_idle(owned, len(units))] = min(0.0, total.min(initial=0.0))
    return _normalised(units, total) if normalise else total


@dataclass(frozen=True)
class _Owned:
    """One axis of a weight, with the unit that owns each index, -1 for none.

    ``writes`` says whether the layer writes the units of this axis or reads them; None for both.
    """

    name: str
    weight: Tensor
    dim: int
    units: Ids
    writes: bool | None


def _owned(units: Units, *, as_computed: bool) -> list[_Owned]:
    """List what units own of the weights that layers compute with."""
    model, flow = baked(units.model), units.flow
    parameters = {name: tensor.detach() for name, tensor in model.named_parameters()}
    values = {names[0]: value for value, names in flow.trace.named.items()}
    roles = _roles(flow.trace)
    found: list[_Owned] = []
    instead: set[str] = set()
    weights = computed(flow.trace) if as_computed else ()
    # Blocks that span several axes are of views that nothing has decided about.
    plain = [each for each in weights if all(
        len(block.axes) == 1 for block in flow.layouts[each.value].blocks
    )]  # fmt: skip
    for value, weight in numbers_of(model, units.example, plain).items():
        parts = next(each.parts for each in plain if each.value == value)
        names = sorted(flow.trace.named[part][0] for part in parts)
        name = next((name for name in names if name in parameters), names[0])
        instead |= set(names)
        found += [
            _Owned(name, weight, dim, units.numbers(block.ids), roles.get((value, dim), dim == 0))
            for block in flow.layouts[value].blocks
            for dim in block.axes
        ]
    return found + [
        _Owned(
            name := axis.names[0], parameters[name], axis.dim, axis.units,
            roles.get((values[name], axis.dim), axis.dim == 0),
        )
        for axis in units.axes
        if axis.names[0] in parameters and axis.names[0] not in instead
    ]  # fmt: skip


def _roles(trace: Trace) -> dict[tuple[int, int], bool | None]:
    """Say of weights and their axes whether they write units or read them; None where both."""
    found: dict[tuple[int, int], set[bool]] = defaultdict(set)
    for call in trace.calls[: trace.evaluated]:
        weight = call.args.get("weight")
        if call.name in ("addmm", "mm") and isinstance(weight := call.args.get("mat2"), Ref):
            roles = {0: {False}, 1: {True}}
        elif not isinstance(weight, Ref):
            continue
        elif call.name in ("conv", "conv_transpose"):
            out = int(call.name == "conv_transpose")
            alone = trace.shapes[weight.value][1] == 1 < int(call.args["groups"])  # depthwise
            roles = {0: {True, False}} if alone else {out: {True}, 1 - out: {False}}
        elif call.name in ("linear", "embedding"):
            roles = {1: {call.name == "embedding"}, 0: {call.name == "linear"}}
        else:
            continue
        for dim, role in roles.items():
            found[weight.value, dim] |= role
    return {key: role.pop() if len(role) == 1 else None for key, role in found.items()}


def _idle(owned: Sequence[_Owned], count: int) -> NDArray[np.bool_]:
    """Find units that nothing is written into, or that nothing reads.

    Filters that were masked are the first to go, however large the weights are that read them.
    """
    owns, live = np.zeros((2, 2, count), dtype=np.bool_)  # what is written, and what is read
    for each in owned:
        if each.weight.dim() < 2 or each.writes is None:
            continue
        others = [dim for dim in range(each.weight.dim()) if dim != each.dim]
        used = (each.weight != 0).sum(others).cpu().numpy() > 0
        mine = each.units >= 0
        owns[int(each.writes), each.units[mine]] = True
        live[int(each.writes), each.units[mine & used]] = True
    return np.asarray((owns & ~live).any(0))


def _normalised(units: Units, scores: UnitScores) -> UnitScores:
    made = scores.copy()
    for group in units.groups:
        mean = np.abs(scores[group.units]).mean()
        made[group.units] = scores[group.units] / (mean if mean > 0 else 1.0)
    return made
