"""Consecutive text in batches, with the network's state carried: truncated backpropagation through time."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from boxwood.errors import InvalidInput


@runtime_checkable
class StatefulNetwork(Protocol):
    """A network that can continue where it stopped, such as an `LSTMLanguageModel`."""

    def forward_with_state(
        self, inputs: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute outputs, and the state that the next rows start from.

        Args:
            inputs: [batch, length, ...], the next part of as many texts.
            state: what the last call returned; empty at the beginning of the texts.

        Returns:
            The outputs, and the state without gradients.
        """
        ...


def as_stateful(model: nn.Module) -> StatefulNetwork:
    """Return the network as one that carries a state.

    Raises:
        InvalidInput: it has no method ``forward_with_state``.

    Example:
        >>> as_stateful(nn.Linear(1, 1))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a network with a method forward_with_state for a stateful training, got Linear; give such a network, or stateful=False.
    """
    if not isinstance(model, StatefulNetwork):
        raise InvalidInput(
            f"Expected a network with a method forward_with_state for a stateful training, got "
            f"{type(model).__name__}; give such a network, or stateful=False."
        )
    return model


def stateful_batches(rows: int, batch: int) -> tuple[Tensor, ...]:
    """Divide consecutive rows of a text into ``batch`` streams, and take a row of each at a time.

    Row k of a batch continues row k of the batch before.

    Args:
        rows: consecutive rows of a text.
        batch: streams, at least 1; what is left at the end of the text belongs to none.

    Returns:
        The indices of every batch, int64 [batch] each.

    Raises:
        InvalidInput: there are fewer rows than streams.

    Example:
        >>> [indices.tolist() for indices in stateful_batches(7, 2)]
        [[0, 3], [1, 4], [2, 5]]

    Source: Zaremba et al. (2014), section 4.1.
    """
    if rows < batch:
        raise InvalidInput(
            f"Expected at least {batch} rows for a batch of {batch} streams, got {rows}; give a "
            f"longer text, shorter rows or a smaller batch."
        )
    return torch.arange(rows // batch * batch).view(batch, -1).unbind(1)
