"""Teachers of a recipe: the network's own past, or networks that other runs train.

Every `Train` may have a teacher: after pruning, between rounds of it, while sparsity rises, after
units are removed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from boxwood._internal.core import spec
from boxwood._internal.core.call import Call
from boxwood._internal.core.digests import digest
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.data.splits import Splits, fingerprint
from boxwood._internal.distill.cached_logits import CachedStepLogits, Shards, cache_logits
from boxwood._internal.distill.encodings import Float32, LogitEncoding
from boxwood._internal.distill.ensembles import EnsembleMean, Forward, ensemble, geometric_mean
from boxwood._internal.distill.feature_distillation import (
    FeatureDistillation,
    forward_with_features,
    returning_features,
)
from boxwood._internal.distill.losses import Distillation
from boxwood._internal.recipes.phase import Genesis, Recipe, Run, State, World
from boxwood._internal.train.loop import MakeTargets
from boxwood._internal.train.losses import Loss, cross_entropy
from boxwood._internal.train.settings import Training
from boxwood.errors import InvalidInput


class TeacherSource(Protocol):
    """Where a teacher's networks come from: a frozen dataclass with two methods."""

    def needs(self, genesis: Genesis) -> tuple[Run, ...]:
        """Return the runs that must have ended before the teacher can be used.

        Args:
            genesis: where the student's run starts.
        """
        ...

    def forward(self, world: World, layers: Sequence[str] = ()) -> tuple[Forward, str]:
        """Return the teacher's forward function, and a digest of its weights and code.

        Args:
            world: of the phase that trains the student.
            layers: hidden layers whose features are returned after the logits.
        """
        ...


@dataclass(frozen=True)
class PastNetwork:
    """The network after an earlier phase of the same run, including its masks.

    Args:
        label: label of that phase; ``"genesis"`` is the untrained network.

    Example:
        >>> PastNetwork("dense").needs(Genesis(model=nn.Identity, data=tuple))
        ()
    """

    label: str = "dense"

    def needs(self, genesis: Genesis) -> tuple[Run, ...]:  # noqa: ARG002 - see `TeacherSource`
        """Return nothing: the run itself is enough."""
        return ()

    def forward(self, world: World, layers: Sequence[str] = ()) -> tuple[Forward, str]:
        """Return the forward function of that phase's network, and its digest.

        Raises:
            InvalidInput: no earlier phase has that label, or a layer is unknown.
        """
        state = world.earlier(self.label)
        return forward_with_features(world.network(state), layers), _identity(world.genesis, state)


@dataclass(frozen=True, kw_only=True)
class TrainedNetworks:
    """Networks that other runs train; several form an ensemble.

    Their runs are in the student's store. They are made first if they are missing, and all students
    share them. Several processes may make them, like any other runs.

    Args:
        model: returns a new network.
        recipe: how it is trained.
        data: returns the `Splits` it learns from; by default the student's.
        members: the number of networks, at least 1. The first has the student's seed, the others
            have seeds derived from it.
        mean: `arithmetic_mean` or `geometric_mean` of the members.

    Raises:
        InvalidInput: there are no members.

    Example:
        >>> from boxwood.phases import Measure
        >>> source = TrainedNetworks(model=nn.Identity, recipe=(Measure(),), members=3)
        >>> len(source.needs(Genesis(model=nn.Identity, data=tuple)))
        3

    Source: Hinton, Vinyals and Dean (2015), sections 2 and 4.
    """

    model: Callable[[], nn.Module]
    recipe: Recipe
    data: Callable[[], Splits] | None = None
    members: int = 1
    mean: EnsembleMean = geometric_mean

    def __post_init__(self) -> None:
        if self.members < 1:
            raise InvalidInput(
                f"Expected at least one member, got members={self.members}; give 1 for a single "
                f"teacher."
            )

    def needs(self, genesis: Genesis) -> tuple[Run, ...]:
        """Return one run per member."""
        seeds = [
            seed_for(genesis.seed, "member", index) if index else genesis.seed
            for index in range(self.members)
        ]
        data = genesis.data if self.data is None else self.data
        return tuple(
            (Genesis(model=self.model, data=data, seed=seed), self.recipe) for seed in seeds
        )

    def forward(self, world: World, layers: Sequence[str] = ()) -> tuple[Forward, str]:
        """Return the forward function of the ensemble, and a digest of all members.

        Raises:
            InvalidInput: there are hidden layers and several members, or a layer is unknown.
        """
        if layers and self.members > 1:
            raise InvalidInput(
                f"Expected one teacher whose hidden layers are learnt, got members={self.members}, "
                f"whose features have no mean; use Distillation for an ensemble."
            )
        members, digests = [], []
        for genesis, recipe in self.needs(world.genesis):
            state = world.finished(genesis, recipe)
            network = genesis.network(state.weights).to(world.device)
            members.append(forward_with_features(network, layers))
            digests.append(_identity(genesis, state))
        return ensemble(members, self.mean), digest(digests, spec.encode(self.mean))


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The networks whose logits a student learns, and the encoding in which the logits are stored.

    Args:
        source: `PastNetwork` or `TrainedNetworks`.
        encoding: `Float32`, `Float16` or `TopK`; the student learns from the encoded logits.
        batch: inputs per forward pass of the teacher, at least 1; with augmentation, the student's
            batch is used.
        cached: store logits on disk, in the store, for later students. It does not change a byte of
            the result. With augmentation, logits are stored for every step.

    Raises:
        InvalidInput: ``batch`` is below 1.

    Example:
        >>> Teacher(source=PastNetwork("dense"), encoding=Float32()).cached
        False
    """

    source: TeacherSource
    encoding: LogitEncoding = Float32()  # noqa: RUF009 - frozen
    batch: int = 1000
    cached: bool = spec.field(False, identity=False)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InvalidInput(f"Expected batch >= 1 inputs, got {self.batch}; try 1000.")

    def needs(self, genesis: Genesis) -> tuple[Run, ...]:
        """Return the runs that must have ended before a student can learn."""
        return self.source.needs(genesis)


def check_loss(teacher: Teacher | None, loss: Loss) -> None:
    """Refuse a loss that learns from a teacher where there is none, and the reverse.

    Raises:
        InvalidInput: they do not belong together.

    Example:
        >>> check_loss(None, cross_entropy)
    """
    function = loss.function if isinstance(loss, Call) else loss
    if (teacher is None) == isinstance(loss, Distillation) or (
        teacher is not None and function is cross_entropy
    ):
        raise InvalidInput(
            f"Expected a teacher together with a loss that learns from one, got teacher="
            f"{'None' if teacher is None else type(teacher.source).__name__} with the loss "
            f"{getattr(function, '__name__', type(function).__name__)}; give both, such as "
            f"Train(training=Training(loss=Distillation(temperature=4.0), …), "
            f"teacher=Teacher(source=PastNetwork('dense')))."
        )


@contextmanager
def teacher_targets(
    world: World, teacher: Teacher | None, training: Training, student: nn.Module
) -> Iterator[MakeTargets | None]:
    """Give the function that makes targets of a teacher's logits, and cache the logits.

    Args:
        world: of the phase that trains.
        teacher: None gives None: the labels are the targets.
        training: the student's.
        student: the network that learns; its hidden features are returned where the loss asks.

    Raises:
        InvalidInput: hidden features are to be kept in a form that is made for logits.
    """
    if teacher is None:
        yield None
        return
    layers = training.loss.layers if isinstance(training.loss, FeatureDistillation) else ()
    if layers and not isinstance(teacher.encoding, Float32):
        raise InvalidInput(
            f"Expected hidden features to be stored unchanged, got the encoding "
            f"{type(teacher.encoding).__name__}, which is for logits; use Teacher(encoding=Float32())."
        )
    forward, identity = teacher.source.forward(world, layers)
    parts: list[Any] = [identity, spec.encode(teacher.encoding), world.data.identity, *layers]
    with returning_features(student, layers):
        loading = training.loading
        changes = [training.augment, loading and loading.transform, training.mixing or None]
        if not any(changes):
            shards = _shards(world, teacher, *parts, teacher.batch)
            yield cache_logits(
                forward,
                world.data.train,
                encoding=teacher.encoding,
                batch=teacher.batch,
                shards=shards,
            )
            return
        inputs = [world.seed, training.shuffle_index, training.batch]
        # The first is there in any case, as it was before there were others.
        inputs += [spec.encode(c, identity=True) for i, c in enumerate(changes) if c or not i]
        shards = _shards(world, teacher, *parts, inputs)
        logits = CachedStepLogits(forward, teacher.encoding, shards)
        try:
            yield logits
        finally:
            logits.close()


def _identity(genesis: Genesis, state: State) -> str:
    """Name a network by its code and its weights."""
    weights = sorted(state.weights.items())
    parts = [part for name, tensor in weights for part in (name, tensor)]
    return digest(spec.encode(genesis.model, identity=True), fingerprint(*parts))


def _shards(world: World, teacher: Teacher, *parts: Any) -> Shards | None:
    if not teacher.cached or world.cache is None:
        return None
    return Shards(world.cache / digest(*parts))
