"""Operations that do equal work are measured together, and what is much slower is not run again."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from boxwood._internal.engine import assignment
from boxwood._internal.engine.capture import capture
from boxwood._internal.engine.compiling import optimised


def sparse_layer(seed: int, keep: float) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(40, 40)
    with torch.no_grad():
        layer.weight *= torch.rand_like(layer.weight) < keep
    return layer


def test_equal_operations_have_equal_sizes_settings_and_shares_of_zeros() -> None:
    """Two layers with other weights are equal; a denser one and one with another bias are not."""
    layers = [sparse_layer(0, 0.2), sparse_layer(1, 0.2), sparse_layer(2, 0.7)]
    net = nn.Sequential(*layers, nn.Linear(40, 40, bias=False), nn.Softmax(-1), nn.Softmax(-1))
    program = optimised(capture(lambda x: [net(x)], (torch.randn(4, 40),)).program)
    groups = assignment.equal_operations(program)
    assert sorted(position for group in groups for position in group) == list(range(6))
    assert [0, 1] in groups
    assert [4, 5] in groups
    assert len(groups) == 4


class Stub:
    """A session that takes some seconds of a clock that is not the machine's."""

    program, threads = SimpleNamespace(example=1), 1

    def __init__(self, native: set[int], seconds: float, clock: list[float]) -> None:
        self.native, self.seconds, self.clock, self.runs = frozenset(native), seconds, clock, 0

    def runner(self, batch: int) -> Callable[[object], None]:
        assert batch == 1
        return self._run

    def _run(self, inputs: object) -> None:
        assert inputs == []
        self.runs += 1
        self.clock[0] += self.seconds


def test_sessions_that_are_much_slower_or_the_same_are_not_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The close ones have all turns; two of the same program and choice have one result."""
    clock = [0.0]
    monkeypatch.setattr(assignment, "clock_for", lambda _: lambda: clock[0])
    fast, close, slow, twin = (
        Stub(native, seconds, clock)
        for native, seconds in (({1}, 1.0), ({2}, 1.1), (set(), 2.0), ({1}, 1.0))
    )
    found = assignment.least_seconds([fast, close, slow, twin], [])
    assert [found[each] for each in (fast, close, slow, twin)] == pytest.approx([1, 1.1, 2, 1])
    every = 2 * assignment.REPEATS
    assert (fast.runs + twin.runs, close.runs, slow.runs) == (every, every, 2)
