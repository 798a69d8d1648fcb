"""The interface that training and evaluation need of a set of examples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from boxwood.errors import InvalidInput


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


@runtime_checkable
class RawExamples(Protocol):
    """Examples that can also be had as they are read, before they are made inputs of a network."""

    def raw(self, index: int) -> tuple[Any, int]:
        """Read one example, such as a Pillow image, and its target."""
        ...


def raw_example(examples: Examples, index: int) -> tuple[Any, int]:
    """Read one example as it is, or as an input where it is kept in no other form.

    Args:
        examples: what to read from.
        index: in [0, len).

    Example:
        >>> from boxwood.data import InMemory
        >>> raw_example(InMemory(torch.eye(2), torch.arange(2)), 1)
        (tensor([0., 1.]), 1)
    """
    if isinstance(examples, RawExamples):
        return examples.raw(index)
    inputs, targets = examples.take(torch.tensor([index]))
    return inputs[0], int(targets)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some of the examples, in an order of their own.

    Args:
        examples: what to take from.
        indices: int64 [n], which of them, and in which order.

    Example:
        >>> from boxwood.data import InMemory
        >>> part = Chosen(InMemory(torch.eye(5), torch.arange(5)), torch.tensor([4, 0, 2]))
        >>> len(part), part.take(torch.tensor([0, 2]))[1].tolist()
        (3, [4, 2])
    """

    examples: Examples
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Take a batch.

        Args:
            indices: int64 [batch], each in [0, n).
        """
        return self.examples.take(self.indices[indices.to(self.indices.device)])

    def raw(self, index: int) -> tuple[Any, int]:
        """Read one example as it is; see `raw_example`."""
        return raw_example(self.examples, int(self.indices[index]))


@dataclass(frozen=True, eq=False)
class InFloat64:
    """The same examples with inputs in double precision, for a network that is ``.double()``.

    Args:
        examples: what to take from.

    Example:
        >>> from boxwood.data import InMemory
        >>> twice_as_long = InFloat64(InMemory(torch.eye(2), torch.arange(2)))
        >>> twice_as_long.take(torch.tensor([0]))[0].dtype
        torch.float64
    """

    examples: Examples

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Take a batch."""
        inputs, targets = self.examples.take(indices)
        return inputs.double(), targets


@dataclass(frozen=True)
class InBatches:
    """The first examples in batches, in their order, as often as one asks.

    Args:
        examples: what to take from.
        size: examples per batch, at least 1; the last batch may be smaller.
        first: how many examples; None for all.

    Raises:
        InvalidInput: the size is below 1, or there are no examples.

    Example:
        >>> from boxwood.data import InMemory
        >>> data = InMemory(torch.eye(5), torch.arange(5))
        >>> [targets.tolist() for _, targets in InBatches(data, 2, first=3)]
        [[0, 1], [2]]
    """

    examples: Examples
    size: int
    first: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or self._count() < 1:
            raise InvalidInput(
                f"Expected batches of at least one of the {len(self.examples)} examples, got "
                f"size={self.size}, first={self.first}; give positive numbers."
            )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in torch.arange(self._count()).split(self.size):
            yield self.examples.take(indices)

    def _count(self) -> int:
        count = len(self.examples)
        return count if self.first is None else min(self.first, count)
