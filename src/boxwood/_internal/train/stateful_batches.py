"""Running text, read on from batch to batch: truncated backpropagation through time."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from boxwood.errors import InvalidInput


@runtime_checkable
class Reader(Protocol):
    """A network that can read on where it stopped, such as an `LSTMLanguageModel`."""

    def carry(
        self, inputs: Tensor, carried: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return outputs, and what the next rows start from, without gradients."""
        ...


def reader(model: nn.Module) -> Reader:
    """Return the network as one that reads on.

    Raises:
        InvalidInput: it has no method ``carry``.

    Example:
        >>> reader(nn.Linear(1, 1))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a network with a method carry for stateful batches, got Linear; give one that has it, or stateful=False.
    """
    if not isinstance(model, Reader):
        raise InvalidInput(
            f"Expected a network with a method carry for stateful batches, got "
            f"{type(model).__name__}; give one that has it, or stateful=False."
        )
    return model


def places(rows: int, batch: int) -> tuple[Tensor, ...]:
    """Read rows at as many places as a batch has, each going on to the next row.

    Args:
        rows: consecutive rows of a text.
        batch: places; what fills no batch at the end is left out.

    Returns:
        The indices of every batch, int64 [batch] each.

    Raises:
        InvalidInput: there are fewer rows than places.

    Example:
        >>> [indices.tolist() for indices in places(7, 2)]
        [[0, 3], [1, 4], [2, 5]]

    Source: Zaremba et al. (2014), section 4.1.
    """
    if rows < batch:
        raise InvalidInput(
            f"Expected at least {batch} rows to read at {batch} places, got {rows}; give a longer "
            f"text, shorter rows or a smaller batch."
        )
    return torch.arange(rows // batch * batch).view(batch, -1).unbind(1)
