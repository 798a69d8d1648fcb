"""Processes of ``torch.distributed`` that hold copies of one network add up what each has seen.

Every exchange begins with a meeting: each rank says whether it is well and what it is about to
send. So ranks that failed, or that hold different networks, end in an error on every rank, where
torch alone would wait for the one that is missing or add up tensors of different meaning.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from boxwood.errors import DistributedError

Group = Any
"""A ``torch.distributed`` process group whose ranks hold the same network; None for all ranks."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 20
_NOTE = "The other ranks of the process group know of it, and end as well."
_MULTIPLIER = 0x5851F42D4C957F2D  # Knuth's for MMIX; odd, so every bit of a value counts


class OtherRankError(DistributedError):
    """Another rank failed, or does something else, so this one cannot go on either."""


def size(group: Group = None) -> int:
    """Count the ranks of a process group; 1 where ``torch.distributed`` is not in use.

    Raises:
        DistributedError: this process is not in the group.

    Example:
        >>> size()
        1
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    if dist.get_rank(group) < 0:
        raise DistributedError(
            "Expected a process group that this process belongs to, got one without it; give the "
            "group of the ranks that hold the same network."
        )
    return dist.get_world_size(group)


def rank(group: Group = None) -> int:
    """Return the number of this process within a group, from 0.

    Example:
        >>> rank()
        0
    """
    return dist.get_rank(group) if size(group) > 1 else 0


def add_up(
    tensors: Mapping[str, Tensor], count: int, group: Group = None
) -> tuple[dict[str, Tensor], int]:
    """Sum tensors over the ranks, and a count that belongs to them.

    All ranks get the same bits. Sums over examples divided by their number are then the means over
    the examples of all ranks, however many each has.

    Args:
        tensors: of the same names, shapes and types on all ranks.
        count: what the sums will be divided by, such as examples.
        group: see `Group`.

    Raises:
        DistributedError: another rank failed, or its tensors are others.

    Example:
        >>> add_up({"a": torch.ones(2)}, 3)
        ({'a': tensor([1., 1.])}, 3)
    """
    if size(group) == 1:
        return dict(tensors), count
    layout = [[name, list(each.shape), str(each.dtype)] for name, each in tensors.items()]
    counts = _meet(_digest(layout), group, also=count)
    return {name: _sum(each, group) for name, each in tensors.items()}, sum(counts)


def check_alike(tensors: Mapping[str, Tensor], what: str, advice: str, group: Group = None) -> None:
    """Refuse to go on where ranks hold different tensors, bit for bit.

    Args:
        tensors: by name.
        what: what they are, in the plural, for the message.
        advice: what to do about it.
        group: see `Group`.

    Raises:
        DistributedError: names, shapes or contents differ; or another rank failed.

    Example:
        >>> check_alike({"a": torch.ones(2)}, "weights", "wrap the network first")
    """
    if size(group) == 1:
        return
    _meet(_digest([[name, list(each.shape)] for name, each in tensors.items()]), group)
    if not tensors:
        return
    sums = torch.stack([_checksum(each).to(_device(group)) for each in tensors.values()])
    everywhere = [torch.empty_like(sums) for _ in range(size(group))]
    dist.all_gather(everywhere, sums, group=group)
    differ = torch.stack([each != everywhere[0] for each in everywhere]).any(0).tolist()
    names = [name for name, differs in zip(tensors, differ, strict=True) if differs]
    if names:
        raise OtherRankError(
            f"Expected the same {what} on all {size(group)} ranks of the process group, got "
            f"different ones of {', '.join(names[:4])}{', …' * (len(names) > 4)}; {advice}."
        )


def as_first_rank(tensor: Tensor, group: Group = None) -> Tensor:
    """Return the tensor of the group's first rank, which has the same shape on all.

    Example:
        >>> as_first_rank(torch.ones(1))
        tensor([1.])
    """
    if size(group) == 1:
        return tensor
    sent = tensor.detach().to(_device(group, tensor)).contiguous().clone()
    dist.broadcast(sent, group_src=0, group=group)
    return sent.to(tensor.device)


@contextmanager
def all_or_none(group: Group = None) -> Iterator[None]:
    """Let every rank come to the end of a block, or none: an error on one ends the others' as well.

    Raises:
        DistributedError: another rank failed.

    Example:
        >>> with all_or_none():
        ...     pass
    """
    try:
        yield
        if size(group) > 1:
            _meet(0, group)
    except OtherRankError:
        raise
    except Exception as error:
        if size(group) > 1 and _NOTE not in getattr(error, "__notes__", ()):
            error.add_note(_NOTE)
            _report(group, well=False)
        raise


def _meet(digest: int, group: Group, *, also: int = 0) -> list[int]:
    """Exchange digests, which must be equal, and a number that need not be."""
    reports = _report(group, well=True, digest=digest, also=also)
    failed = [number for number, (well, _, _) in enumerate(reports) if not well]
    if failed:
        raise OtherRankError(
            f"Expected all {len(reports)} ranks of the process group to go on, got an error on rank "
            f"{', '.join(map(str, failed))} of them; see its message."
        )
    if any(theirs != digest for _, theirs, _ in reports):
        raise OtherRankError(
            f"Expected all {len(reports)} ranks of the process group to ask for the same thing of the "
            f"same network, got tensors of other names or shapes on some; call it on every rank "
            f"alike, or give group= those ranks that hold the same network."
        )
    return [number for _, _, number in reports]


def _report(group: Group, *, well: bool, digest: int = 0, also: int = 0) -> list[list[int]]:
    mine = torch.tensor([int(well), digest, also], device=_device(group))
    everywhere = [torch.empty_like(mine) for _ in range(size(group))]
    try:
        dist.all_gather(everywhere, mine, group=group)
    except RuntimeError as error:  # a rank is gone, or did not come within the group's time limit
        raise OtherRankError(
            f"Expected all {size(group)} ranks of the process group to come here, got "
            f"{str(error).splitlines()[0]}; call it on every rank alike, or give group= a process "
            f"group of this rank alone."
        ) from error
    return [each.tolist() for each in everywhere]


def _sum(tensor: Tensor, group: Group) -> Tensor:
    summed = tensor.detach().to(_device(group, tensor)).contiguous().clone()
    dist.all_reduce(summed, group=group)
    return summed.to(tensor.device)


def _device(group: Group, tensor: Tensor | None = None) -> torch.device:
    """Where a group's backend takes tensors: where ``tensor`` lies, if it can."""
    backends = dist.get_backend_config(group).split(",")
    kinds = [each.partition(":")[0] for each in backends]
    if tensor is not None and tensor.device.type in kinds:
        return tensor.device
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())


def _digest(layout: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(layout).encode()).digest()[:8], "big", signed=True)


def _checksum(tensor: Tensor) -> Tensor:
    """Sum the bits of all values, each multiplied by a number of its place, modulo 2^64."""
    flat = tensor.detach()
    flat = (torch.view_as_real(flat) if flat.is_complex() else flat).reshape(-1)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for number, chunk in enumerate(flat.split(_CHUNK)):
        places = torch.arange(len(chunk), device=flat.device) + number * _CHUNK
        bits = chunk.view(_INTEGERS[chunk.element_size()]).long()
        total += (bits * (places * _MULTIPLIER | 1)).sum()
    return total
