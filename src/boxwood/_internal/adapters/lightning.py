"""Sparse training under Lightning: a callback."""

import weakref
from collections.abc import Callable
from typing import Any

from boxwood._internal.core.extras import extra
from boxwood._internal.core.fixed_masks import FixedMasks
from boxwood._internal.core.masks import Masks, apply
from boxwood._internal.core.policies import Policy
from boxwood._internal.model.prunable import Layers, Named, linear_and_conv, plain_name
from boxwood._internal.model.sparse_training import SparseTraining, warn_if_unfinished
from boxwood.errors import InvalidInput

with extra("lightning", "Lightning for this callback"):
    from lightning.pytorch import Callback, LightningModule, Trainer, callbacks


class SparseTrainingCallback(Callback):
    """Let a policy decide the masks while a Lightning ``Trainer`` trains.

    The masks and the number of steps are part of Lightning's checkpoints, so a training that is
    resumed with ``ckpt_path`` goes on where it was. So does a second ``fit`` of the same module
    with the same callback. With several optimizers a step is over when all have stepped.

    Args:
        policy: such as `Gradual` or `RigL`.
        layers: which parameters are pruned.

    Raises:
        InvalidInput: a weight that is pruned learns under no optimizer, or a callback that averages
            weights comes after this one.

    Example:
        >>> from boxwood.policies import Gradual
        >>> from boxwood.schedules import Cubic
        >>> callback = SparseTrainingCallback(Gradual(schedule=Cubic(final=0.9, end=10_000)))
        >>> trainer = Trainer(max_steps=1, callbacks=[callback], logger=False)  # doctest: +SKIP

    Source: Zhu and Gupta (2017), section 3.
    """

    def __init__(self, policy: Policy, *, layers: Layers = linear_and_conv) -> None:
        self._policy, self._layers = policy, layers
        self._saved: dict[str, Any] = {}
        self._module: Callable[[], LightningModule | None] = _no_module
        self._loaded_into: Callable[[], LightningModule | None] = _no_module
        self.training: SparseTraining | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold the masks under the optimizers; weights and optimizers have been restored by now."""
        self._check_order(trainer)
        saved, self._saved = self._saved, {}
        if self.training is not None:
            self.training.detach(early=True)
            if not saved and self._module() is pl_module:
                saved = dict(self.training.state_dict())
        self._module = weakref.ref(pl_module)
        self.training = SparseTraining(
            pl_module, trainer.optimizers, self._policy, layers=self._layers, state=saved
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Say where training ends before the policy has reached its final sparsity."""
        if self.training is not None:
            warn_if_unfinished(self.training)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Let go, after callbacks that write averages into the module at the end of training.

        ``training.masks`` stay readable.
        """
        if self.training is not None:
            self.training.detach(early=True)

    def on_save_checkpoint(
        self,
        trainer: Trainer,  # noqa: ARG002 - the trainer's signature
        pl_module: LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Mask averages that another callback has put in place of the module's weights."""
        if self.training is not None and self._module() is pl_module:
            masks, state = self.training.masks, checkpoint["state_dict"]
            names = {name: plain_name(name) for name in state}
            wanted = {name: masks[plain] for name, plain in names.items() if plain in masks}
            checkpoint["state_dict"] = apply(state, wanted)

    def on_load_checkpoint(
        self,
        trainer: Trainer,  # noqa: ARG002 - the trainer's signature
        pl_module: LightningModule,
        checkpoint: dict[str, Any],  # noqa: ARG002
    ) -> None:
        """Note which module the checkpoint was loaded into."""
        self._loaded_into = weakref.ref(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning saves."""
        return dict(self.training.state_dict()) if self.training is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what Lightning loaded until training starts."""
        self._saved = dict(state_dict)
        module = self._loaded_into()
        if self.training is not None and module is not None and module is self._module():
            # Its weights are those of the checkpoint by now, and no longer those of the last fit.
            self.training.load_state_dict(state_dict)

    def _check_order(self, trainer: Trainer) -> None:
        every: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        later = every[every.index(self) + 1 :]
        averaging = [type(each).__name__ for each in later if _averages(each)]
        if averaging:
            raise InvalidInput(
                f"Expected SparseTrainingCallback after {averaging[0]}, got it before; checkpoints "
                f"would hold averages that are not pruned: put it last in Trainer(callbacks=[...])."
            )


class MaskCallback(SparseTrainingCallback):
    """Hold masks that were found before, while a Lightning ``Trainer`` trains.

    Args:
        masks: bool tensors by parameter name, as `boxwood.find_masks` and ``load_masks`` return them;
            True keeps.

    Raises:
        InvalidInput: there are no masks, or the model has no parameter of a name.

    Example:
        >>> import torch
        >>> callback = MaskCallback({"fc1.weight": torch.tensor([[True, False]])})
        >>> trainer = Trainer(max_steps=1, callbacks=[callback], logger=False)  # doctest: +SKIP

    Source: Han, Pool, Tran and Dally (2015), section 3: retraining what is left.
    """

    def __init__(self, masks: Masks) -> None:
        super().__init__(FixedMasks(dict(masks)), layers=Named(tuple(masks)))


def _averages(callback: Callback) -> bool:
    kind = getattr(callbacks, "WeightAveraging", None)  # since Lightning 2.6
    return kind is not None and isinstance(callback, kind)


def _no_module() -> None:
    """Stand for a weak reference to no module."""
