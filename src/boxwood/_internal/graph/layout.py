"""Where the labels of a tensor are, and how moving data moves them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from boxwood._internal.graph.labels import Ids, Labels

_LARGEST_BLOCK = 1 << 23


@dataclass(frozen=True)
class Block:
    """Labels over one axis, or over several together.

    A ``view`` that splits channels into heads and features leaves it open which of the two will
    be removed. Until some operation decides, the labels lie over both axes together.

    Args:
        axes: of the tensor, in the order of ``ids``.
        ids: a label for each combination of indices of these axes.
    """

    axes: tuple[int, ...]
    ids: Ids


@dataclass(frozen=True)
class Layout:
    """The labels of one tensor. Axes in no block cannot lose anything.

    Args:
        shape: of the tensor.
        blocks: over disjoint sets of axes.
        zero: whether entries that are removed are exactly zero in the masked network, so that
            sums over them lose nothing.
    """

    shape: tuple[int, ...]
    blocks: tuple[Block, ...] = ()
    zero: bool = False

    def block(self, axis: int) -> Block | None:
        """Find the block that an axis is in."""
        return next((block for block in self.blocks if axis in block.axes), None)

    def ids(self, axis: int) -> Ids | None:
        """Labels of an axis that is alone in its block; None if it has no labels."""
        block = self.block(axis % len(self.shape))
        if block is None:
            return None
        if len(block.axes) > 1:
            raise AssertionError("a joint axis was not split first")
        return block.ids

    def with_ids(self, axis: int, ids: Ids | None) -> "Layout":
        """Put labels on one axis, in place of those that it had."""
        axis %= len(self.shape)
        others = tuple(block for block in self.blocks if axis not in block.axes)
        shape = self.shape if ids is None else _replaced(self.shape, axis, len(ids))
        return replace(
            self, shape=shape, blocks=others if ids is None else (*others, Block((axis,), ids))
        )


def split_axis(labels: Labels, layout: Layout, axis: int, *, alone: bool = False) -> Layout:
    """Take one axis out of a joint block: it stays whole, and the others decide alone.

    Args:
        labels: of the trace; what must go together is tied.
        layout: of one tensor.
        axis: in question.
        alone: the reverse: this axis decides alone, and the others stay whole.
    """
    axis %= len(layout.shape)
    block = layout.block(axis)
    if block is None or len(block.axes) == 1:
        return layout
    place = block.axes.index(axis)
    if alone:
        first = np.moveaxis(block.ids, place, 0).reshape(block.ids.shape[place], -1)
        labels.tie(first, first[:, :1])
        made = Block((axis,), first[:, 0].copy())
    else:
        first = np.take(block.ids, [0], place)
        labels.tie(block.ids, first)
        made = Block((*block.axes[:place], *block.axes[place + 1 :]), np.take(block.ids, 0, place))
    return replace(layout, blocks=(*(b for b in layout.blocks if b is not block), made))


def unlabel(labels: Labels, layout: Layout, axis: int) -> Layout:
    """Keep an axis whole: what shares its block decides without it, or stays too."""
    axis %= len(layout.shape)
    layout = split_axis(labels, layout, axis)
    block = layout.block(axis)
    if block is None:
        return layout
    labels.freeze(block.ids)
    return replace(layout, blocks=tuple(b for b in layout.blocks if b is not block))


def freeze_all(labels: Labels, layout: Layout) -> None:
    """Keep everything."""
    for block in layout.blocks:
        labels.freeze(block.ids)


def permuted(layout: Layout, order: Sequence[int]) -> Layout:
    """Move axes as ``torch.permute`` does."""
    order = [axis % len(layout.shape) for axis in order]
    where = {old: new for new, old in enumerate(order)}
    blocks = tuple(Block(tuple(where[a] for a in b.axes), b.ids) for b in layout.blocks)
    return replace(layout, shape=tuple(layout.shape[axis] for axis in order), blocks=blocks)


def inserted(layout: Layout, axis: int, size: int = 1) -> Layout:
    """Make a new axis without labels."""
    blocks = tuple(Block(tuple(a + (a >= axis) for a in b.axes), b.ids) for b in layout.blocks)
    return replace(layout, shape=(*layout.shape[:axis], size, *layout.shape[axis:]), blocks=blocks)


def dropped(labels: Labels, layout: Layout, axis: int) -> Layout:
    """Take an axis away whose indices have been added up, or of which one was chosen."""
    axis %= len(layout.shape)
    layout = split_axis(labels, layout, axis)
    blocks = tuple(
        Block(tuple(a - (a > axis) for a in b.axes), b.ids)
        for b in layout.blocks
        if axis not in b.axes
    )
    return replace(layout, shape=(*layout.shape[:axis], *layout.shape[axis + 1 :]), blocks=blocks)


def selected(labels: Labels, layout: Layout, axis: int, index: int) -> Layout:
    """Choose one index of an axis; labels over this and other axes stay with the others."""
    axis %= len(layout.shape)
    block = layout.block(axis)
    if block is None or len(block.axes) == 1:
        return dropped(labels, layout, axis)
    place = block.axes.index(axis)
    rest = tuple(a - (a > axis) for a in block.axes if a != axis)
    bare = replace(layout, blocks=tuple(b for b in layout.blocks if b is not block))
    less = dropped(labels, bare, axis)
    made = simplified(labels, Block(rest, np.take(block.ids, index, place)))
    return replace(less, blocks=(*less.blocks, *made))


def simplified(labels: Labels, block: Block) -> tuple[Block, ...]:
    """Drop the axes along which labels are all the same; nothing is left of frozen labels."""
    axes, ids = list(block.axes), block.ids
    roots = labels.roots(ids)
    if not roots.any():
        return ()
    for place in reversed(range(len(axes))):
        if len(axes) > 1 and (roots == np.take(roots, [0], place)).all():
            ids, roots = np.take(ids, 0, place), np.take(roots, 0, place)
            del axes[place]
    if ids.size == 1 and ids.ndim <= 1:
        labels.freeze(ids)
        return ()
    return (Block(tuple(axes), ids),)


def reshaped(labels: Labels, layout: Layout, shape: Sequence[int]) -> tuple[Layout, list[Ids]]:
    """Regroup axes as a ``view`` does.

    Returns:
        The layout, and the joint blocks that came to be: each must turn out to be a product in
        which one axis decides.
    """
    shape = tuple(shape)
    bare = Layout(shape, zero=layout.zero)
    if math.prod(shape) == 0:
        freeze_all(labels, layout)
        return bare, []
    blocks: list[Block] = []
    joint: list[Ids] = []
    taken: set[int] = set()
    groups = _groups(layout.shape, shape)
    touching = [
        (block, [g for g in groups if any(axis in g[0] for axis in block.axes)])
        for block in layout.blocks
    ]
    touching.sort(key=lambda pair: -labels.live(pair[0].ids))
    for block, touched in touching:
        before = [axis for g in touched for axis in g[0]]
        after = [axis for g in touched for axis in g[1]]
        size = math.prod(layout.shape[axis] for axis in before)
        if taken & set(before) or size > _LARGEST_BLOCK:
            labels.freeze(block.ids)  # two removable axes become one: the larger has its way
            continue
        taken |= set(before)
        order = sorted(range(len(block.axes)), key=lambda place: block.axes[place])
        spread = [layout.shape[axis] if axis in block.axes else 1 for axis in before]
        ids = np.broadcast_to(
            block.ids.transpose(order).reshape(spread), [layout.shape[axis] for axis in before]
        ).reshape([shape[axis] for axis in after])
        made = simplified(labels, Block(tuple(after), ids.copy()))
        blocks += made
        joint += [each.ids for each in made if len(each.axes) > 1]
    return replace(bare, blocks=tuple(blocks)), joint


def joined(labels: Labels, first: Layout, second: Layout) -> Layout:
    """Tie two tensors that an operation on single elements reads together, with broadcasting."""
    rank = max(len(first.shape), len(second.shape))
    first, second = (_without_single(labels, _widened(each, rank)) for each in (first, second))
    first, second = _agreed(labels, first, second), _agreed(labels, second, first)
    # Settling one may have decided for the other.
    first, second = _agreed(labels, first, second), _agreed(labels, second, first)
    blocks = list(first.blocks)
    for block in second.blocks:
        same = next((b for b in blocks if set(b.axes) == set(block.axes)), None)
        across = [b for b in blocks if set(b.axes) & set(block.axes)]
        if same is None and across:
            for each in (block, *across):
                labels.freeze(each.ids)
        elif same is None:
            blocks.append(block)
        else:
            order = [block.axes.index(axis) for axis in same.axes]
            labels.tie(same.ids, block.ids.transpose(order))
    shape = tuple(b if a == 1 else a for a, b in zip(first.shape, second.shape, strict=True))
    return Layout(shape, tuple(blocks))


def _agreed(labels: Labels, mine: Layout, other: Layout) -> Layout:
    """Split the blocks of one operand so that they fit the other's."""
    for block in mine.blocks:
        axes = block.axes
        covered = [axis for axis in axes if other.shape[axis] != 1]
        if not covered or any(set(b.axes) == set(axes) for b in other.blocks):
            continue
        for axis in covered:
            theirs = other.block(axis)
            if theirs is None:
                mine = unlabel(labels, mine, axis)
            elif len(axes) > 1 and len(theirs.axes) == 1:
                # Heads by features meets features alone, or heads alone: heads decide.
                if axis == axes[0]:
                    mine = split_axis(labels, mine, axis, alone=True)
                else:
                    labels.freeze(theirs.ids)
                    mine = unlabel(labels, mine, axis)
            elif len(theirs.axes) > len(axes):
                if axis != theirs.axes[0]:
                    mine = unlabel(labels, mine, axis)
            elif set(theirs.axes) != set(axes):
                mine = unlabel(labels, mine, axis)
    # A frozen axis of the other has labels still; they are tied to 0, and so say nothing.
    return mine


def _without_single(labels: Labels, layout: Layout) -> Layout:
    """Keep what an axis of one index is: it cannot go, and is no index of the other."""
    for block in layout.blocks:
        if len(block.axes) == 1 and block.ids.size == 1:
            layout = unlabel(labels, layout, block.axes[0])
    return layout


def _widened(layout: Layout, rank: int) -> Layout:
    while len(layout.shape) < rank:
        layout = inserted(layout, 0)
    return layout


def _groups(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Match runs of axes of equal product, from the left; axes of size 1 carry no labels."""
    groups = []
    left = [(axis, size) for axis, size in enumerate(before) if size != 1]
    right = [(axis, size) for axis, size in enumerate(after) if size != 1]
    while left:
        taken, given = [left.pop(0)], [right.pop(0)]
        here, there = taken[0][1], given[0][1]
        while here != there:
            if here < there:
                taken.append(left.pop(0))
                here *= taken[-1][1]
            else:
                given.append(right.pop(0))
                there *= given[-1][1]
        groups.append((tuple(axis for axis, _ in taken), tuple(axis for axis, _ in given)))
    return groups


def _replaced(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])
