"""Floats into bytes in quads, and back: the borders between float32 and int8."""

from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels import frame, quads
from boxwood._internal.engine.kernels.contract import Code, Kernel, Pointer
from boxwood._internal.engine.kernels.quads import QUAD, Quantisation, quad_count
from boxwood._internal.engine.layouts import Planes, lines, position_mask
from boxwood._internal.engine.llvm.build import Builder, constant, module
from boxwood._internal.engine.targets import Target
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class ToBytes:
    """``clamp(round(x / scale + zero), 0, 255)``; NaN becomes 0.

    Args:
        source: planes of floats, or a vector for each image or token.
        target: planes of words.
        to: what the bytes represent.
        tokens: source vectors are tokens, positions of the target's one image.
    """

    source: Planes
    target: Planes
    to: Quantisation
    tokens: bool = False


@dataclass(frozen=True)
class ToFloats:
    """``scale · (q − zero)``.

    Args:
        source: planes of words.
        target: planes of floats.
        of: what the bytes represent.
    """

    source: Planes
    target: Planes
    of: Quantisation


NUMBERS = (
    "quads",
    "last_channel",
    "source_image",
    "source_plane",
    "source_origin",
    "target_image",
    "target_plane",
    "target_origin",
    "end",  # bytes from the first value to the end of the last whole line
    "step",  # bytes from a vector's word to the next vector's
)
ADDRESSES = ("mask", "settings")


def build(problem: ToBytes | ToFloats, target: Target) -> Kernel:
    """Make the kernel.

    Raises:
        InvalidInput: the layouts do not hold the same values in the same rows.
    """
    source, out = problem.source, problem.target
    to_bytes = isinstance(problem, ToBytes)
    floats, words = (source, out) if to_bytes else (out, source)
    if to_bytes and floats.plane == words.plane == 1:
        return _flat(problem, target)
    vectors = floats.plane == 1
    alike = floats.row_stride == words.row_stride and floats.shape[1:] == words.shape[1:]
    if (
        words.channels != quad_count(floats.channels)
        or not (alike or vectors)
        or not out.aligned
        or (vectors and not to_bytes)
    ):
        raise InvalidInput(
            f"Expected floats and quads of the same values and rows, got {source} and {out}; lay "
            f"both out for the same halo."
        )
    numbers = (
        words.channels,
        floats.channels - 1,
        *(4 * size for size in (source.image, source.plane, source.origin)),
        *(4 * size for size in (out.image, out.plane, out.origin, lines(out.span))),
        4 if isinstance(problem, ToBytes) and problem.tokens else 4 * out.image,
    )
    if isinstance(problem, ToBytes):
        kind = "vectors" if vectors else "bytes"
        settings = (1 / problem.to.scale, problem.to.zero)
    else:
        kind, settings = "floats", (problem.of.scale, problem.of.zero)
    entry = f"to_{kind}_{target.lanes}"
    emits = {"bytes": _to_bytes, "vectors": _from_vectors, "floats": _to_floats}
    return Kernel(
        Code(entry, lambda: emits[kind](entry, target)),
        (*numbers, Pointer(0), Pointer(1)),
        (position_mask(out, target.lanes), np.array(settings, np.float32)),
        units=words.channels,
    )


FLAT = ("source_image", "target_image", "zeros")


def _flat(problem: ToBytes | ToFloats, target: Target) -> Kernel:
    """Vectors into vectors of words: bytes lie as floats do."""
    source, out = problem.source, problem.target
    if not isinstance(problem, ToBytes) or quad_count(source.channels) != out.channels:
        raise InvalidInput(f"Expected a vector and its quads, got {source} and {out}; report it.")
    entry = f"to_flat_{target.lanes}"
    settings = np.array((1 / problem.to.scale, problem.to.zero), np.float32)
    numbers = (4 * source.image, 4 * out.image, source.image)
    return Kernel(
        Code(entry, lambda: _flat_text(entry, target)), (*numbers, Pointer(0)), (settings,)
    )


def _flat_text(entry: str, target: Target) -> str:
    f, a = frame.begin(entry, FLAT, ("settings",))
    scale, zero = (_setting(f, target.vector, a["settings"], index) for index in (0, 1))
    narrow = f"<{target.lanes} x i8>"
    with frame.units(f, a["images"]) as image:
        x = f.offset(a["source"], f.mul(image, a["source_image"]))
        y = f.offset(a["target"], f.mul(image, a["target_image"]))
        with f.loop(0, a["zeros"], target.lanes) as at:
            value = f.load(target.vector, f.offset(x, at, "float"), 4)
            byte = _byte(f, target, value, scale, zero)
            bytes_ = f.value(f"trunc {target.words} {byte} to {narrow}")
            f.store(narrow, bytes_, f.offset(y, at), 1)
        with f.loop(a["zeros"], a["target_image"], 4) as at:
            f.store("i32", "0", f.offset(y, at))
    return module([f])


def _setting(f: Builder, kind: str, settings: str, index: int) -> str:
    return f.splat(kind, f.load("float", f.offset(settings, index, "float")))


def _word(f: Builder, kind: str, zero: str) -> str:
    """Four times the byte of 0 in every lane."""
    byte = f.value(f"fptosi {kind} {zero} to {kind.replace('float', 'i32')}")
    integers = kind.replace("float", "i32")
    return f.binary("mul", integers, byte, quads.words(integers, 0x01010101))


def _byte(f: Builder, target: Target, x: str, scale: str, zero: str) -> str:
    y = f.binary("fadd", target.vector, f.binary("fmul", target.vector, x, scale), zero)
    high = constant(target.vector, 255.0)
    return quads.rounded(f, target, y, "zeroinitializer", high)


def _to_bytes(entry: str, target: Target) -> str:
    """Planes of floats: four of them at a time."""
    f, a = frame.begin(entry, NUMBERS, ADDRESSES)
    kind, floats, size = target.words, target.vector, 4 * target.lanes
    scale, zero = (_setting(f, floats, a["settings"], index) for index in (0, 1))
    empty = _word(f, floats, zero)
    with frame.units(f, f.mul(a["images"], a["quads"])) as unit:
        image, quad = f.div(unit, a["quads"]), f.rem(unit, a["quads"])
        plane = f.add(f.mul(image, a["target_image"]), f.mul(quad, a["target_plane"]))
        plane = f.offset(a["target"], plane)
        first = f.add(f.mul(image, a["source_image"]), a["source_origin"])
        sources = []
        for number in range(QUAD):
            channel = f.minimum(f.add(f.mul(quad, QUAD), number), a["last_channel"])
            place = f.add(first, f.mul(channel, a["source_plane"]))
            sources.append(f.offset(a["source"], place))
        y = f.offset(plane, a["target_origin"])
        quads.fill(f, target, plane, "0", a["target_origin"], empty)
        with f.loop(0, a["end"], size) as at:
            word = "zeroinitializer"
            for number, source in enumerate(sources):
                x = f.load(floats, f.offset(source, at), 4)
                byte = _byte(f, target, x, scale, zero)
                moved = f.binary("shl", kind, byte, quads.words(kind, 8 * number))
                word = f.binary("or", kind, word, moved)
            bits = f.offset(a["mask"], f.div(at, size // (max(target.lanes, 8) // 8)))
            word = f.select(frame.mask(f, target, bits), kind, word, empty)
            f.store(kind, word, f.offset(y, at), size)
        end = f.add(a["target_origin"], a["end"])
        quads.fill(f, target, plane, end, a["target_plane"], empty)
    return module([f])


def _from_vectors(entry: str, target: Target) -> str:
    """A vector of floats for each image or token: four neighbours are one word."""
    f, a = frame.begin(entry, NUMBERS, ADDRESSES)
    few = Target(target.triple, target.cpu, target.features, QUAD, target.registers)
    scale, zero = (_setting(f, few.vector, a["settings"], index) for index in (0, 1))
    empty = _word(f, target.vector, _setting(f, target.vector, a["settings"], 1))
    by_image = f.compare("eq", a["step"], a["target_image"])
    images = f.value(f"select i1 {by_image}, i64 {a['images']}, i64 1")
    with frame.units(f, a["quads"]) as quad:
        with f.loop(0, images) as image:
            plane = f.add(f.mul(image, a["target_image"]), f.mul(quad, a["target_plane"]))
            quads.fill(f, target, f.offset(a["target"], plane), "0", a["target_plane"], empty)
        to = f.offset(a["target"], f.add(f.mul(quad, a["target_plane"]), a["target_origin"]))
        with f.loop(0, a["images"]) as number:
            place = f.add(f.mul(number, a["source_image"]), f.mul(quad, 4 * QUAD))
            x = f.load(few.vector, f.offset(a["source"], place), 4)
            bytes_ = f.value(f"trunc {few.words} {_byte(f, few, x, scale, zero)} to <4 x i8>")
            word = f.value(f"bitcast <4 x i8> {bytes_} to i32")
            f.store("i32", word, f.offset(to, f.mul(number, a["step"])))
    return module([f])


def _to_floats(entry: str, target: Target) -> str:
    """Planes of words: each into up to four planes of floats."""
    f, a = frame.begin(entry, NUMBERS, ADDRESSES)
    floats, size = target.vector, 4 * target.lanes
    scale, zero = (_setting(f, floats, a["settings"], index) for index in (0, 1))
    with frame.units(f, f.mul(a["images"], a["quads"])) as unit:
        image, quad = f.div(unit, a["quads"]), f.rem(unit, a["quads"])
        x = f.add(f.mul(image, a["source_image"]), f.mul(quad, a["source_plane"]))
        x = f.offset(a["source"], f.add(x, a["source_origin"]))
        for number in range(QUAD):
            channel = f.minimum(f.add(f.mul(quad, QUAD), number), a["last_channel"])
            # A missing channel is the last one again, whose byte it has to be.
            own = f.sub(channel, f.mul(quad, QUAD))
            shift = f.value(f"trunc i64 {f.mul(own, 8)} to i32")
            shift = quads.splat(f, target.words, shift)
            plane = f.add(f.mul(image, a["target_image"]), f.mul(channel, a["target_plane"]))
            plane = f.offset(a["target"], plane)
            y = f.offset(plane, a["target_origin"])
            frame.zero(f, target, plane, "0", a["target_origin"])
            with f.loop(0, a["end"], size) as at:
                byte = quads.byte_of(f, target, f.load(target.words, f.offset(x, at), 4), shift)
                value = f.binary("fmul", floats, f.binary("fsub", floats, byte, zero), scale)
                bits = f.offset(a["mask"], f.div(at, size // (max(target.lanes, 8) // 8)))
                value = f.select(frame.mask(f, target, bits), floats, value, "zeroinitializer")
                f.store(floats, value, f.offset(y, at), size)
            frame.zero(f, target, plane, f.add(a["target_origin"], a["end"]), a["target_plane"])
    return module([f])
