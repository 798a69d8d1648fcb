"""Depthwise convolution on bytes: four taps of one channel are the four bytes of a product.

Words hold four channels at one position, and a channel's filter wants one channel at four taps. The
words of four taps are transposed in registers: unpacking bytes and pairs of bytes makes of four
vectors, one for each tap, four others whose words hold a channel's four taps; the j-th has every
fourth position from the j-th on. Bytes of the result are transposed back in the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from boxwood._internal.engine.kernels import byte_activations, frame, int8_rows, quads
from boxwood._internal.engine.kernels.contract import Activation, Code, Kernel, Pointer
from boxwood._internal.engine.kernels.int8_build import exceeds_pairs
from boxwood._internal.engine.kernels.int8_conv import Int8Depthwise, Weight, epilogue
from boxwood._internal.engine.kernels.quads import QUAD, DotProducts
from boxwood._internal.engine.kernels.tiling import column_offsets
from boxwood._internal.engine.layouts import FLOATS_PER_LINE, Array, lines, position_mask
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood._internal.engine.targets import Dots, Target

NUMBERS = (
    "channels",  # quads of them
    "groups",  # of four taps
    "source_image",
    "source_plane",
    "source_origin",
    "source_step",  # bytes from output row to output row in the input
    "target_image",
    "target_plane",
    "target_origin",
    "target_row",
    "end",  # bytes from the first value to the end of the last whole line
    "height",
    "width",
    "scratch_bytes",
)
ADDRESSES = ("weights", "scales", "offsets", "starts", "settings", "places", "mask")


@dataclass(frozen=True)
class Specialisation:
    """Everything that the kernel's text depends on, other than the target.

    Args:
        step: columns between outputs; 0 where output rows lie as input rows do.
        activation: applied last.
        wide: whether products of neighbours may exceed 16 bits.
    """

    step: int
    activation: Activation
    wide: bool

    def entry(self, target: Target) -> str:
        """The symbol."""
        inline = self.activation in int8_rows.INLINE
        how = "limits" if inline else self.activation.name.lower()
        wide = "_wide" if self.wide else ""
        return f"int8_depthwise_{target.dots.name.lower()}_{target.lanes}_{self.step}_{how}{wide}"


def build(problem: Int8Depthwise, weight: Weight, constants: Array, target: Target) -> Kernel:
    """Make the kernel.

    Args:
        problem: the convolution.
        weight: [channels, 1, rows, columns].
        constants: [2, channels]: what one unit of a sum is worth, and what is added.
        target: the family that runs it.
    """
    shape = problem.shape
    source, out = shape.source, shape.target
    taps = weight.reshape(len(weight), -1)
    missing = (-len(taps) % QUAD, -taps.shape[1] % QUAD)
    taps = np.pad(taps, ((0, missing[0]), (0, missing[1])))
    # [quads, groups of taps, channels of a quad, taps of a group]
    packed = taps.reshape(-1, QUAD, taps.shape[1] // QUAD, QUAD).swapaxes(1, 2)
    places = column_offsets(source, 1, shape.kernel, shape.padding, shape.dilation)
    places = np.pad(places, (0, missing[1]), mode="edge")
    straight = shape.stride == (1, 1) and source.row_stride == out.row_stride
    wide = target.dots is Dots.PAIRS and exceeds_pairs(taps)
    text = Specialisation(0 if straight else shape.stride[1], shape.activation, wide)
    scratch = 0 if straight else 4 * lines(out.width + 2 * FLOATS_PER_LINE)
    numbers = (
        source.channels,
        taps.shape[1] // QUAD,
        *(4 * size for size in (source.image, source.plane, source.origin)),
        4 * shape.stride[0] * source.row_stride,
        *(4 * size for size in (out.image, out.plane, out.origin, out.row_stride)),
        4 * lines(out.span),
        out.height,
        out.width,
        scratch,
    )
    scale, offset, settings = epilogue(problem, constants)
    starts = np.zeros(len(taps), np.int32)
    if target.dots is Dots.SIGNED:  # bytes are less by 128 there
        starts = np.asarray(128 * taps.astype(np.int64).sum(1), np.int32)
    held = (
        np.ascontiguousarray(packed).view(np.int32).ravel(), scale, offset, starts, settings,
        places, position_mask(out, target.lanes),
    )  # fmt: skip
    return Kernel(
        Code(text.entry(target), lambda: emit(text, target)),
        (*numbers, *(Pointer(index) for index in range(len(held)))),
        held,
        scratch=scratch,
        units=source.channels,
        note="depthwise",
    )


def emit(shape: Specialisation, target: Target) -> str:
    """The text of the kernel: a range of planes for each thread."""
    f, a = frame.begin(shape.entry(target), NUMBERS, ADDRESSES)
    with frame.units(f, f.mul(a["images"], a["channels"])) as unit:
        x, plane, channel = frame.plane(f, a, unit)
        sums = _Sums(f, shape, target, a, channel)
        (_rows if shape.step else _positions)(f, target, a, sums, x, plane)
    return module([f])


def _positions(
    f: Builder, target: Target, a: Mapping[str, str], sums: "_Sums", x: str, plane: str
) -> None:
    """All positions of a plane, gutters among them."""
    kind, size = target.words, 4 * target.lanes
    y, empty = f.offset(plane, a["target_origin"]), sums.gutter()
    quads.fill(f, target, plane, "0", a["target_origin"], empty)
    mask_step = size // (max(target.lanes, 8) // 8)
    with f.loop(0, a["end"], size) as at:
        word = sums.words(f.offset(x, at))
        bits = f.offset(a["mask"], f.div(at, mask_step))
        word = f.select(frame.mask(f, target, bits), kind, word, empty)
        f.store(kind, word, f.offset(y, at), size)
    quads.fill(f, target, plane, f.add(a["target_origin"], a["end"]), a["target_plane"], empty)


def _rows(
    f: Builder, target: Target, a: Mapping[str, str], sums: "_Sums", x: str, plane: str
) -> None:
    """Row by row through scratch, because whole vectors overrun a row."""
    quads.fill(f, target, plane, "0", a["target_plane"], sums.gutter())
    y = f.offset(plane, a["target_origin"])
    result = f.offset(a["scratch"], f.mul("%thread", a["scratch_bytes"]))
    with f.loop(0, a["height"]) as row:
        line = f.offset(x, f.mul(row, a["source_step"]))
        with f.loop(0, a["width"], target.lanes) as column:
            start = f.offset(line, f.mul(column, sums.shape.step), "i32")
            f.store(target.words, sums.words(start), f.offset(result, column, "i32"), 4)
        frame.copy(f, target, result, f.offset(y, f.mul(row, a["target_row"])), a["width"])


class _Sums:
    """Emits the words of one vector of positions."""

    def __init__(
        self, f: Builder, shape: Specialisation, target: Target, a: Mapping[str, str], quad: str
    ) -> None:
        self.f, self.shape, self.target, self.a = f, shape, target, a
        first = f.mul(quad, 4 * QUAD)
        self.scale = self._four("float", f.offset(a["scales"], first))
        self.offset = self._four("float", f.offset(a["offsets"], first))
        self.start = self._four("i32", f.offset(a["starts"], first))
        size = f.mul(a["groups"], 4 * QUAD)
        self.weights = f.offset(a["weights"], f.mul(quad, size))
        self.sums = [f.variable(target.words) for _ in range(QUAD)]

    def gutter(self) -> str:
        """What lies around values, in every lane."""
        byte = self.f.value(
            f"fptosi {self.target.vector} {self._setting('zero')} to {self.target.words}"
        )
        return self.f.binary(
            "mul", self.target.words, byte, quads.words(self.target.words, 0x01010101)
        )

    def words(self, x: str) -> str:
        """Return the result at the positions from an address on."""
        f, kind = self.f, self.target.words
        dots = DotProducts(f, self.target, self.shape.wide)
        for sum_ in self.sums:
            f.store(kind, self.start, sum_)
        with f.loop(0, self.a["groups"]) as group:
            tap = f.mul(group, QUAD)
            loaded = []
            for number in range(QUAD):
                place = f.load_signed("i32", f.offset(self.a["places"], tap, "i32"), number)
                loaded.append(self._load(f.offset(x, place)))
            factor = dots.factor(self._four("i32", f.offset(self.weights, f.mul(group, 4 * QUAD))))
            for sum_, taps in zip(self.sums, self._transposed(loaded), strict=True):
                f.store(kind, dots.add(f.load(kind, sum_), taps, factor), sum_)
        word = "zeroinitializer"
        for number, sum_ in enumerate(self.sums):
            byte = self._byte(f.load(kind, sum_))
            moved = f.binary("shl", kind, byte, quads.words(kind, 8 * number))
            word = f.binary("or", kind, word, moved)
        # A word has one channel's bytes at four positions: turn it round within four words.
        order = [16 * (n // 16) + 4 * (n % 4) + n % 16 // 4 for n in range(4 * self.target.lanes)]
        return self._shuffled("i8", word, word, order)

    def _load(self, place: str) -> str:
        kind, floats = self.target.words, self.target.vector
        if self.shape.step <= 1:
            return self.f.load(kind, place, 4)
        loaded = frame.strided(self.f, self.target, self.shape.step, place)
        return self.f.value(f"bitcast {floats} {loaded} to {kind}")

    def _transposed(self, taps: list[str]) -> list[str]:
        """Return, of vectors of one tap's channels, vectors of one channel's taps."""
        pairs = [
            self._unpacked("i8", taps[n], taps[n + 1], half) for half in (0, 1) for n in (0, 2)
        ]
        low, high = pairs[:2], pairs[2:]
        return [
            self._unpacked("i16", one, two, half) for one, two in (low, high) for half in (0, 1)
        ]

    def _unpacked(self, entry: str, one: str, two: str, half: int) -> str:
        """Take entries of both in turn, from one half of each 16 bytes."""
        size = 2 if entry == "i16" else 1
        lane = 16 // size
        total = 4 * self.target.lanes // size
        order = [
            (n // lane) * lane + half * lane // 2 + n % lane // 2 + (n % 2) * total
            for n in range(total)
        ]
        return self._shuffled(entry, one, two, order)

    def _shuffled(self, entry: str, one: str, two: str, order: list[int]) -> str:
        f, kind = self.f, self.target.words
        narrow = f"<{len(order)} x {entry}>"
        parts = [f.value(f"bitcast {kind} {each} to {narrow}") for each in (one, two)]
        picked = ", ".join(f"i32 {each}" for each in order)
        shuffled = f.value(
            f"shufflevector {narrow} {parts[0]}, {narrow} {parts[1]}, <{len(order)} x i32> <{picked}>"
        )
        return f.value(f"bitcast {narrow} {shuffled} to {kind}")

    def _byte(self, sum_: str) -> str:
        f, floats = self.f, self.target.vector
        y = f.value(f"sitofp {self.target.words} {sum_} to {floats}")
        y = f.binary("fadd", floats, f.binary("fmul", floats, y, self.scale), self.offset)
        if self.shape.activation not in int8_rows.INLINE:
            y = byte_activations.emit(f, floats, self.shape.activation, y)
            y = f.binary("fmul", floats, y, self._setting("inverse"))
            y = f.binary("fadd", floats, y, self._setting("zero"))
        return quads.rounded(f, self.target, y, self._setting("low"), self._setting("high"))

    def _setting(self, name: str) -> str:
        place = self.f.offset(self.a["settings"], int8_rows.SETTINGS.index(name), "float")
        return self.f.splat(self.target.vector, self.f.load("float", place))

    def _four(self, entry: str, place: str) -> str:
        """Four neighbours, repeated."""
        lanes = self.target.lanes
        four = self.f.load(f"<4 x {entry}>", place, 4)
        order = ", ".join(f"i32 {lane % 4}" for lane in range(lanes))
        return self.f.value(
            f"shufflevector <4 x {entry}> {four}, <4 x {entry}> poison, <{lanes} x i32> <{order}>"
        )
