"""What the text of every kernel begins with: its arguments, and a thread's share of the units."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from boxwood._internal.engine.llvm.build import Builder
from boxwood._internal.engine.targets import Target
from boxwood._internal.engine.weight_streams import FIELDS

Values = dict[str, str]
"""Name of an argument to its value in the text."""


def begin(
    entry: str, numbers: Sequence[str], addresses: Sequence[str] = ()
) -> tuple[Builder, Values]:
    """Begin a kernel and load its arguments.

    Args:
        entry: the kernel's symbol.
        numbers: names of its own integers, in order.
        addresses: names of its own pointers, which follow.

    Returns:
        The builder, and the arguments by name: ``source``, ``target``, ``second``, ``scratch``,
        ``images`` and the kernel's own.
    """
    f = Builder(entry, (("ptr", "%arguments"), ("i64", "%thread"), ("i64", "%threads")))
    names = ("source", "target", "second", "scratch", "images", *numbers, *addresses)
    integers = {"images", *numbers}
    return f, {
        name: f.load("i64" if name in integers else "ptr", f.offset("%arguments", 8 * place))
        for place, name in enumerate(names)
    }


@contextmanager
def units(f: Builder, count: str) -> Iterator[str]:
    """Run the block for the thread's share of ``count`` units, contiguous and as equal as can be."""
    start = f.div(f.mul(count, "%thread"), "%threads")
    stop = f.div(f.mul(count, f.add("%thread", 1)), "%threads")
    with f.loop(start, stop) as unit:
        yield unit


def plane(f: Builder, a: Values, unit: str) -> tuple[str, str, str]:
    """Where a unit of one plane reads, where it writes, and its channel.

    Args:
        f: the kernel.
        a: its arguments; ``channels``, ``source_image``, ``source_plane``, ``source_origin``,
            ``target_image`` and ``target_plane`` are used.
        unit: number of the plane over all images.

    Returns:
        The first value of the input's plane, the start of the output's plane, the channel.
    """
    image, channel = f.div(unit, a["channels"]), f.rem(unit, a["channels"])
    source = f.add(f.mul(image, a["source_image"]), f.mul(channel, a["source_plane"]))
    target = f.add(f.mul(image, a["target_image"]), f.mul(channel, a["target_plane"]))
    first = f.offset(a["source"], f.add(source, a["source_origin"]))
    return first, f.offset(a["target"], target), channel


def record(f: Builder, place: str) -> Values:
    """Load the fields of a weight stream's record."""
    return {name: f.load("i64", f.offset(place, 8 * number)) for number, name in enumerate(FIELDS)}


def zero(f: Builder, target: Target, base: str, start: str, stop: str) -> None:
    """Write zeros from byte ``start`` to byte ``stop``, both on vectors."""
    size = 4 * target.lanes
    with f.loop(start, stop, size) as place:
        f.store(target.vector, "zeroinitializer", f.offset(base, place), size)


def copy(f: Builder, target: Target, source: str, to: str, count: str) -> None:
    """Copy exactly ``count`` floats: vectors, then quarters of four, then single ones."""
    done = f.variable("i64", 0)
    for lanes in (target.lanes, *((4,) if target.lanes > 4 else ()), 1):
        kind = "float" if lanes == 1 else f"<{lanes} x float>"
        start = f.load("i64", done)
        rest = f.sub(count, start)
        stop = f.add(start, f.sub(rest, f.rem(rest, lanes)))
        with f.loop(start, stop, lanes) as at:
            f.store(
                kind, f.load(kind, f.offset(source, at, "float"), 4), f.offset(to, at, "float"), 4
            )
        f.store("i64", stop, done)


def mask(f: Builder, target: Target, place: str) -> str:
    """The bits of one vector of positions, as `layouts.position_mask` stores them."""
    lanes = target.lanes
    stored = max(lanes, 8)
    bits = f.load(f"i{stored}", place)
    if stored > lanes:
        bits = f.value(f"trunc i{stored} {bits} to i{lanes}")
    return f.value(f"bitcast i{lanes} {bits} to <{lanes} x i1>")


def strided(f: Builder, target: Target, step: int, place: str) -> str:
    """A vector of values ``step`` apart."""
    kind, lanes = target.vector, target.lanes
    parts = [f.load(kind, f.offset(place, 4 * lanes * part), 4) for part in range(step)]
    if step == 1:
        return parts[0]
    if step == 2:
        picked = ", ".join(f"i32 {2 * lane}" for lane in range(lanes))
        return f.value(
            f"shufflevector {kind} {parts[0]}, {kind} {parts[1]}, <{lanes} x i32> <{picked}>"
        )
    result = "poison"
    for lane in range(lanes):
        single = f.load("float", f.offset(place, 4 * lane * step))
        result = f.value(f"insertelement {kind} {result}, float {single}, i32 {lane}")
    return result


def call(
    f: Builder, name: str, parameters: Sequence[tuple[str, str]], values: Sequence[str]
) -> None:
    """Call a function of the same module by its list of parameters."""
    kinds = (kind for kind, _ in parameters)
    f.call(name, list(zip(kinds, values, strict=True)))
