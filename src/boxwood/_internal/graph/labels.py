"""Labels of channels, and which of them must be removed together: union-find on whole arrays."""

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""One label per index of an axis; 0 is the label of what cannot be removed."""


class Labels:
    """A growing set of labels with ties between them.

    Label 0 is *frozen*; whatever is tied to it stays. Every operation works on arrays, so that a
    tie of a thousand channels costs what a tie of one does.

    Example:
        >>> labels = Labels()
        >>> a, b = labels.fresh(2), labels.fresh(2)
        >>> labels.tie(a, b)
        >>> bool((labels.roots(a) == labels.roots(b)).all())
        True
        >>> labels.freeze(a[:1])
        >>> labels.roots(b).tolist()
        [0, 2]
    """

    def __init__(self) -> None:
        self.cause = ""  # what ties and freezes at the moment, for `causes`
        self._parent: Ids = np.zeros(1024, dtype=np.int64)
        self._count = 1
        self._log: list[tuple[Ids, Ids, str]] = []

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int) -> Ids:
        """Make new labels, tied to nothing."""
        needed = self._count + count
        if needed > len(self._parent):
            grown = np.zeros(max(needed, 2 * len(self._parent)), dtype=np.int64)
            grown[: self._count] = self._parent[: self._count]
            self._parent = grown
        made = np.arange(self._count, needed)
        self._parent[self._count : needed] = made
        self._count = needed
        return made

    def roots(self, ids: Ids) -> Ids:
        """Find the representative of each label; equal ones are tied, 0 is frozen."""
        found = self._parent[ids]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                break
            found = above
        self._parent[ids] = found
        return found

    def tie(self, first: Ids, second: Ids) -> None:
        """Tie labels pairwise, with numpy's broadcasting. The smallest label represents."""
        self._log.append((first, second, self.cause))
        first, second = (np.ravel(part) for part in np.broadcast_arrays(first, second))
        while True:
            left, right = self.roots(first), self.roots(second)
            apart = left != right
            if not apart.any():
                return
            low = np.minimum(left[apart], right[apart])
            # Several labels may want to represent one: the smallest wins, and the others are
            # found to be still apart in the next round.
            np.minimum.at(self._parent, np.maximum(left[apart], right[apart]), low)
            first, second = first[apart], second[apart]

    def freeze(self, ids: Ids) -> None:
        """Say that these, and all that they are tied to, stay."""
        self.tie(ids, np.zeros(1, dtype=np.int64))

    def live(self, ids: Ids) -> int:
        """Count the different labels that may be removed."""
        found = np.unique(self.roots(ids))
        return len(found) - int(len(found) > 0 and found[0] == 0)

    def causes(self, ids: Ids) -> list[str]:
        """Say for each label why it stays: the first cause that froze it, or what it is tied to.

        Example:
            >>> labels = Labels()
            >>> a, b = labels.fresh(1), labels.fresh(1)
            >>> labels.tie(a, b)
            >>> labels.cause = "a view"
            >>> labels.freeze(b)
            >>> labels.causes(a)
            ['a view']
        """
        # Here, because it takes a third of the time of importing Boxwood.
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        left, right, place = [], [], []
        for number, (first, second, _) in enumerate(self._log):
            pair = [np.ravel(part) for part in np.broadcast_arrays(first, second)]
            left.append(pair[0])
            right.append(pair[1])
            place.append(np.full(pair[0].size, number))
        if not left:
            return ["" for _ in ids]
        a, b, when = np.concatenate(left), np.concatenate(right), np.concatenate(place)
        ends = (a == 0) | (b == 0)
        edges = coo_array(
            (np.ones(int((~ends).sum()), dtype=np.int8), (a[~ends], b[~ends])),
            shape=(self._count, self._count),
        )
        _, component = connected_components(edges, directed=False)
        never = len(self._log)
        first_time = np.full(component.max() + 1, never)
        np.minimum.at(first_time, component[np.maximum(a, b)[ends]], when[ends])
        found = first_time[component[ids]]
        return [self._log[time][2] if time < never else "" for time in found.tolist()]
