"""Train under the current masks, or with a policy that changes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core import spec
from boxwood._internal.core.chance import draws_at_updates
from boxwood._internal.model.counting import kept_multiply_adds
from boxwood._internal.model.dropout import corrected_dropout, set_dropout_
from boxwood._internal.recipes.phase import Genesis, Run, State, World, state_of
from boxwood._internal.recipes.teachers import Teacher, check_loss, teacher_targets
from boxwood._internal.train.answers import examine
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.loop import train_
from boxwood._internal.train.metrics import accuracy, evaluate
from boxwood._internal.train.settings import Training
from boxwood._internal.train.snapshots import Row
from boxwood.errors import TrainingDiverged


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train the network; pruned weights stay zero.

    Args:
        training: how.
        teacher: who makes the targets, together with a loss that learns from them, such as
            `Distillation`; None learns from the labels.
        test_at: steps at which test accuracy is also recorded.
        may_diverge: if the loss is no longer finite, restore the network and the masks from before
            and record it in the facts, instead of raising an error: for grids of learning rates.
        correct_dropout: scale dropout rates by the remaining connections, as Han et al. do.
        label: a name for later phases.

    Under a policy, rows of the history also have the multiply-adds of the nonzero weights. With
    ``training.watch_every`` the history also has the test accuracy at the lowest validation loss,
    the moment of early stopping, as Frankle and Carbin (2019) report it. The facts have the answers
    to each example there.

    Raises:
        InvalidInput: there is a teacher and no loss that learns from one, or the reverse.

    Source of ``correct_dropout``: Han, Pool, Tran and Dally (2015), section 3.2, equation 2.
    """

    training: Training
    teacher: Teacher | None = None
    correct_dropout: bool = False
    test_at: tuple[int, ...] = ()
    may_diverge: bool = spec.field(False, legacy=False)
    label: str = spec.field("", identity=False)

    def __post_init__(self) -> None:
        check_loss(self.teacher, self.training.loss)

    @property
    def revision(self) -> int:
        """1 where a policy scores by chance: its numbers were once the same for every seed."""
        pruning = self.training.pruning
        return int(draws_at_updates(pruning.policy if pruning else None))

    def needs(self, genesis: Genesis) -> tuple[Run, ...]:
        """Return the runs that the teacher comes from."""
        return () if self.teacher is None else self.teacher.needs(genesis)

    def run(self, state: State, world: World) -> State:
        """Train; the facts hold the loss and the validation accuracy of every epoch."""
        model = world.network(state)
        if self.correct_dropout:
            set_dropout_(model, corrected_dropout(model, state.masks))

        best: dict[str, Tensor] = {}
        example = world.data.validation.take(torch.tensor([0]))[0].to(world.device)

        def watch(network: nn.Module, rows: Sequence[Row]) -> Row:
            found = evaluate(network, world.data.validation, self.training.loss)
            row = {"validation": found.fraction, "validation_loss": found.loss}
            if self.training.pruning is not None:
                row["multiply_adds"] = kept_multiply_adds(network, example)
            if self.training.watch_every is not None and all(
                found.loss < each["validation_loss"] for each in rows[:-1]
            ):
                best.update({n: t.clone() for n, t in network.state_dict().items()})
            if rows[-1]["step"] in self.test_at:
                row["test"] = accuracy(network, world.data.test).fraction
            return row

        callbacks = Callbacks(
            watch=watch, memory=best, checkpoints=world.checkpoints, progress=world.progress
        )
        try:
            with teacher_targets(world, self.teacher, self.training, model) as make_targets:
                done = train_(
                    model,
                    world.data.train,
                    self.training,
                    seed=world.seed,
                    masks=state.masks,
                    make_targets=make_targets,
                    callbacks=callbacks,
                )
        except TrainingDiverged:
            if not self.may_diverge:
                raise
            return State(state.weights, state.masks, {"history": [], "epochs": 0, "diverged": True})
        epochs = self.training.window(len(world.data.train)).epochs
        facts: dict[str, Any] = {"history": done.history, "epochs": epochs}
        if done.exploration is not None:
            facts["exploration"] = done.exploration
        if best:
            stopped, answers = examine(world.network(State(best, state.masks)), world.data.test)
            min(done.history, key=lambda row: row["validation_loss"])["test"] = stopped.fraction
            facts["stopped_answers"] = answers.facts()
        return state_of(model, done.masks, facts)
