"""Compiled networks as files: one header of JSON, then sections of raw numbers and machine code.

    8 bytes    "BXW" and the format's version
    32 bytes   SHA-256 of all that follows
    8 bytes    length of the header, little-endian
    header     JSON: the program, its interface, and where each section lies
    sections   each starts at a multiple of 64 bytes from the file's start

A weight is there once: packed for its kernel, which a machine of the same family runs from where
it is in the file, and any other unpacks. A weight without a kernel, if it has many zeros, is a bit
for each entry, then the entries that are not zero. Nothing in a file is code of Python's, and the
machine code is only as good as the file's source: load files that you trust.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwood._internal.core.replacing import check_suffix
from boxwood._internal.engine import codec
from boxwood._internal.engine.bxw_sections import START, Sections, mapped, section, write_sections
from boxwood._internal.engine.constants import CompactTensor, Constants, compact_tensor
from boxwood._internal.engine.dynamic_sizes import DynamicRange, check_ranges
from boxwood._internal.engine.explain import OperationTimes
from boxwood._internal.engine.interface import Interface, check_leaves, from_json, to_json
from boxwood._internal.engine.kernel_cache import KernelCache, KernelKey, place_constants
from boxwood._internal.engine.kernel_problems import packed_kernel
from boxwood._internal.engine.kernels.bit_packing import BitMaskPacking
from boxwood._internal.engine.kernels.contract import BoundKernel, Kernel
from boxwood._internal.engine.kernels.conv import Conv
from boxwood._internal.engine.kernels.int8_conv import Int8Conv
from boxwood._internal.engine.kernels.int8_matvec import Int8MatVec
from boxwood._internal.engine.kernels.matvec import MatVec
from boxwood._internal.engine.ops import NativeOp, Recurrent
from boxwood._internal.engine.packed_weights import (
    StoredTensor,
    check_packing,
    groups_of,
    packed_parts,
)
from boxwood._internal.engine.program import (
    Program,
    TorchOp,
    ValidBatches,
    Value,
    check_numbers,
    check_program,
)
from boxwood._internal.engine.shapes import at_sizes, check_shapes
from boxwood._internal.engine.targets import host
from boxwood.errors import BoxwoodError, CheckpointError


@dataclass(frozen=True)
class CompiledProgram:
    """What a file holds of a compiled network.

    Args:
        program: the lowered operations.
        interface: how the network is called.
        native: positions of the operations that kernels do.
        times: what was measured when it was compiled, by position.
        kernels: the kernels that were built so far, and the processor family that they are for.
    """

    program: Program
    interface: Interface
    native: frozenset[int]
    times: Mapping[int, OperationTimes]
    kernels: KernelCache


def write_compiled(compiled: CompiledProgram, path: str | os.PathLike[str]) -> None:
    """Write a compiled network, whole or not at all.

    Args:
        compiled: the network.
        path: the file, by custom ``*.bxw``.

    Raises:
        CheckpointError: its interface or an operator has no form in a file, the name is that of
            another format, or the disk is full or not writable.
    """
    check_suffix(Path(path), ".bxw")
    sections = Sections()
    weights = {op.weight for op in compiled.program.ops if isinstance(op, NativeOp)}
    program, kernels = compiled.program, compiled.kernels
    for key in tuple(kernels.stored):
        kernels.restore(key)
    written = {
        key: bound.kernel
        for key, bound in kernels.built.items()
        if not program.ranges or key in kernels.permanent  # others are made of these again
    }
    constants = Constants(program.constants)
    holders = {
        weight: at
        for at, ((_, weight, _), kernel) in enumerate(written.items())
        if weight is not None and constants.is_kept(weight) and kernel.packing is not None
    }
    header = {
        "versions": {"torch": torch.__version__},
        "interface": to_json(compiled.interface),
        "program": {
            "ops": codec.encode(program.ops),
            "values": [[number, codec.encode(v)] for number, v in program.values.items()],
            "constants": [
                [
                    number,
                    _in_kernel(holders[number], *constants.kind(number))
                    if number in holders
                    else _add_tensor(sections, constants[number], signed=number not in weights),
                ]
                for number in constants
            ],
            "inputs": program.inputs,
            "outputs": program.outputs,
            "batch": program.batch,
            "batches": codec.encode(program.batches),
            "names": list(program.names.items()),
            "ranges": codec.encode(program.ranges),
            "limits": codec.encode(program.limits),
        },
        "native": sorted(compiled.native),
        "times": [[position, asdict(each)] for position, each in compiled.times.items()],
        "threads": kernels.threads,
        "target": asdict(kernels.target),
        "kernels": [
            [codec.encode(key), _add_kernel(sections, kernel)] for key, kernel in written.items()
        ],
        "objects": {
            entry: sections.add(np.frombuffer(code, np.uint8))
            for entry, code in kernels.objects.items()
        },
    }
    write_sections(Path(path), json.dumps(header).encode(), sections)


def read_compiled(path: str | os.PathLike[str], *, threads: int | None = None) -> CompiledProgram:
    """Read what `write_compiled` wrote; kernels for another processor family are left out.

    The checksum finds damage. What else the file says is checked before anything runs, so that a
    wrong header is an error; wrong machine code is not found.

    Args:
        path: the file.
        threads: that will run it; the number in the file when None.

    Raises:
        CheckpointError: no such file, or one that is cut short, changed, or of another format.
    """
    path = Path(path)
    data = mapped(path)
    (length,) = data[START - 8 : START].view("<u8")
    with _readable(path):
        header = json.loads(data[START : START + int(length)].tobytes())
        return _compiled(header, data, threads, path)


def _compiled(
    header: dict[str, Any], data: NDArray[np.uint8], threads: int | None, path: Path
) -> CompiledProgram:
    parts = header["program"]
    stored = [(codec.decode(key), spec) for key, spec in header["kernels"]]

    def kernel(at: int) -> Kernel:
        """Return a kernel of the file; one for another family is built for this machine."""
        key, spec = stored[at]
        kernels.restore(key)
        with _readable(path):
            return (kernels.built.get(key) or _kernel(key, spec, data, kernels)).kernel

    program = Program(
        ops=codec.decode(parts["ops"]),
        values={number: codec.decode(value) for number, value in parts["values"]},
        constants=Constants(
            {
                number: _held(spec, stored, kernel) if "kernel" in spec else _tensor(spec, data)
                for number, spec in parts["constants"]
            }
        ),
        inputs=tuple(parts["inputs"]),
        outputs=tuple(parts["outputs"]),
        batch=parts["batch"],
        names=dict(parts["names"]),
        batches=codec.decode(parts["batches"]),
        ranges=codec.decode(parts["ranges"]),
        limits=codec.decode(parts["limits"]),
    )
    target = host()
    _check(program)
    interface = from_json(header["interface"])
    check_leaves(interface, program)
    kernels = KernelCache(program, target, threads or header["threads"])
    if asdict(target) == header["target"]:

        def restored(key: KernelKey, spec: Mapping[str, Any]) -> BoundKernel:
            with _readable(path):
                return _kernel(key, spec, data, kernels)

        for key, spec in stored:
            kernels.stored[key] = partial(restored, key, spec)
        kernels.objects.update(
            {entry: section(place, data).tobytes() for entry, place in header["objects"].items()}
        )
        kernels.compact()
    return CompiledProgram(
        program,
        interface,
        _positions(header["native"], program),
        {position: OperationTimes(**each) for position, each in header["times"]},
        kernels,
    )


def _check(program: Program) -> None:
    """Raise for a program that `write_compiled` cannot have written: kernels trust it."""
    for parts, kind in (
        (program.ops, TorchOp | NativeOp | Recurrent),
        (program.values.values(), Value),
        ([program.batches, *program.limits], ValidBatches),
        (program.ranges, DynamicRange),
    ):
        if not all(isinstance(part, kind) for part in parts):
            raise ValueError(f"a part of the program is no {kind}")
    check_numbers(program)
    for op in program.ops:
        if isinstance(op, NativeOp | Recurrent):
            weights = set(op.reads[len(op.sources) :])
            if not weights <= program.constants.keys():
                raise ValueError("a weight is no constant")
    check_program(program)
    if program.ranges:
        check_ranges(program.ranges, [program.values[number].shape for number in program.inputs])
        if len(program.limits) != len(program.ranges) or program.batch is not None:
            raise ValueError("ranges of sizes without limits, or with a batch")
        at_sizes(program, tuple(each.example for each in program.ranges))
    else:
        check_shapes(program, program.batch or 0)


def _positions(native: list[int], program: Program) -> frozenset[int]:
    found = frozenset(native)
    if not found <= set(range(len(program.ops))):
        raise ValueError("kernels do operations that there are not")
    return found


def _add_tensor(sections: Sections, tensor: Tensor, *, signed: bool) -> dict[str, Any]:
    """Add a tensor; ``signed`` keeps the sign of zeros, which pruning leaves in weights."""
    tensor = tensor.detach().contiguous()
    found: dict[str, Any] = {"dtype": str(tensor.dtype).removeprefix("torch.")}
    found["shape"] = list(tensor.shape)
    small = None if signed else compact_tensor(tensor)
    if small is not None:
        return found | {"bits": sections.add(small.bits), "kept": sections.add(small.kept)}
    return found | {"all": sections.add(tensor.reshape(-1).view(torch.uint8).numpy())}


def _add_kernel(sections: Sections, kernel: Kernel) -> dict[str, Any]:
    """Add the packed weight of a kernel; the rest is made again from its problem."""
    if kernel.packing is None:
        return {"packing": None}
    parts = kernel.constants[1:3]  # masks and values
    if not isinstance(kernel.packing, BitMaskPacking):
        records: Any = kernel.constants[0]
        parts = (records["count"].copy(), *kernel.constants[1:4])
    return {"packing": codec.encode(kernel.packing), "parts": [sections.add(p) for p in parts]}


def _kernel(
    key: KernelKey, spec: Mapping[str, Any], data: NDArray[np.uint8], kernels: KernelCache
) -> BoundKernel:
    """Make a kernel again from its problem, and its packed weight if the file has it.

    Only the packed weight comes from the file, and is checked: whatever the header says, the
    kernel reads nothing outside.
    """
    problem, weight, bias = key
    packing = codec.decode(spec["packing"])
    given: Any
    if packing is not None:
        check_packing(packing)
        given = packed_parts(packing, [section(place, data) for place in spec["parts"]])
    elif isinstance(problem, Int8Conv | Int8MatVec | MatVec) or (
        isinstance(problem, Conv) and not problem.depthwise
    ):
        raise ValueError("the packed weight of a kernel is missing")
    else:
        given = kernels.weight(weight)  # which a packed one would only make for nothing
    kernel = packed_kernel(
        problem, given, kernels.weight(bias), kernels.target, packing, kernels.threads
    )
    (found,) = place_constants([kernel], kernels.held, data)
    return replace(found, owner=(found.owner, data))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn any error in reading a file's parts into one that names the file."""
    try:
        yield
    except BoxwoodError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"Expected a compiled model of this version of Boxwood in {path}, got one that it "
            f"cannot read ({type(error).__name__}: {error}); compile the model again."
        ) from error


def _in_kernel(at: int, shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    return {"dtype": str(dtype).removeprefix("torch."), "shape": list(shape), "kernel": at}


def _held(
    spec: Mapping[str, Any], stored: Sequence[tuple[Any, Any]], kernel: Callable[[int], Kernel]
) -> StoredTensor:
    at, shape = spec["kernel"], tuple(spec["shape"])
    if type(at) is not int or not 0 <= at < len(stored):
        raise ValueError("a weight is in a kernel that there is not")
    problem, _, _ = stored[at][0]
    dtype = getattr(torch, spec["dtype"])
    return StoredTensor(shape, dtype, partial(kernel, at), groups_of(problem))


def _tensor(spec: Mapping[str, Any], data: NDArray[np.uint8]) -> Tensor | CompactTensor:
    dtype = getattr(torch, spec["dtype"])
    if "bits" in spec:
        small = dtype == torch.int8
        kept = section(spec["kept"], data).view(np.int8 if small else np.float32)
        bits = section(spec["bits"], data)
        shape = tuple(spec["shape"])
        floats = torch.Size(shape).numel()
        if (
            not (small or dtype == torch.float32)
            or -(-floats // 8) != len(bits)
            or min(shape, default=0) < 0
        ):
            raise ValueError("a weight has other bits than its shape")
        if int(np.unpackbits(bits, count=floats).sum()) != len(kept):
            raise ValueError("a weight has other entries than its bits")
        return CompactTensor(shape, bits, kept)
    raw = torch.from_numpy(section(spec["all"], data).copy())
    return raw.view(dtype).reshape(spec["shape"])
