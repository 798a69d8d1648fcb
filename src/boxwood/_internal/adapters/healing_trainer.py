"""transformers' Trainer for healing: its loss, the order of the text, and checkpoints that survive a kill."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler

from boxwood._internal.core.extras import extra
from boxwood._internal.core.replacing import sync, write_whole
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.core.tensor_files import read_checked, write_tensors
from boxwood._internal.distill.losses import Distillation
from boxwood._internal.distill.teacher_targets import Targets
from boxwood._internal.distill.token_losses import text_loss
from boxwood.errors import InvalidInput

with extra("transformers", "transformers for pretrained models"):
    import transformers
    from transformers import TrainerCallback

WEIGHTS, HISTORY = "trained.safetensors", "history.json"


@dataclass
class History:
    """What has been seen of a training.

    Args:
        losses: mean training loss since the last row, by step.
        held_out: nats a token of the held-out pieces, by step; 0 is before training.
        seconds: that the training took, all processes together.
    """

    losses: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def best(self) -> float:
        """Least nats a token of the held-out pieces so far."""
        return min((nats for _, nats in self.held_out), default=math.inf)


Watch = Callable[[int, int, History], None]
"""Called with the steps that are done, all steps, and the history."""


class Order(Dataset[dict[str, Tensor]]):
    """Pieces in the order in which they are learned: every pass over the text in an order of its own.

    Args:
        pieces: int64 [P, T].
        count: pieces to learn, whatever P is.
        seed: of the orders.
    """

    def __init__(self, pieces: Tensor, count: int, seed: int) -> None:
        self._pieces, self._count, self._seed = pieces, count, seed
        self._pass, self._order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        """Return a piece and its number."""
        number, within = divmod(place, len(self._pieces))
        if number != self._pass:
            generator = torch.Generator().manual_seed(seed_for(self._seed, "order", number))
            self._order = torch.randperm(len(self._pieces), generator=generator)
            self._pass = number
        piece = self._order[within]
        return {"input_ids": self._pieces[piece], "piece": piece}


class HealingTrainer(transformers.Trainer):
    """A trainer whose loss asks a teacher, whose order is given, and whose checkpoints hold what is trained.

    Args:
        targets: what the teacher says of pieces; None for the text alone.
        distillation: how both are mixed.
        settings: of ``transformers.Trainer``.
    """

    def __init__(
        self, *, targets: Targets | None, distillation: Distillation, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._targets, self._distillation = targets, distillation
        # The loss is a mean over a batch, which the trainer divides by the number of batches in a step.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        self.remove_callback(transformers.PrinterCallback)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: ARG002 - the trainer's signature
        num_items_in_batch: Any = None,  # noqa: ARG002
    ) -> Any:
        """Mix the teacher's words and the text's."""
        ids = inputs["input_ids"]
        taught = None if self._targets is None else self._targets(inputs["piece"], ids)
        logits = model(input_ids=ids, use_cache=False).logits
        return text_loss(logits, ids, taught, self._distillation)

    def _get_train_sampler(self, *_: Any) -> Any:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, _trained(self.model))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        restore_(model or self.model, Path(resume_from_checkpoint))


def restore_(model: Any, folder: Path) -> None:
    """Put the trained parameters of a checkpoint into a model."""
    stored = read_checked(folder / WEIGHTS).tensors
    with torch.no_grad():
        for name, parameter in _trained(model).items():
            parameter.copy_(stored[name])


def _trained(model: Any) -> Mapping[str, Tensor]:
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


class Recorder(TrainerCallback):
    """Notes losses, measures held-out pieces, asks for checkpoints, and marks those that are whole.

    Args:
        held_out: int64 [H, T].
        history: to which is added.
        check_every: steps between two measurements of the held-out pieces.
        snapshot_every: seconds between two checkpoints; the last step always has one.
        watch: called after each step.
        save: whether there are checkpoints at all.
    """

    def __init__(
        self,
        held_out: Tensor,
        history: History,
        *,
        check_every: int,
        snapshot_every: float,
        watch: Watch,
        save: bool = True,
    ) -> None:
        self._save = save
        self._held_out, self.history = held_out, history
        self._check_every, self._snapshot_every = check_every, snapshot_every
        self._watch = watch
        self._saved = self._seen = time.monotonic()

    def on_train_begin(
        self,
        args: Any,  # noqa: ARG002 - the trainer's signature
        state: Any,
        control: Any,  # noqa: ARG002
        model: Any = None,
        **_: Any,
    ) -> None:
        """Measure the student as it is."""
        self._saved = self._seen = time.monotonic()
        if not self.history.held_out:
            self.history.held_out.append((0, self._measure(model)))
        self._watch(state.global_step, state.max_steps, self.history)

    def on_step_end(
        self,
        args: Any,  # noqa: ARG002 - the trainer's signature
        state: Any,
        control: Any,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Measure and ask for a checkpoint, where it is time to."""
        last = state.global_step >= state.max_steps
        if last or not state.global_step % self._check_every:
            self.history.held_out.append((state.global_step, self._measure(model)))
        now = time.monotonic()
        self.history.seconds += now - self._seen
        self._seen = now
        if self._save and (last or now - self._saved >= self._snapshot_every):
            control.should_save = True

    def on_log(
        self,
        args: Any,  # noqa: ARG002 - the trainer's signature
        state: Any,
        control: Any,  # noqa: ARG002
        logs: Any = None,
        **_: Any,
    ) -> None:
        """Note the loss of the step that has just been made."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            raise InvalidInput(
                f"Expected a finite loss, got {loss} at step {state.global_step}; give a smaller "
                f"--learning-rate, or --no-bf16."
            )
        self.history.losses.append((state.global_step, float(loss)))
        self._watch(state.global_step, state.max_steps, self.history)

    def on_save(
        self,
        args: Any,
        state: Any,
        control: Any,  # noqa: ARG002 - the trainer's signature
        **_: Any,
    ) -> None:
        """Mark the checkpoint as whole, once all else is on the disk."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        for path in folder.iterdir():
            sync(path)
        write_whole(folder / HISTORY, json.dumps(asdict(self.history)).encode())
        self._saved = time.monotonic()

    def _measure(self, model: Any) -> float:
        training = model.training
        model.eval()
        total = 0.0
        with torch.no_grad():
            for piece in self._held_out:
                ids = piece[None].to(model.device)
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))
        model.train(training)
        return total / len(self._held_out)


def last_whole(folder: Path) -> tuple[Path, History] | None:
    """Find the newest checkpoint that was written to its end.

    Example:
        >>> last_whole(Path("gone"))
    """
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{HISTORY}")]
    if not whole:
        return None
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]))
    found = json.loads((newest / HISTORY).read_text())
    rows = {name: [(step, value) for step, value in found[name]] for name in ("losses", "held_out")}
    return newest, History(**rows, seconds=found["seconds"])
