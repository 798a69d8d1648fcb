"""Tasks of a comparison: a network, data, and the training that each method gets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from boxwood._internal.data.splits import Splits
from boxwood._internal.model.prunable import Layers, linear_and_conv
from boxwood._internal.recipes.phase import Genesis, Recipe
from boxwood._internal.recipes.phases.measure import Measure
from boxwood._internal.train.settings import PolicyPruning, Training
from boxwood.errors import InvalidInput

_MEASURE = Measure()


@dataclass(frozen=True, kw_only=True)
class ComparisonTask:
    """A network, data, the training that every method gets, and the learning rates to choose from.

    Args:
        name: its name in tables.
        model: returns a new network.
        data: returns the `Splits`.
        train: the whole budget, with its length in steps.
        rates: learning rates to choose from, by validation; if empty, only that of ``train`` is
            used.
        layers: the parameters that are pruned.
        small: returns a smaller network of the same family for the keyword ``width``, a factor in
            (0, 1]: for the control that is dense and small from the start. None leaves it out.
        without: names of methods that cannot run on this network, such as SynFlow on tokens; they are
            missing from its table, and from ranks over tasks.
        measure: the last phase of every recipe; if it has a loss, the task is judged by the loss,
            as for language models.

    Raises:
        InvalidInput: the training is not counted in steps, or a rate is not above 0.

    Example:
        >>> from boxwood.data import digits
        >>> from boxwood.networks import lenet_300_100
        >>> from boxwood.optim import SGD
        >>> from boxwood.recipes import Call
        >>> train = Training(steps=100, batch=60, optimizer=SGD(lr=0.1))
        >>> net = Call.of(lenet_300_100, inputs=64)
        >>> task = ComparisonTask(name="digits", model=net, data=digits, train=train, rates=(0.05, 0.1))
        >>> [each.rate for each in task.at_rates()]
        [0.05, 0.1]
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], Splits]
    train: Training
    rates: tuple[float, ...] = ()
    layers: Layers = linear_and_conv
    small: Callable[..., nn.Module] | None = None
    without: tuple[str, ...] = ()
    measure: Measure = _MEASURE

    def __post_init__(self) -> None:
        train = self.train
        if train.steps is None or train.steps < 2 or train.start_at or train.stop_at is not None:
            raise InvalidInput(
                f"Expected a training of {self.name} that is counted in steps, 2 at least, and is "
                f"whole, got {train.length}; give Training(steps=…)."
            )
        if any(not rate > 0 for rate in self.rates):
            raise InvalidInput(
                f"Expected learning rates above 0 for {self.name}, got {self.rates}; correct them."
            )

    @property
    def steps(self) -> int:
        """The budget in steps of the optimizer."""
        return self.train.steps or 0

    @property
    def rate(self) -> float:
        """The learning rate of the training."""
        return self.train.optimizer.lr

    @property
    def by_loss(self) -> bool:
        """Whether the task is judged by the mean loss, of which less is better."""
        return self.measure.loss is not None

    def part(self, steps: int, *, shuffle_index: int = 0) -> Training:
        """Return a training of fewer steps, with the learning-rate schedule over these.

        Args:
            steps: how many, at least 1.
            shuffle_index: another one for each training of a recipe.
        """
        return replace(self.train, steps=steps, shuffle_index=shuffle_index)

    def pruned_by(self, policy: Any) -> Training:
        """Return the whole training under a policy."""
        return replace(self.train, pruning=PolicyPruning(policy, self.layers))

    def at_rates(self) -> "Iterator[ComparisonTask]":
        """Return the task at each of its rates."""
        for rate in self.rates or (self.rate,):
            optimizer: Any = self.train.optimizer
            yield replace(self, train=replace(self.train, optimizer=replace(optimizer, lr=rate)))

    def genesis(self, seed: int) -> Genesis:
        """Return where the run of one seed starts."""
        return Genesis(model=self.model, data=self.data, seed=seed)


Method = Callable[[ComparisonTask, float], Recipe]
"""A task at one learning rate, and a sparsity in [0, 1), to a recipe that ends with ``task.measure``."""
