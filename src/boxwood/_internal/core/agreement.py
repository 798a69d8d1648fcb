"""Check that all ranks hold and request the same, and raise on all of them if not."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from boxwood._internal.core.ranks import Group, OtherRankError, all_or_none, device_of, meet, size
from boxwood._internal.core.shards import (
    any_distributed,
    is_distributed,
    local,
    placed_like,
    positions,
    total_of,
)

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1 << 20
_ADVICE = (
    "decide them from what is the same on every rank (weights, averaged evidence, one seed), or "
    "send those of one rank to all"
)
_MULTIPLIER = 0x5851F42D4C957F2D  # Knuth's for MMIX; odd, so every bit of a value counts


def check_alike(tensors: Mapping[str, Tensor], what: str, advice: str, group: Group = None) -> None:
    """Refuse to go on where ranks hold different tensors, bit for bit.

    Of a ``DTensor`` the copies are compared: its parts are different by nature.

    Args:
        tensors: by name.
        what: what they are, in the plural, for the message.
        advice: what to do about it.
        group: ranks that hold the same network; all ranks by default.

    Raises:
        DistributedError: names, shapes or contents differ; or another rank failed.

    Example:
        >>> check_alike({"a": torch.ones(2)}, "weights", "wrap the network first")
    """
    if size(group) == 1:
        return
    meet(
        [[what, "compared"], [described_tensor(name, each) for name, each in tensors.items()]],
        group,
    )
    if not tensors:
        return
    sums = torch.stack([_checksum(each).to(device_of(group)) for each in tensors.values()])
    everywhere = [torch.empty_like(sums) for _ in range(size(group))]
    dist.all_gather(everywhere, sums, group=group)
    differ = torch.stack([each != everywhere[0] for each in everywhere]).any(0).tolist()
    names = [name for name, differs in zip(tensors, differ, strict=True) if differs]
    if names:
        raise OtherRankError(
            f"Expected the same {what} on all {size(group)} ranks of the process group, got "
            f"different ones of {', '.join(names[:4])}{', …' * (len(names) > 4)}; {advice}."
        )


@contextmanager
def together(tensors: Iterable[Tensor], group: Group = None) -> Iterator[None]:
    """Let an error on one rank end the others' work as well, where they work on parts of tensors.

    Raises:
        DistributedError: another rank failed.

    Example:
        >>> with together([torch.ones(1)]):
        ...     pass
    """
    if not any_distributed(tensors):
        yield
        return
    with all_or_none(group):
        yield


def placed(
    masks: Mapping[str, Tensor], tensors: Mapping[str, Tensor], group: Group = None
) -> dict[str, Tensor]:
    """Bring masks to where their tensors lie: to their devices, and into their shards.

    Where a tensor is a ``DTensor``, a whole mask is cut as it is, once it is clear that all ranks
    have the same.

    Args:
        masks: of the shapes of the tensors of the same names.
        tensors: by name.
        group: ranks that hold the same network; all ranks by default.

    Raises:
        DistributedError: ranks have different masks.

    Example:
        >>> placed({"a": torch.tensor([True])}, {"a": torch.ones(1)})
        {'a': tensor([True])}
    """
    if any_distributed(tensors.values()):
        check_alike(masks, "masks", _ADVICE, group)
    return {name: placed_like(mask, tensors[name]) for name, mask in masks.items()}


def check_same_masks(masks: Mapping[str, Tensor], group: Group = None) -> None:
    """Refuse masks that differ between ranks; of sharded ones, copies that differ.

    Raises:
        DistributedError: the ranks of the group hold different ones.

    Example:
        >>> check_same_masks({"weight": torch.tensor([True, False])})
    """
    check_alike(masks, "masks", _ADVICE, group)


def check_same_request(
    tensors: Mapping[str, Tensor], settings: Mapping[str, Any], group: Group = None
) -> None:
    """Refuse to begin on parts of tensors where ranks ask for different things.

    Counts that differ would choose different bins of one histogram, and end in masks of no sparsity.

    Args:
        tensors: by name; where none is a ``DTensor``, nothing is asked and nobody waits.
        settings: numbers, functions, and frozen data of these, by name.
        group: ranks that hold the same network; all ranks by default.

    Raises:
        DistributedError: names, shapes, placements or settings differ; or another rank failed.

    Example:
        >>> check_same_request({"a": torch.ones(2)}, {"sparsity": 0.5})
    """
    if any_distributed(tensors.values()):
        named = [described_tensor(name, each) for name, each in tensors.items()]
        meet([named, [spelled(each, name) for name, each in settings.items()]], group)


def described_tensor(name: str, tensor: Tensor) -> list[Any]:
    """Say what ranks must have in common of a tensor before they compare it or add it up.

    Example:
        >>> described_tensor("a", torch.ones(2))
        ['a', [2], '']
    """
    placed = str(getattr(tensor, "placements", "")) if is_distributed(tensor) else ""
    return [name, list(tensor.shape), placed]


def spelled(value: Any, name: str) -> Any:
    """Say what a setting is in words that are the same in all processes.

    Example:
        >>> spelled((0.5, check_alike), "each")
        ['each=0.5', 'each=boxwood._internal.core.agreement.check_alike']
    """
    if is_dataclass(value) and not isinstance(value, type):
        held = [spelled(getattr(value, each.name), each.name) for each in fields(value)]
        return [f"{name}={type(value).__qualname__}", held]
    if isinstance(value, tuple | list):
        return [spelled(each, name) for each in value]
    if isinstance(value, bool | int | float | str | None):
        return f"{name}={value!r}"
    named: Callable[..., Any] | type = value if hasattr(value, "__qualname__") else type(value)
    return f"{name}={named.__module__}.{named.__qualname__}"


def _checksum(tensor: Tensor) -> Tensor:
    """Sum the bits of all values, each multiplied by a number of its place, modulo 2^64."""
    flat = local(tensor.detach())
    flat = (torch.view_as_real(flat) if flat.is_complex() else flat).reshape(-1)
    places = positions(tensor) if is_distributed(tensor) else None  # 0, 1, … of a plain one
    if places is not None and tensor.is_complex():
        places = torch.stack((2 * places, 2 * places + 1), 1).view(-1)
    sums = torch.zeros((), dtype=torch.int64, device=flat.device)
    for begin in range(0, len(flat), _CHUNK):
        chunk = flat[begin : begin + _CHUNK]
        end = begin + len(chunk)
        place = (
            torch.arange(begin, end, device=flat.device) if places is None else places[begin:end]
        )
        bits = chunk.view(_INTEGERS[chunk.element_size()]).long()
        sums += (bits * (place * _MULTIPLIER | 1)).sum()
    return total_of(sums, tensor)
