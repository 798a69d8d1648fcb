"""Plans: positions in an arena and an ordered list of steps; and how a plan is built.

Kernels read and write stretches of one arena. Torch reads them through strided views, without a
copy; what torch makes is copied into the arena where a kernel reads it. Views of the arena that do
not depend on anything else are made once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from boxwood._internal.engine.kernels import copying
from boxwood._internal.engine.layouts import contiguous
from boxwood._internal.engine.memory import Buffer
from boxwood._internal.engine.placement import Axes, Placement, Shape


@dataclass(frozen=True)
class Location:
    """Where a value lies: a place at a float offset into a buffer."""

    placement: Placement
    buffer: int
    start: int = 0


@dataclass(frozen=True)
class View:
    """How torch looks at a value that no kernel reads as it lies: its strides in floats."""

    buffer: int
    start: int
    strides: Shape


@dataclass(frozen=True)
class KernelStep:
    """A kernel call.

    Args:
        op: position of the operation in the program, or None for a copy that the plan adds.
        problem: what the kernel does.
        source: location of x, or the number of a torch value, which is made contiguous for it.
        second: location of the residual or second operand.
        out: location of the result.
        images: how many images.
        weight: number of its constant weight.
        bias: number of its constant bias.
    """

    op: int | None
    problem: Any
    source: Location | int
    second: Location | None
    out: Location
    images: int
    weight: int | None = None
    bias: int | None = None


@dataclass(frozen=True)
class CopyStep:
    """Torch writes a value, or one entry of its first axis, into the arena, zeros around it."""

    value: int
    out: Location
    index: int | None = None


@dataclass(frozen=True)
class TorchStep:
    """An operation that torch runs; sources that lie in the arena are views of it."""

    op: int


PlanStep = KernelStep | CopyStep | TorchStep


@dataclass
class Plan:
    """What `Runner` needs to run a program for one batch.

    Args:
        batch: the batch.
        shapes: of all values.
        steps: in order.
        locations: of the values that lie in the arena as kernels read them.
        views: of those that lie in it otherwise.
        buffers: with their lifetimes.
    """

    batch: int
    shapes: Mapping[int, Shape]
    steps: list[PlanStep] = field(default_factory=list)
    locations: dict[int, Location] = field(default_factory=dict)
    views: dict[int, View] = field(default_factory=dict)
    buffers: list[Buffer] = field(default_factory=list)


class PlanBuilder:
    """Puts a plan together: adds steps, copies values for kernels, and keeps track of lifetimes.

    Args:
        batch: the batch.
        shapes: of all values.
    """

    def __init__(self, batch: int, shapes: Mapping[int, Shape]) -> None:
        self.plan = Plan(batch, shapes)
        self._copies: dict[tuple[int, Placement], Location] = {}
        self._viewed: dict[int, frozenset[int]] = {}  # buffers that a torch value may look into

    def location(self, value: int) -> Location | None:
        """Return where a value lies as kernels read it; None if it does not lie so."""
        return self.plan.locations.get(value)

    def locate(self, value: int, wanted: Placement, *, exactly: bool = False) -> Location:
        """Return where a kernel finds a value in a given placement, adding a copy if needed."""
        found = self.plan.locations.get(value)
        if found is None or not _fits(found.placement, wanted, exactly=exactly):
            found = self._copies.get((value, wanted))
        if found is None:
            found = self._copies[value, wanted] = self.new_buffer(wanted)
            self.append(self._copy(value, found))
        return found

    def _copy(self, value: int, out: Location) -> KernelStep | CopyStep:
        """Copy by a kernel what is contiguous or laid out alike, the rest by torch."""
        found, placement = self.plan.locations.get(value), out.placement
        if value in self.plan.views:
            return CopyStep(value, out)
        if found is not None:
            alike = (
                found.placement.axes is placement.axes
                and found.placement.layout.shape == placement.layout.shape
            )
            if not alike or 1 in (found.placement.layout.plane, placement.layout.plane):
                return CopyStep(value, out)
            problem = copying.Copy(found.placement.layout, placement.layout)
            return KernelStep(None, problem, found, None, out, placement.images)
        channels, height, width = placement.layout.shape
        if placement.axes is Axes.TOKENS and placement.layout.plane > 1:
            problem = copying.Copy(
                contiguous(width, 1, channels), placement.layout, transposed=True
            )
        else:
            problem = copying.Copy(contiguous(channels, height, width), placement.layout)
        return KernelStep(None, problem, value, None, out, placement.images)

    def new_buffer(self, placement: Placement, over: Location | None = None) -> Location:
        """Return a location in a new buffer; in place of ``over``, if this step reads that last."""
        now = len(self.plan.steps)
        number = None if over is None or over.start else over.buffer
        self.plan.buffers.append(Buffer(placement.nbytes, now, now, number))
        return Location(placement, len(self.plan.buffers) - 1)

    def append(self, step: KernelStep | CopyStep) -> None:
        """Add a step; what it touches lives at least until then."""
        if isinstance(step, CopyStep):
            self._touch(step.value)
            self._use(step.out.buffer)
        else:
            for operand in (step.source, step.second, step.out):
                if isinstance(operand, Location):
                    self._use(operand.buffer)
                elif operand is not None:
                    self._touch(operand)
        self.plan.steps.append(step)

    def append_copy(self, value: int, out: Location, index: int) -> None:
        """Have torch copy one entry of a value's first axis."""
        self.append(CopyStep(value, out, index))

    def append_kernel(
        self, position: int, problem: Any, source: Location, second: Location | None, out: Location,
        weight: int | None, bias: int | None,
    ) -> None:  # fmt: skip
        """Have a kernel work on one image."""
        self.append(KernelStep(position, problem, source, second, out, 1, weight, bias))

    def part(self, whole: Location, placement: Placement, start: int) -> Location:
        """Return a location that starts a number of floats after the start of another."""
        return Location(placement, whole.buffer, whole.start + start)

    def set_location(self, value: int, location: Location) -> None:
        """Say where a value lies, as kernels read it."""
        self.plan.locations[value] = location

    def set_view(self, value: int, whole: Location, start: int, strides: Shape) -> None:
        """Say how torch finds a value that no kernel reads as it lies."""
        self.plan.views[value] = View(whole.buffer, whole.start + start, strides)

    def append_torch(
        self, position: int, reads: Sequence[int], writes: Sequence[int], *, may_alias: bool
    ) -> None:
        """Have torch run an operation, whose results may be views of what it reads."""
        for value in reads:
            self._touch(value)
        viewed = frozenset[int]().union(*map(self._buffers, reads)) if may_alias else frozenset()
        self._viewed.update(dict.fromkeys(writes, viewed))
        self.plan.steps.append(TorchStep(position))

    def mark_outputs(self, values: Collection[int]) -> None:
        """Keep values until all steps that were added so far are done."""
        for value in values:
            self._touch(value)

    def _touch(self, value: int) -> None:
        for buffer in self._buffers(value):
            self._use(buffer)

    def _buffers(self, value: int) -> frozenset[int]:
        lies = self.plan.locations.get(value) or self.plan.views.get(value)
        return self._viewed.get(value, frozenset()) if lies is None else frozenset((lies.buffer,))

    def _use(self, buffer: int) -> None:
        self.plan.buffers[buffer].last = len(self.plan.steps)


def _fits(placement: Placement, wanted: Placement, *, exactly: bool) -> bool:
    if exactly or placement == wanted:
        return placement == wanted
    have, want = placement.layout, wanted.layout
    return (
        (placement.images, placement.axes) == (wanted.images, wanted.axes)
        and have.shape == want.shape
        and (have.halo, have.row_stride, have.origin, have.plane)
        == (want.halo, want.row_stride, want.origin, want.plane)
    )
