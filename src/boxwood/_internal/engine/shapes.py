"""Check that operations give the shapes that a program states, at one batch size.

``x[:8]`` gives eight rows of nine examples and of ten, but not of five: an operator may follow the
batch otherwise than on a line, though its arguments do not change. A file may say anything.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import inf

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from boxwood._internal.engine import aten_ops, torch_functions
from boxwood._internal.engine.dynamic_sizes import Sizes
from boxwood._internal.engine.kernels.elementwise import Operation
from boxwood._internal.engine.kernels.quads import Quantisation
from boxwood._internal.engine.ops import (
    Attend,
    Average,
    Concatenate,
    Convolve,
    Dequantise,
    Flatten,
    NativeOp,
    Normalise,
    NormaliseHeads,
    OnBytes,
    OpKind,
    Pointwise,
    PoolWindows,
    Project,
    Quantise,
    Recurrent,
    RecurrentLayer,
    Rotate,
)
from boxwood._internal.engine.program import Batch, Op, Program, TorchOp, sizes_at
from boxwood._internal.engine.random_state import preserved_generators
from boxwood.errors import InvalidInput


def check_shapes(program: Program, batch: int) -> None:
    """Raise if an operation gives other shapes than the program says.

    Operations run without values, or on zeros and the program's constants where that is not enough.

    Raises:
        InvalidInput: the program does not hold for this batch.
    """
    with preserved_generators(aten_ops.generators(program)):
        _check_shapes(program, batch)


def _check_shapes(program: Program, batch: int) -> None:
    values = {
        number: torch.empty(sizes_at(value.shape, batch), dtype=value.dtype, device="meta")
        for number, value in program.values.items()
    }
    for op in program.ops:
        wanted = [tuple(values[number].shape) for number in op.writes]
        try:
            if _shapes(op, values, batch) == wanted:
                continue
        except Exception:  # noqa: BLE001, S110 - an index by a constant mask needs its values
            pass
        # Without values torch gives other shapes here and there: what it does with some counts.
        real = dict(values)
        for number in op.reads:
            known = program.constants.get(number)
            real[number] = (
                torch.zeros_like(values[number], device="cpu") if known is None else known
            )
        try:
            got = _shapes(op, real, batch)
        except Exception as error:
            raise _unlike(op, "run", f"{type(error).__name__}: {error}", batch) from error
        if got != wanted:
            raise _unlike(op, f"give {_listed(wanted)}", _listed(got), batch)


def at_sizes(program: Program, sizes: Sizes) -> Program:
    """Return the program of one choice of the sizes in its ranges.

    What operations give decides over shapes, not what the program says; a file may say anything.

    Raises:
        InvalidInput: an operation does not run at these sizes.
    """
    constants = program.constants
    values: dict[int, Tensor] = {
        number: torch.empty(
            sizes_at(program.values[number].shape, sizes), dtype=program.values[number].dtype,
            device="meta",
        )
        for number in (*program.inputs, *constants)
    }  # fmt: skip
    with preserved_generators(aten_ops.generators(program)):
        for op in program.ops:
            if not isinstance(op, TorchOp):  # ranks of results decide over the nesting of tokens
                for number in op.writes:
                    rank = len(program.values[number].shape)
                    kind = program.values[number].dtype  # which operations on bytes check
                    values[number] = torch.empty((0,) * rank, dtype=kind, device="meta")
            try:
                made = _made(op, values, sizes)
            except Exception:  # noqa: BLE001 - as in the check above
                real = {number: constants.get(number) for number in op.reads}
                zeros = {n: torch.zeros_like(values[n], device="cpu") for n in op.reads}
                real_values = values | {n: zeros[n] if t is None else t for n, t in real.items()}
                try:
                    made = _made(op, real_values, sizes)
                except Exception as error:
                    raise _unlike(op, "run", f"{type(error).__name__}: {error}", sizes) from error
            if [each.dtype for each in made] != [program.values[n].dtype for n in op.writes]:
                raise _unlike(op, "give tensors of its types", "others", sizes)
            values.update(zip(op.writes, (each.to("meta") for each in made), strict=True))
    ops = tuple(
        aten_ops.at_batch(op, sizes) if isinstance(op, TorchOp) else op for op in program.ops
    )
    shapes = {
        number: replace(program.values[number], shape=tuple(tensor.shape))
        for number, tensor in values.items()
    }
    return replace(program, ops=ops, values=shapes, ranges=(), limits=())


def _shapes(op: Op, values: Mapping[int, Tensor], batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in _made(op, values, batch)]


def _made(op: Op, values: Mapping[int, Tensor], batch: Batch) -> list[Tensor]:
    if isinstance(op, TorchOp):
        if op.target == "aten.embedding.default":
            return [_looked_up(*(values[number] for number in op.reads))]
        return list(aten_ops.run_operator(aten_ops.at_batch(op, batch), values))
    if isinstance(op, NativeOp) and isinstance(op.kind, OnBytes | Quantise | Dequantise):
        return [_on_bytes(op, op.kind, values)]
    numbers = (*op.reads, *op.writes)
    if isinstance(op, Recurrent) and any(layer.x or layer.h for layer in op.layers):
        numbers = (*op.sources, *op.writes)
        _check_stack(op, values)
    if any(values[number].dtype != torch.float32 for number in numbers):
        raise TypeError("kernels compute with float32")
    if isinstance(op, Recurrent):
        sources = [values[number] for number in op.sources]
        return aten_ops.tensors_of(torch_functions.torch_stack(op, values)(*sources))
    if not isinstance(op, NativeOp):
        raise TypeError("neither torch's nor the engine's")
    return [_native(op, values)]


def _looked_up(table: Tensor, places: Tensor) -> Tensor:
    """Return rows of a table without values: torch imports sympy for that, which takes long."""
    if table.ndim != 2 or places.dtype not in (torch.int32, torch.int64):
        raise TypeError("a table or places that torch refuses")
    return table.new_empty((*places.shape, table.shape[1]))


def _on_bytes(
    op: NativeOp, kind: OnBytes | Quantise | Dequantise, values: Mapping[int, Tensor]
) -> Tensor:
    """Check the types that kernels of bytes trust, and run the same operation on floats."""
    source, made = (values[number].dtype for number in (op.sources[0], op.out))
    result = torch.uint8 if isinstance(kind, Quantise) else torch.float32
    if isinstance(kind, OnBytes) and kind.out is not None:
        result = torch.uint8
    given = torch.float32 if isinstance(kind, Quantise) else torch.uint8
    residuals = {values[number].dtype for number in op.sources[1:]}
    if (source, made) != (given, result) or not residuals <= {result}:
        raise TypeError("bytes and floats are mixed up")
    check_quantisations(kind)
    floats = {number: values[number].float() for number in op.sources}
    if not isinstance(kind, OnBytes):
        return _native(replace(op, kind=Pointwise(Operation.COPY)), floats).to(result)
    bias = None
    if isinstance(kind.kind, Convolve | Project):
        if op.weight is None or op.bias is None:
            raise TypeError("an operation without its weight")
        weight, constants = values[op.weight], values[op.bias]
        kinds = (weight.dtype, constants.dtype)
        if kinds != (torch.int8, torch.float32) or constants.shape != (2, len(weight)):
            raise TypeError("a weight of bytes without its scales")
        if (kind.residual is None) != (kind.out is None or len(op.sources) < 2):
            raise TypeError("a residual of bytes without its scale")
        floats[op.weight], floats[op.bias] = weight.float(), constants[1]
        bias = op.bias
    return _native(replace(op, kind=kind.kind, bias=bias), floats).to(result)


def _check_stack(op: Recurrent, values: Mapping[int, Tensor]) -> None:
    """Raise if the weights of bytes of recurrent layers have other types or shapes than kernels trust."""
    for layer in op.layers:
        pairs = ((layer.weight_ih, layer.bias_ih), (layer.weight_hh, layer.bias_hh))
        if layer.x is None or layer.h is None or layer.bias is not None:
            raise TypeError("a layer of bytes without what they represent")
        check_quantisations(layer)
        for weight, bias in pairs:
            if bias is None or values[bias].shape != (2, len(values[weight])):
                raise TypeError("a weight of bytes without its scales")
            if (values[weight].dtype, values[bias].dtype) != (torch.int8, torch.float32):
                raise TypeError("a weight of bytes of another type")


def check_quantisations(kind: OnBytes | Quantise | Dequantise | RecurrentLayer) -> None:
    """Raise if bytes represent what no bytes can."""
    for each in vars(kind).values():
        if isinstance(each, Quantisation) and not (0 < each.scale < inf and 0 <= each.zero <= 255):
            raise TypeError(f"bytes represent {each}")


def _native(op: NativeOp, values: Mapping[int, Tensor]) -> Tensor:
    x, *others = (values[number] for number in op.sources)
    if len(others) not in _seconds(op.kind):
        raise TypeError("it reads more or fewer values than it takes")
    weight, bias = (None if n is None else values[n] for n in (op.weight, op.bias))
    match op.kind:
        case Convolve() as kind if weight is not None:
            if min(kind.sides) < 0:
                raise TypeError("a convolution cuts its image")
            x = F.pad(x, kind.sides)
            y = F.conv2d(x, weight, bias, kind.stride, 0, kind.dilation, kind.groups)
            return _added(y, others)
        case Project() if weight is not None:
            features = (len(weight), x.shape[-1])
            if weight.shape != features or (bias is not None and bias.shape != features[:1]):
                raise TypeError("a weight of other features")
            return _added(x.new_empty((*x.shape[:-1], len(weight))), others)
        case PoolWindows() as kind if kind.average:
            return F.avg_pool2d(x, kind.kernel, kind.stride, kind.padding, kind.ceil)
        case PoolWindows() as kind:
            moves = (kind.kernel, kind.stride, kind.padding, kind.dilation, kind.ceil)
            pooled: Tensor = torch.max_pool2d(x, *moves)
            return pooled
        case Average(keep):
            return x.mean((2, 3), keepdim=keep)
        case Pointwise(per_channel=True):
            return _added(x, [_spread(other, x) for other in others])
        case Pointwise():
            return _added(x, others)
        case Concatenate():
            return torch.cat([x, *others], 1)
        case Flatten():
            return x.flatten(1)
        case Normalise() if weight is not None:
            if not x.shape[-1:] == weight.shape == (weight if bias is None else bias).shape:
                raise TypeError("scale and shift that are not one per feature")
            return x
        case NormaliseHeads(heads) if weight is not None and bias is None:
            if weight.ndim != 2 or len(weight) != heads or weight.numel() > x.shape[-1]:
                raise TypeError("scales of other heads")
            return x
        case Rotate(heads, partners) if weight is not None:
            near, _ = weight
            if x.ndim != 3 or x.shape[1] > near.shape[0] or near.shape[1:] != (len(partners),):
                raise TypeError("factors of other tokens or heads")
            if heads * len(partners) > x.shape[-1]:
                raise TypeError("heads that are not there")
            return x
        case Attend(heads, size) as kind:
            if min(kind.parts) < 1 or heads % kind.parts[1]:
                raise TypeError("heads of queries that those of keys do not divide")
            whole: Tensor = x.split([heads * size, x.shape[-1] - heads * size], -1)[0]
            x.unflatten(-1, (sum(kind.parts), size))
            tokens = x.shape[1 if kind.batch_first else 0]
            for mask in others:
                mask.expand(x.shape[0 if kind.batch_first else 1], heads, tokens, tokens)
            return whole if len(values[op.out].shape) == 3 else whole.flatten(0, 1)
        case _:
            raise TypeError("an operation without its weight")


def _seconds(kind: OpKind) -> range:
    """Return how many values an operation may read after its first."""
    match kind:
        case Convolve() | Project() | Attend():
            return range(2)
        case Pointwise(Operation.COPY):
            return range(1)
        case Pointwise():
            return range(1, 2)
        case Concatenate():
            return range(2**16)
        case _:
            return range(1)


def _spread(other: Tensor, x: Tensor) -> Tensor:
    if other.shape != (*x.shape[:2], 1, 1):
        raise TypeError("what is added is not one value per channel")
    return other.expand(x.shape)


def _added(y: Tensor, others: list[Tensor]) -> Tensor:
    if any(other.shape != y.shape for other in others):
        raise TypeError("what is added is of another shape")
    return y


def _unlike(op: Op, wanted: str, got: str, batch: Batch) -> InvalidInput:
    name = op.name if isinstance(op, TorchOp) else type(getattr(op, "kind", op)).__name__.lower()
    return InvalidInput(
        f"Expected the operation {name} to {wanted} at a batch of {batch}, got {got}: it "
        f"depends on the batch in another way than in the example; compile the model with an "
        f"example of this "
        f"batch."
    )


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes)) if len(shapes) <= 4 else f"{len(shapes)} tensors"
