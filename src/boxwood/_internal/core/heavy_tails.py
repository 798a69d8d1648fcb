"""Allocation by the spectra of the weights: where few directions dominate, more weights stay."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from boxwood._internal.core.allocation import keep_of, required
from boxwood._internal.core.allocation_by_layer import exactly
from boxwood._internal.core.masks import Masks
from boxwood._internal.core.placement import check_whole
from boxwood._internal.core.selection import Scores, candidates
from boxwood.errors import InvalidInput

_BINS = 100  # of the histogram whose peak the tail begins at


def tail_exponent(weight: Tensor) -> float:
    """Estimate the exponent α of the power law that the large eigenvalues of ``WᵀW`` follow.

    With λ₁ ≥ … ≥ λ_k the eigenvalues down to ``λ_min = λ_k``, ``α = 1 + k / Σ_i ln(λ_i / λ_min)``
    (Hill's estimator). λ_min lies near the peak of the histogram of log λ, 100 bins wide: of the
    eigenvalues between 0.95 and 1.5 times the lower end of the fullest bin, the one whose power law
    is nearest to the eigenvalues above it, by Kolmogorov and Smirnov's distance. The heavier the
    tail, the smaller α; it does not change with the scale of the weights.

    Args:
        weight: [out, in, ...]; the eigenvalues of all positions of a kernel count together.

    Returns:
        α > 1; infinite where all eigenvalues of the tail are equal.

    Raises:
        InvalidInput: fewer than two dimensions, or no weight other than 0, or NaN and infinities.

    Example:
        >>> flat, steep = torch.eye(8), torch.diag(2.0 ** torch.arange(8))
        >>> tail_exponent(flat), tail_exponent(steep) < 2
        (inf, True)

    Source: Lu et al. (2024), "AlphaPruning", equation 2; the choice of λ_min as Yang et al. (2023),
    with the bounds of the authors' code.
    Differs from the authors' code: its lower bound is the logarithm of what it should be, which lets
    λ_min lie anywhere below the peak; and eigenvalues below the rounding of the largest are left out.
    """
    eigenvalues = _eigenvalues(weight)
    logs = eigenvalues.log()
    start = _peak(logs)
    count = len(eigenvalues)
    # Of each candidate for λ_min, ascending: the tail from there on.
    near = (eigenvalues >= 0.95 * start) & (eigenvalues <= 1.5 * start)
    places = near[:-1].nonzero().flatten().tolist() or [int(eigenvalues.argmax())]
    best, exponent = float("inf"), float("inf")
    for place in places:
        tail = logs[place:] - logs[place]
        sum_of_logs = float(tail.sum())
        if sum_of_logs <= 0:
            continue
        size = count - place
        alpha = 1 + size / sum_of_logs
        empirical = torch.arange(size, dtype=tail.dtype, device=tail.device) / size
        distance = float((1 - (-(alpha - 1) * tail).exp() - empirical).abs().max())
        if distance < best:
            best, exponent = distance, alpha
    return exponent


@dataclass(frozen=True)
class HeavyTailed:
    """Keep more where the spectrum of the weights has a heavier tail (AlphaPruning).

    ``s_l = η ((α_l - α_min) / (α_max - α_min) (s₂ - s₁) + s₁)`` with ``s₁ = 1 - spread`` and ``s₂ = 1 +
    spread``, and η so that the total is exact. Every tensor keeps at least a quarter of the mean
    density, ``(1 - s) / 4``; what it does not lose is distributed over the others in the same proportion.

    Args:
        exponents: (name, α) of every tensor, such as `of` gives; the same α where tensors are to
            have one sparsity, as those of a transformer block.
        spread: ε, by which sparsities differ from the mean, about, in units of it; in [0, 1). The
            paper tries 0.1 to 0.5; the authors' code begins with 0.3.

    Raises:
        InvalidInput: the spread is out of range, an exponent is not above 1, or a tensor has none.

    Example:
        >>> trained, random = torch.diag(2.0 ** torch.arange(8)), torch.ones(8, 8).tril()
        >>> allocation = HeavyTailed.of({"trained": trained, "random": random})
        >>> allocation({"trained": trained, "random": random}, 0.5)
        {'trained': 42, 'random': 22}

    Source: Lu et al. (2024), "AlphaPruning", equation 3.
    Differs from the paper: the least density is ours. Where one exponent is far above all others, the
    equation gives its tensor a sparsity of 1 and more, and a network with an empty layer is lost.
    """

    exponents: tuple[tuple[str, float], ...]
    spread: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.spread < 1 or not all(alpha > 1 for _, alpha in self.exponents):
            raise InvalidInput(
                f"Expected a spread in [0, 1) and exponents above 1, got spread={self.spread} and "
                f"{dict(self.exponents)}; take exponents from HeavyTailed.of and a spread of 0.3."
            )

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], spread: float = 0.3) -> "HeavyTailed":
        """Estimate the exponents of weights, by name."""
        check_whole(weights)
        exponents = ((name, tail_exponent(weight)) for name, weight in weights.items())
        return cls(tuple(exponents), spread)

    def __call__(
        self, scores: Scores, sparsity: float | None, masks: Masks | None = None
    ) -> dict[str, int]:
        """Count per tensor."""
        wanted = required(sparsity, "HeavyTailed")
        sizes = {name: score.numel() for name, score in scores.items()}
        dense = self.densities(sizes, wanted)
        most = candidates(scores, masks)
        keep = keep_of(sum(sizes.values()), wanted)
        return exactly({n: dense[n] * size for n, size in sizes.items()}, keep, most)

    def densities(self, sizes: Mapping[str, int], sparsity: float) -> dict[str, float]:
        """Fraction that each tensor keeps, from the numbers of weights.

        Example:
            >>> allocation = HeavyTailed((("a", 2.0), ("b", 4.0)), spread=0.2)
            >>> allocation.densities({"a": 10, "b": 10}, 0.5)
            {'a': 0.6, 'b': 0.4}
        """
        alphas = dict(self.exponents)
        lacking = [name for name in sizes if name not in alphas]
        if lacking:
            raise InvalidInput(
                f"Expected an exponent for every tensor, got none for {lacking[0]!r}; make the "
                f"allocation from the same tensors, with HeavyTailed.of."
            )
        finite = [alphas[name] for name in sizes if alphas[name] < float("inf")]
        high = max(finite, default=1.0)
        capped = {name: min(alphas[name], high) for name in sizes}
        low = min(capped.values())
        scaled = {n: (alpha - low) / ((high - low) or 1.0) for n, alpha in capped.items()}
        shares = {n: 1 + self.spread * (2 * scaled[n] - 1) if high > low else 1.0 for n in sizes}
        return {n: 1 - s for n, s in _to_mean(shares, sizes, sparsity).items()}


def _to_mean(
    shares: Mapping[str, float], sizes: Mapping[str, int], sparsity: float
) -> dict[str, float]:
    """Scale shares until their mean over all weights is the sparsity, none above the most."""
    most = 1 - (1 - sparsity) / 4
    full: set[str] = set()
    while True:
        left = sparsity * sum(sizes.values()) - most * sum(sizes[name] for name in full)
        rest = sum(share * sizes[name] for name, share in shares.items() if name not in full)
        factor = left / (rest or 1.0)
        over = {name for name, share in shares.items() if factor * share > most} - full
        if not over:
            return {n: most if n in full else factor * share for n, share in shares.items()}
        full |= over


def _eigenvalues(weight: Tensor) -> Tensor:
    """Eigenvalues of WᵀW that are more than rounding, ascending."""
    if weight.dim() < 2:
        raise InvalidInput(
            f"Expected tensors with an input and an output dimension for their spectra, got shape "
            f"{tuple(weight.shape)}; leave it out with layers=."
        )
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    matrices = wide.flatten(2).permute(2, 0, 1) if wide.dim() > 2 else wide[None]
    if not bool(matrices.isfinite().all()) or not bool(matrices.any()):
        raise InvalidInput(
            f"Expected finite weights that are not all zero, got others in a tensor of shape "
            f"{tuple(weight.shape)}; check the network, or leave it out with layers=."
        )
    singular = torch.linalg.svdvals(matrices).flatten().double().sort().values
    rounding = torch.finfo(wide.dtype).eps * max(matrices.shape[1:])
    found: Tensor = singular[singular > rounding * singular[-1]].square()
    return found


def _peak(logs: Tensor) -> float:
    """Lower end of the fullest bin of the histogram of log λ, as a λ."""
    low, high = float(logs[0]), float(logs[-1])
    counts = torch.histc(logs, _BINS, min=low, max=high) if high > low else torch.ones(1)
    width = (high - low) / len(counts)
    return float(torch.tensor(low + width * int(counts.argmax()), dtype=torch.float64).exp())
