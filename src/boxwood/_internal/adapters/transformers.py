"""Sparse training under the Hugging Face ``Trainer``: a callback."""

import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from boxwood._internal.core.extras import extra
from boxwood._internal.core.fixed_masks import FixedMasks
from boxwood._internal.core.masks import Masks, sparsity
from boxwood._internal.core.policies import Policy
from boxwood._internal.core.tensor_files import read_checked, write_tensors
from boxwood._internal.model.prunable import Layers, Named, linear_and_conv
from boxwood._internal.model.sparse_training import SparseTraining, warn_if_unfinished
from boxwood.errors import CheckpointError, InvalidInput

with extra("transformers", "transformers for this callback"):
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FILE = "sparse_training.safetensors"


class SparseTrainerCallback(TrainerCallback):
    """Let a policy decide the masks while a Hugging Face ``Trainer`` trains.

    Each checkpoint that the trainer saves has a file with the masks and the number of steps next
    to it; a training that is resumed from the checkpoint goes on where it was. So does a second
    ``train()`` of the same model with the same callback. With ``load_best_model_at_end`` the masks
    are those of the checkpoint that is loaded.

    Args:
        policy: such as `Gradual` or `RigL`.
        layers: which parameters are pruned.

    Raises:
        InvalidInput: a checkpoint is resumed that has no masks next to it.

    Example:
        >>> from boxwood.policies import Gradual
        >>> from boxwood.schedules import Cubic
        >>> callback = SparseTrainerCallback(Gradual(schedule=Cubic(final=0.9, end=10_000)))
        >>> trainer = Trainer(model=model, args=arguments, callbacks=[callback])  # doctest: +SKIP

    Source: Zhu and Gupta (2017), section 3.
    """

    def __init__(self, policy: Policy, *, layers: Layers = linear_and_conv) -> None:
        self._policy, self._layers = policy, layers
        self._model: Callable[[], nn.Module | None] = _no_model
        self.training: SparseTraining | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the trainer's signature
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **_: Any,
    ) -> None:
        """Hold the masks under the optimizer; weights and optimizer have been restored by now."""
        assert model is not None  # noqa: S101 - the trainer gives both
        assert optimizer is not None  # noqa: S101
        saved = _load(args, state)
        if self.training is not None:
            self.training.detach(early=True)
            if not saved and self._model() is model:
                saved = self.training.state_dict()
        self._model = weakref.ref(model)
        self.training = SparseTraining(
            model, optimizer, self._policy, layers=self._layers, state=saved
        )

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the trainer's signature
        **_: Any,
    ) -> None:
        """Write the masks into the folder of the checkpoint."""
        if self.training is not None and state.is_world_process_zero:
            write_tensors(_checkpoint(args, state) / FILE, self.training.state_dict())

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the trainer's signature
        **_: Any,
    ) -> None:
        """Let go of the optimizer; ``training.masks`` stay readable."""
        if self.training is None:
            return
        warn_if_unfinished(self.training)
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._take_best(Path(str(state.best_model_checkpoint)))
        self.training.detach(early=True)

    def _take_best(self, folder: Path) -> None:
        """Take the masks of the checkpoint that the trainer has just loaded."""
        assert self.training is not None  # noqa: S101
        pruned = sparsity(self.training.masks)
        self.training.load_state_dict(_read(folder))
        best = sparsity(self.training.masks)
        if best < pruned:
            warnings.warn(
                f"Expected load_best_model_at_end to load a network as sparse as the training left "
                f"it, {pruned:.3f}, got one of sparsity {best:.3f} from {folder}, which was saved "
                f"before pruning was done; train without load_best_model_at_end, or choose among "
                f"the checkpoints that were saved after it.",
                stacklevel=2,
            )


class MaskTrainerCallback(SparseTrainerCallback):
    """Hold masks that were found before, while a Hugging Face ``Trainer`` trains.

    Args:
        masks: bool tensors by parameter name, as `boxwood.find_masks` and ``load_masks`` return them;
            True keeps.

    Raises:
        InvalidInput: there are no masks, or the model has no parameter of a name.

    Example:
        >>> import torch
        >>> callback = MaskTrainerCallback({"fc1.weight": torch.tensor([[True, False]])})
        >>> trainer = Trainer(model=model, args=arguments, callbacks=[callback])  # doctest: +SKIP

    Source: Han, Pool, Tran and Dally (2015), section 3: retraining what is left.
    """

    def __init__(self, masks: Masks) -> None:
        super().__init__(FixedMasks(dict(masks)), layers=Named(tuple(masks)))


def _no_model() -> None:
    """Stand for a weak reference to no model."""


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def _load(args: TrainingArguments, state: TrainerState) -> dict[str, Any]:
    """Read the masks next to the checkpoint that the trainer resumes; nothing at a fresh start."""
    if not state.global_step:
        return {}
    given = args.resume_from_checkpoint
    folder = Path(given) if given and Path(given).is_dir() else _checkpoint(args, state)
    return _read(folder)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file():
        raise InvalidInput(
            f"Expected the masks of the resumed training at {path}, got no such file; use a "
            f"checkpoint that was saved with this callback, or copy the file there."
        )
    try:
        return read_checked(path, older=True).tensors
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected undamaged masks of the resumed training at {path}, got a file that cannot be "
            f"used ({error}); copy it again, or resume from another checkpoint."
        ) from error
