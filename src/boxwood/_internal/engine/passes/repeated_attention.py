"""What is around an attention, written so that equal layers are equal: they are recognised once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.ops import NativeOp, Normalise
from boxwood._internal.engine.passes.attention_matches import AttentionMatch
from boxwood._internal.engine.passes.entry_terms import is_followed
from boxwood._internal.engine.program import Op, Program, TorchOp, substituted


def surroundings(
    program: Program,
    makers: Mapping[int, Op],
    readers: Mapping[int, Sequence[int]],
    constants: Collection[int],
    op: TorchOp,
) -> tuple[str, tuple[int, ...]]:
    """Return all that decides whether an attention is recognised, and the values in it.

    Values have numbers in the order in which they are met, so that the texts of two layers are equal
    if one becomes the other by giving their values other numbers. Constants keep theirs.

    Args:
        program: with the operator.
        makers: the operation that writes each value.
        readers: positions of the operations that read each value.
        constants: values that follow from sizes alone.
        op: scaled dot-product attention.
    """
    places: dict[int, int] = {}
    said: list[Any] = []

    def place(number: int) -> int:
        return -1 - number if number in constants else places.setdefault(number, len(places))

    def say(maker: TorchOp) -> None:
        same = {number: place(number) for number in maker.reads}
        arguments = substituted((maker.args, maker.kwargs), same)
        said.append((maker.target, arguments, tuple(map(place, maker.writes))))

    left, seen = [part.value for part in op.args[:3]], set(constants)
    said.append([place(number) for number in left])
    while left:
        number = left.pop()
        if number in seen:
            continue
        seen.add(number)
        maker = makers.get(number)
        said.append((place(number), program.values[number]))
        if isinstance(maker, TorchOp) and is_followed(maker):
            say(maker)
            left += maker.reads
        elif isinstance(maker, NativeOp):
            said.append((maker.kind, [place(source) for source in maker.sources]))
            if is_followed(maker) or isinstance(maker.kind, Normalise):
                left += maker.sources
        else:
            said.append(type(maker).__name__)
    number = op.writes[0]
    while len(readers[number]) == 1 and readers[number][0] < len(program.ops):
        reader = program.ops[readers[number][0]]
        if not isinstance(reader, TorchOp) or not aten_ops.is_view(reader.target):
            break
        say(reader)
        number = reader.writes[0]
        said.append(program.values[number])
    return repr(said), tuple(places)


def moved(
    match: AttentionMatch, there: Sequence[int], here: Sequence[int], makers: Mapping[int, Op]
) -> AttentionMatch:
    """Return what was recognised in one layer for a layer with equal surroundings.

    Args:
        match: of that layer.
        there: values around that layer's attention.
        here: values around this layer's, in the same order.
        makers: the operation that writes each value.
    """
    same = dict(zip(there, here, strict=True))
    norms = [makers[same[norm.out]] for norm in match.norms]
    return replace(
        match,
        sources=tuple(same[source] for source in match.sources),
        out=same[match.out],
        norms=tuple(norm for norm in norms if isinstance(norm, NativeOp)),
    )
