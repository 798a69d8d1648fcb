"""Labels of channels, and which of them live or die together: union-find on whole arrays."""

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
        self._parent: Ids = np.zeros(1024, dtype=np.int64)
        self._count = 1

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
