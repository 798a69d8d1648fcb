"""The reference for a removal: the original network with the removed units set to zero.

Where a statistic spans removed channels (a layer norm, an RMS norm, a mean over channels), zeros
would change it, and no smaller network could agree. There the reference takes the statistic over
the kept channels, and says so: each such place is one `Restatement`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.traced_functions import STATISTICS, WHOLE, bind
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class Restatement:
    """A statistic that the reference takes over kept channels alone.

    Args:
        operation: such as ``layer_norm``.
        module: dotted name of the module whose code computes it.
        source: file and line.
        kept: channels that it spans.
        of: channels that it spanned.
    """

    operation: str
    module: str
    source: str
    kept: int
    of: int

    def __str__(self) -> str:
        return f"{self.operation} in {self.module or 'the model'!r} over {self.kept} of {self.of}"


def restatements(selection: UnitSelection) -> tuple[Restatement, ...]:
    """List the statistics that span something removed.

    Example:
        >>> from torch import nn
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> for each in restatements(select_units(find_units(net, torch.ones(1, 4)), 0.5)):
        ...     print(each)
        layer_norm in '1' over 4 of 8
    """
    found = []
    for number, axes in _spans(selection).items():
        place = next(r for r in selection.units.flow.restated if r.number == number)
        kept = int(np.prod([int(stays.sum()) for _, stays in axes]))
        of = int(np.prod([len(stays) for _, stays in axes]))
        found.append(Restatement(place.name, place.module, place.source, kept, of))
    return tuple(found)


def restated(selection: UnitSelection) -> "Restating":
    """Let the original network, run within it, take statistics over what is kept.

    Example:
        >>> from torch import nn
        >>> from boxwood import find_units, select_units
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> with restated(select_units(find_units(net, torch.ones(1, 4)), 0.5)) as mode:
        ...     _ = net(torch.ones(1, 4))
        >>> mode.strayed
        ''
    """
    trace = selection.units.flow.trace
    names = {r.number: r.name for r in selection.units.flow.restated}
    traced = max((call.number for call in trace.calls[: trace.evaluated]), default=0)
    return Restating(_spans(selection), names, traced)


def _spans(selection: UnitSelection) -> dict[int, list[tuple[int, np.ndarray[Any, Any]]]]:
    labels, flow = selection.units.kept_labels(selection.kept), selection.units.flow
    spans = {}
    for place in flow.restated:
        axes = [(axis, labels[flow.labels.roots(ids)]) for axis, ids in place.axes]
        if not all(stays.all() for _, stays in axes):
            spans[place.number] = axes
    return spans


class Restating(TorchFunctionMode):
    """Counts calls as the trace did, and takes those that it knows over kept channels."""

    def __init__(
        self,
        spans: dict[int, list[tuple[int, np.ndarray[Any, Any]]]],
        names: dict[int, str],
        traced: int,
    ) -> None:
        super().__init__()
        self._spans = spans
        self._names = names
        self._traced = traced
        self._number = 0

    @property
    def strayed(self) -> str:
        """Say how the run differed from the trace; empty if it did not, as far as is known."""
        if self._number == self._traced:
            return ""
        return (
            f"its code took {self._number} means, variances and norms where it took "
            f"{self._traced} in the trace, so it follows another path"
        )

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in WHOLE or WHOLE[func][0] not in STATISTICS:
            return func(*args, **kwargs)
        self._number += 1
        axes = self._spans.get(self._number)
        if axes is None:
            return func(*args, **kwargs)
        name = WHOLE[func][0]
        if name != self._names[self._number]:
            raise InvalidInput(
                f"Expected the network to make the calls that were traced, got {name!r} where "
                f"{self._names[self._number]!r} was; the code must do the same in every run."
            )
        return _over_kept(func, name, args, kwargs, axes)


def _over_kept(
    func: Any, name: str, args: Any, kwargs: Any, axes: Sequence[tuple[int, Any]]
) -> Any:
    given = bind(WHOLE[func][1], args, kwargs)
    x = given["input"] if "input" in given else given["self"]
    kept = [(axis, torch.from_numpy(np.flatnonzero(stays)).to(x.device)) for axis, stays in axes]
    part = _taken(x, kept)
    if name in ("layer_norm", "rms_norm"):
        sizes = given["normalized_shape"]
        count = len(sizes) if isinstance(sizes, tuple | list) else 1
        shift = x.dim() - count
        inner = [(axis - shift, indices) for axis, indices in kept]
        weight, bias = (_affine(given.get(key), inner) for key in ("weight", "bias"))
        shape = list(part.shape[shift:])
        made = (
            F.layer_norm(part, shape, weight, bias, given["eps"])
            if name == "layer_norm"
            else F.rms_norm(part, shape, weight, given["eps"])
        )
        return _spread(made, x, kept)
    if name == "group_norm":
        weight, bias = (_affine(given[key], [(0, kept[0][1])]) for key in ("weight", "bias"))
        return _spread(F.group_norm(part, 1, weight, bias, given["eps"]), x, kept)
    if args:
        return func(part, *args[1:], **kwargs)
    return func(**{**kwargs, "input" if "input" in kwargs else "self": part})


def _affine(given: Tensor | None, kept: Sequence[tuple[int, Tensor]]) -> Tensor | None:
    return None if given is None else _taken(given, kept)


def _taken(x: Tensor, kept: Sequence[tuple[int, Tensor]]) -> Tensor:
    for axis, indices in kept:
        x = x.index_select(axis, indices)
    return x


def _spread(made: Tensor, like: Tensor, kept: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Put results back where they belong, zeros elsewhere."""
    for axis, indices in reversed(list(kept)):
        shape = [*made.shape[:axis], like.shape[axis], *made.shape[axis + 1 :]]
        made = made.new_zeros(shape).index_copy(axis, indices, made)
    return made
