"""The environment of an agent: a network without the filters that it chose to remove, and its accuracy."""

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from boxwood._internal.agent.policy import picture_of
from boxwood._internal.graph.constraints import Kept
from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.surgery import cut
from boxwood._internal.graph.units import Group, Units, find_units
from boxwood.errors import InvalidInput

Tune = Callable[[nn.Module], None]
"""Brings a network back a little after a removal, in place: a few steps, or new statistics."""

Worth = Callable[[nn.Module], float]
"""Accuracy of a network on validation examples, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Tries:
    """One layer of a network, to be tried without some of its filters.

    Args:
        model: with the filters that are gone already still in it.
        units: of the model.
        kept: bool [units], what earlier searches left.
        group: the layer, and all layers whose filters go with it.
        tune_: what is done to each smaller network before it is measured.
        worth: accuracy.
        best: p*, of the original network after ``tune_``, in [0, 1].

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> found = find_units(net, torch.ones(1, 2))
        >>> tries = Tries(model=net, units=found, kept=np.ones(4, bool), group=found.groups[0],
        ...               tune_=lambda _: None, worth=lambda net: 0.1 * len(net[0].weight), best=0.4)
        >>> round(tries.drop(torch.tensor([True, False, True, True])), 4)
        10.0
    """

    model: nn.Module
    units: Units
    kept: Kept
    group: Group
    tune_: Tune
    worth: Worth
    best: float

    @property
    def filters(self) -> Ids:
        """Numbers of the units that an action is about: those of the group that are still there."""
        return self.group.units[self.kept[self.group.units]]

    @property
    def picture(self) -> Tensor:
        """What an agent looks at: the filters that are still there, see `picture_of`."""
        left = torch.from_numpy(self.kept[self.group.units])
        return picture_of([weight[left] for weight in filters_of(self.units, self.group)])

    def selection(self, action: Tensor) -> UnitSelection:
        """Write an action, bool [filters], as what stays of the whole network."""
        kept = self.kept.copy()
        kept[self.filters] = action.cpu().numpy()
        return UnitSelection(self.units, kept)

    def drop(self, action: Tensor) -> float:
        """Remove the filters for real, tune, measure: the drop in percentage points.

        The network itself is not touched.
        """
        small, _ = cut(self.model, self.selection(action))
        self.tune_(small)
        return 100 * (self.best - self.worth(small))

    def drops(self, actions: Sequence[Tensor]) -> list[float]:
        """Try one action after the other, in this process."""
        return [self.drop(action) for action in actions]


def group_named(found: Units, layer: str) -> Group:
    """Find a group of units by its name.

    Raises:
        InvalidInput: there is none.
    """
    for group in found.groups:
        if group.name == layer:
            return group
    raise InvalidInput(
        f"Expected a layer whose filters can be removed, got {layer!r}; choose one of "
        f"{', '.join(group.name for group in found.groups)}."
    )


def filters_of(
    found: Units, group: Group, weights: Mapping[str, Tensor] | None = None
) -> list[Tensor]:
    """Take the weights that make a group's units: one row for each unit of every layer it spans.

    Args:
        found: units of a network.
        group: one of its groups.
        weights: something else to take rows of, such as scores, by the names of the weights.

    Example:
        >>> from boxwood import find_units
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 2, 1))
        >>> found = find_units(net, torch.zeros(1, 3, 8, 8))
        >>> [tuple(weight.shape) for weight in filters_of(found, found.groups[0])]
        [(8, 75)]
    """
    parameters = dict(found.model.named_parameters())
    rows = []
    for axis in found.axes:
        name = axis.names[0]
        matrix = name in parameters and parameters[name].dim() > 1
        if matrix and axis.dim == 0 and (name, 0) in group.axes:
            weight = parameters[name].detach() if weights is None else weights[name]
            owned = [np.flatnonzero(axis.units == unit) for unit in group.units]
            rows.append(torch.stack([weight[torch.from_numpy(each)].flatten() for each in owned]))
    return rows


def tries_of(
    model: nn.Module, example: Any, layer: str, worth: Worth, *, tune_: Tune | None = None
) -> Tries:
    """Make the tries of one layer of a whole network.

    Args:
        model: any module, in evaluation; it is not changed.
        example: an input, as for `units`.
        layer: name of a group of units.
        worth: accuracy of a network on validation examples, in [0, 1]; the model's own, after
            ``tune_``, is p*.
        tune_: what is done to each smaller network before it is measured; nothing by default.

    Raises:
        InvalidInput: there is no such layer.

    Example:
        >>> from boxwood.agent import Agent, TryAndLearn
        >>> from boxwood import shrink
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
        >>> tries = tries_of(net, torch.ones(1, 2), "0.weight", lambda net: 0.9)
        >>> agent = Agent(tries.picture, TryAndLearn(bound=1.0), seed=0)
        >>> while not agent.finished:
        ...     _ = agent.step_(tries.drops)
        >>> len(shrink(net, tries.selection(agent.action))[0].weight) < 4
        True
    """
    found = find_units(model, example)
    tune_ = tune_ or (lambda _: None)
    return Tries(
        model=model,
        units=found,
        kept=np.ones(len(found), dtype=np.bool_),
        group=group_named(found, layer),
        tune_=tune_,
        worth=worth,
        best=worth_after(tune_, worth, model),
    )


def worth_after(tune_: Tune, worth: Worth, model: nn.Module) -> float:
    """Measure a network as every try is measured: a copy of it, tuned. That of the original is p*.

    Example:
        >>> worth_after(lambda net: None, lambda net: 0.5, nn.Linear(1, 1))
        0.5
    """
    tuned = copy.deepcopy(model)
    tune_(tuned)
    return worth(tuned)


class InProcesses:
    """The same tries in several processes of one thread each, with the same results.

    Args:
        tries: whose network, ``tune_`` and ``worth`` can be pickled.
        processes: how many.

    Raises:
        InvalidInput: fewer than one process.
    """

    def __init__(self, tries: Tries, processes: int) -> None:
        if processes < 1:
            raise InvalidInput(
                f"Expected at least one process, got {processes}; as many as there are cores is "
                "fastest."
            )
        self._given = (
            tries.model,
            tries.units.example,
            tries.kept,
            tries.group.name,
            tries.tune_,
            tries.worth,
            tries.best,
        )
        self._processes, self._stack = processes, ExitStack()

    def __enter__(self) -> Self:
        # Not forked: threads of torch and locks of the parent do not survive a fork.
        self._pool = self._stack.enter_context(
            ProcessPoolExecutor(
                self._processes, get_context("spawn"), initializer=_begin, initargs=self._given
            )
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def drops(self, actions: Sequence[Tensor]) -> list[float]:
        """Try actions side by side; drops in their order."""
        return list(self._pool.map(_drop, [action.cpu().numpy() for action in actions]))


_TRIES: Tries | None = None  # of a worker process


def _begin(
    model: nn.Module, example: Any, kept: Kept, group: str, tune_: Tune, worth: Worth, best: float
) -> None:
    global _TRIES  # what the process is there for
    torch.set_num_threads(1)
    found = find_units(model, example)
    _TRIES = Tries(
        model=model,
        units=found,
        kept=kept,
        group=next(each for each in found.groups if each.name == group),
        tune_=tune_,
        worth=worth,
        best=best,
    )


def _drop(action: np.ndarray) -> float:
    assert _TRIES is not None  # noqa: S101 - `_begin` ran
    return _TRIES.drop(torch.from_numpy(action))
