"""Compiled networks as files: one header of JSON, then sections of raw numbers and machine code.

    8 bytes    "BXW" and the format's version
    32 bytes   SHA-256 of all that follows
    8 bytes    length of the header, little-endian
    header     JSON: the program, its interface, and where each section lies
    sections   each starts at a multiple of 64 bytes from the file's start

A weight with many zeros is a bit for each entry, then the entries that are not zero; packed
kernels and their machine code follow, so that a machine of the same family runs them from where
they are. Nothing in a file is code of Python's, and the machine code is only as good as the
file's source: load files that you trust.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwood._internal.core.replacing import check_suffix, replacing
from boxwood._internal.engine import codec
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
from boxwood._internal.engine.packed_weights import check_packing, packed_parts
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

MAGIC = b"BXW\x00\x00\x00\x00\x04"
ALIGN = 64
_START = len(MAGIC) + 32 + 8


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
    sections = _Sections()
    weights = {op.weight for op in compiled.program.ops if isinstance(op, NativeOp)}
    program, kernels = compiled.program, compiled.kernels
    for key in tuple(kernels.stored):
        kernels.restore(key)
    header = {
        "versions": {"torch": torch.__version__},
        "interface": to_json(compiled.interface),
        "program": {
            "ops": codec.encode(program.ops),
            "values": [[number, codec.encode(v)] for number, v in program.values.items()],
            "constants": [
                [number, sections.tensor(constant, signed=number not in weights)]
                for number, constant in program.constants.items()
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
            [codec.encode(key), sections.kernel(bound.kernel)]
            for key, bound in kernels.built.items()
            if not program.ranges or key in kernels.permanent  # others are made of these again
        ],
        "objects": {
            entry: sections.add(np.frombuffer(code, np.uint8))
            for entry, code in kernels.objects.items()
        },
    }
    _write(Path(path), json.dumps(header).encode(), sections)


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
    data = _mapped(path)
    (length,) = data[_START - 8 : _START].view("<u8")
    with _readable(path):
        header = json.loads(data[_START : _START + int(length)].tobytes())
        return _compiled(header, data, threads, path)


def _compiled(
    header: dict[str, Any], data: NDArray[np.uint8], threads: int | None, path: Path
) -> CompiledProgram:
    parts = header["program"]
    program = Program(
        ops=codec.decode(parts["ops"]),
        values={number: codec.decode(value) for number, value in parts["values"]},
        constants=Constants({number: _tensor(spec, data) for number, spec in parts["constants"]}),
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

        for encoded, spec in header["kernels"]:
            key = codec.decode(encoded)
            kernels.stored[key] = partial(restored, key, spec)
        kernels.objects.update(
            {entry: _part(place, data).tobytes() for entry, place in header["objects"].items()}
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


class _Sections:
    """Arrays for a file, and where each will lie after the header."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[Any]] = []
        self._end = 0

    def add(self, array: NDArray[Any]) -> list[int]:
        array = np.ascontiguousarray(array)
        start = self._end
        self.arrays.append(array)
        self._end += -(-array.nbytes // ALIGN) * ALIGN
        return [start, array.nbytes]

    def tensor(self, tensor: Tensor, *, signed: bool) -> dict[str, Any]:
        """Add a tensor; ``signed`` keeps the sign of zeros, which pruning leaves in weights."""
        tensor = tensor.detach().contiguous()
        found: dict[str, Any] = {"dtype": str(tensor.dtype).removeprefix("torch.")}
        found["shape"] = list(tensor.shape)
        small = None if signed else compact_tensor(tensor)
        if small is not None:
            return found | {"bits": self.add(small.bits), "kept": self.add(small.kept)}
        return found | {"all": self.add(tensor.reshape(-1).view(torch.uint8).numpy())}

    def kernel(self, kernel: Kernel) -> dict[str, Any]:
        """Add the packed weight of a kernel; the rest is made again from its problem."""
        if kernel.packing is None:
            return {"packing": None}
        parts = kernel.constants[1:3]  # masks and values
        if not isinstance(kernel.packing, BitMaskPacking):
            records: Any = kernel.constants[0]
            parts = (records["count"].copy(), *kernel.constants[1:4])
        return {"packing": codec.encode(kernel.packing), "parts": [self.add(p) for p in parts]}


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
        given = packed_parts(packing, [_part(place, data) for place in spec["parts"]])
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


def _tensor(spec: Mapping[str, Any], data: NDArray[np.uint8]) -> Tensor | CompactTensor:
    dtype = getattr(torch, spec["dtype"])
    if "bits" in spec:
        small = dtype == torch.int8
        kept = _part(spec["kept"], data).view(np.int8 if small else np.float32)
        bits = _part(spec["bits"], data)
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
    raw = torch.from_numpy(_part(spec["all"], data).copy())
    return raw.view(dtype).reshape(spec["shape"])


def _part(place: list[int], data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    (length,) = data[_START - 8 : _START].view("<u8")
    if len(place) != 2 or any(type(each) is not int for each in place):
        raise ValueError("a section has no place")
    begin = -(-(_START + int(length)) // ALIGN) * ALIGN + place[0]
    if place[0] < 0 or place[0] % ALIGN or place[1] < 0 or begin + place[1] > len(data):
        raise ValueError("a section lies outside the file")
    return data[begin : begin + place[1]]


def _write(path: Path, header: bytes, sections: _Sections) -> None:
    try:
        _write_whole(path, header, sections)
    except OSError as error:
        raise CheckpointError(
            f"Expected to write {path}, got {error}; free some space, or give a path in a folder "
            f"that exists and can be written. What was there before is untouched."
        ) from error


def _write_whole(path: Path, header: bytes, sections: _Sections) -> None:
    digest = hashlib.sha256()
    with replacing(path) as new, new.open("wb") as file:

        def put(part: bytes) -> None:
            digest.update(part)
            file.write(part)

        file.write(MAGIC + bytes(32))
        put(len(header).to_bytes(8, "little"))
        put(header)
        put(bytes(-(_START + len(header)) % ALIGN))
        for array in sections.arrays:
            put(array.tobytes())
            put(bytes(-array.nbytes % ALIGN))
        file.seek(len(MAGIC))
        file.write(digest.digest())


def _mapped(path: Path) -> NDArray[np.uint8]:
    try:
        with path.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            file.seek(len(MAGIC) + 32)
            # Read and not through the mapping, of which only what is used may be in memory.
            digest = hashlib.file_digest(file, "sha256").digest()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Expected a compiled model at {path}, got {error}; give a file that "
            f"`boxwood compile` wrote."
        ) from error
    data = np.frombuffer(memory, np.uint8)
    if len(data) < _START or data[: len(MAGIC)].tobytes() != MAGIC:
        raise CheckpointError(
            f"Expected a compiled model in {path}, got another kind of file or another version of "
            f"the format; give a file that `boxwood compile` wrote."
        )
    if data[len(MAGIC) : len(MAGIC) + 32].tobytes() != digest:
        raise CheckpointError(
            f"Expected {path} as it was written, got one that is cut short or changed (its "
            f"checksum differs); copy it again, or compile the model again."
        )
    return data
