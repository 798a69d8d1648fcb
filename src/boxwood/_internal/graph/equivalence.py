"""Whether a smaller network computes what the masked network computes."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.arguments import check_network
from boxwood._internal.graph.comparison import distance, name_of, precision, tolerance
from boxwood._internal.graph.equivalence_report import EquivalenceReport, Trial
from boxwood._internal.graph.examples import formed_like
from boxwood._internal.graph.gradients import compare_gradients
from boxwood._internal.graph.inputs import Inputs, drawn, is_flat, varied
from boxwood._internal.graph.pair import Pair, SmallerFailsError
from boxwood._internal.graph.rebuild import named_tensors
from boxwood._internal.graph.reference import restatements
from boxwood._internal.graph.reparametrised import written
from boxwood._internal.graph.running import in_finest, noise_of, prepared, ready, run
from boxwood._internal.graph.selection import UnitSelection, check_selection
from boxwood._internal.graph.surgery import attribute_changes, check_same_model, cuts_of
from boxwood.errors import BoxwoodError, EquivalenceError, InvalidInput


def check_equivalence(
    model: nn.Module,
    small: nn.Module,
    selection: UnitSelection,
    example: Any = None,
    *,
    inputs: Inputs | None = None,
    gradients: bool = True,
    seed: int = 0,
) -> EquivalenceReport:
    """Check a smaller network against the masked original: compare outputs, and gradients of what is kept.

    The masked network is the original with every weight of the removed units at zero. Both get the
    same weights (the original's, then the original's with noise), so the report is about the
    removal only; refitting weights afterwards does not affect it.

    Both are run in double precision, where outputs and gradients may differ by 1e-9 of the largest
    entry. If the code itself converts to a coarser type, it is run again without these conversions.
    Networks that cannot run that way are run in single precision (outputs may differ by 1e-4,
    gradients by 1e-3), or as they are (outputs by 1e-2 in float16 and 5e-2 in bfloat16; gradients
    are not compared). `graph/comparison.py` has the rounding that was measured. The report says what was
    run and which tolerances applied.

    Args:
        model: the original.
        small: the network that `shrink` returned.
        selection: the selection that `shrink` got.
        example: inputs; those of `find_units` by default.
        inputs: other examples: a function that draws one, or a list, of which the first four are
            used. By default floating-point inputs are drawn at random, or scaled if the network
            does not accept those; integers and masks are not changed.
        gradients: also compare gradients of the kept parameters.
        seed: of the random inputs and of the noise.

    Raises:
        InvalidInput: the networks do not run on the example or on the inputs, or an output has no
            finite entry.

    Example:
        >>> import torch
        >>> from boxwood import find_units, select_units, shrink
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> selection = select_units(find_units(net, torch.ones(1, 4)), 0.5)
        >>> check_equivalence(net, shrink(net, selection), selection).equivalent
        True
    """
    check_network(model)
    check_selection(selection)
    check_same_model(model, selection)
    traced = selection.units.example
    example = traced if example is None else formed_like(traced, example)
    pair = Pair(model, small, selection, seed)
    trials, untried = _trials(pair, example, inputs)
    # After what depends on data there may be nothing to differentiate.
    beyond = selection.units.flow.trace.beyond
    compared = compare_gradients(pair, example) if gradients and not beyond else None
    everything = selection.kept | True
    made = EquivalenceReport(
        trials=trials,
        gradients=compared,
        untried=untried,
        restated=restatements(selection),
        attributes=attribute_changes(selection),
        unread=selection.units.unused,
        units=(len(selection.units), len(selection.units) - selection.removed),
        parameters=(selection.units.parameters(), sum(p.numel() for p in pair.small.parameters())),
        baked=tuple(str(each) for each in written(model, cuts_of(selection)).baked),
        multiply_adds=(
            selection.units.multiply_adds(everything),
            selection.units.multiply_adds(selection.kept),
        ),
        beyond=beyond,
        assumed=tuple(selection.units.flow.trace.assumed),
    )
    if all(trial.equal for trial in trials):
        return made
    return replace(made, unsteady=pair.unsteady(example), strayed=pair.strayed(example))


def check_outputs(model: nn.Module, small: nn.Module, selection: UnitSelection) -> None:
    """Refuse a smaller network whose outputs differ from the masked one's, by one run of both.

    Weights have noise on them, so that no zero hides a mistake.

    Raises:
        EquivalenceError: outputs differ.
        InvalidInput: the smaller network fails, or no output has finite entries.

    Example:
        >>> import torch
        >>> from boxwood import find_units, select_units, shrink
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> selection = select_units(find_units(net, torch.ones(1, 4)), 0.5)
        >>> check_outputs(net, shrink(net, selection, check=False), selection)
    """
    pair = Pair(model, small, selection, 0)
    trial = _quick_trial(pair)
    if not trial.equal:
        raise _differing(pair, trial)


def _quick_trial(pair: Pair) -> Trial:
    example = pair.selection.units.example
    if is_flat(example):
        # Zeros or ones would hide what is wrong in the first layer.
        for name, other in varied(example, pair.seed):
            try:
                return pair.quick_trial(other, name)
            except SmallerFailsError:
                raise
            except Exception:  # noqa: BLE001, S112 - the network does not take it: the example it is
                continue
    return pair.quick_trial(example, "given")


def _differing(pair: Pair, trial: Trial) -> EquivalenceError:
    name = type(pair.model).__name__
    if unsteady := pair.unsteady(pair.selection.units.example):
        return EquivalenceError(
            f"Expected a {name} that computes the same in every run, got one whose outputs "
            f"{unsteady}, so that nothing can be compared; let it be the same in evaluation, or "
            "give shrink(…, check=False)."
        )
    kept = f" in two calls in a row, with {', '.join(trial.state[:3])} kept between"
    when = kept if trial.calls > 1 else ""
    return EquivalenceError(
        f"Expected the smaller {name} to compute what the masked one does, got outputs that differ "
        f"by {trial.difference:.3g} where the largest is {trial.scale:.3g}{when}"
        + (f", and {strayed}" if (strayed := pair.strayed(pair.selection.units.example)) else "")
        + "; the rest may be right: protect=… keeps parts whole."
    )


def _trials(pair: Pair, example: Any, inputs: Inputs | None) -> tuple[tuple[Trial, ...], str]:
    """Compare on the example, and on other inputs; say why not, where there are none."""
    trials = [
        pair.trial(example, "given", perturbed=False),
        pair.trial(example, "given", perturbed=True),
    ]
    if inputs is not None:
        traced = pair.selection.units.example
        fresh = [_on_fresh(pair, formed_like(traced, e)) for e in drawn(inputs, pair.seed)]
        return (*trials, *fresh), "" if fresh else "inputs= has none"
    untried = "there are only whole numbers and masks, which have a meaning"
    for name, other in varied(example, pair.seed):
        untried = pair.takes(other, example)
        if not untried:
            return (*trials, pair.trial(other, name, perturbed=False)), ""
    return tuple(trials), untried


def _on_fresh(pair: Pair, example: Any) -> Trial:
    try:
        return pair.trial(example, "fresh", perturbed=False)
    except BoxwoodError:
        raise
    except Exception as error:
        raise InvalidInput(
            f"Expected inputs= to give what {type(pair.model).__name__} takes, got inputs on which "
            f"it fails ({type(error).__name__}: {error}); give examples as for find_units()."
        ) from error


def compare(one: nn.Module, other: nn.Module, example: Any, *, seed: int = 0) -> Trial:
    """Compare the outputs of two networks with parameters of the same names and shapes.

    Both have the same weights, with noise.

    Args:
        one: its weights are taken, for both.
        other: anything else is its own.
        example: inputs, as for `boxwood.find_units`.
        seed: of the noise, and of what the networks draw.

    Example:
        >>> compare(nn.Linear(2, 1), nn.Linear(2, 1), torch.ones(1, 2)).equal
        True
    """
    learned = {name for name, _ in one.named_parameters(remove_duplicate=False)}
    weights = {names[0]: tensor for names, tensor in named_tensors(one) if names[0] in learned}

    def trial(dtype: torch.dtype | None) -> Trial:
        noise = noise_of(seed)

        def made(name: str, tensor: Tensor) -> Tensor:
            noisy = noise if name in weights else None
            return prepared(weights.get(name, tensor), dtype, noisy).clone()

        outputs = []
        for network in (one, other):
            copied = ready(network, made, dtype)
            with torch.no_grad():
                outputs.append(run(copied, example, dtype, seed))
        kind = precision(outputs[0], dtype)
        found = distance(*outputs)
        return Trial("given", "perturbed", name_of(kind), *found, tolerance(kind))

    return in_finest(one, trial)
