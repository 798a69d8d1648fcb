"""Take indices of a tensor away, or set them to zero."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Cuts = Mapping[str, Sequence[tuple[int, Tensor]]]
"""First name of a tensor to the axes it is cut along, with the indices that stay."""


def sliced(tensor: Tensor, cuts: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Take what stays of a tensor; always a copy, in the tensor's memory format.

    Example:
        >>> sliced(torch.tensor([[1, 2, 3]]), [(1, torch.tensor([0, 2]))])
        tensor([[1, 3]])
    """
    if not cuts:
        return tensor.clone()
    layout = _memory_format(tensor)
    for dim, indices in cuts:
        tensor = tensor.index_select(dim, indices.to(tensor.device))
    # index_select forgets it, and a network with its channels last would lose its speed.
    return tensor.contiguous(memory_format=layout)


def _memory_format(tensor: Tensor) -> torch.memory_format:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if last is None or tensor.is_contiguous() or not tensor.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


def mask_(tensor: Tensor, cuts: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Write zeros where a tensor loses something, in place.

    Example:
        >>> mask_(torch.tensor([[1, 2, 3]]), [(1, torch.tensor([0, 2]))])
        tensor([[1, 0, 3]])
    """
    for dim, indices in cuts:
        gone = torch.ones(tensor.shape[dim], dtype=torch.bool)
        gone[indices] = False
        tensor.index_fill_(dim, gone.nonzero().view(-1).to(tensor.device), 0)
    return tensor
