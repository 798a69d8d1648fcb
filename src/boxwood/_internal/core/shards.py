"""Tensors of which every rank holds a part: which part it is, and counts over all of them.

These are torch's ``DTensor``, which ``fully_shard`` and tensor parallelism make. A mesh of ranks has
dimensions; along some of them a tensor is cut, along the others its parts are copies. Sums run over
the former alone, so that copies count once. A plain tensor is its own only part everywhere here.
"""

import math
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.core.ranks import OtherRankError, summed
from boxwood.errors import InvalidInput


def is_distributed(tensor: Tensor) -> bool:
    """Say whether a tensor is a ``DTensor``, of which this process holds one part.

    Example:
        >>> is_distributed(torch.ones(1))
        False
    """
    distributed = _tensor_package()
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def any_distributed(tensors: Iterable[Tensor]) -> bool:
    """Say whether one of some tensors is a ``DTensor``.

    Example:
        >>> any_distributed([torch.ones(1)])
        False
    """
    return any(is_distributed(tensor) for tensor in tensors)


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: all of it, or its part of a ``DTensor``.

    Example:
        >>> local(torch.ones(1))
        tensor([1.])
    """
    part: Tensor = tensor._local_tensor if is_distributed(tensor) else tensor  # type: ignore[attr-defined]
    return part


def total(count: int, like: Tensor) -> int:
    """Add up a count over the parts of a tensor.

    Args:
        count: of what this process holds.
        like: the tensor.

    Example:
        >>> total(3, torch.ones(1))
        3
    """
    if not is_distributed(like):
        return count
    return int(total_of(torch.tensor(count, device=local(like).device), like))


def total_of(values: Tensor, like: Tensor) -> Tensor:
    """Add up a tensor of the same shape everywhere over the parts of another.

    Example:
        >>> total_of(torch.ones(2), torch.ones(1))
        tensor([1., 1.])
    """
    if not is_distributed(like):
        return values
    sharded: Any = like
    for dim in cut_dims(like):
        values = summed(values, sharded.device_mesh.get_group(dim))
    return values


def check_agreed(what: object, like: Tensor) -> None:
    """Refuse to go on where ranks that hold parts of a tensor say different things about it.

    Raises:
        DistributedError: they differ; on all of these ranks.

    Example:
        >>> check_agreed({"a": 3}, torch.ones(1))
    """
    if not is_distributed(like):
        return
    mine = zlib.crc32(repr(what).encode()) >> 8  # 24 bits, so that sums of squares fit
    sums = torch.tensor([1, mine, mine * mine], device=local(like).device)
    count, linear, square = total_of(sums, like).tolist()
    if count * square != linear * linear:  # equal where all are equal, and nowhere else
        raise OtherRankError(
            f"Expected the {count} ranks that share a tensor of shape {tuple(like.shape)} to keep "
            f"equally much of it, got different numbers, here {what}; count over all shards, as "
            f"int(mask.sum()) does and mask.count_nonzero() does not."
        )


def cut_dims(tensor: Tensor) -> tuple[int, ...]:
    """List the dimensions of its mesh along which a ``DTensor`` is cut; none of a plain tensor.

    Raises:
        InvalidInput: its parts are summands, which is what gradients are before they are reduced.

    Example:
        >>> cut_dims(torch.ones(1))
        ()
    """
    if not is_distributed(tensor):
        return ()
    sharded: Any = tensor
    found = []
    for dim, placement in enumerate(sharded.placements):
        if placement.is_partial():
            raise InvalidInput(
                f"Expected a DTensor whose parts are shards or copies, got {placement}; "
                f"redistribute it to the placement of the parameter."
            )
        if not placement.is_replicate() and sharded.device_mesh.size(dim) > 1:
            found.append(dim)
    return tuple(found)


def sharing(tensor: Tensor) -> Any:
    """Name the ranks that hold the parts of a tensor: those of one name add up in one message.

    Example:
        >>> sharing(torch.ones(1))
    """
    sharded: Any = tensor
    return (sharded.device_mesh, cut_dims(tensor)) if is_distributed(tensor) else None


def indices_held(tensor: Tensor, shape: Sequence[int] | None = None) -> list[Tensor]:
    """List, for each dimension, the indices of a tensor that this process holds, in order.

    Args:
        tensor: says how it is cut.
        shape: of another tensor that is cut alike; by default the tensor's own.

    Example:
        >>> indices_held(torch.zeros(2, 3))
        [tensor([0, 1]), tensor([0, 1, 2])]
    """
    held = [torch.arange(size) for size in (tensor.shape if shape is None else shape)]
    sharded: Any = tensor
    for dim in cut_dims(tensor):
        place = sharded.placements[dim]
        pieces = _pieces(held[place.dim], place, sharded.device_mesh.size(dim))
        held[place.dim] = pieces[sharded.device_mesh.get_local_rank(dim)]
    return held


def places_of_cuts(tensor: Tensor) -> list[tuple[int, int]]:
    """List the dimensions and indices before which a tensor is cut, the same on every rank.

    Example:
        >>> places_of_cuts(torch.zeros(2, 3))
        []
    """
    found = set()
    sharded: Any = tensor
    parts = {dim: [torch.arange(size)] for dim, size in enumerate(tensor.shape)}
    for dim in cut_dims(tensor):
        place = sharded.placements[dim]
        ranks = sharded.device_mesh.size(dim)
        parts[place.dim] = [p for each in parts[place.dim] for p in _pieces(each, place, ranks)]
    for dim, pieces in parts.items():
        for piece in filter(len, pieces):
            starts = piece[torch.diff(piece, prepend=piece[:1] - 2) != 1]
            found |= {(dim, int(start)) for start in starts if start > 0}
    return sorted(found)


def positions(tensor: Tensor) -> Tensor:
    """Return the places, in C order of the whole tensor, of the values that this process holds.

    They rise, whatever the tensor is cut along.

    Example:
        >>> positions(torch.zeros(2, 2))
        tensor([0, 1, 2, 3])
    """
    found = torch.zeros((), dtype=torch.int64, device=local(tensor).device)
    for size, indices in zip(tensor.shape, indices_held(tensor), strict=True):
        found = found.unsqueeze(-1) * size + indices.to(found.device)
    return found.reshape(-1)


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Cut out of a whole tensor what this process holds of another of its shape, and place it so.

    Nothing is sent: every rank has the whole tensor, and the same.

    Args:
        tensor: a plain one.
        like: a ``DTensor``.
    """
    part = tensor.detach()
    for dim, indices in enumerate(indices_held(like)):
        if len(indices) != tensor.shape[dim]:
            part = part.index_select(dim, indices.to(part.device))
    # A copy, so that the whole tensor need not stay in memory.
    part = part.clone() if part.shape == tensor.shape else part
    return wrapped(part.to(local(like).device), like, tensor.shape)


def placed_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Bring a tensor to where another of its shape lies: to its device, and into its shards.

    Args:
        tensor: whole, and then the same on every rank; or a ``DTensor``.
        like: of the same shape.

    Raises:
        InvalidInput: a plain tensor is wanted, and a ``DTensor`` was given.

    Example:
        >>> placed_like(torch.tensor([True]), torch.ones(1))
        tensor([True])
    """
    given: Any = tensor
    wanted: Any = like
    if not is_distributed(like):
        if is_distributed(tensor):
            raise InvalidInput(
                f"Expected a plain tensor for a parameter that this process holds whole, got a "
                f"DTensor of shape {tuple(tensor.shape)}; give its full_tensor(), called on every "
                f"rank, or read it from a checkpoint into plain tensors."
            )
        return tensor.to(like.device)
    if not is_distributed(tensor):
        return part_of(tensor, like)
    if (given.device_mesh, given.placements) == (wanted.device_mesh, wanted.placements):
        return tensor.to(like.device)
    if given.device_mesh != wanted.device_mesh:
        raise InvalidInput(
            f"Expected a DTensor on the mesh of the parameter, {wanted.device_mesh}, got one on "
            f"{given.device_mesh}; place it there."
        )
    moved: Tensor = given.redistribute(placements=wanted.placements)
    return moved


def on_parts(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call a function on the parts of tensors that are cut alike, and put the results together.

    It must do to every part what it does to the whole, and leave the dimensions in their places.

    Args:
        function: of as many tensors.
        tensors: the first a ``DTensor`` or all plain.

    Example:
        >>> on_parts(torch.add, torch.ones(1), torch.ones(1))
        tensor([2.])
    """
    if not is_distributed(tensors[0]):
        return function(*tensors)
    shown = function(
        *(torch.empty(each.shape, dtype=each.dtype, device="meta") for each in tensors)
    )
    parts = [local(each) for each in tensors]
    if parts[0].numel():
        return wrapped(function(*parts), tensors[0], shown.shape)
    shape = [len(indices) for indices in indices_held(tensors[0], shown.shape)]
    return wrapped(parts[0].new_empty(shape, dtype=shown.dtype), tensors[0], shown.shape)


def wrapped(
    part: Tensor, like: Tensor, shape: Sequence[int], *, dims: Mapping[int, int] | None = None
) -> Tensor:
    """Make a ``DTensor`` of this process's part of it, cut as another one is.

    Args:
        part: what this process holds.
        like: the other one.
        shape: of the whole.
        dims: dimensions that have changed places, such as those of a transpose.
    """
    if not is_distributed(like):
        return part
    sharded: Any = like
    placements = [_moved(each, dims or {}) for each in sharded.placements]
    strides = torch.empty(tuple(shape), device="meta").stride()
    made: Tensor = _tensor_package().DTensor.from_local(
        part,
        sharded.device_mesh,
        placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=strides,
    )
    return made


def _moved(placement: Any, dims: Mapping[int, int]) -> Any:
    if placement.is_replicate() or placement.dim not in dims:
        return placement
    if (factor := getattr(placement, "split_factor", None)) is not None:
        return type(placement)(dims[placement.dim], split_factor=factor)
    return type(placement)(dims[placement.dim])


def _pieces(indices: Tensor, placement: Any, ranks: int) -> list[Tensor]:
    """Cut indices as torch cuts a dimension for a placement: in equal pieces, the last ones less."""
    factor = getattr(placement, "split_factor", 1)  # what fully_shard makes of a parallel tensor
    if factor == 1:
        wide = math.ceil(len(indices) / ranks)
        return [indices[wide * rank : wide * (rank + 1)] for rank in range(ranks)]
    if len(indices) % (factor * ranks):
        raise InvalidInput(
            f"Expected a dimension that {factor} x {ranks} ranks share equally, got one of "
            f"{len(indices)}, sharded twice; decide masks before the network is sharded, or give "
            f"it another size."
        )
    rows = indices.view(factor, ranks, -1)
    return [rows[:, rank].reshape(-1) for rank in range(ranks)]


def _tensor_package() -> Any:
    # Slow to import; where nobody has, no tensor is one of its.
    return sys.modules.get("torch.distributed.tensor")
