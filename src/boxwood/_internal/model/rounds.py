"""Count the steps of a training that one or several optimizers take together."""

from typing import Any

from torch import Tensor


class Rounds:
    """Steps of a training: one is over when every optimizer has stepped since the last one.

    A fused optimizer under a ``GradScaler`` is called even where a gradient has overflown, and
    skips the step on the device. Whether it did is asked only when somebody wants to know, so that
    nothing waits for the device in between.

    Args:
        trainers: the number of optimizers.
        steps: that were taken before.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
        >>> rounds = Rounds(2, 0)
        >>> rounds.stepped(0, sgd), rounds.stepped(0, sgd), rounds.stepped(1, sgd), rounds.steps()
        (False, False, True, 1)
    """

    def __init__(self, trainers: int, steps: int) -> None:
        self._trainers = trainers
        self._known = steps
        self._stepped: set[int] = set()
        self._overflown: list[Tensor] = []
        self._unknown: list[list[Tensor]] = []

    @property
    def most(self) -> int:
        """The steps taken, if none was skipped since `steps` was last asked."""
        return self._known + len(self._unknown)

    def stepped(self, trainer: int, optimizer: Any) -> bool:
        """Note a step of one optimizer; say whether it was the last one of a round."""
        self._stepped.add(trainer)
        if (overflown := overflow(optimizer)) is not None:
            self._overflown.append(overflown.clone())
        if len(self._stepped) < self._trainers:
            return False
        self._unknown.append(self._overflown)
        self._stepped, self._overflown = set(), []
        return True

    def steps(self) -> int:
        """Count the steps that were taken; waits for the device where some may be skipped."""
        self._known += sum(not any(bool(each) for each in flags) for flags in self._unknown)
        self._unknown = []
        return self._known


def overflow(optimizer: Any) -> Tensor | None:
    """Return what a ``GradScaler`` reports to a fused optimizer: not zero where a gradient overflowed.

    Example:
        >>> import torch
        >>> overflow(torch.optim.SGD([torch.zeros(1, requires_grad=True)]))
    """
    found = getattr(optimizer, "found_inf", None)
    return found.detach() if isinstance(found, Tensor) else None
