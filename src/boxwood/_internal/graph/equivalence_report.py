"""The result of checking a smaller network against the masked one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from boxwood._internal.graph.comparison import SMALLEST
from boxwood._internal.graph.reference import Restatement
from boxwood._internal.graph.surgery import AttributeChange


@dataclass(frozen=True)
class Trial:
    """One comparison of the small and the masked network.

    Args:
        inputs: ``given``; ``random``, or ``scaled`` from the given ones; ``fresh``, of the user.
        weights: ``own``, or ``perturbed`` by noise, so that no weight that happens to be zero can
            hide a mistake.
        dtype: in which both were run.
        difference: largest absolute difference in the output that differs most for its size;
            infinite where shapes, whole numbers or entries that are no numbers differ.
        scale: largest absolute entry of that output.
        tolerance: what the ratio of the two may be: `graph.comparison.tolerance` of the type.
        state: what the network keeps of one call for the next.
        calls: how many calls in a row were compared: two where there is such, and they run.
        left: parameters that are not zero in the masked network, for the code divides by them.
    """

    inputs: str
    weights: str
    dtype: str
    difference: float
    scale: float
    tolerance: float
    state: tuple[str, ...] = ()
    calls: int = 1
    left: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether the outputs agree."""
        return self.difference <= self.tolerance * max(self.scale, SMALLEST)

    def __str__(self) -> str:
        calls = ", two calls in a row" if self.calls > 1 else ""
        return (
            f"{self.inputs} inputs, {self.weights} weights, {self.dtype}{calls}: "
            f"largest difference {self.difference:.2g} of {self.scale:.2g}"
            + _allowed(self.equal, self.tolerance)
        )


@dataclass(frozen=True)
class Gradients:
    """One comparison of the gradients of what is kept.

    Args:
        difference: largest of a parameter's, over the largest entry of its own; None if they are
            not compared.
        tolerance: what it may be.
        dtype: in which both were run.
        said: what it is the difference from, if not from the masked network's; or why there is none.
    """

    difference: float | None
    tolerance: float
    dtype: str = ""
    said: str = ""

    @property
    def equal(self) -> bool:
        """Whether the gradients agree, as far as they are compared."""
        return self.difference is None or self.difference <= self.tolerance

    def __str__(self) -> str:
        if self.difference is None:
            return f"not compared: {self.said}"
        said = f" {self.said}" if self.said else ""
        return f"{self.dtype}: largest difference {self.difference:.2g}{said}" + _allowed(
            self.equal, self.tolerance
        )


@dataclass(frozen=True)
class EquivalenceReport:
    """The result of checking a smaller network against the masked original.

    Args:
        trials: comparisons of outputs.
        gradients: comparison of the gradients of kept parameters; None if it was not asked for.
        restated: statistics that the masked network computes over kept channels only.
        attributes: ints of modules that were changed.
        unread: parameters that the pass in evaluation mode does not read, and for which nothing was
            checked.
        units, parameters, multiply_adds: before and after.
        beyond: where control flow begins to depend on data, if it does: outputs of all modules that
            kept their shape were compared as well, because the model's own may be empty.
        assumed: where the model depends on values that follow from integer inputs, such as the
            length of the longest; the check covers only the path that the example takes.
        untried: why there is no trial on inputs other than those given.
        unsteady: how outputs change although nothing else does, if that may be why trials differ.
        strayed: how the masked network ran differently from the trace, if trials differ.
        baked: weights that are now ordinary parameters, because their computation gives other
            values after the removal.
    """

    trials: tuple[Trial, ...]
    gradients: Gradients | None
    restated: tuple[Restatement, ...]
    attributes: tuple[AttributeChange, ...]
    unread: tuple[str, ...]
    units: tuple[int, int]
    parameters: tuple[int, int]
    multiply_adds: tuple[int, int]
    beyond: str = ""
    assumed: tuple[str, ...] = ()
    untried: str = ""
    unsteady: str = ""
    strayed: str = ""
    baked: tuple[str, ...] = ()

    @property
    def equivalent(self) -> bool:
        """Whether outputs agree in every trial, and gradients as far as they are compared."""
        outputs = all(trial.equal for trial in self.trials)
        return outputs and (self.gradients is None or self.gradients.equal)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"equivalent": self.equivalent, **asdict(self)}

    def __str__(self) -> str:
        lines = ["equivalent" if self.equivalent else "NOT EQUIVALENT"]
        for name in ("units", "parameters", "multiply_adds"):
            before, after = getattr(self, name)
            lines.append(
                f"{name.replace('_', '-')}: {before:,} -> {after:,} ({after / max(before, 1):.1%})"
            )
        lines += [str(trial) for trial in self.trials]
        if self.untried:
            lines.append(
                f"no other inputs were tried: {self.untried}; check_equivalence(inputs=…) takes yours"
            )
        if self.unsteady:
            lines.append(
                f"the outputs of the masked network {self.unsteady}, so no trial can agree"
            )
        if self.strayed:
            lines.append(f"trials differ, and {self.strayed}")
        if self.gradients is not None:
            lines.append(f"gradients of kept parameters, {self.gradients}")
        for name, found in (("kept between calls", self._of_trials("state")),
                            ("divided by, and so not zero in the masked network",
                             self._of_trials("left"))):  # fmt: skip
            if found:
                lines.append(f"{name}: {_some(found)}")
        if self.restated:
            lines.append(
                f"statistics taken over kept channels alone in {len(self.restated)} places:"
            )
            lines += [f"  {each}" for each in self.restated[:4]]
            lines += ["  …"] * (len(self.restated) > 4)
        if self.attributes:
            lines.append(f"attributes changed: {len(self.attributes)}")
        if self.baked:
            lines.append(f"no longer computed from other tensors: {', '.join(self.baked)}")
        if self.beyond:
            lines.append(f"depends on data from {self.beyond} on; what is read there stays whole")
        if self.assumed:
            lines.append(f"values of the inputs are looked at, and the path is the example's: "
                         f"{self.assumed[0]}" + (" …" if len(self.assumed) > 1 else ""))  # fmt: skip
        if self.unread:
            lines.append(f"not read in evaluation, and not covered: {_some(self.unread)}")
        return "\n".join(lines)

    def _of_trials(self, name: str) -> list[str]:
        return sorted({each for trial in self.trials for each in getattr(trial, name)})


def _allowed(equal: bool, tolerance: float) -> str:
    return f"{';' if equal else ', DIFFERS:'} at most {tolerance:.0e} of the largest is allowed"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
