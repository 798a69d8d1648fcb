"""Sparse training under Lightning: a callback."""

from typing import Any

from boxwood.core.errors import BoxwoodError
from boxwood.core.policies import Policy
from boxwood.model.prunable import Where, linear_and_conv
from boxwood.model.sparse_training import SparseTraining

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise BoxwoodError(
        f"Expected Lightning for this callback, got {error}; install it with "
        f"`pip install 'boxwood[lightning]'`."
    ) from error


class SparseTrainingCallback(Callback):
    """Let a policy decide the masks while a Lightning ``Trainer`` trains.

    The masks and the number of steps are part of Lightning's checkpoints, so a training that is
    resumed with ``ckpt_path`` goes on where it was.

    Args:
        policy: such as `Gradual` or `RigL`.
        where: which parameters are pruned.

    Raises:
        BoxwoodError: the module has not exactly one optimizer.

    Example:
        >>> from boxwood.core.policies import Gradual
        >>> from boxwood.core.schedules import Cubic
        >>> callback = SparseTrainingCallback(Gradual(schedule=Cubic(final=0.9, end=10_000)))
        >>> trainer = Trainer(max_steps=1, callbacks=[callback], logger=False)  # doctest: +SKIP

    Source: Zhu and Gupta (2017), section 3.
    """

    def __init__(self, policy: Policy, *, where: Where = linear_and_conv) -> None:
        self._policy, self._where = policy, where
        self._saved: dict[str, Any] = {}
        self.training: SparseTraining | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold the masks under the optimizer; weights and optimizer have been restored by now."""
        if len(trainer.optimizers) != 1:
            raise BoxwoodError(
                f"Expected a module with one optimizer, got {len(trainer.optimizers)}; make a "
                f"SparseTraining for each in your own on_train_start."
            )
        (optimizer,) = trainer.optimizers
        self.training = SparseTraining(
            pl_module, optimizer, self._policy, where=self._where, state=self._saved
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Let go of the optimizer; ``training.masks`` stay readable."""
        if self.training is not None:
            self.training.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what Lightning saves."""
        return dict(self.training.state_dict()) if self.training is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what Lightning loaded until training starts."""
        self._saved = dict(state_dict)
