"""Rules that users write for their own operators: which axes of a call hold the same channels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from boxwood._internal.core.arguments import check_kind, described
from boxwood._internal.graph.labels import Ids
from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.propagate import Flow, Rule
from boxwood._internal.graph.recording import Call, Ref, is_foreign, refs
from boxwood._internal.graph.rules import RULES
from boxwood._internal.graph.sizes import Size
from boxwood.errors import BoxwoodError, InvalidInput

Shape = tuple[int, ...]
SharedAxes = Sequence[Mapping[str, int]]
_DO = 'give a list of dicts such as [{"x": -1, "output": -1}], or a function that returns one'


@dataclass(frozen=True)
class OperatorCall:
    """One call of an operator, as a rule sees it.

    Args:
        operator: its name, such as ``mylib::scale``.
        inputs: shapes of its input tensors, by the name of the argument; those of a list are
            ``name.0``, ``name.1``, …; an optional tensor that is None is left out.
        outputs: shapes of the tensors that it returns: ``output`` if there is one, otherwise
            ``output.0``, ``output.1``, ….
        settings: its other arguments by name, defaults included.
        written: names of the inputs that it changes in place.

    Example:
        >>> call = OperatorCall("mylib::scale", {"x": (2, 8), "scale": (8,)}, {"output": (2, 8)})
        >>> len(call.inputs["x"])
        2
    """

    operator: str
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    settings: Mapping[str, Any] = field(default_factory=dict)
    written: tuple[str, ...] = ()


OperatorRule = SharedAxes | Callable[[OperatorCall], SharedAxes]
"""What `boxwood.find_units` has to know of an operator: the axes that hold the same channels.

Each dict maps names of tensors to an axis of each. Index ``i`` of one is index ``i`` of all: if it
is removed, it is removed from all. An axis in no dict stays whole. A dict without an output is an
axis that the operator sums products over. A function is given the `OperatorCall`.
"""


def elementwise(call: OperatorCall) -> list[dict[str, int]]:
    """Share every axis, as an operator on single elements does, with broadcasting from the right.

    Args:
        call: of the operator; all its inputs are broadcast to the shape of the output, or of what it
            changes in place.

    Raises:
        InvalidInput: shapes do not broadcast, so the operator is not elementwise.

    Example:
        >>> call = OperatorCall("mylib::scale", {"x": (2, 8), "scale": (8,)}, {"output": (2, 8)})
        >>> elementwise(call)
        [{'x': -2, 'output': -2}, {'x': -1, 'scale': -1, 'output': -1}]
    """
    tensors = {**call.inputs, **call.outputs}
    made = [*call.outputs, *call.written]
    full = torch.broadcast_shapes(*tensors.values()) if _broadcast(tensors.values()) else None
    if full is None or any(tensors[name] != full for name in made):
        shapes = ", ".join(f"{name} {shape}" for name, shape in tensors.items())
        raise InvalidInput(
            f"Expected inputs of {call.operator} that broadcast to its output, got {shapes}; "
            f"list the axes that it shares instead of `elementwise`: {_DO}."
        )
    return [
        {name: axis for name, s in tensors.items() if len(s) >= -axis and s[axis] == full[axis]}
        for axis in range(-len(full), 0)
    ]


def _broadcast(shapes: Any) -> bool:
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        return False
    return True


def checked_rules(rules: Mapping[Any, OperatorRule] | None) -> dict[str, Rule]:
    """Turn rules of users into rules of a trace, by the name of the overload.

    Args:
        rules: by ``torch.ops.mylib.scale``, one overload of it, or what
            ``torch.library.custom_op`` returned.

    Raises:
        InvalidInput: a key is no operator, Boxwood knows the operator, or a rule is of another kind.

    Example:
        >>> checked_rules({"scale": [{"x": 0, "output": 0}]})
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected an operator such as torch.ops.mylib.scale, got 'scale'; make one of a function with torch.library.custom_op.
    """
    if rules is None:
        return {}
    check_kind(rules, Mapping, "rules by operator", "give {torch.ops.mylib.scale: rule}")
    made = {}
    for key, rule in rules.items():
        for overload in _overloads(key):
            if not is_foreign(overload) and overload._schema.name.partition("::")[2] in RULES:
                raise InvalidInput(
                    f"Expected rules for operators that Boxwood does not know, got one for "
                    f"{overload}, which it follows; leave it out."
                )
            if not callable(rule):
                _check_shared(rule, f"a rule for {overload}")
            made[str(overload)] = _followed_by(rule, overload)
    return made


def _overloads(key: Any) -> list[Any]:
    key = getattr(key, "_opoverload", key)  # of what torch.library.custom_op returns
    if isinstance(key, torch._ops.OpOverloadPacket):
        return [getattr(key, name) for name in key.overloads()]
    do = "make one of a function with torch.library.custom_op"
    check_kind(key, torch._ops.OpOverload, "an operator such as torch.ops.mylib.scale", do)
    return [key]


def _check_shared(shared: Any, what: str) -> None:
    good = isinstance(shared, Sequence) and all(
        isinstance(each, Mapping)
        and all(isinstance(name, str) and type(axis) is int for name, axis in each.items())
        for each in shared
    )
    if not good:
        raise InvalidInput(f"Expected {what} that lists axes, got {described(shared)}; {_DO}.")


def _followed_by(rule: OperatorRule, overload: Any) -> Rule:
    arguments = overload._schema.arguments
    writes = {a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write}

    def follow(flow: Flow, call: Call) -> Any:
        inputs, outputs = _tensors(call)
        given = OperatorCall(
            overload._schema.name,
            {name: flow.shape(ref) for name, ref in inputs.items()},
            {name: flow.shape(ref) for name, ref in outputs.items()},
            {name: int(each) if isinstance(each, Size) else each
             for name, each in call.args.items() if not _holds_tensors(each)},
            tuple(name for name in inputs if name.partition(".")[0] in writes),
        )  # fmt: skip
        groups = _groups(_asked(rule, given, call), given, call)
        flow.labels.cause = f"the rule for {call} keeps it whole"
        labels = _tied(flow, inputs, groups, {*outputs, *given.written})
        for name in given.written:
            flow.written(inputs[name])
        made = [_labelled(flow.shape(ref), groups[name], labels) for name, ref in outputs.items()]
        return made if isinstance(call.outputs, tuple) else next(iter(made), None)

    return follow


def _asked(rule: OperatorRule, given: OperatorCall, call: Call) -> SharedAxes:
    if not callable(rule):
        return rule
    try:
        shared = rule(given)
    except BoxwoodError:
        raise
    except Exception as error:
        raise InvalidInput(
            f"Expected a rule that follows {call}, got {type(error).__name__} ({error}) from it; "
            f"correct the rule for {given.operator}, or give an empty list to keep whole what it reads."
        ) from error
    _check_shared(shared, f"a rule for {given.operator}")
    return shared


Groups = dict[str, dict[int, int]]
"""Name of a tensor to its shared axes, and of each of these to the number of its dict."""


def _groups(shared: SharedAxes, given: OperatorCall, call: Call) -> Groups:
    """Check what a rule says against the shapes of a call."""
    shapes = {**given.inputs, **given.outputs}
    if len(shapes) < len(given.inputs) + len(given.outputs):
        raise InvalidInput(
            f"Expected an operator whose arguments have other names than its outputs, got {call}; "
            f"call none of its arguments 'output'."
        )
    absent = {name for name, each in given.settings.items() if each is None}
    groups: Groups = {name: {} for name in shapes}
    for number, each in enumerate(shared):
        sizes = {}
        for name, axis in each.items():
            if name in absent:
                continue
            if name not in shapes or not -len(shapes[name]) <= axis < len(shapes[name]):
                tensors = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                raise InvalidInput(
                    f"Expected axes of tensors of {call}, got axis {axis} of {name!r}; it has {tensors}."
                )
            place = axis % len(shapes[name])
            if place in groups[name]:
                raise InvalidInput(
                    f"Expected every axis once in a rule, got axis {axis} of {name!r} of {call} in "
                    f"two dicts; put all that shares its channels into one."
                )
            groups[name][place] = number
            sizes[f"{shapes[name][place]} in axis {axis} of {name!r}"] = shapes[name][place]
        if len(set(sizes.values())) > 1:
            raise InvalidInput(
                f"Expected axes of one size in {call}, got {' and '.join(sizes)}; only axes whose "
                f"indices are the same channels share them."
            )
    return groups


def _tied(
    flow: Flow, inputs: Mapping[str, Ref], groups: Groups, made: set[str]
) -> dict[int, Ids | None]:
    """Tie what a rule shares; return the labels of each of its dicts."""
    kept = {number for name in made for number in groups[name].values()}
    found: dict[int, Ids | None] = {}
    zero: set[int] = set()
    for name, ref in inputs.items():
        shared, layout = groups[name], flow.of(ref)
        layout = flow.kept_whole(layout, [a for a in range(len(layout.shape)) if a not in shared])
        # What is summed over decides last, and of what is left the axes in front: heads before
        # their features.
        order = sorted(shared, key=lambda axis: (shared[axis] in kept, -axis))
        layout = flow.kept_joint(layout, order)
        for axis, number in shared.items():
            ids = layout.ids(axis)
            found[number] = flow.tied(found[number], ids) if number in found else ids
            zero |= {number} if layout.zero else set()
    for number, ids in found.items():
        if ids is not None and number not in kept | zero:
            flow.labels.freeze(ids)  # a sum that would miss what is removed
    return found


def _labelled(shape: Shape, shared: Mapping[int, int], labels: Mapping[int, Ids | None]) -> Layout:
    made = Layout(shape)
    for axis, number in shared.items():
        ids = labels.get(number)
        if ids is not None:
            made = made.with_ids(axis, ids)
    return made


def _tensors(call: Call) -> tuple[dict[str, Ref], dict[str, Ref]]:
    """Name the tensors that a call reads and those that it returns."""
    inputs: dict[str, Ref] = {}
    for name, given in call.args.items():
        inputs |= _named(name, given)
    return inputs, _named("output", call.outputs)


def _named(name: str, given: Any) -> dict[str, Ref]:
    if isinstance(given, Ref):
        return {name: given}
    if isinstance(given, tuple):
        return {f"{name}.{at}": each for at, each in enumerate(given) if isinstance(each, Ref)}
    return {}


def _holds_tensors(given: Any) -> bool:
    return bool(refs(given))
