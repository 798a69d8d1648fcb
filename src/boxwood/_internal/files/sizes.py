"""What tensors take in relative indices, tensor by tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from boxwood._internal.core.errors import BoxwoodError
from boxwood._internal.files.relative import encode


@dataclass(frozen=True)
class CodeSize:
    """The size of one tensor in relative indices.

    Args:
        weights: entries of the dense tensor.
        kept: entries that are stored because they are kept.
        fillers: entries that are stored because a run of zeros was too long for the field.
        index_bits: bits of an index field.
        value_bytes: bytes of the stored values, fillers included.
        index_bytes: bytes of the packed index fields.

    Example:
        >>> size = CodeSize(1000, 90, 6, 5, 384, 60)
        >>> size.bytes, size.dense_bytes, size.index_overhead, round(size.overhead, 3)
        (444, 4000, 0.15625, 0.233)
    """

    weights: int
    kept: int
    fillers: int
    index_bits: int
    value_bytes: int
    index_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes of values and index fields together."""
        return self.value_bytes + self.index_bytes

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense tensor, at 4 per weight."""
        return 4 * self.weights

    @property
    def index_overhead(self) -> float:
        """Index bytes per value byte: the paper's 15.6 % is 5 bits on 32, fillers apart."""
        return self.index_bytes / self.value_bytes if self.value_bytes else 0.0

    @property
    def overhead(self) -> float:
        """Bytes of fillers and index fields per byte of kept values."""
        return self.bytes / (4 * self.kept) - 1 if self.kept else 0.0


def han_index_bits(tensor: Tensor) -> int:
    """Return the paper's index width: 8 bits for the weight of a 2-D convolution, otherwise 5.

    Example:
        >>> import torch
        >>> han_index_bits(torch.zeros(8, 3, 5, 5)), han_index_bits(torch.zeros(10, 100))
        (8, 5)

    Reference: Han et al. 2015, arXiv:1506.02626, section 5.
    """
    return 8 if tensor.ndim == 4 else 5


def sizes(
    weights: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    index_bits: Callable[[Tensor], int] = han_index_bits,
) -> dict[str, CodeSize]:
    """Encode every tensor in relative indices and return what each takes.

    Args:
        weights: float32 tensors by name.
        masks: bool masks for some of them, True keeps; a tensor without one keeps all but ``+0.0``.
        index_bits: the width of a tensor's index fields, 1 to 16.

    Raises:
        BoxwoodError: a mask that names no tensor, or a tensor that cannot be encoded.

    Example:
        >>> import torch
        >>> sizes({"fc": torch.eye(4)}, {})["fc"].bytes
        19
    """
    if strangers := masks.keys() - weights.keys():
        raise BoxwoodError(
            f"Expected masks named after the weights, got one for {min(strangers)!r}; "
            "give that weight too, or drop its mask."
        )
    return {
        name: _size(weight, masks.get(name), index_bits(weight)) for name, weight in weights.items()
    }


def _size(weight: Tensor, mask: Tensor | None, index_bits: int) -> CodeSize:
    code = encode(weight, index_bits=index_bits, mask=mask)
    return CodeSize(
        weights=weight.numel(),
        kept=code.nonzeros,
        fillers=code.fillers,
        index_bits=index_bits,
        value_bytes=code.value_bytes,
        index_bytes=code.index_bytes,
    )


def network_bytes(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> tuple[int, int]:
    """Count the bytes of a whole network: dense, and with its masked tensors encoded.

    What has no mask (biases, norms) stays dense and is counted in both.

    Args:
        weights: everything that a checkpoint holds.
        masks: bool masks for some of it, True keeps.

    Example:
        >>> import torch
        >>> weights = {"fc": torch.ones(10, 10), "bias": torch.ones(10)}
        >>> network_bytes(weights, {"fc": torch.eye(10) > 0})
        (440, 87)
    """
    dense = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    coded = sizes({name: weights[name] for name in masks}, masks)
    left = sum(t.numel() * t.element_size() for n, t in weights.items() if n not in masks)
    return dense, left + sum(size.bytes for size in coded.values())
