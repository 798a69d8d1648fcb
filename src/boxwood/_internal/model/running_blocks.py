"""Run the blocks of a network in sequence, and measure how much each of them changes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.model.blockwise import Settings, State
from boxwood._internal.model.evaluation import evaluating


def run_block(block: nn.Module, hidden: Tensor, settings: Settings) -> Tensor:
    """Run a block in evaluation, and return its hidden states.

    Example:
        >>> run_block(nn.Identity(), torch.ones(1), ((), {}))
        tensor([1.])
    """
    places, names = settings
    with evaluating(block), torch.no_grad():
        outputs: Any = block(hidden, *places, **names)
    made: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return made


def block_influence(before: Tensor, after: Tensor) -> tuple[float, int]:
    """Sum ``1 − cos(before, after)`` over positions: how much a block turns hidden states.

    Args:
        before: hidden states that a block reads, [..., width].
        after: those that it makes.

    Returns:
        The sum, and the number of positions.

    Example:
        >>> block_influence(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        (1.0, 2)

    Source: Men et al. (2024), equation 1.
    """
    cosine = torch.cosine_similarity(before.double(), after.double(), dim=-1)
    return float((1 - cosine).sum()), cosine.numel()


def influences(
    blocks: Iterable[nn.Module], states: Iterable[State], watch: Callable[[int], None] = lambda done: None  # noqa: ARG005
) -> Iterator[float]:  # fmt: skip
    """Yield the influence of each block in turn: the mean of ``1 − cos`` of its input and its output.

    Args:
        blocks: a generator may load each as it comes.
        states: from `boxwood.oneshot`'s ``states_before``.
        watch: called with the number of blocks that are done.

    Example:
        >>> from boxwood._internal.model.blockwise import states_before
        >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
        >>> _ = nn.init.eye_(net[0].weight)
        >>> states = states_before(net, list(net), [torch.tensor([[1.0, -1.0]])])
        >>> [round(each, 3) for each in influences(net, states)]
        [0.0, 0.293]
    """
    current = list(states)
    del states
    for place, block in enumerate(blocks):
        total = count = 0.0
        for batch, (hidden, settings) in enumerate(current):
            after = run_block(block, hidden, settings[place])
            each, positions = block_influence(hidden, after)
            total, count = total + each, count + positions
            current[batch] = (after, settings)
        watch(place + 1)
        yield total / count
        del block
