"""A policy of alternating phases: dense, sparse, dense, and sparse at the end."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from boxwood._internal.core.allocation import Allocation, global_
from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.core.mask_changes import all_kept, pruned
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.schedules import check_sparsity
from boxwood._internal.core.selection import Scores
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class ACDC:
    """Alternate compressed and decompressed phases of training, and end with a compressed one.

    After ``begin`` dense steps, compressed and decompressed phases of ``every`` steps alternate. A
    compressed phase keeps the weights ``TopK(|w|)`` of that moment, so masks of different phases
    differ. A decompressed phase trains all weights; pruned ones start from zero. The last
    decompressed phase ends at step ``end``, and the masks are fixed from then on.

    A weight that returns starts with empty optimizer state (momentum, moments). Weight decay
    acts on the kept weights in a compressed phase, and on all in a decompressed one.

    Args:
        sparsity: fraction of zeros in compressed phases, in [0, 1).
        begin: dense steps at the start, at least 1; a tenth of the training in the paper.
        end: the step after which the last mask is chosen; 85 % of the training in the paper.
        every: steps of a phase; 5 of 100 epochs in the paper.
        last: steps of the last decompressed phase; None for ``every``, and twice that in the paper.
        criterion, granularity, allocation: as for `boxwood.find_masks`; the paper ranks all weights
            together, or takes ``NofM(2, 4)`` with ``allocation=uniform``.

    Raises:
        InvalidInput: the sparsity is out of range, or the phases do not fit between ``begin`` and
            ``end``.

    Example:
        >>> policy = ACDC(0.9, begin=100, end=600, every=100)
        >>> [t for t in range(900) if policy.due(t)]
        [100, 200, 300, 400, 600]
        >>> [policy.compressed(t) for t in (99, 100, 200, 300, 400, 500, 600)]
        [False, True, False, True, False, False, True]

    Source: Peste, Iofinova, Vladu and Alistarh (2021), algorithm 1.
    Differs from the paper: its code may clear the momentum of all weights at the beginning of a
    decompressed phase; here that of the weights that come back is cleared.
    """

    wants_gradients: ClassVar[bool] = False

    sparsity: float
    _: KW_ONLY
    begin: int
    end: int
    every: int
    last: int | None = None
    criterion: Callable[..., Tensor] = magnitude
    granularity: Granularity = Elements()
    allocation: Allocation = global_

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        last = self._last
        if not (self.begin >= 1 and min(self.every, last) >= 1 and self.begin + last < self.end):
            raise InvalidInput(
                f"Expected begin >= 1, phases of at least 1 step, and a compressed phase before "
                f"the last decompressed one, got begin={self.begin}, every={self.every}, "
                f"last={last} and end={self.end}; end later."
            )

    @property
    def final(self) -> float:
        """The sparsity of the last phase."""
        return self.sparsity

    def compressed(self, step: int) -> bool:
        """Say whether the network is sparse after ``step`` steps."""
        if self.begin <= step < self.end - self._last:
            return (step - self.begin) // self.every % 2 == 0
        return step >= self.end

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep everything."""
        return all_kept(weights)

    def due(self, step: int) -> bool:
        """Where a phase ends."""
        return step > 0 and self.compressed(step) != self.compressed(step - 1)

    def update(
        self,
        step: int,
        masks: Masks,
        scores: Scores,
        gradients: Mapping[str, Tensor],  # noqa: ARG002 - every policy has the same signature
    ) -> dict[str, Tensor]:
        """Keep the highest scores, or everything."""
        whole = all_kept(masks)
        if not self.compressed(step):
            return whole
        return pruned(scores, self.sparsity, self.allocation, self.granularity, whole)

    @property
    def _last(self) -> int:
        return self.every if self.last is None else self.last
