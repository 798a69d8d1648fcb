"""Layers that choose kernels or torch for each input shape, when they first see it."""

from collections.abc import Callable, Hashable
from typing import Any

import torch

from boxwood._internal.core.timing import by_turns, calls_lasting, clock_for
from boxwood._internal.engine.product_choice import LASTING, MARGIN, TURNS
from boxwood._internal.engine.thread_team import ThreadTeam

SHAPES = 8
"""Shapes of a layer that are looked at; all later ones run in torch."""

Call = Callable[..., Any]


class MeasuredShapes:
    """What runs a layer at each shape.

    Args:
        team: the threads.
    """

    def __init__(self, team: ThreadTeam) -> None:
        self._team = team
        self._chosen: dict[Hashable, Call | None] = {}

    def choose(self, shape: Hashable, make: Callable[[], Call], dense: Call, *args: Any) -> Call:
        """Return the faster of a kernel's function and torch's for a shape.

        Args:
            shape: what is looked at once.
            make: builds the kernel's function.
            dense: torch's.
            args: of both, of this shape.
        """
        if shape not in self._chosen:
            with self._team.planning:
                if shape not in self._chosen and len(self._chosen) < SHAPES:
                    self._chosen[shape] = self._faster(make(), dense, *args)
        return self._chosen.get(shape) or dense

    def _faster(self, ours: Call, dense: Call, *args: Any) -> Call | None:
        clock = clock_for(self._team.threads)
        runs = {"ours": lambda: ours(*args), "dense": lambda: dense(*args)}
        with torch.no_grad():
            calls = {
                name: calls_lasting(run, LASTING, most=200, clock=clock)
                for name, run in runs.items()
            }
            times = by_turns(runs, TURNS, calls=calls, clock=clock)
        return ours if min(times["ours"]) <= MARGIN * min(times["dense"]) else None
