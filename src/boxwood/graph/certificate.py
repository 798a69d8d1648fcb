"""What was shown about a smaller network."""

from dataclasses import asdict, dataclass
from typing import Any

from boxwood.graph.reference import Restatement
from boxwood.graph.surgery import AttributeChange


@dataclass(frozen=True)
class Trial:
    """One comparison of the small and the masked network.

    Args:
        inputs: ``given`` or ``random``.
        weights: ``own``, or ``perturbed`` by noise, so that no weight that happens to be zero can
            hide a mistake.
        dtype: in which both were run.
        difference: largest absolute difference of any output.
        scale: largest absolute output.
        tolerance: what the ratio of the two may be.
    """

    inputs: str
    weights: str
    dtype: str
    difference: float
    scale: float
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether the outputs agree."""
        return self.difference <= self.tolerance * max(self.scale, 1e-3)


@dataclass(frozen=True)
class Certificate:
    """What was shown about a smaller network.

    Args:
        trials: comparisons of outputs.
        gradient_difference: of the kept parameters, relative to the largest gradient; None if
            gradients were not asked for, or there are none.
        gradient_tolerance: what it may be, by the type in which gradients were computed.
        restated: statistics that the masked network takes over kept channels alone.
        attributes: ints of modules that were changed.
        unread: parameters that the pass in evaluation does not read, and that nothing is shown for.
        units, parameters, multiply_adds: before and after.
        beyond: where control flow begins to depend on data, if it does: outputs of all modules that
            kept their shape were compared as well, for the model's own may be empty.
        assumed: where the model looks at values that follow from whole-number inputs, such as the
            length of the longest; what is shown is shown for the path that the example takes.
    """

    trials: tuple[Trial, ...]
    gradient_difference: float | None
    gradient_tolerance: float
    restated: tuple[Restatement, ...]
    attributes: tuple[AttributeChange, ...]
    unread: tuple[str, ...]
    units: tuple[int, int]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    beyond: str = ""
    assumed: tuple[str, ...] = ()

    @property
    def proved(self) -> bool:
        """Whether every trial agrees."""
        return all(trial.equal for trial in self.trials) and self._gradients_equal

    @property
    def _gradients_equal(self) -> bool:
        difference = self.gradient_difference
        return difference is None or difference <= self.gradient_tolerance

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"proved": self.proved, **asdict(self)}

    def __str__(self) -> str:
        lines = ["proved" if self.proved else "NOT PROVED"]
        for name in ("units", "parameters", "multiply_adds"):
            before, after = getattr(self, name)
            lines.append(
                f"{name.replace('_', '-')}: {before:,} -> {after:,} ({after / max(before, 1):.1%})"
            )
        lines += [
            f"{t.inputs} inputs, {t.weights} weights, {t.dtype}: largest difference "
            f"{t.difference:.2g} of {t.scale:.2g}" + _failed(t.equal, t.tolerance)
            for t in self.trials
        ]
        if self.gradient_difference is not None:
            lines.append(
                f"gradients of kept parameters: {self.gradient_difference:.2g}"
                + _failed(self._gradients_equal, self.gradient_tolerance)
            )
        if self.restated:
            lines.append(f"statistics taken over kept channels in {len(self.restated)} places:")
            lines += [f"  {each}" for each in self.restated[:4]]
            lines += ["  …"] * (len(self.restated) > 4)
        if self.attributes:
            lines.append(f"attributes changed: {len(self.attributes)}")
        if self.beyond:
            lines.append(f"depends on data from {self.beyond} on; what is read there stays whole")
        if self.assumed:
            lines.append(f"values of the inputs are looked at, and the path is the example's: "
                         f"{self.assumed[0]}" + (" …" if len(self.assumed) > 1 else ""))  # fmt: skip
        if self.unread:
            lines.append(f"not read in evaluation, and not covered: {', '.join(self.unread[:4])}"
                         + (" …" if len(self.unread) > 4 else ""))  # fmt: skip
        return "\n".join(lines)


def _failed(equal: bool, tolerance: float) -> str:
    return "" if equal else f", DIFFERS: at most {tolerance:.0e} of the largest is allowed"
