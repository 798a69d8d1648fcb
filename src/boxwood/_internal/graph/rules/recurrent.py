"""Recurrent layers: a hidden unit is a row in each gate, and a column wherever the state is read."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Cost, Flow, Rule
from boxwood._internal.graph.recording import Call, Ref
from boxwood._internal.graph.rules.linear import whole

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _recurrent(flow: Flow, call: Call) -> list[Layout]:
    """One module has one ``hidden_size``: all layers and directions lose the same units.

    A hidden unit whose weights are zero stays at zero from a zero state on: its gates are at
    ½ and its candidate at tanh(0).
    """
    given = call.args["given"]
    lstm = call.name == "lstm"
    packed = isinstance(given[3], tuple)  # (data, batch_sizes, state, …)
    data, state = given[0], given[2] if packed else given[1]
    weights, has_bias, layers, _, _, bidirectional = given[3:9] if packed else given[2:8]
    directions = 2 if bidirectional else 1
    flow.expect(call, layers, None)
    states = state if isinstance(state, tuple) else (state,)
    rows = flow.shape(weights[0])[0] // _GATES[call.name]
    projected = flow.shape(weights[1])[1] != rows
    per_layer = 2 + 2 * bool(has_bias) + projected
    x, read = flow.axis(flow.of(data), -1)
    hidden = flow.labels.fresh(rows)
    # What leaves a step: the projection where there is one, else the hidden state.
    out = flow.labels.fresh(flow.shape(weights[1])[1]) if projected else hidden
    width = x.shape[-1]
    for layer in range(int(layers)):
        ends: list[Ids] = []
        for direction in range(directions):
            place = (layer * directions + direction) * per_layer
            mine = weights[place : place + per_layer]
            units, ends_here = _cell(flow, mine, rows, _GATES[call.name], read, projected=projected)
            flow.labels.tie(hidden, units)
            flow.labels.tie(out, ends_here)
            ends.append(ends_here)
            flow.costs.append(
                Cost(
                    math.prod(x.shape[:-1]) * _GATES[call.name],
                    (units, np.concatenate([whole(read, width), ends_here])),
                )
            )
        read = np.concatenate(ends)
        width = len(read)
    _tie_states(flow, states, out, hidden if lstm else None)
    shape = flow.shape(call.outputs[0])
    zero = all(flow.of(each).zero for each in states)
    made = Layout(shape, zero=zero).with_ids(-1, whole(read, shape[-1]))
    finals = []
    for place, ref in enumerate(call.outputs[1:]):
        units = hidden if lstm and place == 1 else out
        finals.append(Layout(flow.shape(ref), zero=zero).with_ids(-1, units))
    return [made, *finals]


def _cell(
    flow: Flow, weights: Sequence[Any], size: int, gates: int, read: Ids | None, *, projected: bool
) -> tuple[Ids, Ids]:
    """Tie the weights of one layer in one direction; return its hidden units and what leaves."""
    into, again = flow.of(weights[0]), flow.of(weights[1])
    units = flow.labels.fresh(size)
    gated = np.tile(units, gates)
    flow.tied(into.ids(0), gated)
    flow.tied(again.ids(0), gated)
    for bias in weights[2:4] if len(weights) >= 4 else ():
        if isinstance(bias, Ref):
            flow.tied(flow.of(bias).ids(0), gated)
    flow.tied(into.ids(1), read)
    leaves = units
    if projected:
        projection = flow.of(weights[-1])
        flow.tied(projection.ids(1), units)
        leaves = whole(projection.ids(0), projection.shape[0])
    flow.tied(again.ids(1), leaves)
    return units, leaves


def _tie_states(flow: Flow, states: Sequence[Any], out: Ids, cells: Ids | None) -> None:
    for place, state in enumerate(states):
        layout, ids = flow.axis(flow.of(state), -1)
        flow.tied(ids, cells if cells is not None and place == 1 else out)
        flow.kept_whole(layout, range(len(layout.shape) - 1))


def _cell_call(flow: Flow, call: Call) -> Any:
    """``nn.LSTMCell`` and its kin: one step, the state an ordinary tensor."""
    given = list(call.args["given"])
    gates = _GATES[call.name.removesuffix("_cell")]
    states = given[1] if isinstance(given[1], tuple) else (given[1],)
    weights = [each for each in given[2:] if isinstance(each, Ref)]
    x, read = flow.axis(flow.of(given[0]), -1)
    size = flow.shape(weights[1])[1]
    units, _ = _cell(flow, weights, size, gates, read, projected=False)
    zero = all(flow.of(each).zero for each in states)
    _tie_states(flow, states, units, None)
    flow.costs.append(
        Cost(
            math.prod(x.shape[:-1]) * gates,
            (units, np.concatenate([whole(read, x.shape[-1]), units])),
        )
    )
    outs = call.outputs if isinstance(call.outputs, tuple) else (call.outputs,)
    made = [replace(Layout(flow.shape(each)), zero=zero).with_ids(-1, units) for each in outs]
    return made if isinstance(call.outputs, tuple) else made[0]


RULES: dict[str, Rule] = {
    **dict.fromkeys(_GATES, _recurrent),
    **{f"{name}_cell": _cell_call for name in _GATES},
}
