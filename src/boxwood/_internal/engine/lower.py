"""Replace torch's operators by the engine's where it has them; the others stay in torch, with a reason.

One function per operator, in a table; a function returns None where the settings are not covered.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.elementwise import Operation
from boxwood._internal.engine.ops import (
    Average,
    Concatenate,
    Convolve,
    Flatten,
    NativeOp,
    Normalise,
    OpKind,
    Pointwise,
    PoolWindows,
    Project,
    Recurrent,
    RecurrentCell,
    RecurrentLayer,
)
from boxwood._internal.engine.program import (
    LinearSize,
    Op,
    Program,
    TorchOp,
    Value,
    ValueRef,
    without_unused,
)


def lower(program: Program) -> Program:
    """Return the program with the engine's operations in place of torch's where it has them."""
    room = _Constants(program)
    ops: list[Op] = []
    for op in program.ops:
        if isinstance(op, TorchOp):
            rule = _RULES.get(op.target)
            found = rule(_Call(op, room)) if rule and _is_float(op, program) else None
            why = "" if found else "no kernel for this operator" if not rule else "these settings"
            op = found or replace(op, why=why)
        ops.append(op)
    return without_unused(
        replace(program, ops=tuple(ops), values=room.values, constants=room.constants)
    )


class _Constants:
    """The program's constants, with room for more."""

    def __init__(self, program: Program) -> None:
        self.values: dict[int, Value] = dict(program.values)
        self.constants: dict[int, Tensor] = dict(program.constants)
        self._next = program.next_value()

    def add(self, tensor: Tensor) -> int:
        number, self._next = self._next, self._next + 1
        self.values[number] = Value(tuple(tensor.shape), tensor.dtype)
        self.constants[number] = tensor
        return number


class _Call:
    """One operator call with its arguments by name, defaults filled in."""

    def __init__(self, op: TorchOp, room: _Constants) -> None:
        self.op, self.room = op, room
        namespace, name, overload = op.target.split(".")
        schema = getattr(getattr(getattr(torch.ops, namespace), name), overload)._schema
        given = dict(zip((a.name for a in schema.arguments), op.args, strict=False))
        given.update(op.kwargs)
        self._arguments = {
            a.name: given.get(a.name, a.default_value if a.has_default_value() else None)
            for a in schema.arguments
        }

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def value(self, name: str) -> int | None:
        argument = self._arguments[name]
        return argument.value if type(argument) is ValueRef else None

    def constant(self, name: str) -> Tensor | None:
        number = self.value(name)
        return None if number is None else self.room.constants.get(number)

    def shape(self, name: str) -> tuple[Any, ...]:
        number = self.value(name)
        return () if number is None else self.room.values[number].shape

    @property
    def out(self) -> int:
        return self.op.writes[0]

    @property
    def out_shape(self) -> tuple[Any, ...]:
        return self.room.values[self.out].shape

    def native(
        self, kind: OpKind, *sources: int | None, **constants: int | None
    ) -> NativeOp | None:
        if any(source is None for source in sources):
            return None
        return NativeOp(kind, tuple(s for s in sources if s is not None), self.out, **constants)


def _is_float(op: TorchOp, program: Program) -> bool:
    return all(program.values[number].dtype == torch.float32 for number in (*op.reads, *op.writes))


def _conv2d(call: _Call) -> NativeOp | None:
    weight = call.constant("weight")
    if weight is None or not _bias_known(call) or len(call.shape("input")) != 4:
        return None
    padding, dilation = call["padding"], _pair(call["dilation"])
    after: tuple[int, int] | None = None
    if padding == "valid":
        padding = 0
    elif padding == "same":
        over = [d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True)]
        padding = [each // 2 for each in over]
        if any(each % 2 for each in over):  # torch puts the odd one after
            after = (over[0] - padding[0], over[1] - padding[1])
    kind = Convolve(_pair(call["stride"]), _pair(padding), dilation, call["groups"], after=after)
    return call.native(
        kind, call.value("input"), weight=call.value("weight"), bias=call.value("bias")
    )


def _linear(call: _Call) -> NativeOp | None:
    weight = call.constant("weight")
    if weight is None or weight.ndim != 2 or not _bias_known(call):
        return None
    if len(call.shape("input")) < 2:
        return None
    return call.native(
        Project(), call.value("input"), weight=call.value("weight"), bias=call.value("bias")
    )


def _addmm(call: _Call) -> NativeOp | None:
    weight, bias = call.constant("mat2"), call.constant("self")
    if weight is None or bias is None or bias.ndim != 1 or (call["alpha"], call["beta"]) != (1, 1):
        return None
    turned = call.room.add(weight.t().contiguous())
    return call.native(Project(), call.value("mat1"), weight=turned, bias=call.value("self"))


def _matmul(call: _Call) -> NativeOp | None:
    names = list(call._arguments)
    weight = call.constant(names[1])
    if weight is None or weight.ndim != 2 or len(call.shape(names[0])) < 2:
        return None
    turned = call.room.add(weight.t().contiguous())
    return call.native(Project(), call.value(names[0]), weight=turned)


def _batch_norm(call: _Call) -> NativeOp | None:
    """A scale and shift of each channel is a 1×1 convolution with a group per channel."""
    mean, variance = call.constant("running_mean"), call.constant("running_var")
    if mean is None or variance is None or call["training"] or len(call.shape("input")) != 4:
        return None
    weight, bias = call.constant("weight"), call.constant("bias")
    scale = (variance.double() + call["eps"]).rsqrt() * (1 if weight is None else weight.double())
    shift = -mean.double() * scale + (0 if bias is None else bias.double())
    if not (torch.isfinite(scale).all() and torch.isfinite(shift).all()):
        return None
    if not scale.all():  # 0 · inf has to stay NaN, and kernels skip zeros
        return None
    return call.native(
        Convolve((1, 1), (0, 0), (1, 1), len(scale)),
        call.value("input"),
        weight=call.room.add(scale.float().reshape(-1, 1, 1, 1)),
        bias=call.room.add(shift.float()),
    )


def _pool(call: _Call, *, average: bool) -> NativeOp | None:
    if len(call.shape("self")) != 4 or (average and call["divisor_override"] is not None):
        return None
    kernel = _pair(call["kernel_size"])
    kind = PoolWindows(
        kernel,
        _pair(call["stride"]) if call["stride"] else kernel,
        _pair(call["padding"]),
        (1, 1) if average else _pair(call["dilation"]),
        average=average,
        count_padding=bool(call["count_include_pad"]) if average else True,
        ceil=call["ceil_mode"],
    )
    return call.native(kind, call.value("self"))


def _adaptive_average(call: _Call) -> NativeOp | None:
    shape, size = call.shape("self"), _pair(call["output_size"])
    if len(shape) != 4 or not all(isinstance(extent, int) for extent in shape[2:]):
        return None
    if size == (1, 1):
        return call.native(Average(keep=True), call.value("self"))
    if any(extent % wanted for extent, wanted in zip(shape[2:], size, strict=True)):
        return None
    window = (shape[2] // size[0], shape[3] // size[1])
    kind = PoolWindows(window, window, (0, 0), (1, 1), average=True, count_padding=True, ceil=False)
    return call.native(kind, call.value("self"))


def _mean(call: _Call) -> NativeOp | None:
    axes = tuple(sorted(axis % 4 for axis in call["dim"] or ()))
    fine = len(call.shape("self")) == 4 and axes == (2, 3) and call["dtype"] is None
    return call.native(Average(bool(call["keepdim"])), call.value("self")) if fine else None


def _binary(operation: Operation) -> Callable[[_Call], NativeOp | None]:
    def rule(call: _Call) -> NativeOp | None:
        first, second = call.value("self"), call.value("other")
        if first is None or second is None or call._arguments.get("alpha", 1) != 1:
            return None
        one, two = call.shape("self"), call.shape("other")
        if one == two:
            return call.native(Pointwise(operation), first, second)
        if len(one) == len(two) == 4:
            if two == (*one[:2], 1, 1):
                return call.native(Pointwise(operation, per_channel=True), first, second)
            if one == (*two[:2], 1, 1):
                return call.native(Pointwise(operation, per_channel=True), second, first)
        return None

    return rule


def _activation(
    activation: Activation, **settings: tuple[Any, ...]
) -> Callable[[_Call], NativeOp | None]:
    def rule(call: _Call) -> NativeOp | None:
        if any(call[name] not in allowed for name, allowed in settings.items()):
            return None
        kind = Pointwise(Operation.COPY, activation=activation)
        return call.native(kind, call.value("self"))

    return rule


def _gelu(call: _Call) -> NativeOp | None:
    tanh = call["approximate"] == "tanh"
    kind = Pointwise(Operation.COPY, activation=Activation.GELU_TANH if tanh else Activation.GELU)
    return call.native(kind, call.value("self"))


def _clamp(call: _Call) -> NativeOp | None:
    low, high = (call["min_val"], call["max_val"]) if "min_val" in call._arguments else (
        call["min"], call["max"],
    )  # fmt: skip
    if (low, high) == (0, 6):
        kind = Pointwise(Operation.COPY, activation=Activation.RELU6)
        return call.native(kind, call.value("self"))
    return None


def _cat(call: _Call) -> NativeOp | None:
    tensors = [part.value for part in call["tensors"]]
    ranks = {len(call.room.values[number].shape) for number in tensors}
    return call.native(Concatenate(), *tensors) if ranks == {4} and call["dim"] in (1, -3) else None


def _flatten(call: _Call) -> NativeOp | None:
    shape, out = call.shape("self"), call.out_shape
    if len(shape) != 4 or len(out) != 2 or shape[0] != out[0] or isinstance(out[1], LinearSize):
        return None
    return call.native(Flatten(), call.value("self"))


def _layer_norm(call: _Call) -> NativeOp | None:
    features = tuple(call["normalized_shape"])
    known = call["weight"] is None or call.constant("weight") is not None
    if len(features) != 1 or not known or not _bias_known(call):
        return None
    weight, bias = call.value("weight"), call.value("bias")
    if weight is None:
        weight = call.room.add(torch.ones(features))
    if bias is None:
        bias = call.room.add(torch.zeros(features))
    return call.native(Normalise(call["eps"]), call.value("input"), weight=weight, bias=bias)


def _rms_norm(call: _Call) -> NativeOp | None:
    shape, features = call.shape("input"), tuple(call["normalized_shape"])
    weight = call.constant("weight")
    if len(features) != 1 or shape[-1:] != features or (weight is None and call["weight"]):
        return None
    size = features[0]
    scale = call.value("weight") if weight is not None else call.room.add(torch.ones(size))
    epsilon = torch.finfo(torch.float32).eps if call["eps"] is None else call["eps"]
    kind = Normalise(epsilon, centred=False)
    bias = call.room.add(torch.zeros(size))
    return call.native(kind, call.value("input"), weight=scale, bias=bias)


def _recurrent(cell: RecurrentCell) -> Callable[[_Call], Recurrent | None]:
    def rule(call: _Call) -> Recurrent | None:
        if call["train"]:
            return None
        directions = 2 if call["bidirectional"] else 1
        state = call["hx"] if cell is RecurrentCell.LSTM else (call["hx"],)
        per_layer = 4 if call["has_biases"] else 2
        numbers = [part.value for part in call["params"]]
        if len(numbers) != per_layer * directions * call["num_layers"] or any(
            number not in call.room.constants for number in numbers
        ):
            return None
        layers = []
        for first in range(0, len(numbers), per_layer):
            weight_ih, weight_hh, *biases = numbers[first : first + per_layer]
            one, two = biases or (None, None)
            bias = None
            if one is not None and two is not None and cell is RecurrentCell.LSTM:
                bias = call.room.add(call.room.constants[one] + call.room.constants[two])
            layers.append(RecurrentLayer(weight_ih, weight_hh, one, two, bias))
        sources = (call.value("input"), *(part.value for part in state))
        return Recurrent(
            cell, sources, tuple(layers), call["batch_first"], call.op.writes, directions
        )

    return rule


def _bias_known(call: _Call) -> bool:
    return call["bias"] is None or call.constant("bias") is not None


def _pair(sizes: Any) -> tuple[int, int]:
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    return (sizes[0], sizes[-1])


_RULES: Mapping[str, Callable[[_Call], NativeOp | Recurrent | None]] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.linear.default": _linear,
    "aten.addmm.default": _addmm,
    "aten.matmul.default": _matmul,
    "aten.mm.default": _matmul,
    "aten.batch_norm.default": _batch_norm,
    "aten.max_pool2d.default": partial(_pool, average=False),
    "aten.avg_pool2d.default": partial(_pool, average=True),
    "aten.adaptive_avg_pool2d.default": _adaptive_average,
    "aten.mean.dim": _mean,
    "aten.add.Tensor": _binary(Operation.ADD),
    "aten.mul.Tensor": _binary(Operation.MULTIPLY),
    "aten.relu.default": _activation(Activation.RELU),
    "aten.relu6.default": _activation(Activation.RELU6),
    "aten.leaky_relu.default": _activation(Activation.LEAKY_RELU, negative_slope=(0.01,)),
    "aten.silu.default": _activation(Activation.SILU),
    "aten.gelu.default": _gelu,
    "aten.hardswish.default": _activation(Activation.HARDSWISH),
    "aten.hardsigmoid.default": _activation(Activation.HARDSIGMOID),
    "aten.sigmoid.default": _activation(Activation.SIGMOID),
    "aten.tanh.default": _activation(Activation.TANH),
    "aten.hardtanh.default": _clamp,
    "aten.clamp.default": _clamp,
    "aten.cat.default": _cat,
    "aten.flatten.using_ints": _flatten,
    "aten.reshape.default": _flatten,
    "aten.squeeze.dims": _flatten,
    "aten.layer_norm.default": _layer_norm,
    "aten.rms_norm.default": _rms_norm,
    "aten.lstm.input": _recurrent(RecurrentCell.LSTM),
    "aten.gru.input": _recurrent(RecurrentCell.GRU),
}
