"""A recurrent stack, unrolled into products and cells in a row.

One sequence is matrix–vector products, and the inputs' part of the gates is one product for all
steps; several sequences are the columns of products with a matrix, step by step. Each step adds the state's part to its
row of gates, and its cell writes the next state next to the last one: after it where a layer goes
forwards in time, before it where it goes backwards. The output sequence of one direction is therefore
a view of the states; two directions are copied into the channels of one. Rows of gates and states
start on cache lines.
"""

from dataclasses import replace
from typing import Any

from boxwood._internal.engine.kernels import conv, copying, matvec, recurrent
from boxwood._internal.engine.kernels.borders import ToBytes
from boxwood._internal.engine.kernels.int8_conv import Int8Conv
from boxwood._internal.engine.kernels.int8_matvec import Int8MatVec
from boxwood._internal.engine.kernels.quads import Quantisation, quad_count
from boxwood._internal.engine.layouts import Planes, columns, vector
from boxwood._internal.engine.ops import Recurrent, RecurrentCell, RecurrentLayer
from boxwood._internal.engine.placement import VECTOR_TOKENS, Axes, Placement, placement_of
from boxwood._internal.engine.plan import Location, PlanBuilder


def unroll(op: Recurrent, position: int, builder: PlanBuilder) -> None:
    """Add the steps of a stack to a plan."""
    _Unrolled(op, position, builder).add()


class _Unrolled:
    def __init__(self, op: Recurrent, position: int, builder: PlanBuilder) -> None:
        self.op, self.position, self.builder = op, position, builder
        shapes = builder.plan.shapes
        self.steps = shapes[op.sources[0]][1 if op.batch_first else 0]
        self.batch, self.hidden = shapes[op.sources[1]][1:]
        # Floats from a unit's value to the next one's.
        self.span = 1 if self.batch == 1 else columns(1, self.batch).plane
        lstm = op.cell is RecurrentCell.LSTM
        cell = recurrent.LstmCell if lstm else recurrent.GruCell
        self.cell: Any = cell(self.hidden * self.span)
        self.gates = (4 if lstm else 3) * self.hidden  # that one product makes
        self.row = self.cell.source.image
        self.state = self.cell.target.image
        # States from a layer's last one to the next one's, whatever their directions.
        self.stride = self.steps + 1 if op.directions == 1 else 2 * self.steps + 1
        states = Placement(self.cell.target, len(op.layers) * self.stride, Axes.TOKENS)
        self.states = builder.new_buffer(states)
        self.sequence: Location | None = None  # of both directions of the layer before

    def add(self) -> None:
        for index, layer in enumerate(self.op.layers):
            for part, value in enumerate(self.op.sources[1:]):
                start = self.at(index, 0) + part * self.hidden * self.span
                placement = Placement(self.planes(self.hidden), 1, Axes.TOKENS)
                first = self.builder.part(self.states, placement, start)
                self.builder.append_copy(value, first, index)
            rows = self.projected(index, layer)
            for taken in range(self.steps):
                time = self.steps - 1 - taken if self.backward(index) else taken
                self.step(layer, index, taken, self.part(rows, time * self.row, self.row))
            if self.backward(index):
                self.sequence = self.joined(index)
        self.outputs()

    def backward(self, layer: int) -> bool:
        return self.op.directions == 2 and layer % 2 == 1

    def at(self, layer: int, taken: int) -> int:
        """Floats from the first state to that of a layer after a number of steps."""
        placement_of = 2 * self.steps - taken if self.backward(layer) else taken
        return (layer * self.stride + placement_of) * self.state

    def over_time(self, layer: int) -> Location:
        """Return a layer's output sequence, [steps, hidden]."""
        start = self.at(layer, self.steps if self.backward(layer) else 1)
        placement = self.rows(self.hidden, self.state)
        return self.builder.part(self.states, Placement(placement, 1, Axes.TOKENS), start)

    def joined(self, layer: int) -> Location:
        """Return the outputs of this layer and the one before as one sequence."""
        if self.batch > 1:
            return self.joined_steps(layer)
        wide = columns(2 * self.hidden, self.steps)
        both = self.builder.new_buffer(Placement(wide, 1, Axes.TOKENS))
        for half, source in enumerate((self.over_time(layer - 1), self.over_time(layer))):
            start = half * self.hidden
            part = Placement(wide.slice(start, start + self.hidden), 1, Axes.TOKENS)
            out = self.builder.part(both, part, start * wide.plane)
            problem = copying.Copy(source.placement.layout, part.layout, transposed=True)
            self.kernel(problem, source, None, out)
        return both

    def joined_steps(self, layer: int) -> Location:
        """Return the same of several sequences, step after step."""
        wide, planes = columns(2 * self.hidden, self.batch), self.planes(self.hidden)
        both = self.builder.new_buffer(Placement(wide, self.steps, Axes.TOKENS))
        for time in range(self.steps):
            for half, taken in enumerate((time + 1, self.steps - time)):
                start = half * self.hidden
                layout = wide.slice(start, start + self.hidden)
                place = time * wide.image + start * wide.plane
                out = self.builder.part(both, Placement(layout, 1, Axes.TOKENS), place)
                state = self.part(self.states, self.at(layer - 1 + half, taken), self.hidden)
                self.kernel(copying.Copy(planes, layout), state, None, out)
        return both

    def part(self, whole: Location, start: int, length: int) -> Location:
        return self.builder.part(whole, Placement(vector(length), 1, Axes.TOKENS), start)

    def planes(self, features: int) -> Planes:
        """Return how the values of one step lie."""
        return vector(features) if self.batch == 1 else columns(features, self.batch)

    def product(self, inputs: int, of: Quantisation | None, *, residual: bool = False) -> Any:
        """Return the problem whose result is the gates of one step."""
        if of is not None and self.batch == 1:
            return Int8MatVec(inputs, self.gates, residual)
        if of is not None:
            return self.on_bytes(inputs, self.batch, residual=residual)
        if self.batch == 1:
            return matvec.MatVec(inputs, self.gates, residual=residual)
        return conv.Conv(self.planes(inputs), self.planes(self.gates), residual=residual)

    def on_bytes(self, inputs: int, tokens: int, *, residual: bool = False) -> Int8Conv:
        """Return the product of bytes of several tokens with a matrix."""
        source, out = columns(quad_count(inputs), tokens), columns(self.gates, tokens)
        return Int8Conv(conv.Conv(source, out, residual=residual), self.gates, inputs)

    def taken(self, source: Location, planes: Planes, of: Quantisation | None) -> Location:
        """Return the input of a product as it takes it: as bytes, if it is on bytes."""
        if of is None:
            return source
        quads = quad_count(planes.channels)
        words = vector(quads) if planes.plane == 1 else columns(quads, planes.width)
        out = self.builder.new_buffer(Placement(words, 1, Axes.TOKENS, quads=True))
        self.kernel(ToBytes(planes, words, of, tokens=planes.plane > 1), source, None, out)
        return out

    def inputs(self, layer: int) -> int:
        shapes = self.builder.plan.shapes
        first = layer < self.op.directions
        return shapes[self.op.sources[0]][2] if first else self.op.directions * self.hidden

    def projected(self, index: int, layer: RecurrentLayer) -> Location:
        """Return rows of gates that hold the inputs' part."""
        whole = self.op.cell is RecurrentCell.LSTM and layer.x is None
        bias = layer.bias if whole else layer.bias_ih
        rows = self.builder.new_buffer(Placement(self.cell.source, self.steps, Axes.TOKENS))
        inputs, builder = self.inputs(index), self.builder
        if self.steps <= VECTOR_TOKENS or self.batch > 1:
            for step in range(self.steps):
                self.kernel(
                    self.product(inputs, layer.x),
                    self.taken(self.given(index, step), self.planes(inputs), layer.x), None,
                    self.part(rows, step * self.row, self.gates), layer.weight_ih, bias,
                )  # fmt: skip
            return rows
        wide, tall = columns(inputs, self.steps), columns(self.gates, self.steps)
        if index < self.op.directions:
            value = self.op.sources[0]
            source = builder.locate(
                value, placement_of(builder.plan.shapes[value], Axes.TOKENS, {})
            )
        elif self.sequence is not None:
            source = self.sequence
        else:
            source = builder.new_buffer(Placement(wide, 1, Axes.TOKENS))
            before = self.over_time(index - 1)
            turning = copying.Copy(before.placement.layout, wide, transposed=True)
            self.kernel(turning, before, None, source)
        product = builder.new_buffer(Placement(tall, 1, Axes.TOKENS))
        problem: Any = (
            conv.Conv(wide, tall) if layer.x is None else self.on_bytes(inputs, self.steps)
        )
        source = self.taken(source, wide, layer.x)
        self.kernel(problem, source, None, product, layer.weight_ih, bias)
        turned = self.rows(self.gates, self.row)
        self.kernel(copying.Copy(tall, turned, transposed=True), product, None, rows)
        return rows

    def given(self, layer: int, step: int) -> Location:
        """Return where the input of a step lies."""
        if layer >= self.op.directions and self.sequence is not None:
            features = self.inputs(layer)
            image = columns(features, self.batch).image
            return self.part(self.sequence, step * image, features)
        if layer >= self.op.directions:
            return self.part(self.states, self.at(layer - 1, step + 1), self.hidden)
        value, features = self.op.sources[0], self.inputs(0)
        if self.batch == 1:
            placement = placement_of(self.builder.plan.shapes[value], Axes.TOKENS, {})
            whole = self.builder.locate(value, placement)
            return self.part(whole, step * placement.layout.image, features)
        layout = columns(features, self.steps * self.batch)
        whole = self.builder.locate(value, Placement(layout, 1, Axes.TOKENS))
        if self.steps == 1:
            return whole
        mine = self.builder.new_buffer(Placement(self.planes(features), 1, Axes.TOKENS))
        target = mine.placement.layout
        source = replace(layout, width=self.batch, origin=step * self.batch)
        if self.op.batch_first:  # a step's values are as far apart as there are steps
            tall = {"height": self.batch, "width": 1}
            source = replace(layout, **tall, origin=step, row_stride=self.steps)
            target = replace(target, **tall, row_stride=1)
        self.kernel(copying.Copy(source, target), whole, None, mine)
        return mine

    def rows(self, width: int, step: int) -> Planes:
        return Planes(self.steps, 1, width, 0, width, 0, step, self.steps * step)

    def step(self, layer: RecurrentLayer, index: int, taken: int, row: Location) -> None:
        old = self.part(self.states, self.at(index, taken), self.state)
        new = self.part(self.states, self.at(index, taken + 1), self.state)
        if self.op.cell is RecurrentCell.LSTM:
            product, second, out = self.product(self.hidden, layer.h, residual=True), row, row
            bias = None if layer.h is None else layer.bias_hh
        else:
            product, second = self.product(self.hidden, layer.h), None
            out, bias = self.part(row, self.gates * self.span, self.gates), layer.bias_hh
        state = self.taken(old, self.planes(self.hidden), layer.h)
        self.kernel(product, state, second, out, layer.weight_hh, bias)
        self.kernel(self.cell, row, old, new)

    def kernel(
        self, problem: Any, source: Location, second: Location | None, out: Location,
        weight: int | None = None, bias: int | None = None,
    ) -> None:  # fmt: skip
        self.builder.append_kernel(self.position, problem, source, second, out, weight, bias)

    def outputs(self) -> None:
        sequence, *last = self.op.writes
        if self.sequence is not None and self.batch > 1:
            wide = columns(2 * self.hidden, self.batch)
            steps = (1, wide.image) if self.op.batch_first else (wide.image, 1)
            self.builder.set_view(sequence, self.sequence, 0, (*steps, wide.plane))
        elif self.sequence is not None:
            self.builder.set_location(sequence, self.sequence)
        else:
            top = self.at(len(self.op.layers) - 1, 1)
            steps = (1, self.state) if self.op.batch_first else (self.state, 1)
            self.builder.set_view(sequence, self.states, top, (*steps, self.span))
        for part, value in enumerate(last):
            start = self.at(0, self.steps) + part * self.hidden * self.span
            steps = (self.stride * self.state, 1)
            self.builder.set_view(value, self.states, start, (*steps, self.span))
