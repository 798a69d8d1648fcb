"""The kernel of sparse int8 matrix times bytes at many positions, as LLVM text.

As `rows`, with bytes in quads for input and 32-bit sums::

    for block in column blocks:
        gather the block's input into scratch
        for row in the chunk's rows, longest first:
            sums = 0 in the first block, else what scratch holds
            for column, four weights in the row's non-zero quads:
                sums += the four products at each position
            in the last block:
                y = sums · scale[row] + offset[row] (+ residual)
                bytes: clamp and round y, and set the row's byte of the output's words
                floats: apply the activation, store y

Integer sums are exact, so that tiles, blocks and threads cannot change them; what follows is
float32 arithmetic in a fixed order, without fused multiply-adds, as in the reference.
"""

from dataclasses import dataclass

from boxwood._internal.engine.kernels import activations, byte_activations, frame, quads, rows
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.kernels.int8_columns import BITS, BYTES, REACH, TOGETHER
from boxwood._internal.engine.kernels.quads import DotProducts
from boxwood._internal.engine.kernels.rows import Gathered, Source, Table
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood._internal.engine.targets import Dots, Target
from boxwood._internal.engine.weight_streams import AHEAD, RECORD

NUMBERS = (*rows.NUMBERS, "sums")  # bytes in scratch from its start to the 32-bit sums
ADDRESSES = (
    "records",
    "headers",
    "indices",
    "values",
    "scales",  # [rows]
    "offsets",  # [rows]
    "settings",  # floats, see SETTINGS
    "starts",  # int32 [rows], what sums start from where both factors have signs
    "mask",
    "places",  # bytes from a plane's first word to that of each column
    "runs",
    "run_starts",
)
SETTINGS = (
    "residual",  # factor of a residual's bytes
    "low",  # least byte
    "high",  # greatest byte
    "inverse",  # bytes of a step of 1, where the activation comes before
    "zero",  # the byte of 0
)
INLINE = frozenset({Activation.NONE, Activation.RELU, Activation.RELU6})
"""Activations that limits of a byte are."""


@dataclass(frozen=True)
class Specialisation:
    """Everything that the kernel's text depends on, other than the target.

    Args:
        vectors: registers of positions per tile.
        height: rows per row block.
        source: how a column's input is found.
        activation: applied last.
        residual: whether a second input is added.
        masked: whether some positions of a tile are gutters.
        bytes: whether the result is bytes, else floats; so is the residual.
        wide: whether products of neighbours may exceed 16 bits.
    """

    vectors: int
    height: int
    source: Source
    activation: Activation
    residual: bool
    masked: bool
    bytes: bool
    wide: bool

    def entry(self, target: Target) -> str:
        """The symbol."""
        source = type(self.source).__name__.lower()
        if isinstance(self.source, Gathered):
            source += str(self.source.step)
        inline = self.bytes and self.activation in INLINE
        flags = ("residual", "masked", "bytes", "wide")
        named = [
            f"int8_{target.dots.name.lower()}",
            f"{target.lanes}x{self.vectors}x{self.height}",
            source,
            "limits" if inline else self.activation.name.lower(),
            *(flag for flag in flags if getattr(self, flag)),
        ]
        return "_".join(named)


def emit(shape: Specialisation, target: Target) -> str:
    """The text of the kernel and of the functions that it calls."""
    entry = shape.entry(target)
    widths = [shape.vectors, *([shape.vectors - 1] if shape.vectors > 1 else [])]
    functions = [_rows(f"{entry}.rows{width}", width, shape, target) for width in widths]
    if isinstance(shape.source, Gathered):
        functions += [
            rows.gather(f"{entry}.gather{width}", width, shape.vectors, shape.source, target)
            for width in widths
        ]
    return module([*functions, _driver(entry, widths, shape, target)])


_ROWS = (
    ("ptr", "%x"),
    ("ptr", "%y"),
    ("ptr", "%residual"),
    ("ptr", "%sums"),
    ("ptr", "%headers"),
    ("i64", "%count"),
    ("ptr", "%indices"),
    ("ptr", "%values"),
    ("ptr", "%scales"),
    ("ptr", "%offsets"),
    ("ptr", "%settings"),
    ("ptr", "%starts"),
    ("ptr", "%mask"),
    ("i64", "%plane"),
    ("i64", "%pitch"),
    ("ptr", "%places"),
    ("i64", "%last_row"),
    ("i1", "%first"),
    ("i1", "%last"),
)


def _rows(name: str, width: int, shape: Specialisation, target: Target) -> Builder:
    """One tile, one column block, all listed rows of a chunk."""
    f = Builder(name, _ROWS, internal=True)
    kind, size, height = target.words, 4 * target.lanes, shape.height
    index, value = f.variable("ptr", "%indices"), f.variable("ptr", "%values")
    column = f.variable("i64")
    sums = [[f.variable(kind) for _ in range(width)] for _ in range(height)]
    with f.loop(0, "%count") as h:
        header = f.offset("%headers", f.mul(h, 4))
        count = f.load_unsigned("i16", header)
        block_row = f.load_unsigned("i16", header, 1)
        listed = [
            block_row
            if height == 1
            else f.minimum(f.add(f.mul(block_row, height), lane), "%last_row")
            for lane in range(height)
        ]
        later = f.mul(f.load_unsigned("i16", header, 1 + 2 * AHEAD), height)
        later = f.mul(f.div(later, quads.QUAD) if shape.bytes else later, "%plane")
        for v in range(width):
            f.prefetch(f.offset(f.offset("%y", later), v * size))
        partial = [f.offset("%sums", f.mul(row, shape.vectors * size)) for row in listed]
        with f.when("%first"):
            for lane in range(height):
                start = "zeroinitializer"
                if target.dots is Dots.SIGNED:
                    start = f.load("i32", f.offset("%starts", listed[lane], "i32"))
                    start = quads.splat(f, kind, start)
                for v in range(width):
                    f.store(kind, start, sums[lane][v])
        with f.otherwise("%first"):
            for lane in range(height):
                for v in range(width):
                    old = f.load(kind, f.offset(partial[lane], v * size), size)
                    f.store(kind, old, sums[lane][v])
        step = _Step(f, shape, target, sums)
        done = "0"
        if height == 1:
            done = f.sub(count, f.rem(count, TOGETHER))
            f.store("i64", "0", column)
            with f.loop(0, done, TOGETHER):
                at, weights = f.load("ptr", index), f.load("ptr", value)
                four = f.value(f"zext i32 {f.load('i32', at, 1)} to i64")
                for place in range(TOGETHER):
                    distance = f.value(
                        f"and i64 {f.value(f'lshr i64 {four}, {BITS * place}')}, {REACH}"
                    )
                    f.store("i64", f.add(f.load("i64", column), distance), column)
                    step.emit(f.load("i64", column), f.offset(weights, 4 * place))
                f.store("ptr", f.offset(at, BYTES), index)
                f.store("ptr", f.offset(weights, 4 * TOGETHER), value)
        with f.loop(done, count):
            at, weights = f.load("ptr", index), f.load("ptr", value)
            there = f.load_unsigned("i8", at)
            if height == 1:
                there = f.add(f.load("i64", column), there)
                f.store("i64", there, column)
            step.emit(there, weights)
            f.store("ptr", f.offset(at, 1), index)
            f.store("ptr", f.offset(weights, 4 * height), value)
        with f.when("%last"):
            finish = _Finish(f, shape, target)
            # All residuals are read before anything is written: a row may be listed twice.
            scaled = [
                finish.scaled(row, [f.load(kind, sum_) for sum_ in own])
                for row, own in zip(listed, sums, strict=True)
            ]
            for row, ys in zip(listed, scaled, strict=True):
                finish.store(row, ys)
        with f.otherwise("%last"):
            for lane in range(height):
                for v in range(width):
                    sum_ = f.load(kind, sums[lane][v])
                    f.store(kind, sum_, f.offset(partial[lane], v * size), size)
    return f


@dataclass(frozen=True)
class _Step:
    """Adds one column's input, times its weights, to the sums of a row block."""

    f: Builder
    shape: Specialisation
    target: Target
    sums: list[list[str]]

    def emit(self, column: str, weights: str) -> None:
        f, kind, size = self.f, self.target.words, 4 * self.target.lanes
        dots = DotProducts(f, self.target, self.shape.wide)
        scattered = isinstance(self.shape.source, Table)
        place = f.load_signed("i32", "%places", column) if scattered else f.mul(column, "%pitch")
        x = f.offset("%x", place)
        align = 4 if scattered else size
        loaded = [f.load(kind, f.offset(x, v * size), align) for v in range(len(self.sums[0]))]
        for lane, row in enumerate(self.sums):
            word = f.load("i32", f.offset(weights, 4 * lane), 4)
            factor = dots.factor(quads.splat(f, kind, word))
            for x_, sum_ in zip(loaded, row, strict=True):
                f.store(kind, dots.add(f.load(kind, sum_), x_, factor), sum_)


@dataclass(frozen=True)
class _Finish:
    """Turns the sums of a row into what the output holds."""

    f: Builder
    shape: Specialisation
    target: Target

    def scaled(self, row: str, sums: list[str]) -> list[str]:
        """Return ``sums · scale + offset + residual`` of a row."""
        f, floats = self.f, self.target.vector
        scale = f.splat(floats, f.load("float", f.offset("%scales", row, "float")))
        offset = f.splat(floats, f.load("float", f.offset("%offsets", row, "float")))
        found = []
        for v, sum_ in enumerate(sums):
            y = f.value(f"sitofp {self.target.words} {sum_} to {floats}")
            y = f.binary("fadd", floats, f.binary("fmul", floats, y, scale), offset)
            if self.shape.residual:
                y = f.binary("fadd", floats, y, self._residual(row, v))
            found.append(y)
        return found

    def store(self, row: str, ys: list[str]) -> None:
        """Write a row."""
        f, floats, size = self.f, self.target.vector, 4 * self.target.lanes
        for v, y in enumerate(ys):
            keep = ""
            if self.shape.masked:
                bits = f.offset("%mask", v * max(self.target.lanes, 8) // 8)
                keep = frame.mask(f, self.target, bits)
            to = f.offset("%y", self._place(row, v))
            if self.shape.bytes:
                self._set_bytes(y, to, self._shift(row), keep)
                continue
            y = activations.emit(f, floats, self.shape.activation, y)
            if keep:
                y = f.select(keep, floats, y, "zeroinitializer")
            f.store(floats, y, to, size)

    def _place(self, row: str, v: int) -> str:
        plane = self.f.div(row, quads.QUAD) if self.shape.bytes else row
        return self.f.add(self.f.mul(plane, "%plane"), 4 * v * self.target.lanes)

    def _setting(self, name: str) -> str:
        number = self.f.load("float", self.f.offset("%settings", SETTINGS.index(name), "float"))
        return self.f.splat(self.target.vector, number)

    def _shift(self, row: str) -> str:
        bits = self.f.mul(self.f.rem(row, quads.QUAD), 8)
        narrow = self.f.value(f"trunc i64 {bits} to i32")
        return quads.splat(self.f, self.target.words, narrow)

    def _residual(self, row: str, v: int) -> str:
        f, floats, size = self.f, self.target.vector, 4 * self.target.lanes
        where = f.offset("%residual", self._place(row, v))
        if not self.shape.bytes:
            return f.load(floats, where, size)
        word = f.load(self.target.words, where, size)
        byte = quads.byte_of(f, self.target, word, self._shift(row))
        return f.binary("fmul", floats, byte, self._setting("residual"))

    def _set_bytes(self, y: str, to: str, shift: str, keep: str) -> None:
        f, kind, floats = self.f, self.target.words, self.target.vector
        if self.shape.activation not in INLINE:
            y = byte_activations.emit(f, floats, self.shape.activation, y)
            y = f.binary("fmul", floats, y, self._setting("inverse"))
            y = f.binary("fadd", floats, y, self._setting("zero"))
        byte = quads.rounded(f, self.target, y, self._setting("low"), self._setting("high"))
        if keep:
            zero = f.value(f"fptosi {floats} {self._setting('zero')} to {kind}")
            byte = f.select(keep, kind, byte, zero)
        own = f.binary("shl", kind, quads.words(kind, 255), shift)
        rest = f.binary("xor", kind, own, quads.words(kind, -1))
        others = f.binary("and", kind, f.load(kind, to, 4 * self.target.lanes), rest)
        word = f.binary("or", kind, others, f.binary("shl", kind, byte, shift))
        f.store(kind, word, to, 4 * self.target.lanes)


def _driver(entry: str, widths: list[int], shape: Specialisation, target: Target) -> Builder:
    """The function that threads call: units of (image, chunk, tile), a range for each thread."""
    f, a = frame.begin(entry, NUMBERS, ADDRESSES)
    size = 4 * target.lanes
    gathered = isinstance(shape.source, Gathered)
    by_runs = isinstance(shape.source, Gathered) and shape.source.step > 0
    scratch = f.offset(a["scratch"], f.mul("%thread", a["scratch_bytes"]))
    last_block = f.sub(a["blocks"], 1)
    with frame.units(f, f.mul(f.mul(a["images"], a["chunks"]), a["tiles"])) as unit:
        tile, rest = f.rem(unit, a["tiles"]), f.div(unit, a["tiles"])
        chunk, image = f.rem(rest, a["chunks"]), f.div(rest, a["chunks"])
        # Tiles after the wide ones are one vector narrower each.
        later = f.sub(tile, f.minimum(tile, a["wide"]))
        vector = f.sub(f.mul(tile, shape.vectors), later)
        narrow = f.compare("sge", tile, a["wide"])
        position = f.mul(vector, size)
        source = f.offset(a["source"], f.add(f.mul(image, a["source_image"]), a["source_origin"]))
        if not by_runs:
            source = f.offset(source, position)
        records = f.offset(a["records"], f.mul(f.mul(chunk, a["blocks"]), RECORD.itemsize))
        row = frame.record(f, records)["row"]
        group_row = f.mul(f.div(chunk, a["group_chunks"]), f.add(a["last_row"], 1))
        first_row = f.add(row, group_row)
        first_plane = f.div(first_row, quads.QUAD) if shape.bytes else first_row
        planes = f.add(f.mul(image, a["target_image"]), f.mul(first_plane, a["target_plane"]))
        out = f.add(planes, f.add(a["target_origin"], position))
        mask = f.offset(a["mask"], f.mul(vector, max(target.lanes, 8) // 8))
        runs = [f.load_signed("i32", f.offset(a["run_starts"], tile, "i32"), n) for n in (0, 1)]
        rest_rows = f.sub(a["last_row"], row)
        with f.loop(0, a["blocks"]) as block:
            record = f.offset(records, f.mul(block, RECORD.itemsize))
            r = frame.record(f, record)
            own = f.offset(source, r["source"])
            places = f.offset(a["places"], r["first"], "i32") if gathered else a["places"]
            for width in widths:
                with (f.otherwise if width == shape.vectors else f.when)(narrow):
                    if gathered:
                        values = (own, scratch, places, r["width"], a["runs"], *runs)
                        frame.call(f, f"{entry}.gather{width}", rows.GATHER, values)
                    values = (
                        scratch if gathered else own,
                        f.offset(a["target"], out),
                        f.offset(a["second"], out),
                        f.offset(scratch, a["sums"]),
                        f.offset(a["headers"], r["headers"]),
                        r["count"],
                        f.offset(a["indices"], r["indices"]),
                        f.offset(a["values"], r["values"]),
                        f.offset(a["scales"], first_row, "float"),
                        f.offset(a["offsets"], first_row, "float"),
                        a["settings"],
                        f.offset(a["starts"], first_row, "i32"),
                        mask,
                        a["target_plane"],
                        a["pitch"],
                        places,
                        rest_rows,
                        f.compare("eq", block, 0),
                        f.compare("eq", block, last_block),
                    )
                    frame.call(f, f"{entry}.rows{width}", _ROWS, values)
        chunk_rows = f.minimum(a["chunk_rows"], f.add(rest_rows, 1))
        count = f.div(f.add(chunk_rows, quads.QUAD - 1), quads.QUAD) if shape.bytes else chunk_rows
        empty = _empty_word(f, a["settings"], target) if shape.bytes else "zeroinitializer"
        base = f.offset(a["target"], planes)
        for edge, start, stop in (
            ("0", "0", a["target_origin"]),
            (f.sub(a["tiles"], 1), a["target_end"], a["target_plane"]),
        ):
            with f.when(f.compare("eq", tile, edge)), f.loop(0, count) as plane:
                at = f.offset(base, f.mul(plane, a["target_plane"]))
                quads.fill(f, target, at, start, stop, empty)
    return f


def _empty_word(f: Builder, settings: str, target: Target) -> str:
    """What gutters hold: four times the byte of 0."""
    zero = f.load("float", f.offset(settings, SETTINGS.index("zero"), "float"))
    byte = f.value(f"fptosi float {zero} to i32")
    return quads.splat(f, target.words, f.value(f"mul i32 {byte}, {0x01010101}"))
