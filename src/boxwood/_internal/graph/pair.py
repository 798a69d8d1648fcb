"""The original and the smaller network, run with the same weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.graph.comparing import (
    TOLERANCE,
    Precisions,
    distance,
    in_double,
    is_numbers,
    noise_of,
    observe_,
    precision,
    prepared,
    ready,
    run,
)
from boxwood._internal.graph.divisors import divided_by
from boxwood._internal.graph.equivalence_report import SMALLEST, Trial
from boxwood._internal.graph.rebuild import memory_of, named_tensors
from boxwood._internal.graph.recording import place_of
from boxwood._internal.graph.reference import Restating, restated
from boxwood._internal.graph.reparametrised import baked
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.slicing import Cuts, mask_, sliced
from boxwood._internal.graph.state import changed, state_of
from boxwood._internal.graph.surgery import cuts_of
from boxwood.errors import BoxwoodError, InvalidInput


class SmallerFailsError(InvalidInput):
    """The smaller network does not run where the masked one does."""


@dataclass(frozen=True)
class Pair:
    """The original and the smaller network, to be run with the same weights.

    Args:
        model: the original.
        small: what was made of it.
        selection: what stays.
        seed: of the noise, and of what the networks draw.
        left: axes of parameters that the masked network does not set to zero.
    """

    model: nn.Module
    small: nn.Module
    selection: UnitSelection
    seed: int
    left: frozenset[tuple[str, int]] = frozenset()

    def __post_init__(self) -> None:
        # Removal is from the weights that layers compute with, and these are given to both.
        object.__setattr__(self, "model", baked(self.model))
        object.__setattr__(self, "small", baked(self.small))

    def trial(self, example: Any, inputs: str, *, perturbed: bool) -> Trial:
        """Run both on one example, in double precision where the network can."""
        trial = in_double(
            lambda dtype: self._compare(example, inputs, perturbed=perturbed, dtype=dtype)
        )
        if trial.equal or trial.dtype != "float64":
            return trial
        # Where the code itself computes in a coarser type, the difference can show no more.
        coarsest = self.coarsest(example, perturbed=perturbed)
        name = f"float64 with parts in {str(coarsest).removeprefix('torch.')}"
        if coarsest == torch.float64:
            return trial
        return replace(trial, dtype=name, tolerance=TOLERANCE.get(coarsest, 0.05))

    def quick_trial(self, example: Any, inputs: str) -> Trial:
        """Run both as they are; in double precision only where that leaves doubt."""
        found = self._compare(example, inputs, perturbed=True, dtype=None)
        quick = replace(found, tolerance=1e-5)
        return quick if quick.equal else self.trial(example, inputs, perturbed=True)

    def coarsest(self, example: Any, *, perturbed: bool) -> torch.dtype:
        """Find the coarsest type of floats that the masked network computes in, run in double."""
        wide, _ = self.networks(perturbed=perturbed, dtype=torch.float64)
        noted = Precisions()
        with torch.no_grad():
            run(wide, example, torch.float64, self.seed, restated(self.selection), noted)
        return noted.coarsest

    def takes(self, example: Any, like: Any) -> str:
        """Say why the masked network does not take inputs as it takes others; empty if it does."""
        usual = _broken(in_double(lambda dtype: self._masked_on(like, dtype)))
        try:
            outputs = in_double(lambda dtype: self._masked_on(example, dtype))
        except Exception as error:  # noqa: BLE001 - any error of the user's code
            return f"it fails on what was drawn ({type(error).__name__}: {error})"
        return "its outputs are not finite on what was drawn" if _broken(outputs) > usual else ""

    def unsteady(self, example: Any) -> str:
        """Say how outputs of the masked network change by themselves, by more than rounding."""
        try:
            again, otherwise = (self._steady(example, self.seed + more) for more in (0, 1))
        except BoxwoodError:  # no finite numbers, which says nothing
            return ""
        if not again:
            return "change from run to run, with all generators of random numbers seeded alike"
        return "" if otherwise else "are drawn at random in evaluation"

    def strayed(self, example: Any) -> str:
        """Say how a run of the masked network differs from the trace; empty if it does not."""
        if self.selection.units.flow.trace.beyond:
            return ""

        def path(dtype: torch.dtype | None) -> str:
            mode = restated(self.selection)
            self._masked_on(example, dtype, mode)
            return mode.strayed

        return in_double(path)

    def _steady(self, example: Any, seed: int) -> bool:
        def same(dtype: torch.dtype | None) -> bool:
            one = self._masked_on(example, dtype)
            other = replace(self, seed=seed)._masked_on(example, dtype)
            difference, scale = distance(one, other)
            tolerance = TOLERANCE.get(precision(one, dtype), 0.05)
            return difference <= tolerance * max(scale, SMALLEST)

        return in_double(same)

    def _masked_on(
        self, example: Any, dtype: torch.dtype | None, mode: Restating | None = None
    ) -> list[Tensor]:
        """Run the masked network with its own weights, what is divided by left as it is."""
        freely = replace(self, left=self._divided_by())
        wide, _ = freely.networks(perturbed=False, dtype=dtype)
        with torch.no_grad():
            return run(wide, example, dtype, self.seed, mode or restated(self.selection))

    def networks(
        self, *, perturbed: bool, dtype: torch.dtype | None
    ) -> tuple[nn.Module, nn.Module]:
        """Give both networks the original's weights, masked and cut."""
        cuts = cuts_of(self.selection)
        tensors = self._tensors(perturbed=perturbed, dtype=dtype)
        narrow = ready(self.small, lambda n, _: sliced(tensors[n], cuts.get(n, ())), dtype)
        return ready(self.model, lambda n, _: self._masked_(n, tensors[n], cuts), dtype), narrow

    def whole(self, *, perturbed: bool, dtype: torch.dtype | None) -> nn.Module:
        """Copy the original with the same weights, nothing removed."""
        tensors = self._tensors(perturbed=perturbed, dtype=dtype)
        return ready(self.model, lambda n, _: tensors[n], dtype)

    def _tensors(self, *, perturbed: bool, dtype: torch.dtype | None) -> Mapping[str, Tensor]:
        noise = noise_of(self.seed) if perturbed else None
        trainable = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        tensors: dict[str, Tensor] = {}
        for names, tensor in named_tensors(self.model):
            made = prepared(tensor, dtype, noise if names[0] in trainable else None)
            tensors[names[0]] = made.clone() if memory_of(made) == memory_of(tensor) else made
        return tensors

    def _masked_(self, name: str, tensor: Tensor, cuts: Cuts) -> Tensor:
        """Set what is removed to zero, but for what is divided by: variances, and directions."""
        if name.endswith("running_var"):
            return tensor
        alone = self.selection.units.flow.directions | self.left
        return mask_(tensor, [each for each in cuts.get(name, ()) if (name, each[0]) not in alone])

    def _compare(
        self,
        example: Any,
        inputs: str,
        *,
        perturbed: bool,
        dtype: torch.dtype | None,
        within: bool = False,
    ) -> Trial:
        """Run both once, or twice where something is kept between calls.

        With ``within`` what modules return is compared as well, where it kept its shape.
        """
        networks = wide, narrow = self.networks(perturbed=perturbed, dtype=dtype)
        seen: tuple[list[Tensor], list[Tensor]] = ([], [])
        within = within or bool(self.selection.units.flow.trace.beyond)
        if within:
            for network, into in zip(networks, seen, strict=True):
                observe_(network, into)
        before = state_of(narrow)
        with torch.no_grad():
            expected = run(wide, example, dtype, self.seed, restated(self.selection))
            got = self._run_small(narrow, example, dtype, "")
        if broken := _broken(expected):
            whole = self.whole(perturbed=perturbed, dtype=dtype)
            with torch.no_grad():
                unmasked = run(whole, example, dtype, self.seed)
            if _broken(unmasked) < broken and not self.left and (left := self._divided_by()):
                return replace(self, left=left)._compare(
                    example, inputs, perturbed=perturbed, dtype=dtype
                )
            self._check_finite(expected, unmasked, perturbed=perturbed)
        if not within and expected and not any(map(is_numbers, expected)):
            # Classes alone are mostly the same, whatever the channels.
            return self._compare(example, inputs, perturbed=perturbed, dtype=dtype, within=True)
        kept, calls = changed(before, state_of(narrow)), 1
        if kept and (again := self._called_again(wide, example, dtype)):
            calls = 2
            expected = expected + again
            got = got + self._run_small(narrow, example, dtype, " a second time")
        for one, other in zip(*seen, strict=False):
            if one.shape == other.shape and bool(one.isfinite().any()):
                expected.append(one)
                got.append(other)
        if not any(tensor.numel() for tensor in expected):
            raise InvalidInput(
                f"Expected outputs to compare, got none of {type(self.model).__name__}; give an "
                f"example on which it returns something."
            )
        difference, scale = distance(expected, got)
        kind = precision(expected, dtype)
        return Trial(
            inputs, "perturbed" if perturbed else "own", str(kind).removeprefix("torch."),
            difference, scale, TOLERANCE.get(kind, 0.05), kept, calls,
            tuple(sorted({name for name, _ in self.left})),
        )  # fmt: skip

    def _called_again(
        self, wide: nn.Module, example: Any, dtype: torch.dtype | None
    ) -> list[Tensor]:
        """Run the masked network once more; nothing if it cannot be called twice."""
        try:
            with torch.no_grad():
                return run(wide, example, dtype, self.seed, restated(self.selection))
        except Exception:  # noqa: BLE001 - any error of the user's code
            return []

    def _run_small(
        self, narrow: nn.Module, example: Any, dtype: torch.dtype | None, when: str
    ) -> list[Tensor]:
        try:
            with torch.no_grad():
                return run(narrow, example, dtype, self.seed)
        except Exception as error:
            if dtype is not None:
                raise
            raise SmallerFailsError(
                f"Expected the smaller {type(self.model).__name__} to run{when} as the masked one "
                f"does, got {type(error).__name__} ({error}) at {place_of(error)}; protect=… keeps whole "
                "what is handled there."
            ) from error

    def _divided_by(self) -> frozenset[tuple[str, int]]:
        cut = {(name, dim) for name, axes in cuts_of(self.selection).items() for dim, _ in axes}
        return divided_by(self.selection.units.flow) & cut

    def _check_finite(
        self, expected: list[Tensor], unmasked: list[Tensor], *, perturbed: bool
    ) -> None:
        """Refuse outputs with which nothing can be compared, and say what is known of the cause."""
        name, noise = type(self.model).__name__, ", with noise on its weights," * perturbed
        for each, whole in zip(expected, unmasked, strict=False):
            if each.is_floating_point() and each.numel() and not each.isfinite().any():
                shape = tuple(each.shape)
                raise InvalidInput(
                    f"Expected finite outputs of the masked {name}, got one of shape {shape} "
                    f"without any finite entry, where the whole network{noise} has some: its code "
                    "may not allow zeros where something is removed; protect that with protect=…"
                    if whole.isfinite().any()
                    else f"Expected finite outputs of {name}, got one{noise} of shape {shape} "
                    "without any finite entry, before anything is removed as well; give an "
                    "example, and weights, with which all are finite."
                )


def _broken(outputs: list[Tensor]) -> int:
    return sum(int((~each.isfinite()).sum()) for each in outputs if each.is_floating_point())
