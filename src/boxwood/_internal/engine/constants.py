"""A program's constant tensors, some of them kept without their zeros until they are asked for."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class CompactTensor:
    """A float32 or int8 tensor as a bit for each entry and the entries that are not zero.

    Args:
        shape: of the tensor.
        bits: 1 keeps, eight entries to a byte.
        kept: the entries.
    """

    shape: tuple[int, ...]
    bits: NDArray[np.uint8]
    kept: NDArray[Any]

    @property
    def dtype(self) -> torch.dtype:
        """The type of its entries."""
        return torch.int8 if self.kept.dtype == np.int8 else torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes that it uses."""
        return self.bits.nbytes + self.kept.nbytes

    def tensor(self) -> Tensor:
        """The tensor."""
        count = torch.Size(self.shape).numel()
        flat = np.zeros(count, self.kept.dtype)
        flat[np.unpackbits(self.bits, count=count).view(bool)] = self.kept
        return torch.from_numpy(flat).reshape(self.shape)


def compact_tensor(tensor: Tensor) -> CompactTensor | None:
    """Return a float32 or int8 tensor without its zeros, of either sign; None if that saves nothing.

    Example:
        >>> found = compact_tensor(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        >>> found.nbytes, found.tensor().tolist()
        (5, [[0.0, 2.0], [0.0, 0.0]])
    """
    if tensor.dtype not in (torch.float32, torch.int8):
        return None
    flat = tensor.contiguous().numpy().reshape(-1)
    nonzero = flat != 0
    found = CompactTensor(tuple(tensor.shape), np.packbits(nonzero), flat[nonzero])
    return found if found.nbytes < flat.nbytes else None


class Kept(Protocol):
    """A tensor that is made when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that it uses."""
        ...

    def tensor(self) -> Tensor:
        """The tensor."""
        ...


class Constants(Mapping[int, Tensor]):
    """Tensors by number; what is kept in another form is made each time it is asked for.

    Args:
        tensors: whole and kept ones.
    """

    def __init__(self, tensors: Mapping[int, Any]) -> None:
        if isinstance(tensors, Constants):
            tensors = tensors._tensors
        self._tensors: dict[int, Tensor | Kept] = dict(tensors)

    def __getitem__(self, number: int) -> Tensor:
        found = self._tensors[number]
        return found if isinstance(found, Tensor) else found.tensor()

    def __contains__(self, number: object) -> bool:
        return number in self._tensors  # a mapping's own way would make the tensor

    def __iter__(self) -> Iterator[int]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def kind(self, number: int) -> tuple[tuple[int, ...], torch.dtype]:
        """Return the shape and type of a tensor, without making it."""
        found = self._tensors[number]
        return tuple(found.shape), found.dtype

    def is_kept(self, number: int) -> bool:
        """Say whether a tensor is made each time it is asked for."""
        return not isinstance(self._tensors[number], Tensor)

    def replaced(self, kept: Mapping[int, Kept]) -> "Constants":
        """Return the same tensors with these in another form."""
        return Constants({**self._tensors, **kept})

    def without_zeros(self, numbers: Iterable[int]) -> "Constants":
        """Return the same tensors with these kept compact where that saves memory."""
        small = {
            number: compact_tensor(each)
            for number in numbers
            if isinstance(each := self._tensors[number], Tensor)
        }
        return self.replaced({n: each for n, each in small.items() if each is not None})

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(each.nbytes for each in self._tensors.values())
