"""Controls of tickets: other masks, or other values under the masks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.masks import Masks, apply
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.core.selection import select
from boxwood._internal.core.shuffles import Shuffle, within_layers
from boxwood._internal.recipes.phase import State, World
from boxwood.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class ShuffleMasks:
    """Keep the same number of weights at random positions, with their values from an earlier phase.

    Args:
        how: `within_layers`, `evenly` or `over_all_layers`.
        values: label of the phase whose weights they take, or ``"genesis"``.
        index: which of the seed's random masks.
        label: a name for later phases.

    Source: Frankle and Carbin (2019), the appendix on randomly sampled sparse networks.
    """

    revision: ClassVar[int] = 0

    how: Shuffle = within_layers
    values: str = "genesis"
    index: int = 1
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Shuffle."""
        _require(state.masks, self)
        masks = self.how(state.masks, generator_for(world.seed, "masks", self.index))
        return State(apply(world.earlier(self.values).weights, masks), masks)


@dataclass(frozen=True, kw_only=True)
class MasksFrom:
    """Keep the same number of weights of each tensor, but those that are largest in an earlier phase, usually θ0.

    Args:
        of: label of the phase whose weights decide and are used, or ``"genesis"``.
        label: a name for later phases.

    Source: Frankle and Carbin (2019), the appendix that prunes networks before training.
    """

    revision: ClassVar[int] = 0

    of: str = "genesis"
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Decide the masks again."""
        _require(state.masks, self)
        weights = world.earlier(self.of).weights
        scores = {name: magnitude(weights[name]) for name in state.masks}
        masks = select(scores, {name: int(mask.sum()) for name, mask in state.masks.items()})
        return State(apply(weights, masks), masks)


@dataclass(frozen=True, kw_only=True)
class Resample:
    """Draw each kept weight, with replacement, from the kept values of its own tensor.

    So the values have the ticket's distribution, but not its positions.

    Args:
        of: label of the phase whose weights are drawn from, or ``"genesis"``.
        index: which of the seed's draws.
        label: a name for later phases.

    Source: Frankle and Carbin (2019), the appendix on the distribution of a ticket's initialisation.
    """

    revision: ClassVar[int] = 0

    of: str = "genesis"
    index: int = 1
    label: str = spec.field("", identity=False)

    def run(self, state: State, world: World) -> State:
        """Draw."""
        _require(state.masks, self)
        chance = generator_for(world.seed, "resample", self.index)
        weights = dict(world.earlier(self.of).weights)
        for name, mask in state.masks.items():
            survivors = weights[name][mask]
            drawn = torch.randint(max(1, len(survivors)), (len(survivors),), generator=chance)
            weights[name] = _filled(mask, survivors[drawn])
        return State(weights, state.masks)


@dataclass(frozen=True, kw_only=True)
class AddNoise:
    """Add ``N(0, (scale · σ)²)`` to the kept weights of each masked tensor.

    σ is the standard deviation of all the tensor's weights in the earlier phase, pruned or not; it
    estimates that of the distribution they were drawn from.

    Args:
        scale: c, in standard deviations; the paper takes 0.5, 1, 2 and 3.
        to: label of the phase to whose weights noise is added, or ``"genesis"``.
        index: which of the seed's draws.
        label: a name for later phases.

    Source: Frankle and Carbin (2019), the appendix on noise added to a ticket's initialisation.
    """

    revision: ClassVar[int] = 0

    scale: float
    to: str = "genesis"
    index: int = 1
    label: str = spec.field("", identity=False)

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise InvalidInput(
                f"Expected noise of scale > 0 standard deviations, got {self.scale}; use Rewind "
                f"for none."
            )

    def run(self, state: State, world: World) -> State:
        """Disturb."""
        _require(state.masks, self)
        chance = generator_for(world.seed, "noise", self.index)
        weights = dict(world.earlier(self.to).weights)
        for name, mask in state.masks.items():
            sigma = weights[name].std(correction=0)
            noise = self.scale * sigma * torch.randn(int(mask.sum()), generator=chance)
            weights[name] = _filled(mask, weights[name][mask] + noise)
        return State(weights, state.masks)


def _filled(mask: Tensor, survivors: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=survivors.dtype).masked_scatter_(mask, survivors)


def _require(masks: Masks | Mapping[str, Tensor], phase: object) -> None:
    if not masks:
        raise InvalidInput(
            f"Expected masks before {type(phase).__name__}, got none; put a Prune phase before it."
        )
