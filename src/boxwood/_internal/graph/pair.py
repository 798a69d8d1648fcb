"""The original and the smaller network, run with the same weights."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from boxwood._internal.graph.comparison import (
    SMALLEST,
    distance,
    is_coarser,
    is_numbers,
    name_of,
    precision,
    tolerance,
)
from boxwood._internal.graph.divisors import divided_by
from boxwood._internal.graph.equivalence_report import Trial
from boxwood._internal.graph.rebuild import memory_of, named_tensors
from boxwood._internal.graph.recording import place_of
from boxwood._internal.graph.reference import Restating, restated
from boxwood._internal.graph.reparametrised import baked
from boxwood._internal.graph.running import (
    Precisions,
    Widening,
    in_finest,
    noise_of,
    observe_,
    prepared,
    ready,
    run,
)
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.slicing import Cuts, mask_, sliced
from boxwood._internal.graph.state import changed, state_of
from boxwood._internal.graph.surgery import cuts_of
from boxwood.errors import BoxwoodError, InvalidInput

_T = TypeVar("_T")

_QUICK = 1e-5
"""What outputs of networks run as they are may differ by, before they are run in double precision."""


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
        throughout: run in double precision also where the code converts to a coarser type.
    """

    model: nn.Module
    small: nn.Module
    selection: UnitSelection
    seed: int
    left: frozenset[tuple[str, int]] = frozenset()
    throughout: bool = False

    def __post_init__(self) -> None:
        # Removal is from the weights that layers compute with, and these are given to both.
        object.__setattr__(self, "model", baked(self.model))
        object.__setattr__(self, "small", baked(self.small))

    def trial(self, example: Any, inputs: str, *, perturbed: bool) -> Trial:
        """Run both on one example, in double precision where the network can.

        Where they differ and the code itself rounds to a coarser type, such as by ``x.float()``,
        they are run again without these conversions; what cannot be run so is allowed what the
        coarser type rounds.
        """

        def compared(dtype: torch.dtype | None) -> tuple[torch.dtype | None, Trial]:
            return dtype, self._compare(example, inputs, perturbed=perturbed, dtype=dtype)

        dtype, trial = in_finest(self.model, compared)
        if trial.equal:
            return trial
        coarsest = self.coarsest(example, perturbed=perturbed, dtype=dtype)
        if not is_coarser(coarsest, dtype or getattr(torch, trial.dtype)):
            return trial
        name = name_of(coarsest)
        exact = self.in_double_throughout(
            lambda pair: pair._compare(example, inputs, perturbed=perturbed, dtype=torch.float64),
            example,
            perturbed=perturbed,
        )
        if exact is not None:
            return replace(exact, dtype=f"float64, conversions to {name} left out")
        said = f"{trial.dtype} with parts in {name}"
        return replace(trial, dtype=said, tolerance=tolerance(coarsest))

    def quick_trial(self, example: Any, inputs: str) -> Trial:
        """Run both as they are; in double precision only where that leaves doubt."""
        found = self._compare(example, inputs, perturbed=True, dtype=None)
        quick = replace(found, tolerance=_QUICK)
        return quick if quick.equal else self.trial(example, inputs, perturbed=True)

    def coarsest(
        self, example: Any, *, perturbed: bool, dtype: torch.dtype | None = torch.float64
    ) -> torch.dtype:
        """Find the coarsest type of floats that the masked network rounds to, run in another."""
        wide, _ = self.networks(perturbed=perturbed, dtype=dtype)
        noted = Precisions()
        with torch.no_grad():
            outputs = self.run(wide, example, dtype, restated(self.selection), noted)
        returned = precision(outputs, dtype)
        return returned if is_coarser(returned, noted.coarsest) else noted.coarsest

    def in_double_throughout(
        self, compared: Callable[["Pair"], _T], example: Any, *, perturbed: bool
    ) -> _T | None:
        """Compare without conversions to coarser types; None where the code does not run so."""
        finer = replace(self, throughout=True)
        try:
            exact = finer.coarsest(example, perturbed=perturbed) == torch.float64
            return compared(finer) if exact else None
        except Exception:  # noqa: BLE001 - kernels may exist for the coarser type alone
            return None

    def run(
        self,
        network: nn.Module,
        example: Any,
        dtype: torch.dtype | None,
        *contexts: AbstractContextManager[Any],
    ) -> list[Tensor]:
        """Run one of the two, with random numbers seeded alike."""
        return run(network, example, dtype, self.seed, *contexts, *self.widening())

    def widening(self) -> list[AbstractContextManager[Any]]:
        """List what keeps code from converting to coarser types: nothing if it may."""
        return [Widening()] if self.throughout else []  # type: ignore[no-untyped-call]

    def takes(self, example: Any, like: Any) -> str:
        """Say why the masked network does not take inputs as it takes others; empty if it does."""
        usual = _broken(in_finest(self.model, lambda dtype: self._masked_on(like, dtype)))
        try:
            outputs = in_finest(self.model, lambda dtype: self._masked_on(example, dtype))
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

        return in_finest(self.model, path)

    def _steady(self, example: Any, seed: int) -> bool:
        def same(dtype: torch.dtype | None) -> bool:
            one = self._masked_on(example, dtype)
            other = replace(self, seed=seed)._masked_on(example, dtype)
            difference, scale = distance(one, other)
            return difference <= tolerance(precision(one, dtype)) * max(scale, SMALLEST)

        return in_finest(self.model, same)

    def _masked_on(
        self, example: Any, dtype: torch.dtype | None, mode: Restating | None = None
    ) -> list[Tensor]:
        """Run the masked network with its own weights, what is divided by left as it is."""
        freely = replace(self, left=self._divided_by())
        wide, _ = freely.networks(perturbed=False, dtype=dtype)
        with torch.no_grad():
            return self.run(wide, example, dtype, mode or restated(self.selection))

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
        """Set what is removed to zero, except for what is divided by: variances, and directions."""
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
        inside: bool = False,
    ) -> Trial:
        """Run both once, or twice where something is kept between calls.

        With ``inside`` what modules return is compared as well, where it kept its shape.
        """
        networks = wide, narrow = self.networks(perturbed=perturbed, dtype=dtype)
        seen: tuple[list[Tensor], list[Tensor]] = ([], [])
        inside = inside or bool(self.selection.units.flow.trace.beyond)
        if inside:
            for network, into in zip(networks, seen, strict=True):
                observe_(network, into)
        before = state_of(narrow)
        with torch.no_grad():
            expected = self.run(wide, example, dtype, restated(self.selection))
            got = self._run_small(narrow, example, dtype, "")
        if broken := _broken(expected):
            whole = self.whole(perturbed=perturbed, dtype=dtype)
            with torch.no_grad():
                unmasked = self.run(whole, example, dtype)
            if _broken(unmasked) < broken and not self.left and (left := self._divided_by()):
                return replace(self, left=left)._compare(
                    example, inputs, perturbed=perturbed, dtype=dtype
                )
            self._check_finite(expected, unmasked, perturbed=perturbed)
        if not inside and expected and not any(map(is_numbers, expected)):
            # Classes alone are mostly the same, whatever the channels.
            return self._compare(example, inputs, perturbed=perturbed, dtype=dtype, inside=True)
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
        kind = dtype or precision(expected, None)
        return Trial(
            inputs, "perturbed" if perturbed else "own", name_of(kind), difference, scale,
            tolerance(kind), kept, calls, tuple(sorted({name for name, _ in self.left})),
        )  # fmt: skip

    def _called_again(
        self, wide: nn.Module, example: Any, dtype: torch.dtype | None
    ) -> list[Tensor]:
        """Run the masked network once more; nothing if it cannot be called twice."""
        try:
            with torch.no_grad():
                return self.run(wide, example, dtype, restated(self.selection))
        except Exception:  # noqa: BLE001 - any error of the user's code
            return []

    def _run_small(
        self, narrow: nn.Module, example: Any, dtype: torch.dtype | None, when: str
    ) -> list[Tensor]:
        try:
            with torch.no_grad():
                return self.run(narrow, example, dtype)
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
