"""Transposes a matrix: tokens as torch holds them into planes of features, and back."""

from boxwood._internal.engine.kernels import frame
from boxwood._internal.engine.kernels.contract import Code, Kernel
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood._internal.engine.targets import Target

NUMBERS = ("rows", "columns", "source_row", "target_row")
"""Sizes of the source, and bytes from row to row."""


def build(rows: int, columns: int, source_row: int, target_row: int, target: Target) -> Kernel:
    """Make the kernel; it writes nothing between the target's rows.

    Args:
        rows: of the source.
        columns: of the source.
        source_row: floats from a row of the source to the next.
        target_row: floats from a row of the target to the next.
        target: the family that runs it.
    """
    entry = f"transpose_{target.lanes}"
    return Kernel(
        Code(entry, lambda: emit(entry, target)),
        (rows, columns, 4 * source_row, 4 * target_row),
        units=-(-columns // target.lanes),
    )


def emit(entry: str, target: Target) -> str:
    """The text of the kernel: a range of squares of columns for each thread."""
    f, a = frame.begin(entry, NUMBERS)
    lanes = target.lanes
    squares = f.div(f.add(a["columns"], lanes - 1), lanes)
    with frame.units(f, squares) as unit:
        column = f.mul(unit, lanes)
        wide = f.minimum(f.sub(a["columns"], column), lanes)
        with f.loop(0, a["rows"], lanes) as row:
            tall = f.minimum(f.sub(a["rows"], row), lanes)
            x = f.offset(f.offset(a["source"], f.mul(row, a["source_row"])), column, "float")
            y = f.offset(f.offset(a["target"], f.mul(column, a["target_row"])), row, "float")
            whole = f.compare("eq", f.add(tall, wide), 2 * lanes)
            with f.when(whole):
                _square(f, target, x, y, a["source_row"], a["target_row"])
            with f.otherwise(whole), f.loop(0, tall) as i, f.loop(0, wide) as j:
                value = f.load(
                    "float", f.offset(f.offset(x, f.mul(i, a["source_row"])), j, "float")
                )
                f.store(
                    "float", value, f.offset(f.offset(y, f.mul(j, a["target_row"])), i, "float")
                )
    return module([f])


def _square(f: Builder, target: Target, x: str, y: str, source_row: str, target_row: str) -> None:
    """Transpose as many rows as a vector has lanes, by exchanging ever larger blocks of pairs."""
    kind, lanes = target.vector, target.lanes
    rows = [f.load(kind, f.offset(x, f.mul(source_row, row)), 4) for row in range(lanes)]
    step = 1
    while step < lanes:
        # Lane l of the one takes the other's lane l − step where l has this bit, and so on.
        first = [lane if not lane & step else lanes + lane - step for lane in range(lanes)]
        second = [lane + step if not lane & step else lanes + lane for lane in range(lanes)]
        for row in range(lanes):
            if not row & step:
                pair = rows[row], rows[row + step]
                rows[row], rows[row + step] = (
                    _picked(f, kind, pair, lanes_) for lanes_ in (first, second)
                )
        step *= 2
    for row, value in enumerate(rows):
        f.store(kind, value, f.offset(y, f.mul(target_row, row)), 4)


def _picked(f: Builder, kind: str, pair: tuple[str, str], lanes: list[int]) -> str:
    listed = ", ".join(f"i32 {lane}" for lane in lanes)
    return f.value(
        f"shufflevector {kind} {pair[0]}, {kind} {pair[1]}, <{len(lanes)} x i32> <{listed}>"
    )
