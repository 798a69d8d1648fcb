"""From a program to the plan of one batch: which places its values take, and in which steps."""

import torch

from boxwood._internal.engine import aten_ops, bind, supported, unrolling
from boxwood._internal.engine.kernels import elementwise
from boxwood._internal.engine.ops import Flatten, Join, Native, Pointwise, Recurrent
from boxwood._internal.engine.placement import Form, Place, place
from boxwood._internal.engine.plan import KernelStep, Location, Plan, PlanBuilder
from boxwood._internal.engine.program import Op, Program, Torch, at


def plan_batch(program: Program, batch: int, native: frozenset[int]) -> Plan:
    """Decide places and steps.

    Args:
        program: lowered.
        batch: the leading size of the inputs.
        native: positions of the operations that kernels do, all of them in `supported.problems`;
            the others run in torch.
    """
    # What kernels do for one batch, they may not for another.
    supported_here = supported.problems(program, batch)
    planner = Planner(program, batch, native & supported_here.keys())
    for position, op in enumerate(program.ops):
        planner.add(position, op)
    planner.builder.mark_outputs(program.outputs)
    return planner.builder.plan


class Planner:
    """Plans operation after operation.

    Args:
        program: lowered.
        batch: the leading size of the inputs.
        native: positions of the operations that kernels do.
    """

    def __init__(self, program: Program, batch: int, native: frozenset[int]) -> None:
        self.shapes = {number: at(value.shape, batch) for number, value in program.values.items()}
        self.native = native
        self.builder = PlanBuilder(batch, self.shapes)
        self.halos = supported.halos_of(program, self.shapes, native)
        self.slices = supported.slices(program, self.shapes, native)
        self.joins: dict[int, Location] = {}  # by a concatenation's result: all of its channels

    def add(self, position: int, op: Op) -> None:
        """Add the steps of the next operation."""
        if position in self.native and isinstance(op, Recurrent):
            unrolling.unroll(op, position, self.builder)
        elif position not in self.native or not isinstance(op, Native):
            self._torch(position, op)
        elif isinstance(op.does, Join):
            self._join(position, op)
        else:
            self._kernel(position, op)

    def _torch(self, position: int, op: Op) -> None:
        if isinstance(op, Torch) and self._renamed(op):
            return
        may_alias = not isinstance(op, Torch) or aten_ops.may_alias(op.target)
        self.builder.append_torch(position, op.reads, op.writes, may_alias=may_alias)

    def _renamed(self, op: Torch) -> bool:
        """Give tokens that only got other outer axes the same location."""
        location = self.builder.location(op.reads[0]) if len(op.reads) == 1 else None
        if location is None or location.where.form is not Form.TOKENS or len(op.writes) != 1:
            return False
        before, after = (self.shapes[value] for value in (op.reads[0], op.writes[0]))
        if before[-1:] != after[-1:] or not aten_ops.is_view(op.target):
            return False
        entries = torch.arange(torch.Size(before).numel()).reshape(before)
        (seen,) = aten_ops.run(
            aten_ops.at_batch(op, self.builder.plan.batch), {op.reads[0]: entries}
        )
        if not torch.equal(seen.reshape(-1), entries.reshape(-1)):
            return False
        self.builder.set_location(op.writes[0], location)
        return True

    def _kernel(self, position: int, op: Native) -> None:
        form = self._form(op)
        wanted = [place(self.shapes[value], form, self.halos) for value in op.sources]
        if isinstance(op.does, Flatten) and wanted[0].layout.plane == 1:
            self._rename(op, wanted[0])
            return
        source = self.builder.locate(op.sources[0], wanted[0])
        out = self._out(op, form)
        second = None
        if len(wanted) > 1:
            # A residual is laid out as the result, a second operand as the first one.
            like = source.where if isinstance(op.does, Pointwise) else out
            whole = wanted[1] if _per_channel(op) else like
            second = self.builder.locate(op.sources[1], whole, exactly=True)
        places = [operand.where for operand in (source, second) if operand is not None]
        problem = supported.problem_of(op, places, out, self.shapes)
        location = self._new(op.out, out, second if second != source else None)
        self.builder.append(
            KernelStep(
                position, problem, source, second, location, places[0].images, op.weight, op.bias
            )
        )

    def _form(self, op: Native) -> Form:
        if isinstance(op.does, Pointwise) and not op.does.per_channel:
            for value in op.sources:
                location = self.builder.location(value)
                if location is not None:
                    return location.where.form
        return bind.form_of(op, len(self.shapes[op.sources[0]]))

    def _out(self, op: Native, form: Form) -> Place:
        out = supported.out_place(op, form, self.shapes, self.halos)
        if op.out in self.slices:
            parent, start = self.slices[op.out]
            whole = place(self.shapes[parent], Form.IMAGES, self.halos)
            layout = whole.layout.slice(start, start + out.layout.channels)
            return Place(layout, out.images, out.form)
        return out

    def _join(self, position: int, op: Native) -> None:
        """Write what does not lie in its slice of the result yet."""
        root, first = self.slices.get(op.out, (op.out, 0))
        parent = self._parent(root)
        for value in op.sources:
            channels = self.shapes[value][1]
            location = self._part(parent, first, channels)
            if self.builder.location(value) != location:
                source = self.builder.locate(
                    value, place(self.shapes[value], Form.IMAGES, self.halos)
                )
                problem = elementwise.Elementwise(source.where.layout, location.where.layout)
                self.builder.append(
                    KernelStep(position, problem, source, None, location, location.where.images)
                )
            first += channels
        start = self.slices.get(op.out, (op.out, 0))[1]
        self.builder.set_location(op.out, self._part(parent, start, self.shapes[op.out][1]))

    def _parent(self, join: int) -> Location:
        if join not in self.joins:
            where = place(self.shapes[join], Form.IMAGES, self.halos)
            self.joins[join] = self.builder.new_buffer(where)
        return self.joins[join]

    def _part(self, parent: Location, first: int, channels: int) -> Location:
        layout = parent.where.layout.slice(first, first + channels)
        where = Place(layout, parent.where.images, Form.IMAGES)
        return Location(where, parent.buffer, first * layout.plane)

    def _rename(self, op: Native, where: Place) -> None:
        location = self.builder.locate(op.sources[0], where)
        tokens = Place(where.layout, where.images, Form.TOKENS)
        self.builder.set_location(op.out, Location(tokens, location.buffer, location.start))

    def _new(self, value: int, where: Place, over: Location | None) -> Location:
        if value in self.slices:
            parent, start = self.slices[value]
            location = self._part(self._parent(parent), start, where.layout.channels)
        else:
            location = self.builder.new_buffer(where, over)
        self.builder.set_location(value, location)
        return location


def _per_channel(op: Native) -> bool:
    return isinstance(op.does, Pointwise) and op.does.per_channel
