"""What an agent acts on: a network without the filters that it wants removed, and its accuracy."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from boxwood.core.errors import BoxwoodError
from boxwood.graph.keep import Keep
from boxwood.graph.labels import Ids
from boxwood.graph.settle import Kept
from boxwood.graph.surgery import cut
from boxwood.graph.units import Group, Units, units

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
        best: p*, of the original network, in [0, 1].

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> found = units(net, torch.ones(1, 2))
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

    def keep(self, action: Tensor) -> Keep:
        """Write an action, bool [filters], as what stays of the whole network."""
        kept = self.kept.copy()
        kept[self.filters] = action.numpy()
        return Keep(self.units, kept)

    def drop(self, action: Tensor) -> float:
        """Remove the filters for real, tune, measure: the drop in percentage points.

        The network itself is not touched.
        """
        small, _ = cut(self.model, self.keep(action))
        self.tune_(small)
        return 100 * (self.best - self.worth(small))

    def drops(self, actions: Sequence[Tensor]) -> list[float]:
        """Try one action after the other, in this process."""
        return [self.drop(action) for action in actions]


class InProcesses:
    """The same tries in several processes of one thread each, with the same results.

    Args:
        tries: whose network, ``tune_`` and ``worth`` can be pickled.
        processes: how many.

    Raises:
        BoxwoodError: fewer than one process.
    """

    def __init__(self, tries: Tries, processes: int) -> None:
        if processes < 1:
            raise BoxwoodError(
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
        return list(self._pool.map(_drop, [action.numpy() for action in actions]))


_TRIES: Tries | None = None  # of a worker process


def _begin(
    model: nn.Module, example: Any, kept: Kept, group: str, tune_: Tune, worth: Worth, best: float
) -> None:
    global _TRIES  # what the process is there for
    torch.set_num_threads(1)
    found = units(model, example)
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
