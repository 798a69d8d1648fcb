"""Where tensors are: on which device, whole or in shards, with data or without."""

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn.parameter import is_lazy

from boxwood._internal.core.shards import is_distributed
from boxwood.errors import InvalidInput


def check_whole(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors of which this process holds a shard, or no data.

    Raises:
        InvalidInput: a tensor is a ``DTensor``, or as for `check_data`.

    Example:
        >>> import torch
        >>> check_whole({"weight": torch.ones(1)})
    """
    check_data(tensors)
    for name, tensor in tensors.items():
        if is_distributed(tensor):
            raise InvalidInput(
                f"Expected tensors that this process holds whole, got {name!r}, a DTensor of which "
                f"it holds a shard; do this before fully_shard or tensor parallelism (MaskBinding "
                f"and apply_masks_ take masks of the whole network to the shards afterwards), or "
                f"gather such tensors with full_tensor() on every rank."
            )


def check_data(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose data cannot be read or written by name.

    Raises:
        InvalidInput: a tensor is lazy, is on the meta device, or was flattened by
            ``FullyShardedDataParallel``.

    Example:
        >>> import torch
        >>> check_data({"weight": torch.ones(1, device="meta")})
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected parameters with data, got 'weight' on the meta device; load the weights first.
    """
    check_shaped(tensors)
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise InvalidInput(
                f"Expected parameters with data, got {name!r} on the meta device; "
                f"load the weights first."
            )
    check_unflattened(tensors)


def check_shaped(tensors: Mapping[str, Tensor]) -> None:
    """Refuse lazy parameters.

    Raises:
        InvalidInput: a tensor has no shape yet.

    Example:
        >>> from torch import nn
        >>> check_shaped({"weight": nn.LazyLinear(3).weight})
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected parameters that have a shape, got 'weight', which gets its shape when the network first runs; run one batch through it first.
    """
    for name, tensor in tensors.items():
        if is_lazy(tensor):
            raise InvalidInput(
                f"Expected parameters that have a shape, got {name!r}, which gets its shape "
                f"when the network first runs; run one batch through it first."
            )


def check_unflattened(tensors: Mapping[str, Tensor]) -> None:
    """Refuse flat parameters, or pieces of them: what ``FullyShardedDataParallel`` and ZeRO-3 make.

    ``fully_shard`` keeps parameters as they are named and shaped.

    Raises:
        InvalidInput: a tensor was flattened.

    Example:
        >>> import torch
        >>> check_unflattened({"weight": torch.ones(1)})
    """
    for name, tensor in tensors.items():
        # Torch marks flat parameters, and the views of them that stand for the original ones.
        flattened = getattr(tensor, "_fsdp_flattened", False)
        by = "FullyShardedDataParallel" if flattened or hasattr(tensor, "_is_flat_param") else None
        by = "DeepSpeed's ZeRO-3" if hasattr(tensor, "ds_tensor") else by
        if by is not None:
            raise InvalidInput(
                f"Expected parameters of the network's own shapes, got {name!r}, which "
                f"{by} has flattened and shared out; decide masks before the "
                f"network is wrapped, or wrap it by fully_shard, on whose shards masks are decided "
                f"and held."
            )


def on_device_of(tensor: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Bring a tensor to the device of the first of others, unless it is on the device of one.

    Example:
        >>> import torch
        >>> on_device_of(torch.ones(1), [torch.ones(2)])
        tensor([1.])
    """
    devices = {other.device for other in others}
    return tensor if not devices or tensor.device in devices else tensor.to(others[0].device)
