"""Mix two examples: blended inputs, and the share of each target in the loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from boxwood.errors import InvalidInput


class Mixing(Protocol):
    """The interface of mixing two examples into one; `MixUp` and `CutMix` have it."""

    def __call__(
        self, inputs: Tensor, partners: Tensor, chance: torch.Generator
    ) -> tuple[Tensor, float]:
        """Mix a batch.

        Args:
            inputs: [batch, ...].
            partners: of the same shape: what each is mixed with.
            chance: the random numbers of the step.

        Returns:
            The mixed inputs, and λ in [0, 1], the share of ``inputs`` in them.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class MixUp:
    """Blend examples: ``λ · x + (1 - λ) · x'``, with λ of a batch drawn from Beta(alpha, alpha).

    The loss is ``λ · E(f, y) + (1 - λ) · E(f, y')``, which for cross-entropy is that of the blended
    targets.

    Args:
        alpha: above 0; small values change most examples only a little, and 1 draws λ uniformly.

    Raises:
        InvalidInput: ``alpha`` is not above 0; at the call, the inputs are no real numbers.

    Example:
        >>> ones, zeros = torch.ones(2, 3), torch.zeros(2, 3)
        >>> mixed, share = MixUp(alpha=0.2)(ones, zeros, torch.Generator().manual_seed(0))
        >>> bool((mixed == share).all())
        True

    Source: Zhang, Cisse, Dauphin and Lopez-Paz (2018), "mixup: beyond empirical risk minimization",
    section 2. The partner of an example is the one before it in the shuffled batch.
    """

    alpha: float = 0.2

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)

    def __call__(
        self, inputs: Tensor, partners: Tensor, chance: torch.Generator
    ) -> tuple[Tensor, float]:
        """Blend a batch with its partners."""
        if not inputs.is_floating_point():
            raise InvalidInput(
                f"Expected inputs that are real numbers to blend, got {inputs.dtype}; leave MixUp "
                f"out for tokens."
            )
        share = _beta(self.alpha, chance)
        return partners.lerp(inputs, share), share


@dataclass(frozen=True, kw_only=True)
class CutMix:
    """Paste a rectangle of one image into another: its area is ``1 - λ``, λ drawn from Beta(alpha, alpha).

    The rectangle has the image's proportions and a centre drawn uniformly over the image. It is
    clipped at the border, and λ in the loss, ``λ · E(f, y) + (1 - λ) · E(f, y')``, is the share of
    the pixels that are kept.

    Args:
        alpha: above 0.

    Raises:
        InvalidInput: ``alpha`` is not above 0; at the call, the inputs are no images.

    Example:
        >>> ones, zeros = torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
        >>> mixed, share = CutMix()(ones, zeros, torch.Generator().manual_seed(0))
        >>> float(mixed.mean()) == share
        True

    Source: Yun et al. (2019), "CutMix", section 3.1 and equations 1 and 2.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)

    def __call__(
        self, inputs: Tensor, partners: Tensor, chance: torch.Generator
    ) -> tuple[Tensor, float]:
        """Paste a rectangle of the partners into a batch."""
        if inputs.dim() != 4:
            raise InvalidInput(
                f"Expected images [batch, channels, height, width] to cut from, got inputs of shape "
                f"{tuple(inputs.shape)}; leave CutMix out, or use MixUp."
            )
        side = (1 - _beta(self.alpha, chance)) ** 0.5
        edges = []
        for length in inputs.shape[2:]:
            centre = int(torch.randint(length, (), generator=chance))
            half = int(length * side / 2)
            edges.append((max(centre - half, 0), min(centre + half, length)))
        (top, bottom), (left, right) = edges
        mixed = inputs.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        pasted = (bottom - top) * (right - left)
        return mixed, 1 - pasted / (inputs.shape[2] * inputs.shape[3])


def mix(mixings: Sequence[Mixing], inputs: Tensor, chance: torch.Generator) -> tuple[Tensor, float]:
    """Mix a batch by one of several ways, each equally likely, with the batch moved on by one.

    Example:
        >>> mix((MixUp(),), torch.zeros(2, 3), torch.Generator().manual_seed(0))[0]
        tensor([[0., 0., 0.],
                [0., 0., 0.]])
    """
    which = int(torch.randint(len(mixings), (), generator=chance))
    return mixings[which](inputs, inputs.roll(1, 0), chance)


def partners_targets(targets: Any) -> Any:
    """Return the targets of what each example of a batch was mixed with.

    A teacher's outputs stay: it saw the mixed inputs. Its labels are the partner's.

    Example:
        >>> partners_targets(torch.tensor([0, 1, 2]))
        tensor([2, 0, 1])
    """
    if isinstance(targets, Tensor):
        return targets.roll(1, 0)
    return replace(targets, labels=targets.labels.roll(1, 0))


def _beta(alpha: float, chance: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha), which torch cannot draw from a given generator."""
    seed = int(torch.randint(2**63 - 1, (), generator=chance))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < float("inf"):
        raise InvalidInput(f"Expected alpha above 0, got {alpha}; leave the mixing out for none.")
