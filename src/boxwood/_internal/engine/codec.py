"""Programs and problems as JSON, and back, without naming code that a file could choose.

Only the classes in the table can come out of a file.
"""

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from boxwood._internal.engine import dynamic_sizes, layouts, ops, program
from boxwood._internal.engine.kernels import (
    attention,
    bit_packing,
    borders,
    contract,
    conv,
    copying,
    elementwise,
    head_norm,
    int8_build,
    int8_conv,
    int8_matvec,
    matvec,
    normalisation,
    packing,
    pooling,
    quads,
    recurrent,
    rotary,
)
from boxwood.errors import CheckpointError

_CLASSES: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        program.TorchOp, program.Value, program.ValueRef, program.LinearSize, program.SizeCondition,
        program.ValidBatches, dynamic_sizes.DynamicSize, dynamic_sizes.SeenSize,
        dynamic_sizes.DynamicRange,
        ops.NativeOp, ops.Convolve, ops.Project, ops.PoolWindows, ops.Average, ops.Pointwise,
        ops.Concatenate, ops.Flatten, ops.Normalise, ops.NormaliseHeads, ops.Rotate, ops.Attend, ops.Recurrent, ops.RecurrentLayer,
        ops.OnBytes, ops.Quantise, ops.Dequantise, quads.Quantisation,
        layouts.Planes,
        conv.Conv, packing.ConvPacking, matvec.MatVec, matvec.MatVecPacking, bit_packing.BitMaskPacking, pooling.Pool, pooling.GlobalAverage, elementwise.Elementwise,
        copying.Copy, normalisation.LayerNorm, head_norm.HeadNorm, rotary.Rotary, attention.Attention,
        int8_conv.Int8Conv, int8_conv.Int8Depthwise, int8_matvec.Int8MatVec, int8_build.Int8Packing, borders.ToBytes, borders.ToFloats,
        recurrent.LstmCell, recurrent.GruCell,
    )
}  # fmt: skip
_ENUMS: Mapping[str, type[enum.Enum]] = {
    kind.__name__: kind
    for kind in (
        attention.Mask,
        contract.Activation,
        bit_packing.ValueType,
        elementwise.Operation,
        ops.RecurrentCell,
        program.SizeOperator,
    )
}
_TORCH = (torch.dtype, torch.layout, torch.memory_format)


def encode(value: Any) -> Any:
    """Turn a program's parts into plain JSON values.

    Raises:
        CheckpointError: an argument of an operator has no form in a file.

    Example:
        >>> encode((program.ValueRef(3), torch.float32))
        [{'is': 'ValueRef', 'value': 3}, {'torch': 'float32'}]
    """
    if type(value).__name__ in _CLASSES and dataclasses.is_dataclass(value):
        parts = {each.name: encode(getattr(value, each.name)) for each in dataclasses.fields(value)}
        return {"is": type(value).__name__, **parts}
    if isinstance(value, enum.Enum):
        return {"enum": type(value).__name__, "name": value.name}
    if isinstance(value, _TORCH):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, tuple | list):
        return [encode(part) for part in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise CheckpointError(
        f"Expected operators with numbers, strings and tensors as arguments, got {value!r} of type "
        f"{type(value).__name__}; such a model can be compiled but not saved."
    )


def decode(value: Any) -> Any:
    """Build what `encode` wrote; lists become tuples.

    Raises:
        CheckpointError: a class or a name is not one of the table's.

    Example:
        >>> decode(encode((program.ValueRef(3), torch.float32)))
        (ValueRef(value=3), torch.float32)
    """
    if isinstance(value, list):
        return tuple(decode(part) for part in value)
    if not isinstance(value, dict):
        return value
    try:
        return _decoded(value)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"Expected a part of a compiled program, got {value!r} ({error}); compile the model "
            f"again with this version of Boxwood."
        ) from error


def _decoded(value: dict[str, Any]) -> Any:
    if "torch" in value:
        found = getattr(torch, value["torch"])
        if not isinstance(found, _TORCH):
            raise KeyError(value["torch"])
        return found
    if "device" in value:
        return torch.device(value["device"])
    if "enum" in value:
        return _ENUMS[value["enum"]][value["name"]]
    fields = {name: decode(part) for name, part in value.items() if name != "is"}
    kind = _CLASSES[value["is"]]
    for name, hint in _hints(kind).items():
        if name in fields and not _fits(fields[name], hint):
            raise TypeError(f"{name} is {fields[name]!r}")
    return kind(**fields)


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    """Say whether a decoded value is of a field's type, tuples entry by entry."""
    parts = typing.get_args(hint)
    if hint is Any:
        return True
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in parts)
    if typing.get_origin(hint) is tuple:
        if type(value) is not tuple:
            return False
        each = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(value) == len(each) and all(map(_fits, value, each))
    return type(value) is hint or (hint is float and type(value) is int)
