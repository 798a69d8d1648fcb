"""A program for one batch: places, buffers and an ordered list of steps.

Kernels read and write stretches of one arena. Torch reads them through strided views, without a
copy; what torch makes is copied into the arena where a kernel reads it. Views of the arena that do
not depend on anything else are made once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from boxwood._internal.engine import aten_ops, bind, supported, unrolling
from boxwood._internal.engine.kernels import copying, elementwise
from boxwood._internal.engine.layouts import contiguous
from boxwood._internal.engine.memory import Buffer
from boxwood._internal.engine.ops import Flatten, Join, Native, Pointwise, Recurrent
from boxwood._internal.engine.placement import Form, Place, Shape, place
from boxwood._internal.engine.program import Op, Program, Torch
from boxwood._internal.engine.program import at as sizes


@dataclass(frozen=True)
class Home:
    """Where a value lies: a place at a float offset into a buffer."""

    where: Place
    buffer: int
    start: int = 0


@dataclass(frozen=True)
class View:
    """How torch looks at a value that no kernel reads as it lies: floats from entry to entry."""

    buffer: int
    start: int
    steps: Shape


@dataclass(frozen=True)
class KernelStep:
    """A kernel call.

    Args:
        op: position of the operation in the program, or None for a copy that the plan adds.
        problem: what the kernel does.
        source: home of x, or the number of a torch value, which is made contiguous for it.
        second: home of the residual or second operand.
        out: home of the result.
        images: how many images.
        weight: number of its constant weight.
        bias: number of its constant bias.
    """

    op: int | None
    problem: Any
    source: Home | int
    second: Home | None
    out: Home
    images: int
    weight: int | None = None
    bias: int | None = None


@dataclass(frozen=True)
class CopyStep:
    """Torch writes a value, or one entry of its first axis, into the arena, zeros around it."""

    value: int
    out: Home
    index: int | None = None


@dataclass(frozen=True)
class TorchStep:
    """An operation that torch runs; sources that lie in the arena are views of it."""

    op: int


Step = KernelStep | CopyStep | TorchStep


@dataclass
class Plan:
    """What `Runner` needs to run a program for one batch.

    Args:
        batch: the batch.
        shapes: of all values.
        steps: in order.
        homes: of the values that lie in the arena as kernels read them.
        views: of those that lie in it otherwise.
        buffers: with their lifetimes.
    """

    batch: int
    shapes: Mapping[int, Shape]
    steps: list[Step] = field(default_factory=list)
    homes: dict[int, Home] = field(default_factory=dict)
    views: dict[int, View] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)


def plan(program: Program, batch: int, native: frozenset[int]) -> Plan:
    """Decide places and steps.

    Args:
        program: lowered.
        batch: the leading size of the inputs.
        native: positions of the operations that kernels do, all of them in `supported.problems`; the others
            run in torch.
    """
    # What kernels do for one batch, they may not for another.
    able = supported.problems(program, batch)
    planner = Planner(program, batch, native & able.keys())
    for position, op in enumerate(program.ops):
        planner.add(position, op)
    planner.keep(program.outputs)
    return planner.plan


class Planner:
    """A plan in the making."""

    def __init__(self, program: Program, batch: int, native: frozenset[int]) -> None:
        shapes = {number: sizes(value.shape, batch) for number, value in program.values.items()}
        self.program = program
        self.native = native
        self.plan = Plan(batch, shapes)
        self.halos = supported.halos_of(program, shapes, native)
        self.copies: dict[tuple[int, Place], Home] = {}
        self.holds: dict[int, frozenset[int]] = {}  # buffers that a torch value may look into
        self.slices = supported.slices(program, shapes, native)
        self.parents: dict[int, Home] = {}  # by join's result: all of its channels

    def add(self, position: int, op: Op) -> None:
        """Add the steps of the next operation."""
        if position in self.native and isinstance(op, Recurrent):
            unrolling.unroll(op, position, self)
        elif position not in self.native or not isinstance(op, Native):
            self._torch(position, op)
        elif isinstance(op.does, Join):
            self._join(position, op)
        else:
            self._kernel(position, op)

    def keep(self, values: Sequence[int]) -> None:
        """Values that are read when all steps are done."""
        for value in values:
            self._touch(value)

    def _torch(self, position: int, op: Op) -> None:
        if isinstance(op, Torch) and self._renamed(op):
            return
        for value in op.reads:
            self._touch(value)
        held: frozenset[int] = frozenset()
        if not isinstance(op, Torch) or aten_ops.may_alias(op.target):
            held = held.union(*(self._held(value) for value in op.reads))
        for value in op.writes:
            self.holds[value] = held
        self.plan.steps.append(TorchStep(position))

    def _renamed(self, op: Torch) -> bool:
        """Give tokens that only got other outer axes the same home."""
        home = self.plan.homes.get(op.reads[0]) if len(op.reads) == 1 else None
        if home is None or home.where.form is not Form.TOKENS or len(op.writes) != 1:
            return False
        before, after = (self.plan.shapes[value] for value in (op.reads[0], op.writes[0]))
        if before[-1:] != after[-1:] or not aten_ops.is_view(op.target):
            return False
        entries = torch.arange(torch.Size(before).numel()).reshape(before)
        (seen,) = aten_ops.run(aten_ops.at_batch(op, self.plan.batch), {op.reads[0]: entries})
        if not torch.equal(seen.reshape(-1), entries.reshape(-1)):
            return False
        self.plan.homes[op.writes[0]] = home
        return True

    def _kernel(self, position: int, op: Native) -> None:
        shapes, form = self.plan.shapes, self._form(op)
        wanted = [place(shapes[value], form, self.halos) for value in op.sources]
        if isinstance(op.does, Flatten) and wanted[0].layout.plane == 1:
            self._rename(op, wanted[0])
            return
        source = self.at(op.sources[0], wanted[0])
        out = self._out(op, form)
        second = None
        if len(wanted) > 1:
            # A residual is laid out as the result, a second operand as the first one.
            like = source.where if isinstance(op.does, Pointwise) else out
            whole = wanted[1] if _per_channel(op) else like
            second = self.at(op.sources[1], whole, exactly=True)
        places = [home.where for home in (source, second) if home is not None]
        problem = supported.problem_of(op, places, out, shapes)
        home = self._new(op.out, out, second if second != source else None)
        self.append(
            KernelStep(
                position, problem, source, second, home, places[0].images, op.weight, op.bias
            )
        )

    def _form(self, op: Native) -> Form:
        if isinstance(op.does, Pointwise) and not op.does.per_channel:
            for value in op.sources:
                if value in self.plan.homes:
                    return self.plan.homes[value].where.form
        return bind.form_of(op, len(self.plan.shapes[op.sources[0]]))

    def _out(self, op: Native, form: Form) -> Place:
        out = supported.out_place(op, form, self.plan.shapes, self.halos)
        if op.out in self.slices:
            parent, start = self.slices[op.out]
            whole = place(self.plan.shapes[parent], Form.IMAGES, self.halos)
            layout = whole.layout.slice(start, start + out.layout.channels)
            return Place(layout, out.images, out.form)
        return out

    def _join(self, position: int, op: Native) -> None:
        """Write what does not lie in its slice of the result yet."""
        root, first = self.slices.get(op.out, (op.out, 0))
        parent = self._parent(root)
        for value in op.sources:
            channels = self.plan.shapes[value][1]
            home = self._part(parent, first, channels)
            if self.plan.homes.get(value) != home:
                source = self.at(value, place(self.plan.shapes[value], Form.IMAGES, self.halos))
                problem = elementwise.Elementwise(source.where.layout, home.where.layout)
                self.append(KernelStep(position, problem, source, None, home, home.where.images))
            first += channels
        self._touch(root)
        start = self.slices.get(op.out, (op.out, 0))[1]
        self.plan.homes[op.out] = self._part(parent, start, self.plan.shapes[op.out][1])

    def _parent(self, join: int) -> Home:
        if join not in self.parents:
            where = place(self.plan.shapes[join], Form.IMAGES, self.halos)
            self.parents[join] = self.buffer(where)
        return self.parents[join]

    def _part(self, parent: Home, first: int, channels: int) -> Home:
        layout = parent.where.layout.slice(first, first + channels)
        where = Place(layout, parent.where.images, Form.IMAGES)
        return Home(where, parent.buffer, first * layout.plane)

    def _rename(self, op: Native, where: Place) -> None:
        home = self.at(op.sources[0], where)
        tokens = Place(where.layout, where.images, Form.TOKENS)
        self.plan.homes[op.out] = Home(tokens, home.buffer, home.start)

    def at(self, value: int, wanted: Place, *, exactly: bool = False) -> Home:
        """Return where a kernel finds a value in a place like this, copied there if need be."""
        home = self.plan.homes.get(value)
        if home is None or not _fits(home.where, wanted, exactly=exactly):
            home = self.copies.get((value, wanted))
        if home is None:
            home = self.copies[value, wanted] = self.buffer(wanted)
            self.append(self._copy(value, home))
        return home

    def _copy(self, value: int, out: Home) -> KernelStep | CopyStep:
        """Copy by a kernel what is contiguous or laid out alike, the rest by torch."""
        home, where = self.plan.homes.get(value), out.where
        if value in self.plan.views:
            return CopyStep(value, out)
        if home is not None:
            alike = home.where.form is where.form and home.where.layout.shape == where.layout.shape
            if not alike or 1 in (home.where.layout.plane, where.layout.plane):
                return CopyStep(value, out)
            problem = copying.Copy(home.where.layout, where.layout)
            return KernelStep(None, problem, home, None, out, where.images)
        channels, height, width = where.layout.shape
        if where.form is Form.TOKENS and where.layout.plane > 1:
            problem = copying.Copy(contiguous(width, 1, channels), where.layout, transposed=True)
        else:
            problem = copying.Copy(contiguous(channels, height, width), where.layout)
        return KernelStep(None, problem, value, None, out, where.images)

    def _new(self, value: int, where: Place, over: Home | None) -> Home:
        if value in self.slices:
            parent, start = self.slices[value]
            home = self._part(self._parent(parent), start, where.layout.channels)
        else:
            home = self.buffer(where, over)
        self.plan.homes[value] = home
        return home

    def buffer(self, where: Place, over: Home | None = None) -> Home:
        """Return a home of its own, in place of another that is read last here if one is given."""
        now = len(self.plan.steps)
        number = None if over is None or over.start else over.buffer
        self.plan.buffers.append(Buffer(where.nbytes, now, now, number))
        return Home(where, len(self.plan.buffers) - 1)

    def append(self, step: KernelStep | CopyStep) -> None:
        """Add a step; what it touches lives at least until then."""
        if isinstance(step, CopyStep):
            self._touch(step.value)
            self._use(step.out.buffer)
        else:
            for home in (step.source, step.second, step.out):
                if isinstance(home, Home):
                    self._use(home.buffer)
                elif home is not None:
                    self._touch(home)
        self.plan.steps.append(step)

    def append_copy(self, value: int, out: Home, index: int) -> None:
        """Have torch copy one entry of a value's first axis."""
        self.append(CopyStep(value, out, index))

    def append_kernel(
        self, position: int, problem: Any, source: Home, second: Home | None, out: Home,
        weight: int | None, bias: int | None,
    ) -> None:  # fmt: skip
        """Have a kernel work on one image."""
        self.append(KernelStep(position, problem, source, second, out, 1, weight, bias))

    def part(self, home: Home, where: Place, start: int) -> Home:
        """Return a place so many floats into another one."""
        return Home(where, home.buffer, home.start + start)

    def settle(self, value: int, home: Home) -> None:
        """Say where a value lies."""
        self.plan.homes[value] = home
        self._use(home.buffer)

    def look(self, value: int, home: Home, start: int, steps: Shape) -> None:
        """Say how torch finds a value."""
        self.plan.views[value] = View(home.buffer, home.start + start, steps)
        self._use(home.buffer)

    def _touch(self, value: int) -> None:
        for buffer in self._held(value):
            self._use(buffer)

    def _held(self, value: int) -> frozenset[int]:
        lies = self.plan.homes.get(value) or self.plan.views.get(value)
        return self.holds.get(value, frozenset()) if lies is None else frozenset((lies.buffer,))

    def _use(self, buffer: int) -> None:
        self.plan.buffers[buffer].last = len(self.plan.steps)


def _fits(home: Place, wanted: Place, *, exactly: bool) -> bool:
    if exactly or home == wanted:
        return home == wanted
    have, want = home.layout, wanted.layout
    return (
        (home.images, home.form) == (wanted.images, wanted.form)
        and have.shape == want.shape
        and (have.halo, have.row_stride, have.origin, have.plane)
        == (want.halo, want.row_stride, want.origin, want.plane)
    )


def _per_channel(op: Native) -> bool:
    return isinstance(op.does, Pointwise) and op.does.per_channel
