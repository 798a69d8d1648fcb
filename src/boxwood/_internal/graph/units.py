"""Units: what can be removed from a network, which axes each unit has, and which units form a group."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from boxwood._internal.core.arguments import check_network, check_not_accelerated
from boxwood._internal.graph.constraints import Kept, solve_constraints
from boxwood._internal.graph.examples import Calls, plainly
from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.layout import freeze_all
from boxwood._internal.graph.operator_rules import OperatorRule, checked_rules
from boxwood._internal.graph.propagate import Flow
from boxwood._internal.graph.reparametrised import baked
from boxwood._internal.graph.rules import CARRYING, RULES
from boxwood._internal.graph.trace import trace, unread


@dataclass(frozen=True)
class Member:
    """Part of a parameter or buffer that a unit owns.

    Args:
        name: dotted name.
        dim: axis of the tensor.
        indices: on that axis.
    """

    name: str
    dim: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter or buffer.

    Args:
        names: names of the tensor; several if modules share it.
        dim: the axis.
        units: int64 [size]: the unit that owns each index, -1 for none.
    """

    names: tuple[str, ...]
    dim: int
    units: Ids


@dataclass(frozen=True)
class Group:
    """Units that own the same axes: the filters of one layer, or of several that add up.

    Args:
        name: the axis that describes the units best, such as ``layer1.0.conv1.weight``.
        units: int64, the numbers of the units.
        axes: (name, dim) of all axes on which each unit has indices.
    """

    name: str
    units: Ids
    axes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, repr=False)
class Units:
    """The removable units of one network.

    Args:
        axes: every axis of a parameter or buffer from which removing some unit removes indices.
        groups: units with the same axes.
        shapes: of all parameters, by first name.
        unused: parameters that no forward pass reads, in evaluation or in training.
        flow: what the trace of the network found.
        model: the network itself.
        example: what it was traced on.
    """

    axes: tuple[Axis, ...]
    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    unused: tuple[str, ...]
    flow: Flow = field(repr=False, compare=False)
    roots: Ids = field(repr=False, compare=False)
    model: nn.Module = field(repr=False, compare=False)
    example: Any = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.roots)

    def __repr__(self) -> str:
        """Return a short table of the groups."""
        title = f"{len(self):,} units of {type(self.model).__name__} in {len(self.groups)} groups"
        return table_of(title, [(g.name, f"{len(g.units):,}") for g in self.groups])

    def members(self, unit: int) -> tuple[Member, ...]:
        """List what goes when a unit goes.

        Example:
            >>> import torch
            >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
            >>> for member in find_units(net, torch.ones(1, 4)).members(1):
            ...     print(member)
            Member(name='0.weight', dim=0, indices=(1,))
            Member(name='0.bias', dim=0, indices=(1,))
            Member(name='2.weight', dim=1, indices=(1,))
        """
        found = []
        for axis in self.axes:
            places = np.flatnonzero(axis.units == unit)
            if len(places):
                found.append(Member(axis.names[0], axis.dim, tuple(places.tolist())))
        return tuple(found)

    def reasons(self) -> dict[tuple[str, int], str]:
        """Say of every axis of a parameter that nobody can cut what keeps it whole.

        An axis is named by the first name of its tensor and its number. Where several things keep
        it whole the first one is given, of it or of what it is tied to.

        Example:
            >>> import torch
            >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
            >>> find_units(net, torch.ones(1, 4)).reasons()["2.weight", 0]
            'the model returns it'
        """
        cut = {(axis.names[0], axis.dim) for axis in self.axes}
        places = [
            (self.flow.trace.named[value][0], block.axes[0], block.ids[0])
            for value, layout in self.flow.started.items()
            for block in layout.blocks
        ]
        whole = [(name, dim, label) for name, dim, label in places if (name, dim) not in cut]
        causes = self.flow.labels.causes(np.array([label for _, _, label in whole], dtype=np.int64))
        return {(name, dim): cause for (name, dim, _), cause in zip(whole, causes, strict=True)}

    def kept_labels(self, kept: Kept) -> Kept:
        """Turn what is kept of the units into what is kept of the labels of the trace."""
        labels = np.ones(len(self.flow.labels), dtype=np.bool_)
        labels[self.roots] = kept
        return labels

    def parameters(self, kept: Kept | None = None) -> int:
        """Count the parameters that are left; tied ones once.

        Example:
            >>> import torch
            >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
            >>> found = find_units(net, torch.ones(1, 4))
            >>> found.parameters(), found.parameters(np.array([True, False, True]))
            (23, 16)
        """
        sizes = {name: list(shape) for name, shape in self.shapes.items()}
        if kept is not None:
            for axis in self.axes:
                if axis.names[0] in sizes:
                    sizes[axis.names[0]][axis.dim] = int(kept_indices(axis, kept).sum())
        return sum(int(np.prod(shape, dtype=np.int64)) for shape in sizes.values())

    def multiply_adds(self, kept: Kept | None = None) -> int:
        """Count the multiply-adds of products with weights and of attention, for the example.

        Example:
            >>> import torch
            >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
            >>> find_units(net, torch.ones(1, 4)).multiply_adds()
            18
        """
        total = 0
        for constant, factors in self._costs:
            for factor in factors:
                constant *= len(factor) if kept is None else int(kept_units(factor, kept).sum())
            total += constant
        return total

    @cached_property
    def _costs(self) -> list[tuple[int, tuple[Ids, ...]]]:
        return [(cost.constant, tuple(map(self.numbers, cost.factors))) for cost in self.flow.costs]

    def numbers(self, ids: Ids) -> Ids:
        """Give the units of labels of the trace; -1 for what belongs to none."""
        return self._number_of_root[self.flow.labels.roots(ids)]

    @cached_property
    def _number_of_root(self) -> Ids:
        number = np.full(len(self.flow.labels), -1, dtype=np.int64)
        number[self.roots] = np.arange(len(self.roots))
        return number


def kept_units(numbers: Ids, kept: Kept) -> NDArray[np.bool_]:
    """Say which indices stay; -1 belongs to no unit and stays.

    Example:
        >>> kept_units(np.array([0, 1, -1]), np.array([True, False])).tolist()
        [True, False, True]
    """
    return np.append(kept, True)[numbers]


def table_of(title: str, rows: Sequence[tuple[str, str]], most: int = 12) -> str:
    """Write a title and a few rows of a name and a number each.

    Example:
        >>> print(table_of("3 units", [("fc1.weight", "2"), ("fc2.weight", "1")], most=1))
        3 units
          fc1.weight  2
          … 1 more
    """
    shown = rows[:most]
    name, number = (max((len(row[at]) for row in shown), default=0) for at in (0, 1))
    lines = [f"  {row[0]:<{name}}  {row[1]:>{number}}" for row in shown]
    more = [f"  … {len(rows) - most} more"] if len(rows) > most else []
    return "\n".join([title, *lines, *more])


def kept_indices(axis: Axis, kept: Kept) -> NDArray[np.bool_]:
    """Say which indices of an axis stay."""
    return kept_units(axis.units, kept)


def find_units(
    model: nn.Module,
    example: Any,
    *more: Any,
    call: Callable[..., Any] | None = None,
    freeze_unknown: bool = False,
    rules: Mapping[Any, OperatorRule] | None = None,
) -> Units:
    """Find all units that can be removed from a network without changing its code.

    One forward pass in evaluation mode is recorded on tensors without data. Each operation moves
    labels of channels as it moves data; channels that must be removed together end up with the same
    label.

    Args:
        model: any module; it is not changed.
        example: an input, a tuple of inputs, or a dict of inputs by name.
        more: examples of other ways to call the network, such as with another head. All are traced
            in sequence, and `shrink` and `check_equivalence` run all of them.
        call: a function of the network and the inputs of one example that runs it and returns its
            outputs: for methods other than ``forward``, or for several calls.
        freeze_unknown: instead of refusing the model, keep whole what an operation without a rule
            reads, and everything from the point where control flow depends on data, such as the
            non-maximum suppression of a detector.
        rules: for custom operators, which Boxwood does not know: the operator, and which axes of
            its tensors hold the same channels. These are a list of dicts from the name of a tensor
            to an axis of it, or a function that is given a `boxwood.structure.OperatorCall` and
            returns such a list.

    Raises:
        InvalidInput: a rule does not fit its operator, or the model does not take the example.
        UnsupportedModel: an operation has no rule, control flow depends on data, or parameters have
            no data.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
        >>> found = find_units(net, torch.zeros(1, 3, 8, 8))
        >>> len(found), [group.name for group in found.groups]
        (8, ['0.weight'])

        Both methods of a network that has two:

        >>> class Coder(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.into, self.out = nn.Linear(4, 8), nn.Linear(8, 4)
        ...     def encode(self, x):
        ...         return self.into(x).relu()
        ...     def decode(self, h):
        ...         return self.out(h)
        >>> len(find_units(Coder(), torch.zeros(1, 4), call=lambda net, x: net.decode(net.encode(x))))
        8

        A network with a custom operator, whose input and output have the same channels:

        >>> @torch.library.custom_op("docs::halved", mutates_args=())
        ... def halved(x: torch.Tensor) -> torch.Tensor:
        ...     return x / 2
        >>> _ = halved.register_fake(lambda x: torch.empty_like(x))
        >>> class Halved(nn.Module):
        ...     def forward(self, x):
        ...         return halved(x)
        >>> net = nn.Sequential(nn.Linear(4, 8), Halved(), nn.Linear(8, 2))
        >>> rule = [{"x": -1, "output": -1}]
        >>> len(find_units(net, torch.zeros(1, 4), rules={torch.ops.docs.halved: rule}))
        8
    """
    check_network(model)
    check_not_accelerated(model)
    if more or call is not None:
        example = Calls((example, *more), call or plainly)
    own = checked_rules(rules)
    whole = baked(model)  # layers compute with effective weights, so these are what can be removed
    flow = Flow(trace(whole, example, until_data=freeze_unknown))
    flow.start()
    flow.labels.cause = "no call reads it for this example"
    for value in unread(flow.trace):  # what no pass reads cannot be followed
        freeze_all(flow.labels, flow.layouts[value])
    for place, recorded in enumerate(flow.trace.calls):
        if place == flow.trace.evaluated:
            known = len(flow.costs), len(flow.restated)
        flow.step(recorded, RULES, CARRYING, own, freeze_unknown=freeze_unknown)
    if flow.trace.evaluated < len(flow.trace.calls):  # the pass in training only ties
        del flow.costs[known[0] :], flow.restated[known[1] :]
    flow.finish()
    solve_constraints(flow)
    trainable = {name for name, _ in whole.named_parameters(remove_duplicate=False)}
    arrays = [
        (flow.trace.named[value], block.axes[0], flow.labels.roots(block.ids))
        for value, layout in flow.started.items()
        for block in layout.blocks
    ]
    live = [array for array in arrays if array[2].any()]
    roots = np.unique(np.concatenate([each[2] for each in live])) if live else np.zeros(0, np.int64)
    roots = roots[roots != 0]
    number = np.full(len(flow.labels), -1, dtype=np.int64)
    number[roots] = np.arange(len(roots))
    axes = tuple(Axis(names, dim, number[found]) for names, dim, found in live)
    shapes = {
        names[0]: flow.trace.shapes[value]
        for value, names in flow.trace.named.items()
        if names[0] in trainable
    }
    unused = tuple(
        names[0]
        for names in (flow.trace.named[value] for value in unread(flow.trace))
        if names[0] in trainable
    )
    return Units(axes, _groups(axes, len(roots)), shapes, unused, flow, roots, model, example)


def _groups(axes: Sequence[Axis], count: int) -> tuple[Group, ...]:
    """Put units together that own the same number of indices of the same axes."""
    owned = np.zeros(count, dtype=np.uint64)
    keys = np.random.default_rng(0).integers(1, 1 << 63, size=len(axes), dtype=np.uint64)
    for axis, key in zip(axes, keys, strict=True):
        indices = axis.units[axis.units >= 0]
        times = np.bincount(indices, minlength=count).astype(np.uint64)
        owned += times * key  # sums of random numbers name the set, up to a miracle
    _, first, inverse = np.unique(owned, return_index=True, return_inverse=True)
    members: list[list[tuple[str, int]]] = [[] for _ in first]
    for axis in axes:
        for group in np.unique(inverse[axis.units[axis.units >= 0]]):
            members[group].append((axis.names[0], axis.dim))
    made = [
        Group(_title(members[place]), np.flatnonzero(inverse == place), tuple(members[place]))
        for place in np.argsort(first)
    ]
    return tuple(made)


def _title(owned: Sequence[tuple[str, int]]) -> str:
    """Name a group after the first weight whose rows it owns."""
    rows = [name for name, dim in owned if dim == 0 and "weight" in name]
    return (rows or [owned[0][0]])[0]
