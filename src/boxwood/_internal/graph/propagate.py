"""Move labels through a trace, and note what the sizes in the code require."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from boxwood._internal.graph.labels import Ids, Labels
from boxwood._internal.graph.layout import (
    Layout,
    dropped,
    freeze_all,
    joined,
    reshaped,
    split_axis,
    unlabel,
)
from boxwood._internal.graph.recording import Call, Ref, Trace, refs
from boxwood._internal.graph.sizes import (
    Expression,
    OfAttribute,
    OfShape,
    Size,
    evaluate,
    expression_of,
    leaves,
)
from boxwood.errors import BoxwoodError, UnsupportedModel


@dataclass(frozen=True)
class Target:
    """What a size that the code computes must be after surgery.

    ``scale`` times the number of kept indices of ``ids`` along ``axis``.
    """

    expression: Expression
    ids: Ids
    axis: int
    scale: int
    source: str


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one call: ``constant`` times the kept indices of each of ``factors``."""

    constant: int
    factors: tuple[Ids, ...]


@dataclass(frozen=True)
class Restated:
    """A statistic that spans removed channels; the law holds with it taken over the kept ones.

    Args:
        number: of the call of Python's torch.
        name: of the operation.
        module: dotted name.
        source: file and line.
        axes: the axes in question with the labels of each.
    """

    number: int
    name: str
    module: str
    source: str
    axes: tuple[tuple[int, Ids], ...]


@dataclass(frozen=True)
class Compared:
    """A comparison of sizes that must come out as it did, or other code would run."""

    expression: Expression
    outcome: bool
    source: str


Rule = Callable[["Flow", Call], "Layout | Sequence[Any] | None"]


@dataclass
class Flow:
    """Labels of every value of a trace, and what rules found out on the way.

    ``directions`` are axes of parameters that a norm is divided out of: they are not set to zero
    in the masked network, where their magnitude is, or 0 / 0 would come of it. ``bounds`` are sizes
    that code cuts an axis at, with the labels of the tensor and the axis. ``read`` are labels, by id, that
    more was done with than to move and to join them. ``started`` are the layouts of parameters and
    buffers before the first call.
    """

    trace: Trace
    labels: Labels = field(default_factory=Labels)
    layouts: dict[int, Layout] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    joint: list[Ids] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    restated: list[Restated] = field(default_factory=list)
    on_use: dict[int, Ids] = field(default_factory=dict)
    directions: set[tuple[str, int]] = field(default_factory=set)
    bounds: list[tuple[Expression, Layout, int]] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    looked_at: set[int] = field(default_factory=set)
    read: dict[int, Ids] = field(default_factory=dict)
    started: dict[int, Layout] = field(default_factory=dict)

    # What rules read and write ------------------------------------------------------------------

    def of(self, given: Any) -> Layout:
        """Return the labels of an argument; a plain number has none."""
        if not isinstance(given, Ref):
            return Layout((), zero=given == 0)
        self.looked_at.add(given.value)
        if given.value in self.on_use:
            self.labels.freeze(self.on_use.pop(given.value))
        found = self.layouts.get(given.value)
        if found is None:
            return Layout(self.trace.shapes[given.value])
        return found

    def shape(self, given: Ref) -> tuple[int, ...]:
        """Return the shape of a value."""
        return self.trace.shapes[given.value]

    def axis(self, layout: Layout, axis: int) -> tuple[Layout, Ids | None]:
        """Take an axis by itself, out of what it shares with others."""
        layout = split_axis(self.labels, layout, axis)
        return layout, layout.ids(axis)

    def kept_joint(self, layout: Layout, axes: Sequence[int]) -> Layout:
        """Take these axes out of what they share with others, so that the others decide."""
        for axis in axes:
            layout = split_axis(self.labels, layout, axis)
        return layout

    def kept_whole(self, layout: Layout, axes: Sequence[int]) -> Layout:
        """Keep axes whole."""
        for axis in axes:
            layout = unlabel(self.labels, layout, axis)
        return layout

    def without(self, layout: Layout, axes: Sequence[int], *, keepdim: bool) -> Layout:
        """Reduce axes away, or to one index."""
        for axis in sorted({axis % len(layout.shape) for axis in axes}, reverse=True):
            layout = dropped(self.labels, layout, axis)
            if keepdim:
                blocks = tuple(
                    replace(b, axes=tuple(a + (a >= axis) for a in b.axes)) for b in layout.blocks
                )
                shape = (*layout.shape[:axis], 1, *layout.shape[axis:])
                layout = replace(layout, shape=shape, blocks=blocks)
        return layout

    def tied(self, first: Ids | None, second: Ids | None) -> Ids | None:
        """Tie two axes of equal length; None is an axis that cannot lose anything."""
        if first is None or second is None:
            for each in (first, second):
                if each is not None:
                    self.labels.freeze(each)
            return None
        self.labels.tie(first, second)
        return first

    def join(self, layouts: Sequence[Layout]) -> Layout:
        """Tie the operands of an operation on single elements."""
        out = layouts[0]
        for each in layouts[1:]:
            out = joined(self.labels, out, each)
        return out

    def regroup(self, layout: Layout, shape: Sequence[int]) -> Layout:
        """View in another shape."""
        out, joint = reshaped(self.labels, layout, shape)
        self.joint += joint
        return out

    def restate(self, call: Call, layout: Layout, axes: Sequence[int]) -> None:
        """Note that a statistic spans axes that may lose channels."""
        spans = []
        for axis in axes:
            block = layout.block(axis % len(layout.shape))
            if block is not None and len(block.axes) == 1 and self.labels.live(block.ids):
                spans.append((axis % len(layout.shape), block.ids))
        if spans:
            self.restated.append(
                Restated(call.number, call.name, call.module, call.source, tuple(spans))
            )

    def bound(self, layout: Layout, axis: int, size: Any) -> None:
        """Note that code cuts an axis at a size."""
        axis %= len(layout.shape)
        if layout.block(axis) is not None and isinstance(size, Size):
            self.bounds.append((size.expression, layout, axis))

    def expect(self, call: Call, size: Any, ids: Ids | None, axis: int = 0, scale: int = 1) -> None:
        """Say what a size in the code means; None for ids: it must stay as it is."""
        if isinstance(size, Ref) or size is None:
            return
        count = np.zeros(abs(int(size)), dtype=np.int64) if ids is None else ids
        expression = expression_of(size)
        fixed = isinstance(expression, int)
        if fixed and ids is None:
            return
        self.targets.append(Target(expression, count, axis, scale, f"{call}"))

    def sizes(self, given: Ref) -> list[Size]:
        """Make the sizes of a value, as code asks for them."""
        return [Size(n, OfShape(given.value, axis)) for axis, n in enumerate(self.shape(given))]

    def expect_shape(self, call: Call, sizes: Sequence[Any], layout: Layout) -> None:
        """Say what every size of a shape in the code means; -1 follows by itself."""
        for axis, size in enumerate(sizes):
            if size == -1 or isinstance(size, Ref):
                continue
            block = layout.block(axis)
            if block is None:
                self.expect(call, size, None)
            else:
                self.expect(call, size, block.ids, block.axes.index(axis))

    # The pass -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Give labels to the axes of parameters and of floating-point buffers."""
        for value in self.trace.named:
            shape = self.trace.shapes[value]
            layout = Layout(shape, zero=True)
            if self.trace.floating[value]:
                for axis, size in enumerate(shape):
                    if size > 1:
                        layout = layout.with_ids(axis, self.labels.fresh(size))
            self.layouts[value] = self.started[value] = layout

    def step(
        self,
        call: Call,
        rules: Mapping[str, Rule],
        carrying: Collection[str] = (),
        own: Mapping[str, Rule] = MappingProxyType({}),
        *,
        freeze_unknown: bool,
    ) -> None:
        """Move labels through one call.

        Args:
            call: the next of the trace.
            rules: of operations, by name.
            carrying: operations that move and join only.
            own: rules of users, by the name of the overload.
            freeze_unknown: keep whole what an operation without a rule reads.
        """
        rule = own.get(call.operator) or rules.get(call.name)
        self.labels.cause = f"{call} reads it in a way that needs all of it"
        if call.name not in carrying:
            for ref in refs(tuple(call.args.values())):
                layout = self.layouts.get(ref.value)
                for block in layout.blocks if layout is not None else ():
                    self.read[id(block.ids)] = block.ids
        if rule is not None:
            try:
                self.looked_at.clear()
                self._store(call, call.outputs, rule(self, call))
                for ref in refs(tuple(call.args.values())):
                    if ref.value not in self.looked_at:  # what no rule follows stays whole
                        freeze_all(self.labels, self.of(ref))
                return
            except BoxwoodError:
                raise
            except Exception as error:
                if not freeze_unknown:
                    raise UnsupportedModel(
                        f"Expected a rule that follows {call}, got {type(error).__name__} "
                        f"({error}), which is a mistake in Boxwood; please report it, and give "
                        f"find_units(…, freeze_unknown=True) to keep whole what the operation reads."
                    ) from error
        self._unknown(call, freeze=freeze_unknown)

    def _unknown(self, call: Call, *, freeze: bool) -> None:
        for ref in refs(tuple(call.args.values())):
            layout = self.of(ref)
            live = [axis for block in layout.blocks for axis in block.axes
                    if self.labels.live(block.ids)]  # fmt: skip
            if live and not freeze:
                names = self.trace.named.get(ref.value, ())
                raise UnsupportedModel(
                    f"Expected operations with a rule, got {call} on "
                    f"{names[0] if names else 'a tensor'} of shape {layout.shape}, whose axes "
                    f"{sorted(live)} carry channels; give find_units(…, freeze_unknown=True) to keep "
                    f"these whole, or say which axes share channels with rules={{{call.operator or '…'}: …}}."
                )
            freeze_all(self.labels, layout)

    def _store(self, call: Call, outputs: Any, layouts: Any) -> None:
        if isinstance(outputs, Ref):
            shape = self.trace.shapes[outputs.value]
            made = layouts if isinstance(layouts, Layout) else Layout(shape)
            if made.shape != shape:
                raise AssertionError(f"{call}: rule made {made.shape}, the operation {shape}")
            self.layouts[outputs.value] = made
            if call.writes:
                self._share(outputs.value, made)
        elif isinstance(outputs, tuple):
            for place, each in enumerate(outputs):
                self._store(call, each, None if layouts is None else layouts[place])

    def written(self, given: Ref) -> None:
        """Note that a call has changed a value in place: entries that were zero may not be."""
        made = replace(self.of(given), zero=False)
        self.layouts[given.value] = made
        self._share(given.value, made)

    def _share(self, value: int, made: Layout) -> None:
        """What was written is seen by all that share the memory."""
        for other in self.trace.sharing[self.trace.storages[value]]:
            layout = self.layouts.get(other)
            if layout is not None and layout.zero and not made.zero:
                self.layouts[other] = replace(layout, zero=False)

    def finish(self) -> None:
        """Keep what the model returns, what no call reads, and what code uses as a number."""
        for attribute, size, source in self.trace.equal:
            block = self.of(Ref(size.value)).block(size.axis)
            if block is not None:
                place = block.axes.index(size.axis)
                self.targets.append(Target(attribute, block.ids, place, 1, source))
        self.labels.cause = "the model returns it"
        for value in self.trace.results:
            freeze_all(self.labels, self.of(Ref(value)))
        read = np.zeros(len(self.labels), dtype=np.bool_)
        for ids in self.read.values():
            read[self.labels.roots(ids)] = True
        self.labels.cause = "no call reads it for this example"
        for layout in self.started.values():  # as positions beyond the example's
            for block in layout.blocks:
                self.labels.freeze(block.ids[~read[self.labels.roots(block.ids)]])
        for expression, source in self.trace.numbers:
            self.labels.cause = f"its size is used as a number ({source})"
            if isinstance(expression, OfShape):
                unlabel(self.labels, self.of(Ref(expression.value)), expression.axis)
            elif (number := self._now(expression)) > 0:
                bare = isinstance(expression, OfAttribute)
                fixed = np.zeros(number if bare else 1, dtype=np.int64)
                self.targets.append(Target(expression, fixed, 0, 1 if bare else number, source))
        known = {leaf for target in self.targets for leaf in leaves(target.expression)}
        for expression, (outcome, source) in self.trace.compared.items():
            if any(
                leaf in known if isinstance(leaf, OfAttribute) else self._may_change(leaf)
                for leaf in leaves(expression)
            ):
                self.compared.append(Compared(expression, outcome, source))

    def _now(self, expression: Expression) -> int:
        values = {
            leaf: self.trace.attributes[leaf]
            if isinstance(leaf, OfAttribute)
            else self.trace.shapes[leaf.value][leaf.axis]
            for leaf in leaves(expression)
        }
        return evaluate(expression, values) or 0

    def _may_change(self, leaf: OfShape) -> bool:
        block = self.of(Ref(leaf.value)).block(leaf.axis)
        return block is not None and self.labels.live(block.ids) > 0
