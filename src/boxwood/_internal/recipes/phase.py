"""The interfaces of phases and experiments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from boxwood._internal.core import spec
from boxwood._internal.core.arguments import described
from boxwood._internal.core.generators import in_use, own_random_numbers
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.data.splits import Splits
from boxwood._internal.train.callbacks import Progress
from boxwood._internal.train.snapshots import Checkpoints
from boxwood.errors import InvalidInput

Facts = Mapping[str, Any]
"""What a phase measured: plain JSON values, the same in every repetition (so no times)."""


@dataclass(frozen=True)
class State:
    """A network between two phases: its weights, its masks, and what the last phase measured."""

    weights: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    facts: Facts = field(default_factory=dict)


def _no_store(genesis: "Genesis", recipe: "Recipe") -> State:
    raise InvalidInput(
        f"Expected a store that holds the run of {len(recipe)} phases which this phase needs, got "
        f"none; run the recipe with boxwood.runs.run_recipe, seed {genesis.seed} and a Store."
    )


@dataclass(frozen=True)
class World:
    """Everything that a phase may use.

    Args:
        genesis: what the run started from.
        data: training, validation and test examples.
        earlier: states by the label of the phase that left them; ``"genesis"`` is always there.
        checkpoints: where a long phase saves its progress.
        progress: called with (done, all) while a phase works.
        device: where networks are trained and measured.
        finished: the last state of a run that the phase said it needs.
        cache: folder for data that can be computed again, such as a teacher's logits.
    """

    genesis: "Genesis"
    data: Splits
    earlier: Callable[[str], State]
    checkpoints: Checkpoints | None = None
    progress: Progress | None = None
    device: torch.device = torch.device("cpu")
    finished: Callable[["Genesis", "Recipe"], State] = _no_store
    cache: Path | None = None

    @property
    def seed(self) -> int:
        """Root seed of the run."""
        return self.genesis.seed

    def network(self, state: State) -> nn.Module:
        """Build the network and put the weights of a state into it."""
        return self.genesis.network(state.weights).to(self.device)


class Phase(Protocol):
    """One step of a recipe: frozen data with one method."""

    @property
    def label(self) -> str:
        """A name by which later phases find what this one left; empty for none."""
        ...

    def run(self, state: State, world: World) -> State:
        """Do the work."""
        ...


Recipe = tuple[Phase, ...]
"""A tuple of phases, run from the first to the last; a recipe function returns one."""

Run = tuple["Genesis", Recipe]
"""A start and what follows. A phase with a method ``needs(genesis) -> tuple[Run, ...]`` is begun
when these have ended, and finds their last states with `World.finished`."""


@dataclass(frozen=True, kw_only=True)
class Genesis:
    """The start of a run: a network, data, and the random seed.

    Args:
        model: returns a new network; called with torch's random numbers seeded.
        data: returns the `Splits`.
        seed: root of all randomness.
        checkpoint: safetensors file with trained weights to start from.
        checkpoint_sha256: hash of that file's bytes; it, not the path, is part of the identity.
    """

    model: Callable[[], nn.Module]
    data: Callable[[], Splits]
    seed: int = 0
    checkpoint: str | None = spec.field(None, identity=False)
    checkpoint_sha256: str | None = spec.field(None, legacy=None)

    def __post_init__(self) -> None:
        _check_start(self.model, self.data, self.checkpoint, self.checkpoint_sha256)
        if type(self.seed) is not int:
            raise InvalidInput(f"Expected a whole number as seed, got {self.seed!r}; give one.")

    def build(self, index: int = 0) -> nn.Module:
        """Make the network with the initial weights of (seed, index)."""
        # The model's function may make it on a device: all that are in use are seeded.
        with own_random_numbers(in_use(), seed=seed_for(self.seed, "init", index)):
            return self.model()

    def network(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """Make the network, and put weights into it."""
        model = self.build()
        load_weights_(model, weights)
        return model


@dataclass(frozen=True)
class PublishedFigure:
    """What a paper reports for a branch of an experiment.

    Args:
        branch: the name of the branch.
        accuracy: top-1 accuracy on the test examples, in (0, 1).
        source: who reports it, and where.

    Example:
        >>> PublishedFigure("dense", 0.9125, "He et al. (2015), table 6").accuracy
        0.9125
    """

    branch: str
    accuracy: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A network, data, and named recipes to compare: what a study's function returns.

    Recipes with equal first phases share them when they run.

    Args:
        model: returns a new network.
        data: returns the `Splits`.
        branches: (name, recipe) pairs, or a dict of them.
        judge: a function from all results, a sequence of `boxwood.runs.Measurement`, to verdicts.
        checkpoint: safetensors file with trained weights to start from.
        published: figures of papers, to compare results with; they decide nothing.
        shape: shape of one input without the batch, for counts when the data is not available.

    Example:
        >>> from boxwood.phases import Prune
        >>> from boxwood.recipes import Call
        >>> from boxwood.data import digits
        >>> from boxwood.networks import lenet_300_100
        >>> study = Experiment(
        ...     model=Call.of(lenet_300_100, inputs=64), data=digits,
        ...     branches=(("pruned", (Prune(sparsity=0.5),)),),
        ... )
        >>> study.genesis(seed=3).seed
        3
    """

    model: Callable[[], nn.Module]
    data: Callable[[], Splits]
    branches: tuple[tuple[str, Recipe], ...]
    judge: Callable[..., Any] | None = None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    published: tuple[PublishedFigure, ...] = ()
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.branches, Mapping):
            object.__setattr__(self, "branches", tuple(self.branches.items()))
        _check_start(self.model, self.data, self.checkpoint, self.checkpoint_sha256)
        _check_pairs(self.branches)
        names = [name for name, _ in self.branches]
        if not names or len(set(names)) != len(names):
            raise InvalidInput(f"Expected distinct branch names, got {names}; rename them.")
        if unknown := [each.branch for each in self.published if each.branch not in names]:
            raise InvalidInput(
                f"Expected published figures of the branches {', '.join(names)}, got one of "
                f"{unknown[0]!r}; correct its branch."
            )
        for name, recipe in self.branches:
            if not isinstance(recipe, tuple) or not recipe:
                raise InvalidInput(
                    f"Expected a tuple of phases as the recipe of {name!r}, got {recipe!r}; "
                    f"give at least one phase."
                )
            for phase in recipe:
                if not (hasattr(phase, "run") and hasattr(phase, "label")):
                    raise InvalidInput(
                        f"Expected phases in the recipe of {name!r}, got {phase!r}; a phase has a "
                        f"label and a method run(state, world)."
                    )

    def genesis(self, seed: int) -> Genesis:
        """Where the run of one seed starts."""
        return Genesis(
            model=self.model,
            data=self.data,
            seed=seed,
            checkpoint=self.checkpoint,
            checkpoint_sha256=self.checkpoint_sha256,
        )


def _check_pairs(branches: object) -> None:
    pairs = branches if isinstance(branches, tuple | list) else ()
    if not pairs or not all(isinstance(each, tuple | list) and len(each) == 2 for each in pairs):
        raise InvalidInput(
            f"Expected branches as (name, recipe) pairs or a dict of them, got "
            f"{described(branches)}; give branches={{'dense': dense(…), 'pruned': one_shot(…)}}."
        )


def _check_start(model: object, data: object, *checkpoint: object) -> None:
    if not (callable(model) and callable(data)):
        raise InvalidInput(
            f"Expected functions that return a network and data, got {model!r} and {data!r}; name "
            f"the functions."
        )
    if wrong := [each for each in checkpoint if not isinstance(each, str | None)]:
        raise InvalidInput(
            f"Expected the path of a checkpoint and its SHA-256 as texts, got {wrong[0]!r}; give "
            f"both as texts, or neither."
        )


def state_of(model: nn.Module, masks: Mapping[str, Tensor], facts: Facts) -> State:
    """Copy a network's weights and buffers into a state."""
    weights = {n: t.detach().to("cpu", copy=True) for n, t in model.state_dict().items()}
    return State(weights, {n: m.to("cpu") for n, m in masks.items()}, facts)


def load_weights_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a network, or say in which way they are another network's.

    Raises:
        InvalidInput: names or shapes differ, or floats are stored as integers or in eight bits;
            nothing is changed then.
    """
    mine = model.state_dict()
    missing, extra = sorted(set(mine) - set(weights)), sorted(set(weights) - set(mine))
    shapes = [n for n in mine if n in weights and mine[n].shape != weights[n].shape]
    if missing or extra or shapes:
        said = [f"lacks {missing[:3]}"] * bool(missing) + [f"has also {extra[:3]}"] * bool(extra)
        said += [
            f"{n!r} of shape {tuple(weights[n].shape)} not {tuple(mine[n].shape)}"
            for n in shapes[:3]
        ]
        raise InvalidInput(
            f"Expected weights of {type(model).__name__}, got a checkpoint of another model: "
            f"{'; '.join(said)}; give the checkpoint that belongs to this model."
        )
    for name, tensor in mine.items():
        stored = weights[name].dtype
        if tensor.is_floating_point() and (not stored.is_floating_point or stored.itemsize < 2):
            raise InvalidInput(
                f"Expected floats of at least 16 bits for {name!r}, got {stored}, which is a type of "
                f"quantised weights; give the checkpoint from before it was quantised."
            )
    model.load_state_dict(dict(weights))
