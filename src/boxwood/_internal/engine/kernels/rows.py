"""The kernel of sparse matrix times many positions, as LLVM text.

What it computes, for every image, chunk of rows and tile of positions::

    for block in column blocks:                       # the block's input fits the first cache
        gather the block's input into scratch         # unless it lies there aligned already
        for row in the chunk's rows, longest first:
            sums = bias + residual in the first block, else what the output holds
            for column, value in the row's non-zeros:
                sums += value · input[column]         # a few vector registers of positions
            apply the activation, zero the gutters    # in the last block
            output[row] = sums

Sums are added in ascending order of columns whatever the tiles and blocks, so that results do
not depend on them, nor on threads.
"""

from dataclasses import dataclass

from boxwood._internal.engine.kernels import activations, frame
from boxwood._internal.engine.kernels.contract import Activation
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood._internal.engine.targets import Target
from boxwood._internal.engine.weight_streams import AHEAD, RECORD


@dataclass(frozen=True)
class Pitch:
    """Column k of a block lies ``k · pitch`` bytes after the block's first; starts aligned."""


@dataclass(frozen=True)
class Table:
    """Column k of a block lies ``table[k]`` bytes after the block's first, anywhere."""


@dataclass(frozen=True)
class Gathered:
    """Columns are copied to scratch: whole tiles (step 0), or runs of values ``step`` apart."""

    step: int


Source = Pitch | Table | Gathered
"""How a kernel finds the input of a column."""

NUMBERS = (
    "tiles",  # tiles of positions per plane
    "wide",  # the number of tiles that have all vectors; later ones have one fewer
    "chunks",  # chunks of rows, over all groups
    "blocks",  # column blocks
    "source_image",  # bytes from image to image
    "source_origin",  # bytes from a plane's start to its first value
    "target_image",
    "target_plane",  # bytes from plane to plane
    "target_origin",
    "target_end",  # bytes from a plane's start to the end of its last whole line of values
    "last_row",  # index of a group's last row
    "group_chunks",  # chunks per group
    "chunk_rows",  # rows of a chunk that is full
    "scratch_bytes",  # per thread
    "pitch",  # bytes from column to column of a block
)
"""The kernel's own numbers, in the order of its arguments."""

ADDRESSES = (
    "records",
    "headers",
    "indices",
    "values",
    "bias",
    "mask",  # bits: which positions hold values
    "offsets",  # bytes from a plane's first value to that of each column
    "runs",  # what gathering copies, (source, scratch, count) each
    "run_starts",  # first run of each tile
)
"""The kernel's own addresses, after the numbers."""


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
    """

    vectors: int
    height: int
    source: Source
    activation: Activation
    residual: bool
    masked: bool

    def entry(self, target: Target) -> str:
        """The symbol."""
        source = type(self.source).__name__.lower()
        if isinstance(self.source, Gathered):
            source += str(self.source.step)
        flags = f"{'_residual' if self.residual else ''}{'_masked' if self.masked else ''}"
        return (
            f"rows_{target.lanes}x{self.vectors}x{self.height}_{source}"
            f"_{self.activation.name.lower()}{flags}"
        )


def emit(shape: Specialisation, target: Target) -> str:
    """The text of the kernel and of the functions that it calls."""
    entry = shape.entry(target)
    widths = [shape.vectors, *([shape.vectors - 1] if shape.vectors > 1 else [])]
    functions = [_rows(f"{entry}.rows{width}", width, shape, target) for width in widths]
    if isinstance(shape.source, Gathered):
        functions += [
            gather(f"{entry}.gather{width}", width, shape.vectors, shape.source, target)
            for width in widths
        ]
    return module([*functions, _driver(entry, widths, shape, target)])


_ROWS = (
    ("ptr", "%x"),
    ("ptr", "%y"),
    ("ptr", "%residual"),
    ("ptr", "%headers"),
    ("i64", "%count"),
    ("ptr", "%indices"),
    ("ptr", "%values"),
    ("ptr", "%bias"),
    ("ptr", "%mask"),
    ("i64", "%plane"),
    ("i64", "%pitch"),
    ("ptr", "%offsets"),
    ("i64", "%last_row"),
    ("i1", "%first"),
    ("i1", "%last"),
)


def _rows(name: str, width: int, shape: Specialisation, target: Target) -> Builder:
    """One tile, one column block, all listed rows of a chunk."""
    f = Builder(name, _ROWS, internal=True)
    kind, size, height = target.vector, 4 * target.lanes, shape.height
    index, value = f.variable("ptr", "%indices"), f.variable("ptr", "%values")
    sums = [[f.variable(kind) for _ in range(width)] for _ in range(height)]
    with f.loop(0, "%count") as h:
        header = f.offset("%headers", f.mul(h, 4))
        count = f.load_unsigned("i16", header)
        block_row = f.load_unsigned("i16", header, 1)
        rows = [
            block_row
            if height == 1
            else f.minimum(f.add(f.mul(block_row, height), lane), "%last_row")
            for lane in range(height)
        ]
        places = [f.mul(row, "%plane") for row in rows]
        # Where a later row's sums lie: sorted rows are far apart, so that nothing else fetches it.
        later = f.load_unsigned("i16", header, 1 + 2 * AHEAD)
        later = f.offset("%y", f.mul(f.mul(later, height), "%plane"))
        for v in range(width):
            f.prefetch(f.offset(later, v * size))
        outputs = [f.offset("%y", place) for place in places]
        with f.when("%first"):
            for lane in range(height):
                scalar = f.load("float", f.offset("%bias", rows[lane], "float"))
                start = f.splat(kind, scalar)
                residual = f.offset("%residual", places[lane])
                for v in range(width):
                    sum_ = start
                    if shape.residual:
                        old = f.load(kind, f.offset(residual, v * size), size)
                        sum_ = f.binary("fadd", kind, start, old)
                    f.store(kind, sum_, sums[lane][v])
        with f.otherwise("%first"):
            for lane in range(height):
                for v in range(width):
                    old = f.load(kind, f.offset(outputs[lane], v * size), size)
                    f.store(kind, old, sums[lane][v])
        step = _Step(f, shape, target, width, sums)
        done = "0"
        if height == 1:
            # One load of four columns: what limits these loops is loads.
            done = f.sub(count, f.rem(count, 4))
            with f.loop(0, done, 4):
                at, weights = f.load("ptr", index), f.load("ptr", value)
                four = f.load("i64", at, 2)
                for place in range(4):
                    column = f.value(f"and i64 {f.value(f'lshr i64 {four}, {16 * place}')}, 65535")
                    step.emit(column, f.offset(weights, 4 * place))
                f.store("ptr", f.offset(at, 8), index)
                f.store("ptr", f.offset(weights, 16), value)
        with f.loop(done, count):
            at, weights = f.load("ptr", index), f.load("ptr", value)
            step.emit(f.load_unsigned("i16", at), weights)
            f.store("ptr", f.offset(at, 2), index)
            f.store("ptr", f.offset(weights, 4 * height), value)
        with f.when("%last"):
            for v in range(width):
                if shape.masked:
                    bits = f.offset("%mask", v * max(target.lanes, 8) // 8)
                    keep = frame.mask(f, target, bits)
                for lane in range(height):
                    y = activations.emit(f, kind, shape.activation, f.load(kind, sums[lane][v]))
                    if shape.masked:
                        y = f.select(keep, kind, y, "zeroinitializer")
                    f.store(kind, y, sums[lane][v])
        for lane in range(height):
            for v in range(width):
                f.store(kind, f.load(kind, sums[lane][v]), f.offset(outputs[lane], v * size), size)
    return f


@dataclass(frozen=True)
class _Step:
    """Adds one column's input, times its weights, to the sums of a row block."""

    f: Builder
    shape: Specialisation
    target: Target
    width: int
    sums: list[list[str]]

    def emit(self, column: str, weights: str) -> None:
        """Add ``weights[lane] · input[column]`` to each row's sums."""
        f, kind, size = self.f, self.target.vector, 4 * self.target.lanes
        scattered = isinstance(self.shape.source, Table)
        place = f.load_signed("i32", "%offsets", column) if scattered else f.mul(column, "%pitch")
        x = f.offset("%x", place)
        align = 4 if scattered else size
        loaded = [f.load(kind, f.offset(x, v * size), align) for v in range(self.width)]
        for lane in range(self.shape.height):
            weight = f.splat(kind, f.load("float", f.offset(weights, 4 * lane)))
            for v in range(self.width):
                sum_ = f.fma(kind, weight, loaded[v], f.load(kind, self.sums[lane][v]))
                f.store(kind, sum_, self.sums[lane][v])


GATHER = (
    ("ptr", "%x"),
    ("ptr", "%scratch"),
    ("ptr", "%offsets"),
    ("i64", "%count"),
    ("ptr", "%runs"),
    ("i64", "%first_run"),
    ("i64", "%last_run"),
)


def gather(name: str, width: int, vectors: int, source: Gathered, target: Target) -> Builder:
    """Copy the tile of each column of a block into scratch, one after the other.

    Args:
        name: of the function, whose parameters are `GATHER`.
        width: registers of positions to copy.
        vectors: registers from column to column in scratch.
        source: how the input lies.
        target: the family.
    """
    f = Builder(name, GATHER, internal=True)
    kind, size = target.vector, 4 * target.lanes
    step = source.step
    with f.loop(0, "%count") as k:
        place = f.offset("%x", f.load_signed("i32", "%offsets", k))
        to = f.offset("%scratch", f.mul(k, vectors * size))
        if step == 0:
            for v in range(width):
                copied = f.load(kind, f.offset(place, v * size), 4)
                f.store(kind, copied, f.offset(to, v * size), size)
        else:
            with f.loop("%first_run", "%last_run") as r:
                run = f.offset("%runs", f.mul(r, 12))
                x = f.offset(place, f.load_signed("i32", run))
                y = f.offset(to, f.load_signed("i32", run, 1))
                _copy_run(f, target, step, x, y, run)
    return f


def _copy_run(f: Builder, target: Target, step: int, x: str, y: str, run: str) -> None:
    """Copy one run; vectors overrun their run, and what comes later lies on top."""
    kind, size, lanes = target.vector, 4 * target.lanes, target.lanes
    if step == 1:
        f.store(kind, f.load(kind, x, 4), y, 4)
    elif step == 2:
        low, high = f.load(kind, x, 4), f.load(kind, f.offset(x, size), 4)
        even = ", ".join(f"i32 {2 * lane}" for lane in range(lanes))
        picked = f.value(f"shufflevector {kind} {low}, {kind} {high}, <{lanes} x i32> <{even}>")
        f.store(kind, picked, y, 4)
    else:
        with f.loop(0, f.load_signed("i32", run, 2)) as i:
            value = f.load("float", f.offset(x, f.mul(i, step), "float"))
            f.store("float", value, f.offset(y, i, "float"))


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
        planes = f.add(f.mul(image, a["target_image"]), f.mul(first_row, a["target_plane"]))
        out = f.add(planes, f.add(a["target_origin"], position))
        mask = f.offset(a["mask"], f.mul(vector, max(target.lanes, 8) // 8))
        runs = [f.load_signed("i32", f.offset(a["run_starts"], tile, "i32"), n) for n in (0, 1)]
        rest_rows = f.sub(a["last_row"], row)
        with f.loop(0, a["blocks"]) as block:
            record = f.offset(records, f.mul(block, RECORD.itemsize))
            r = frame.record(f, record)
            own = f.offset(source, r["source"])
            offsets = f.offset(a["offsets"], r["first"], "i32") if gathered else a["offsets"]
            for width in widths:
                with (f.otherwise if width == shape.vectors else f.when)(narrow):
                    if gathered:
                        values = (own, scratch, offsets, r["width"], a["runs"], *runs)
                        frame.call(f, f"{entry}.gather{width}", GATHER, values)
                    values = (
                        scratch if gathered else own,
                        f.offset(a["target"], out),
                        f.offset(a["second"], out),
                        f.offset(a["headers"], r["headers"]),
                        r["count"],
                        f.offset(a["indices"], r["indices"]),
                        f.offset(a["values"], r["values"]),
                        f.offset(a["bias"], first_row, "float"),
                        mask,
                        a["target_plane"],
                        a["pitch"],
                        offsets,
                        rest_rows,
                        f.compare("eq", block, 0),
                        f.compare("eq", block, last_block),
                    )
                    frame.call(f, f"{entry}.rows{width}", _ROWS, values)
        rows = f.minimum(a["chunk_rows"], f.add(rest_rows, 1))
        base = f.offset(a["target"], planes)
        for edge, start, stop in (
            ("0", "0", a["target_origin"]),
            (f.sub(a["tiles"], 1), a["target_end"], a["target_plane"]),
        ):
            with f.when(f.compare("eq", tile, edge)), f.loop(0, rows) as r_:
                frame.zero(f, target, f.offset(base, f.mul(r_, a["target_plane"])), start, stop)
    return f
