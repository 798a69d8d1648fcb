"""Limit removals to those that the code supports: products stay products, and sizes stay correct.

Code views tensors in sizes that it computes. Removing channels changes some of these sizes by
themselves, lets others be changed through an attribute such as ``num_heads``, and leaves the rest
as they are. What does not fit is kept whole, here, before it is offered.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import eq, floordiv, ne

import numpy as np
from numpy.typing import NDArray

from boxwood._internal.graph.labels import Ids, Labels
from boxwood._internal.graph.layout import unlabel
from boxwood._internal.graph.propagate import Compared, Flow, Target
from boxwood._internal.graph.recording import Ref
from boxwood._internal.graph.sizes import Expression, Leaf, OfAttribute, OfShape, evaluate, leaves

Kept = NDArray[np.bool_]
"""By label: whether it is kept; label 0 always is."""


def solve_constraints(flow: Flow, *, trials: int = 6) -> None:
    """Tie and freeze until every removal that is left can be carried out.

    Args:
        flow: after the pass over the trace; its labels are changed.
        trials: random removals on which every size is tried.
    """
    flow.labels.cause = "it is viewed together with another axis, and only one of both can go"
    _solve_products(flow)
    _tie_equal_sizes(flow)
    _freeze_compared(flow)
    _solve_products(flow)
    random = np.random.default_rng(0)
    flow.targets = list({_same_target(target): target for target in flow.targets}.values())
    for _ in range(1000):
        wrong = [
            target
            for _ in range(trials)
            for target in broken_targets(flow, _some_removal(flow, random))
        ]
        if not wrong and not _freeze_bounds(flow):
            return
        tied = [target for target in wrong if _tie_parts(flow, target)]
        for target in [] if tied else wrong:
            _freeze_target(flow, target)
        _solve_products(flow)
    raise AssertionError("constraints that no removal meets")


def _same_target(target: Target) -> tuple[Expression, bytes, int, int]:
    return target.expression, target.ids.tobytes(), target.axis, target.scale


def broken_targets(flow: Flow, kept: Kept) -> list[Target | Compared]:
    """List the sizes and the comparisons of sizes that would come out wrong after a removal."""
    values, wrong = _solve(flow, kept)
    wrong += [compared for compared in flow.compared if not _holds(flow, compared, values, kept)]
    return wrong


def _holds(flow: Flow, compared: Compared, values: dict[Leaf, int], kept: Kept) -> bool:
    known = {leaf: _value(flow, leaf, values, kept) for leaf in leaves(compared.expression)}
    return evaluate(compared.expression, known) == compared.outcome


def _value(flow: Flow, leaf: Leaf, values: dict[Leaf, int], kept: Kept) -> int:
    if leaf in values:
        return values[leaf]
    if isinstance(leaf, OfShape):
        return _count_of_shape(flow, leaf, kept)
    return flow.trace.attributes[leaf]


def new_values(flow: Flow, kept: Kept) -> dict[Leaf, int]:
    """Find what the shapes and attributes that sizes are made of are after a removal."""
    return _solve(flow, kept)[0]


def _solve(flow: Flow, kept: Kept) -> tuple[dict[Leaf, int], list[Target | Compared]]:
    """Find new values of shapes and attributes, and the sizes that they cannot make right."""
    wanted = [_wanted(flow.labels, target, kept) for target in flow.targets]
    values: dict[Leaf, int] = {}
    clashing: set[OfAttribute] = set()
    compound: dict[OfAttribute, list[tuple[Target, int]]] = defaultdict(list)
    for target, want in zip(flow.targets, wanted, strict=True):
        bare = target.expression
        if isinstance(bare, OfAttribute):
            if values.setdefault(bare, want) != want:
                clashing.add(bare)
            continue
        for leaf in set(leaves(bare)):
            if isinstance(leaf, OfAttribute):
                compound[leaf].append((target, want))
            elif leaf not in values:
                values[leaf] = _count_of_shape(flow, leaf, kept)
    free = [leaf for leaf in compound if leaf not in values]
    values |= {leaf: flow.trace.attributes[leaf] for leaf in free}
    for leaf in free:
        values[leaf] = _solved(flow.trace.attributes[leaf], leaf, compound[leaf], values)
    _keep_comparisons_(flow, values, kept)
    wrong: list[Target | Compared] = [
        target
        for target, want in zip(flow.targets, wanted, strict=True)
        if target.expression in clashing or evaluate(target.expression, values) != want
    ]
    return values, wrong


def _keep_comparisons_(flow: Flow, values: dict[Leaf, int], kept: Kept) -> None:
    """Let attributes that are compared and nothing else follow what they are compared with."""
    for compared in flow.compared:
        if _holds(flow, compared, values, kept):
            continue
        for leaf in leaves(compared.expression):
            if isinstance(leaf, OfAttribute) and leaf not in values:
                mine = [c for c in flow.compared if leaf in set(leaves(c.expression))]
                for value in range(flow.trace.attributes[leaf] - 1, 0, -1):
                    if all(_holds(flow, c, {**values, leaf: value}, kept) for c in mine):
                        values[leaf] = value
                        break


def _solved(
    old: int, leaf: OfAttribute, targets: Sequence[tuple[Target, int]], values: dict[Leaf, int]
) -> int:
    """Find a value of an attribute with which every size that it enters is right.

    The old one if it can stay; of several others the largest, but rather one that is divided
    without remainder.
    """
    smaller = range(old - 1, 0, -1)
    tries = [(old, False), *((n, True) for n in smaller), *((n, False) for n in smaller)]
    for value, exact in tries:
        tried = {**values, leaf: value}
        if all(evaluate(target.expression, tried, exact=exact) == want for target, want in targets):
            return value
    return old


def _wanted(labels: Labels, target: Target, kept: Kept) -> int:
    count: int = count_along(labels, target.ids, target.axis, kept)
    return target.scale * count


def count_along(labels: Labels, ids: Ids, axis: int, kept: Kept) -> int:
    """Count the indices of one axis of a block that a removal keeps.

    Args:
        labels: of the trace.
        ids: labels of a block.
        axis: of ``ids``.
        kept: bool [labels].
    """
    stays = kept[labels.roots(ids)]
    others = tuple(each for each in range(stays.ndim) if each != axis)
    return int(np.sum(stays.any(others) if others else stays))


def _count_of_shape(flow: Flow, leaf: OfShape, kept: Kept) -> int:
    layout = flow.layouts.get(leaf.value)
    block = layout.block(leaf.axis) if layout is not None else None
    if block is None:
        return flow.trace.shapes[leaf.value][leaf.axis]
    return count_along(flow.labels, block.ids, block.axes.index(leaf.axis), kept)


def _solve_products(flow: Flow) -> None:
    """See to it that in each joint block one axis decides."""
    waiting = [ids for ids in flow.joint if flow.labels.live(ids)]
    changed = True
    while changed:
        changed = False
        for ids in waiting:
            roots = flow.labels.roots(ids)
            if not any(_decides(roots, axis) for axis in range(ids.ndim)):
                axis = max(range(ids.ndim), key=lambda axis: _live_if_decides(roots, axis))
                rows = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
                flow.labels.tie(rows, rows[:, :1])
                changed = True


def _decides(roots: Ids, axis: int) -> bool:
    others = tuple(each for each in range(roots.ndim) if each != axis)
    return bool((roots == roots.min(axis=others, keepdims=True)).all())


def _live_if_decides(roots: Ids, axis: int) -> int:
    """Count the units that would be left if this axis decided alone."""
    rows = np.moveaxis(roots, axis, 0).reshape(roots.shape[axis], -1)
    _, nodes = np.unique(rows, return_inverse=True)
    nodes = nodes.reshape(rows.shape)
    count = int(nodes.max()) + 1
    # Here, because it takes a third of the time of importing Boxwood.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array(
        (np.ones(rows.size), (np.repeat(nodes[:, 0], rows.shape[1]), nodes.ravel())),
        shape=(count, count),
    )
    _, component = connected_components(edges, directed=False)
    frozen = set(component[nodes[rows == 0]].tolist())
    return len(set(component.tolist()) - frozen)


def _tie_equal_sizes(flow: Flow) -> None:
    """Where code views one tensor in the size of another, or two in one attribute, tie the two."""
    flow.labels.cause = "code writes its size as that of something that stays whole"
    first: dict[OfAttribute, Ids] = {}
    for target in flow.targets:
        leaf = target.expression
        if target.scale != 1 or target.ids.ndim > 1:
            continue
        if isinstance(leaf, OfAttribute):
            if len(first.setdefault(leaf, target.ids)) == len(target.ids):
                flow.labels.tie(first[leaf], target.ids)
        elif isinstance(leaf, OfShape):
            layout = flow.layouts.get(leaf.value)
            block = layout.block(leaf.axis) if layout is not None else None
            if block is None:
                flow.labels.freeze(target.ids)
            elif len(block.axes) == 1 and len(block.ids) == len(target.ids):
                flow.labels.tie(block.ids, target.ids)


def _tie_parts(flow: Flow, target: Target | Compared) -> bool:
    """Where code takes a fraction of a size, let equal parts lose equally, if they do not yet."""
    tied = False
    for leaf, parts in _fractions(target.expression):
        for ids in _ids_of(flow, leaf):
            if len(ids) % parts == 0 and len(ids) > parts:
                rows = ids.reshape(parts, -1)
                roots = flow.labels.roots(rows)
                if (roots != roots[:1]).any():
                    flow.labels.cause = f"{target.source} takes a fraction of its size"
                    flow.labels.tie(rows, rows[:1])
                    tied = True
    return tied


def _fractions(expression: Expression) -> Iterator[tuple[Leaf, int]]:
    """Find where a size is divided by a plain number."""
    if isinstance(expression, tuple):
        operation, parts = expression
        if operation is floordiv:
            whole, count = parts
            if isinstance(whole, OfShape | OfAttribute) and isinstance(count, int) and count > 1:
                yield whole, count
        for part in parts:
            yield from _fractions(part)


def _ids_of(flow: Flow, leaf: Leaf) -> list[Ids]:
    """List the axes that a shape or an attribute gives the size of."""
    if isinstance(leaf, OfAttribute):
        return [t.ids for t in flow.targets if t.expression == leaf and t.ids.ndim == 1]
    layout = flow.layouts.get(leaf.value)
    block = layout.block(leaf.axis) if layout is not None else None
    return [block.ids] if block is not None and len(block.axes) == 1 else []


def _freeze_compared(flow: Flow) -> None:
    """Keep whole what code compares with a plain number, unless any size would do as well.

    Other comparisons are tried with random removals, and looked at before every surgery.
    """
    for compared in flow.compared:
        operation, sides = compared.expression  # type: ignore[misc]
        shapes = [side for side in sides if isinstance(side, OfShape) and _lives(flow, side)]
        plain = [side for side in sides if isinstance(side, int)]
        if operation in (eq, ne) or not shapes or not plain:
            continue
        if evaluate(compared.expression, {shapes[0]: 1}) != compared.outcome:
            flow.labels.cause = f"what runs depends on its size ({compared.source})"
            unlabel(flow.labels, flow.of(Ref(shapes[0].value)), shapes[0].axis)


def _freeze_bounds(flow: Flow) -> bool:
    """Keep whole what code cuts at the size of an input: a longer input reads further."""
    flow.labels.cause = "it is cut at the size of an input, and a longer one reads more"
    left = []
    for bound in flow.bounds:
        expression, layout, axis = bound
        if any(isinstance(leaf, OfShape) and not _lives(flow, leaf) for leaf in leaves(expression)):
            unlabel(flow.labels, layout, axis)
        else:
            left.append(bound)
    changed = len(left) < len(flow.bounds)
    flow.bounds = left
    return changed


def _lives(flow: Flow, leaf: OfShape) -> bool:
    layout = flow.layouts.get(leaf.value)
    block = layout.block(leaf.axis) if layout is not None else None
    return block is not None and flow.labels.live(block.ids) > 0


def _before(flow: Flow, leaf: Leaf) -> int:
    if isinstance(leaf, OfShape):
        return flow.trace.shapes[leaf.value][leaf.axis]
    return flow.trace.attributes[leaf]


def _some_removal(flow: Flow, random: np.random.Generator) -> Kept:
    """Remove some of everything, and nothing entirely."""
    labels = flow.labels
    roots = labels.roots(np.arange(len(labels)))
    kept = (random.random(len(labels)) < random.uniform(0.3, 0.8))[roots]
    kept[roots == 0] = True
    arrays = [target.ids for target in flow.targets]
    for target in flow.targets:
        for leaf in leaves(target.expression):
            if isinstance(leaf, OfShape) and (layout := flow.layouts.get(leaf.value)):
                arrays += [block.ids for block in layout.blocks if leaf.axis in block.axes]
    for ids in arrays:
        found = roots[ids]
        if not kept[found].any():
            kept[np.isin(roots, found)] = True
    return kept


def _freeze_target(flow: Flow, target: Target | Compared) -> None:
    flow.labels.cause = f"a size that {target.source} writes or compares cannot follow"
    if isinstance(target, Target):
        flow.labels.freeze(target.ids)
    for leaf in leaves(target.expression):
        if isinstance(leaf, OfShape):
            unlabel(flow.labels, flow.of(Ref(leaf.value)), leaf.axis)
        else:
            for other in flow.targets:
                if leaf in set(leaves(other.expression)):
                    flow.labels.freeze(other.ids)
