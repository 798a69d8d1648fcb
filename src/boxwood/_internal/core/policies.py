"""Policies: how masks change while a network trains, step by step.

A policy is frozen data with pure methods. Its only state is the masks, and what `remember` returns
where it has such a method; whatever is random in it follows from its seed and the step. So to save
and resume a training it is enough to keep these and the number of steps taken.
"""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from boxwood._internal.core import spec
from boxwood._internal.core.allocation import Allocation, ByName, uniform
from boxwood._internal.core.arguments import described
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.mask_changes import all_kept, pruned, random_masks
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.schedules import Cubic, Schedule, check_every, check_sparsity, end_of
from boxwood._internal.core.selection import Scores
from boxwood.errors import InvalidInput


class Policy(Protocol):
    """The interface of all policies.

    ``step`` counts the optimizer steps taken so far, so the first update can be at step 1, after
    the first step. A policy that aims at a sparsity has it as ``final``, so that a training that
    ends too early can be reported.
    """

    wants_gradients: ClassVar[bool]

    @property
    def criterion(self) -> Callable[..., Tensor]:
        """What the weights are scored by before an update."""
        ...

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks before the first step; outputs come first where a ``granularity`` is no single weights."""
        ...

    def due(self, step: int) -> bool:
        """Say whether masks change after this step."""
        ...

    def update(
        self, step: int, masks: Masks, scores: Scores, gradients: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Make the new masks; ``gradients`` are dense, and empty unless wanted.

        Of a policy with a method ``remember``, see `StraightThrough`, they are what it remembers.
        """
        ...


@dataclass(frozen=True)
class Gradual:
    """Prune during training along a schedule: every update removes the lowest scores permanently.

    Args:
        schedule: total sparsity at each step: `Cubic` as in the paper; `Linear` and `OneShot` are
            its controls.
        every: steps between updates; in the paper, values from 100 to 1000 make no difference.
        criterion, granularity, allocation: as for `boxwood.find_masks`; ``uniform`` prunes every layer to
            the same sparsity by itself.

    Example:
        >>> import torch
        >>> from boxwood.schedules import Cubic
        >>> policy = Gradual(schedule=Cubic(final=0.8, begin=100, end=500))
        >>> [t for t in range(700) if policy.due(t)]
        [200, 300, 400, 500]
        >>> masks = {"w": torch.ones(10, dtype=torch.bool)}
        >>> policy.update(300, masks, {"w": torch.arange(10.0)}, {})["w"].sum()  # 0.875 · 0.8
        tensor(3)

    Source: Zhu and Gupta (2017), section 3.
    """

    wants_gradients: ClassVar[bool] = False

    schedule: Schedule
    _: KW_ONLY
    every: int = 100
    criterion: Callable[..., Tensor] = magnitude
    granularity: Granularity = Elements()
    allocation: Allocation = uniform

    def __post_init__(self) -> None:
        if isinstance(self.schedule, type) or not callable(self.schedule):
            raise InvalidInput(
                f"Expected a schedule, from step to sparsity, got {described(self.schedule)}; give "
                f"one such as Cubic(final=0.9, end=10_000)."
            )
        check_every(self.every)

    @property
    def final(self) -> float | None:
        """The sparsity at the end of the schedule; None where it cannot say."""
        return end_of(self.schedule)

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep everything."""
        return all_kept(weights)

    def due(self, step: int) -> bool:
        """Every ``every`` steps from the schedule's ``begin`` on, if it has one, while it rises."""
        first = max(1, getattr(self.schedule, "begin", 0))
        if step < first or step % self.every:
            return False
        # What a schedule starts from is pruned at its first update, not before.
        before = self.schedule(step - self.every) if step - self.every >= first else 0.0
        return self.schedule(step) > before

    def update(
        self,
        step: int,
        masks: Masks,
        scores: Scores,
        gradients: Mapping[str, Tensor],  # noqa: ARG002 - every policy has the same signature
    ) -> dict[str, Tensor]:
        """Prune to the sparsity of the step."""
        return pruned(scores, self.schedule(step), self.allocation, self.granularity, masks)


def gmp_star(
    sparsity: float,
    *,
    begin: int,
    end: int,
    every: int,
    initial: float = 0.5,
    **settings: Any,
) -> Gradual:
    """Gradual magnitude pruning with its modern schedule: a large first step, then many small ones.

    The first update, at ``begin``, prunes to ``initial`` at once, because half of a trained network
    can be removed without loss. From there the sparsity rises along `Cubic`, slowly near the end.
    The training does the rest of the method: about ten updates an epoch, a learning rate that
    repeatedly falls linearly (`LinearLR`), and distillation from the dense network with its soft
    targets alone (hardness 1, temperature 5.5).

    Args:
        sparsity: at the end, in [0, 1).
        begin: step of the first update, after some epochs of dense training.
        end: step at which ``sparsity`` is reached; training continues after it.
        every: steps between updates, a tenth of an epoch.
        initial: sparsity of the first update, in [0, ``sparsity``].
        settings: criterion, granularity and allocation, as for `Gradual`.

    Raises:
        InvalidInput: a setting is out of range.

    Example:
        >>> policy = gmp_star(0.9, begin=100, end=500, every=100)
        >>> [(t, round(policy.schedule(t), 2)) for t in range(700) if policy.due(t)]
        [(100, 0.5), (200, 0.73), (300, 0.85), (400, 0.89), (500, 0.9)]

    Source: Kurtic and Alistarh (2022), section 2, the schedule of GMP*.
    """
    if not 0 <= initial <= sparsity:
        raise InvalidInput(
            f"Expected initial in [0, {sparsity}], got {initial}; the sparsity rises from it."
        )
    schedule = Cubic(final=sparsity, begin=begin, end=end, initial=initial)
    return Gradual(schedule, every=every, **settings)


@dataclass(frozen=True, kw_only=True)
class LayerByLayer:
    """Prune one tensor after another, each along a cubic schedule in its own window.

    The steps from ``begin`` to ``end`` are divided into equal windows, one for each tensor in
    order. Each tensor reaches its final sparsity at the end of its window.

    Args:
        final: sparsity of every tensor at the end, in [0, 1).
        begin, end: steps.
        every: steps between updates.
        criterion: scores the weights.
        granularity: what is kept or pruned together; single weights by default.

    Example:
        >>> import torch
        >>> policy = LayerByLayer(final=0.5, end=400, every=100)
        >>> masks = {n: torch.ones(8, dtype=torch.bool) for n in "ab"}
        >>> scores = {n: torch.arange(8.0) for n in "ab"}
        >>> [int(m.sum()) for m in policy.update(200, masks, scores, {}).values()]
        [4, 8]

    Source: Zhu and Gupta (2017), section 4.3, "layerwise constant": best on average for GNMT.
    Differs from the paper: it says no more than that sub-windows prune one layer at a time; the
    shape inside a window is the cubic one here.
    """

    wants_gradients: ClassVar[bool] = False

    final: float
    end: int
    begin: int = 0
    every: int = 100
    criterion: Callable[..., Tensor] = magnitude
    granularity: Granularity = spec.field(Elements(), legacy=Elements())  # noqa: RUF009 - a declaration

    def __post_init__(self) -> None:
        check_sparsity(self.final, "final sparsity")
        check_every(self.every)

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep everything."""
        return all_kept(weights)

    def due(self, step: int) -> bool:
        """Every ``every`` steps from ``begin`` on, until ``end`` has been reached."""
        return self.begin < step < self.end + self.every and step % self.every == 0

    def update(
        self,
        step: int,
        masks: Masks,
        scores: Scores,
        gradients: Mapping[str, Tensor],  # noqa: ARG002 - every policy has the same signature
    ) -> dict[str, Tensor]:
        """Prune each tensor to what its own window says."""
        wide = (self.end - self.begin) / len(scores)
        rows = []
        for index, name in enumerate(scores):
            left = 1 - min(max((step - self.begin) / wide - index, 0.0), 1.0)
            rows.append((name, self.final - self.final * left**3))
        return pruned(scores, None, ByName(tuple(rows)), self.granularity, masks)


@dataclass(frozen=True)
class Static:
    """Train a sparse network from the start with fixed random masks: the control of `SET` and `RigL`.

    Args:
        sparsity: total fraction of zeros, in [0, 1).
        allocation: how it is distributed among the tensors, such as ``erdos_renyi_kernel``.
        seed: seed of the random masks; None is the run's seed in a recipe, and 0 in your own loop.
        granularity: what is kept or pruned together; single weights by default.

    Example:
        >>> import torch
        >>> masks = Static(sparsity=0.75).init({"w": torch.zeros(4, 4)})
        >>> int(masks["w"].sum())
        4

    Source: Evci et al. (2020), section 3, "static".
    """

    wants_gradients: ClassVar[bool] = False

    sparsity: float
    _: KW_ONLY
    allocation: Allocation = uniform
    seed: int | None = None
    criterion: Callable[..., Tensor] = magnitude
    granularity: Granularity = spec.field(Elements(), legacy=Elements())  # noqa: RUF009 - a declaration

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Draw the masks."""
        return random_masks(
            weights, self.sparsity, self.allocation, self.seed or 0, self.granularity
        )

    def due(self, step: int) -> bool:  # noqa: ARG002 - every policy has the same signature
        """Never."""
        return False

    def update(
        self,
        step: int,  # noqa: ARG002
        masks: Masks,
        scores: Scores,  # noqa: ARG002
        gradients: Mapping[str, Tensor],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Leave the masks as they are."""
        return dict(masks)
