"""Repair dropped blocks: fit what they did by a linear map, and fold it into the block before them.

A residual stream passes a block by, so no map of the whole stream can be folded anywhere. What can be
is a map of what the last layer of a block adds to the stream: ``W`` becomes ``TᵀW``, exactly.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwood._internal.adapters.pretrained import Watch, states_of
from boxwood._internal.adapters.resident import Resident
from boxwood._internal.files.thresholds import FLOAT_DTYPES
from boxwood._internal.model.blockwise import Settings, State
from boxwood._internal.model.evidence.calibration import Batches
from boxwood._internal.model.running_blocks import run_block
from boxwood.errors import InvalidInput

RIDGE = 1.0
"""Pull towards leaving the layer as it is, in units of the mean square of what it adds.

A hundredth of it fits the calibration text better and other texts worse: see the results in
`experiments/results/depth_lm.json`.
"""

_ROUNDING, _NEARLY_ALL = 1e-4, 0.999  # of float32, where hidden states cancel


class NothingToFoldIntoError(InvalidInput):
    """No map can be folded into the block before those that are dropped.

    Example:
        >>> str(NothingToFoldIntoError("Expected a layer, got none."))
        'Expected a layer, got none.'
    """


@dataclass(frozen=True)
class Fold:
    """A map that was folded into a layer.

    Args:
        layer: dotted name of the layer in the dense model.
        before: relative squared error of the hidden states without the dropped blocks, in the dense
            model's.
        after: the same once the map is folded.
    """

    layer: str
    before: float
    after: float


def folds(
    opened: Resident, kept: Sequence[int], batches: Batches, watch: Watch
) -> Iterator[tuple[Fold, dict[str, Tensor]]]:
    """Yield what is folded before each run of dropped blocks, and the new tensors by their names.

    One block is in memory at a time, and the hidden states of two models: of the dense one, and of the
    one that is being made.

    Args:
        opened: the dense model.
        kept: places of the blocks that stay.
        batches: what the model is called with; nothing is yielded without.
        watch: called with the number of blocks that were run, and of all.

    Raises:
        InvalidInput: the block before a run has no layer that a map can be folded into.
    """
    states = list(states_of(opened, batches))
    if not states:
        return
    dense = [hidden for hidden, _ in states]
    ours = dense
    last = max((at for at in range(len(opened.blocks)) if at not in kept), default=0)
    place = 0
    while place <= last:
        gone = place + 1  # the run of dropped blocks after this one
        while gone <= last and gone not in kept:
            gone += 1
        if place not in kept:  # before any that stays
            dense = _through(opened, range(place, gone), states, dense, watch)
            ours = [hidden for hidden, _ in states]
        elif gone == place + 1:
            same = ours is dense
            dense = _through(opened, range(place, gone), states, dense, watch)
            ours = dense if same else _through(opened, range(place, gone), states, ours, watch)
        else:
            dense = _through(opened, range(place, gone), states, dense, watch)
            with opened.loaded(opened.blocks[place]) as block:
                settings = [each[place] for _, each in states]
                fold, tensors, ours = _fold(opened, place, block, ours, settings, dense)
            yield fold, tensors
        place = gone


def _through(
    opened: Resident, places: range, states: Sequence[State], hidden: list[Tensor], watch: Watch
) -> list[Tensor]:
    for place in places:
        with opened.loaded(opened.blocks[place]) as block:
            hidden = [
                run_block(block, each, settings[place])
                for each, (_, settings) in zip(hidden, states, strict=True)
            ]
        watch(place + 1, len(opened.blocks))
    return hidden


def _fold(
    opened: Resident,
    place: int,
    block: nn.Module,
    hidden: Sequence[Tensor],
    settings: Sequence[Settings],
    wanted: Sequence[Tensor],
) -> tuple[Fold, dict[str, Tensor], list[Tensor]]:
    name = added_last(block, hidden[0], settings[0])
    if name is None:
        raise NothingToFoldIntoError(
            f"Expected a linear layer whose outputs {opened.blocks[place]} adds to the hidden states, "
            f"got none, as where a norm follows it or experts share a tensor; do not repair "
            f"(--no-repair)."
        )
    layer = block.get_submodule(name)
    assert isinstance(layer, nn.Linear)  # noqa: S101 - added_last looks for these
    fit = _Fit(layer.out_features)
    for each, settings_of_it, target in zip(hidden, settings, wanted, strict=True):
        added, made = _adds(block, layer, each, settings_of_it)
        fit.see(added, made, target)
    turn = fit.solve().T
    tensors = {"weight": turn @ layer.weight.double()}
    if layer.bias is not None:
        tensors["bias"] = turn @ layer.bias.double()
    whole = f"{opened.blocks[place]}.{name}"
    found = {}
    with torch.no_grad():
        for last, tensor in tensors.items():
            own = layer.get_parameter(last)
            stored = opened.stored[f"{whole}.{last}"].tensors[0].entry.dtype
            own.copy_(tensor.to(FLOAT_DTYPES[stored]))  # what comes next sees it as it is stored
            found[f"{whole}.{last}"] = own.detach().clone()
    ours = [run_block(block, each, own) for each, own in zip(hidden, settings, strict=True)]
    after = sum(_error(one, other)[0] for one, other in zip(ours, wanted, strict=True))
    count = sum(_error(one, one)[1] for one in ours)
    return Fold(whole, fit.before / count, after / count), found, ours


class _Fit:
    """Sums for ``min_T Σ w ‖x T + r − y‖² + ρ‖T − 1‖²``: each position counts by ``w = 1/‖y‖²``.

    Hidden states of a few positions are hundreds of times larger than all others; unweighted, the
    map would serve these alone.
    """

    def __init__(self, width: int) -> None:
        self.gram = torch.zeros(width, width, dtype=torch.float64)
        self.right = torch.zeros(width, width, dtype=torch.float64)
        self.before = 0.0

    def see(self, added: Tensor, made: Tensor, target: Tensor) -> None:
        """Add the positions of a batch: what the layer adds, what the block makes, and what it should."""
        x, y = added.double().flatten(0, -2), target.double().flatten(0, -2)
        missing = y - made.double().flatten(0, -2)
        weight = _weight(y)
        self.gram += x.T @ (weight * x)
        self.right += x.T @ (weight * missing)
        self.before += float((weight * missing.square()).sum())

    def solve(self) -> Tensor:
        ridge = RIDGE * self.gram.diagonal().mean().clamp_min(1e-30)
        eye = torch.eye(len(self.gram), dtype=torch.float64)
        more: Tensor = torch.linalg.solve(self.gram + ridge * eye, self.right)
        return eye + more


def added_last(block: nn.Module, hidden: Tensor, settings: Settings) -> str | None:
    """Find the last linear layer whose outputs are added to what a block makes, as they are.

    Changing them must change what the block makes by as much, at every position.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = nn.Linear(2, 3), nn.Linear(3, 2)
        ...     def forward(self, x):
        ...         return x + self.down(self.up(x).relu())
        >>> added_last(Block(), torch.ones(1, 4, 2), ((), {}))
        'down'
    """
    layers = [
        (name, layer)
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and layer.out_features == hidden.shape[-1]
    ]
    made = run_block(block, hidden, settings)
    generator = torch.Generator().manual_seed(0)
    more = torch.randn(hidden.shape, generator=generator).to(made) * made.std()
    close = _ROUNDING * (made.abs() + more.abs() + made.std())

    def changed(outputs: Tensor) -> Tensor:
        return outputs + more.view(outputs.shape) if outputs.numel() == more.numel() else outputs

    for name, layer in reversed(layers):
        with _changing(layer, changed):
            by = run_block(block, hidden, settings) - made
        if float(((by - more).abs() <= close).double().mean()) > _NEARLY_ALL:
            return str(name)
    return None


def _adds(
    block: nn.Module, layer: nn.Module, hidden: Tensor, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Run a block, and return what one of its layers adds, and what it makes."""
    seen: list[Tensor] = []

    def note(outputs: Tensor) -> Tensor:
        seen.append(outputs)
        return outputs

    with _changing(layer, note):
        made = run_block(block, hidden, settings)
    return seen[0].view(made.shape), made


@contextmanager
def _changing(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    handle = layer.register_forward_hook(lambda _layer, _inputs, outputs: change(outputs))
    try:
        yield
    finally:
        handle.remove()


def _weight(wanted: Tensor) -> Tensor:
    return 1 / wanted.square().sum(-1, keepdim=True).clamp_min(1e-30)


def _error(made: Tensor, wanted: Tensor) -> tuple[float, int]:
    """Sum relative squared errors of positions, and count them."""
    one, other = made.double().flatten(0, -2), wanted.double().flatten(0, -2)
    return float((_weight(other) * (one - other).square()).sum()), len(one)
