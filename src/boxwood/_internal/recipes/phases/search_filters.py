"""Let an agent find out by trying which filters of a layer can be removed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from boxwood._internal.agent.environment import InProcesses, Tries, group_named, worth_after
from boxwood._internal.agent.search import Agent, Assess, TryAndLearn
from boxwood._internal.core import spec
from boxwood._internal.core.examples import Examples, InBatches
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.graph.batch_norm import reestimate_batch_norm_
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.recipes.phases.prune_units import kept_under, remove, units_of
from boxwood._internal.recipes.teachers import check_loss
from boxwood._internal.train.loop import train_
from boxwood._internal.train.metrics import accuracy
from boxwood._internal.train.settings import Training
from boxwood._internal.train.snapshots import Snapshot

_BATCH = 250


@dataclass(frozen=True)
class Recovery:
    """Steps between a removal and the measurement of accuracy.

    Args:
        examples: training examples.
        training: a brief training; None for none. Every try uses the same batches.
        batches: of 250 examples, over which batch-norm statistics are re-estimated, after ``training``.
        seed: root seed.
    """

    examples: Examples
    training: Training | None
    batches: int
    seed: int

    def __call__(self, model: nn.Module) -> None:
        """Tune the network in place."""
        if self.training is not None:
            train_(model, self.examples, self.training, seed=seed_for(self.seed, "tries"))
        if self.batches:
            seen = InBatches(self.examples, _BATCH, self.batches * _BATCH)
            reestimate_batch_norm_(model, [inputs for inputs, _ in seen])


@dataclass(frozen=True)
class FirstExamples:
    """Accuracy on the first of some examples, from which rewards are computed.

    Args:
        examples: validation examples.
        first: how many; None for all.
    """

    examples: Examples
    first: int | None

    def __len__(self) -> int:
        count = len(self.examples)
        return count if self.first is None else min(self.first, count)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Take a batch of them."""
        return self.examples.take(indices)

    def __call__(self, model: nn.Module) -> float:
        """Measure, in [0, 1]."""
        return accuracy(model, self).fraction


@dataclass(frozen=True, kw_only=True)
class SearchFilters:
    """Search one layer with an agent, and remove the filters that it chooses.

    Each try removes the filters from a copy of the network, with everything that belongs to them,
    lets it recover, and measures its validation accuracy. The state has the removal as masks, as
    after `PruneUnits`.

    Args:
        layer: name of the group of units, such as ``conv1.weight``; `boxwood.find_units` lists them.
        search: how the agent searches.
        reference: label of the phase that left the original network; its accuracy, after the same
            recovery as every try, is p*.
        recover: a brief training after each removal; None for none.
        statistics: batches of 250 training examples over which batch-norm statistics are re-estimated after each removal.
        examples: number of validation examples, from the first on, that a try is measured on; None
            for all.
        processes: number of tries at the same time; it does not change results.
        label: a name for later phases.

    Raises:
        InvalidInput: ``recover`` has a loss that learns from a teacher, there is no such layer, or
            the masks so far are not of whole units.

    Source: Huang, Zhou, You and Neumann (2018).
    Differs from the paper: how long a try is fine-tuned before it is rewarded is not known, so it
    is a parameter. p* is the accuracy of the original network for every layer.
    """

    revision: ClassVar[int] = 1  # 0: p* of the network as it was, without recovery

    layer: str
    search: TryAndLearn
    reference: str = "dense"
    recover: Training | None = None
    statistics: int = 0
    examples: int | None = None
    processes: int = spec.field(1, identity=False)
    label: str = spec.field("", identity=False)

    def __post_init__(self) -> None:
        if self.recover is not None:
            check_loss(None, self.recover.loss)

    def run(self, state: State, world: World) -> State:
        """Search; the facts hold every episode, and what the chosen action costs, and what the check against the masked network gave."""
        model = world.network(state)
        found = units_of(model, world.data)
        worth = FirstExamples(world.data.validation, self.examples)
        recover = Recovery(world.data.train, self.recover, self.statistics, world.seed)
        original = world.network(world.earlier(self.reference))
        with _one_thread():
            best = worth_after(recover, worth, original)
        tries = Tries(
            model=model,
            units=found,
            kept=kept_under(found, state.masks),
            group=group_named(found, self.layer),
            tune_=recover,
            worth=worth,
            best=best,
        )
        agent = Agent(tries.picture, self.search, seed=world.seed, purpose=self.layer)
        action, drop = self._learn_(agent, tries, world)
        facts = {
            "episodes": [
                {"layer": self.layer, "update": number, "kept": list(update.kept), **asdict(update)}
                for number, update in enumerate(agent.updates)
            ],
            "reference": tries.best,
            "drop": drop,
        }
        after = remove(model, tries.selection(action), state)
        return State(after.weights, after.masks, {**after.facts, **facts})

    def _learn_(self, agent: Agent, tries: Tries, world: World) -> tuple[Tensor, float]:
        snapshot = None if world.checkpoints is None else world.checkpoints.load()
        if snapshot is not None:
            agent.restore_(snapshot.tensors, snapshot.facts["updates"])
        with _assessing(tries, self.processes) as assess:
            while not agent.finished:
                agent.step_(assess)
                if world.progress is not None:
                    world.progress(len(agent.updates), self.search.updates)
                if world.checkpoints is not None and world.checkpoints.due():
                    updates = [asdict(update) for update in agent.updates]
                    world.checkpoints.save(Snapshot(agent.tensors(), {"updates": updates}))
            action = agent.action
            return action, assess([action])[0]


@contextmanager
def _assessing(tries: Tries, processes: int) -> Iterator[Assess]:
    """Yield the function that tries actions, on one thread wherever it runs."""
    if processes != 1:
        with InProcesses(tries, processes) as many:
            yield many.drops
        return
    with _one_thread():
        yield tries.drops


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the last bits of a sum depend on the number of threads
    try:
        yield
    finally:
        torch.set_num_threads(before)
