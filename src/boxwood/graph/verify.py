"""The certificate: the smaller network computes what the masked network computes."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from boxwood.core.errors import BoxwoodError
from boxwood.core.placement import check_whole
from boxwood.graph.certificate import Certificate, Trial
from boxwood.graph.comparing import (
    GRADIENT_TOLERANCE,
    TOLERANCE,
    Precisions,
    distance,
    in_double,
    noise_of,
    observe_,
    precision,
    prepared,
    randomised,
    ready,
    run,
)
from boxwood.graph.copying import memory_of, named_tensors
from boxwood.graph.keep import Keep
from boxwood.graph.reference import restated, restatements
from boxwood.graph.surgery import Cuts, cut, cuts_of, mask_, sliced


def verify(
    model: nn.Module,
    small: nn.Module,
    keep: Keep,
    example: Any = None,
    *,
    gradients: bool = True,
    seed: int = 0,
) -> Certificate:
    """Compare a smaller network with the masked original, on given and random inputs.

    The masked network is the original with every weight of the removed units at zero. Both are
    given the same weights (the original's, then the original's with noise), so that the
    certificate is about the surgery; weights that were refitted afterwards change nothing in it.

    Args:
        model: the original.
        small: what `shrink` made of it.
        keep: what `shrink` was given.
        example: inputs; those of `units` by default.
        gradients: also compare gradients of the kept parameters.
        seed: of the random inputs and of the noise.

    Raises:
        BoxwoodError: the networks do not run on the example, or their outputs are not finite.

    Example:
        >>> from boxwood.graph.keep import keep_best
        >>> from boxwood.graph.units import units
        >>> import numpy as np
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> keep = keep_best(units(net, torch.ones(1, 4)), np.arange(3.0), 0.5)
        >>> verify(net, shrink(net, keep), keep).proved
        True
    """
    check_whole(dict(model.named_parameters()))
    example = keep.units.example if example is None else example
    pair = _Pair(model, small, keep, seed)
    trials = [
        pair.trial(example, "given", perturbed=False),
        pair.trial(example, "given", perturbed=True),
        pair.trial(randomised(example, seed), "random", perturbed=False),
    ]
    # Behind what depends on data there may be nothing to differentiate.
    beyond = keep.units.flow.trace.beyond
    difference, tolerance = None, GRADIENT_TOLERANCE[torch.float64]
    if gradients and not beyond:
        difference, tolerance = pair.gradient_trial(example)
    _, changes = cut(model, keep)
    everything = keep.kept | True
    return Certificate(
        trials=tuple(trials),
        gradient_difference=difference,
        gradient_tolerance=tolerance,
        restated=restatements(keep),
        attributes=changes,
        unread=keep.units.unused,
        units=(len(keep.units), len(keep.units) - keep.removed),
        parameters=(keep.units.parameters(), sum(p.numel() for p in small.parameters())),
        multiply_adds=(keep.units.multiply_adds(everything), keep.units.multiply_adds(keep.kept)),
        beyond=beyond,
        assumed=tuple(keep.units.flow.trace.assumed),
    )


def shrink(model: nn.Module, keep: Keep, *, check: bool = True) -> nn.Module:
    """Remove everything but what is kept: a new module of the same classes.

    The original is not touched. Buffers, dtypes, devices, training flags, ties between weights and
    hooks are kept.

    Args:
        model: the network in which the units were found.
        keep: what stays.
        check: run the result beside the masked original, both with noise on their weights, and
            refuse if their outputs differ.

    Raises:
        BoxwoodError: the code of the model cannot follow the removal, or the check fails.

    Example:
        >>> from boxwood.graph.keep import keep_best
        >>> from boxwood.graph.units import units
        >>> import numpy as np
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> shrink(net, keep_best(units(net, torch.ones(1, 4)), np.arange(3.0), 0.7))
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=2, bias=True)
        )
    """
    small, _ = cut(model, keep)
    if check:
        trial = _Pair(model, small, keep, 0).quick_trial(keep.units.example)
        if not trial.equal:
            raise BoxwoodError(
                f"Expected the smaller {type(model).__name__} to compute what the masked one does, "
                f"got outputs that differ by {trial.difference:.3g} where the largest is "
                f"{trial.scale:.3g}; nothing was returned: protect part of it with protect=…"
            )
    return small


@dataclass(frozen=True)
class _Pair:
    """The original and the small network, to be run with the same weights."""

    model: nn.Module
    small: nn.Module
    keep: Keep
    seed: int

    def trial(self, example: Any, inputs: str, *, perturbed: bool) -> Trial:
        """Run both on one example, in double precision where the network can."""
        difference, scale, dtype = in_double(
            lambda dtype: self._compare(example, perturbed=perturbed, dtype=dtype)
        )
        weights, name = "perturbed" if perturbed else "own", str(dtype).removeprefix("torch.")
        tolerance = TOLERANCE.get(dtype, 0.05)
        trial = Trial(inputs, weights, name, difference, scale, tolerance)
        if trial.equal or dtype != torch.float64:
            return trial
        coarsest = self._coarsest(example, perturbed=perturbed)
        if coarsest == dtype:
            return trial
        name += f" with parts in {str(coarsest).removeprefix('torch.')}"
        return replace(trial, dtype=name, tolerance=TOLERANCE.get(coarsest, 0.05))

    def _coarsest(self, example: Any, *, perturbed: bool) -> torch.dtype:
        """Find the coarsest type that code computes in by itself: a difference shows no more."""
        wide, _ = self.networks(perturbed=perturbed, dtype=torch.float64)
        noted = Precisions()
        with torch.no_grad(), noted:
            run(wide, example, torch.float64, self.seed, restated(self.keep))
        return noted.coarsest

    def quick_trial(self, example: Any) -> Trial:
        """Run both as they are; in double precision only where that leaves doubt."""
        found = self._compare(example, perturbed=True, dtype=None)
        quick = Trial("given", "perturbed", str(found[2]), found[0], found[1], 1e-5)
        return quick if quick.equal else self.trial(example, "given", perturbed=True)

    def _compare(
        self, example: Any, *, perturbed: bool, dtype: torch.dtype | None
    ) -> tuple[float, float, torch.dtype]:
        wide, narrow = self.networks(perturbed=perturbed, dtype=dtype)
        seen: tuple[list[Tensor], list[Tensor]] = ([], [])
        if self.keep.units.flow.trace.beyond:
            for network, into in zip((wide, narrow), seen, strict=True):
                observe_(network, into)
        with torch.no_grad():
            expected = run(wide, example, dtype, self.seed, restated(self.keep))
            try:
                got = run(narrow, example, dtype, self.seed)
            except Exception as error:
                if dtype is not None:
                    raise
                raise BoxwoodError(
                    f"Expected the smaller {type(self.model).__name__} to run, got "
                    f"{type(error).__name__} ({error}); nothing was returned: protect part of it "
                    "with protect=…, or keep multiples of 8 with multiple=8."
                ) from error
        for whole, left in zip(*seen, strict=False):
            if whole.shape == left.shape:
                # Each by its own scale, or the largest would hide the others.
                scale = (
                    float(whole.abs().max()) if whole.is_floating_point() and whole.numel() else 0
                )
                expected.append(whole / scale if scale > 0 else whole)
                got.append(left / scale if scale > 0 else left)
        if not any(tensor.numel() for tensor in expected):
            raise BoxwoodError(
                f"Expected outputs to compare, got none of {type(self.model).__name__}; give an "
                f"example on which it returns something."
            )
        return (*distance(expected, got), precision(expected, dtype))

    def networks(
        self, *, perturbed: bool, dtype: torch.dtype | None
    ) -> tuple[nn.Module, nn.Module]:
        """Give both networks the original's weights, masked and cut."""
        cuts = cuts_of(self.keep)
        noise = noise_of(self.seed) if perturbed else None
        trainable = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        tensors: dict[str, Tensor] = {}
        for names, tensor in named_tensors(self.model):
            made = prepared(tensor, dtype, noise if names[0] in trainable else None)
            tensors[names[0]] = made.clone() if memory_of(made) == memory_of(tensor) else made
        narrow = ready(self.small, lambda n, _: sliced(tensors[n], cuts.get(n, ())), dtype)
        return ready(self.model, lambda n, _: _mask_(n, tensors[n], self.keep, cuts), dtype), narrow

    def gradient_trial(self, example: Any) -> tuple[float | None, float]:
        """Compare the gradients of what is kept, of a random sum of the outputs.

        Returns:
            The largest difference over the largest gradient, and what it may be.
        """
        difference, dtype = in_double(lambda dtype: self._gradients(example, dtype))
        tolerance = GRADIENT_TOLERANCE.get(dtype, 0.05)
        if difference is not None and difference > tolerance and dtype == torch.float64:
            coarsest = self._coarsest(example, perturbed=True)
            tolerance = GRADIENT_TOLERANCE.get(coarsest, 0.05)
        return difference, tolerance

    def _gradients(
        self, example: Any, dtype: torch.dtype | None
    ) -> tuple[float | None, torch.dtype]:
        wide, narrow = self.networks(perturbed=True, dtype=dtype)
        cuts = cuts_of(self.keep)
        found = []
        for network, context in ((wide, restated(self.keep)), (narrow, nullcontext())):
            for parameter in network.parameters():
                parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
            with torch.enable_grad():
                outputs = run(network, example, dtype, self.seed, context)
                total = _weighted_sum(outputs)
            computed = precision(outputs, dtype)
            if total is None:
                return None, computed
            total.backward()
            found.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
        first, second = found
        scale = max((float(g.abs().max()) for g in second.values() if g.numel()), default=0.0)
        worst = 0.0
        for name, gradient in second.items():
            whole = first.get(name)
            whole = torch.zeros_like(self.model.get_parameter(name)) if whole is None else whole
            worst = max(worst, float((sliced(whole, cuts.get(name, ())) - gradient).abs().max()))
        return worst / scale if scale else worst, computed


def _mask_(name: str, tensor: Tensor, keep: Keep, cuts: Cuts) -> Tensor:
    """Set what is removed to zero, but for what is divided by: variances, and directions."""
    if name.endswith("running_var"):
        return tensor
    directions = keep.units.flow.directions
    return mask_(tensor, [each for each in cuts.get(name, ()) if (name, each[0]) not in directions])


def _weighted_sum(outputs: Sequence[Tensor]) -> Tensor | None:
    total = None
    for output in outputs:
        if output.requires_grad:
            output = torch.view_as_real(output.resolve_conj()) if output.is_complex() else output
            weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
            part = (output * weights.to(output.device)).sum()
            total = part if total is None else total + part
    return total
