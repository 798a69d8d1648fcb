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

_MOST = 200  # characters of a message that say what a rank asked for
_NOTE = "The other ranks of the process group know of it, and end as well."


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


def meet(what: object, group: Group = None, *, also: int = 0) -> list[int]:
    """Wait until all ranks are about to do the same thing; end where one is not, or has failed.

    Args:
        what: says in strings, numbers and lists of them what this rank is about to do.
        group: see `Group`.
        also: a number that may differ.

    Returns:
        The numbers of all ranks.

    Raises:
        DistributedError: a rank has failed, or says something else.

    Example:
        >>> meet(["add", [2, 3]], also=5)
        [5]
    """
    if size(group) == 1:
        return [also]
    digest = _digest(what)
    reports = _report(group, well=True, digest=digest, also=also)
    failed = [number for number, (well, _, _) in enumerate(reports) if not well]
    if failed:
        raise OtherRankError(
            f"Expected all {len(reports)} ranks of the process group to go on, got an error on rank "
            f"{', '.join(map(str, failed))} of them; see its message."
        )
    if any(theirs != digest for _, theirs, _ in reports):
        asked: list[Any] = [None] * len(reports)
        dist.all_gather_object(asked, what, group=group)
        other = next(number for number, each in enumerate(asked) if each != asked[0])
        first, second = _difference(asked[0], asked[other])
        raise OtherRankError(
            f"Expected all {len(reports)} ranks of the process group to ask for the same thing of the "
            f"same network, got {first} on rank 0 and {second} on rank {other}; call it on every "
            f"rank alike, or give group= those ranks that hold the same network."
        )
    return [number for _, _, number in reports]


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
    counts = meet(layout, group, also=count)
    return {name: summed(each, group) for name, each in tensors.items()}, sum(counts)


def summed(tensor: Tensor, group: Group = None) -> Tensor:
    """Sum a tensor that has the same shape on all ranks, which must all call this.

    Example:
        >>> summed(torch.ones(2))
        tensor([1., 1.])
    """
    if size(group) == 1:
        return tensor
    whole = tensor.detach().to(device_of(group, tensor)).contiguous().clone()
    with _coming(group):
        dist.all_reduce(whole, group=group)
    return whole.to(tensor.device)


def as_first_rank(tensor: Tensor, group: Group = None) -> Tensor:
    """Return the tensor of the group's first rank, which has the same shape on all.

    Example:
        >>> as_first_rank(torch.ones(1))
        tensor([1.])
    """
    if size(group) == 1:
        return tensor
    sent = tensor.detach().to(device_of(group, tensor)).contiguous().clone()
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
        meet("the end", group)
    except OtherRankError:
        raise
    except Exception as error:
        if size(group) > 1 and _NOTE not in getattr(error, "__notes__", ()):
            error.add_note(_NOTE)
            _report(group, well=False)
        raise


def _difference(first: Any, second: Any) -> tuple[str, str]:
    """Find the smallest parts in which two nests of lists differ."""
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return _difference(
            *next(pair for pair in zip(first, second, strict=True) if pair[0] != pair[1])
        )
    shown = (each if isinstance(each, str) else str(each) for each in (first, second))
    one, other = (each if len(each) <= _MOST else f"{each[:_MOST]}…" for each in shown)
    return one, other


def _report(group: Group, *, well: bool, digest: int = 0, also: int = 0) -> list[list[int]]:
    mine = torch.tensor([int(well), digest, also], device=device_of(group))
    everywhere = [torch.empty_like(mine) for _ in range(size(group))]
    with _coming(group):
        dist.all_gather(everywhere, mine, group=group)
    return [each.tolist() for each in everywhere]


@contextmanager
def _coming(group: Group) -> Iterator[None]:
    """Say what to do where a rank is gone, or did not come within the group's time limit."""
    try:
        yield
    except RuntimeError as error:
        raise OtherRankError(
            f"Expected all {size(group)} ranks of the process group to come here, got "
            f"{str(error).splitlines()[0]}; call it on every rank alike, or give group= a process "
            f"group of this rank alone."
        ) from error


def device_of(group: Group, tensor: Tensor | None = None) -> torch.device:
    """Say where a group's backend takes tensors: where ``tensor`` lies, if it can.

    The group must have ranks.
    """
    backends = dist.get_backend_config(group).split(",")
    kinds = [each.partition(":")[0] for each in backends]
    if tensor is not None and tensor.device.type in kinds:
        return tensor.device
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())


def _digest(layout: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(layout).encode()).digest()[:8], "big", signed=True)
