"""What training and evaluation ask of a set of examples."""

from typing import Protocol

from torch import Tensor


class Examples(Protocol):
    """Examples that can be counted and taken by index."""

    def __len__(self) -> int:
        """Count the examples."""
        ...

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Take a batch.

        Args:
            indices: int64 [batch], each in [0, len).

        Returns:
            Inputs, float32 [batch, ...], and targets, int64 [batch, ...].
        """
        ...
