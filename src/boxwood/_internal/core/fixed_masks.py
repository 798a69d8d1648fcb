"""The policy that changes nothing: masks that were found before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from boxwood._internal.core.criteria.weights import magnitude
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.selection import Scores
from boxwood.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class FixedMasks:
    """Hold given masks unchanged: retraining after one-shot pruning, as a policy.

    Args:
        masks: bool tensors by parameter name; True keeps.

    Example:
        >>> import torch
        >>> policy = FixedMasks({"weight": torch.tensor([True, False])})
        >>> policy.due(100), policy.init({"weight": torch.ones(2)})["weight"].tolist()
        (False, [True, False])
    """

    wants_gradients: ClassVar[bool] = False

    masks: Masks

    def __post_init__(self) -> None:
        if not self.masks:
            raise InvalidInput(
                "Expected masks to hold, got none; give what boxwood.find_masks returns."
            )

    @property
    def criterion(self) -> Callable[..., Tensor]:
        """Nothing is ever scored."""
        return magnitude

    def init(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the masks."""
        return {name: self.masks[name] for name in weights}

    def due(self, step: int) -> bool:  # noqa: ARG002 - every policy has the same signature
        """Never."""
        return False

    def update(
        self,
        step: int,  # noqa: ARG002
        masks: Masks,
        scores: Scores,  # noqa: ARG002
        gradients: Mapping[str, Tensor],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Give the masks as they are."""
        return dict(masks)
