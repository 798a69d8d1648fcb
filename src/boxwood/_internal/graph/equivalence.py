"""The check: the smaller network computes what the masked network computes."""

import warnings
from dataclasses import replace
from typing import Any

from torch import nn

from boxwood._internal.core.arguments import check_network
from boxwood._internal.core.placement import check_whole
from boxwood._internal.graph.equivalence_report import EquivalenceReport, Gradients, Trial
from boxwood._internal.graph.examples import formed_like
from boxwood._internal.graph.gradients import compare_gradients
from boxwood._internal.graph.inputs import Inputs, drawn, is_flat, varied
from boxwood._internal.graph.pair import Pair, SmallerFailsError
from boxwood._internal.graph.reference import restatements
from boxwood._internal.graph.reparametrised import written
from boxwood._internal.graph.selection import UnitSelection, check_selection
from boxwood._internal.graph.surgery import cut, cuts_of
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
    """Compare a smaller network with the masked original, on given and other inputs.

    The masked network is the original with every weight of the removed units at zero. Both are
    given the same weights (the original's, then the original's with noise), so that the
    report is about the surgery; weights that were refitted afterwards change nothing in it.

    Args:
        model: the original.
        small: what `shrink` made of it.
        selection: what `shrink` was given.
        example: inputs; those of `find_units` by default.
        inputs: other examples: a function that draws one, or a list of which the first four are
            taken. By default floating-point inputs are drawn at random, or scaled where the
            network does not take those; whole numbers and masks are left as they are.
        gradients: also compare gradients of the kept parameters.
        seed: of the random inputs and of the noise.

    Raises:
        InvalidInput: the networks do not run on the example or on the inputs, or an output has no
            finite entry.

    Example:
        >>> from boxwood._internal.graph.ranking import best_units
        >>> from boxwood._internal.graph.units import find_units
        >>> import numpy as np, torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> selection = best_units(find_units(net, torch.ones(1, 4)), np.arange(3.0), 0.5)
        >>> check_equivalence(net, shrink(net, selection), selection).equivalent
        True
    """
    check_whole(dict(model.named_parameters()))
    traced = selection.units.example
    example = traced if example is None else formed_like(traced, example)
    pair = Pair(model, small, selection, seed)
    trials, untried = _trials(pair, example, inputs)
    # Behind what depends on data there may be nothing to differentiate.
    beyond = selection.units.flow.trace.beyond
    compared = Gradients(None, 0.0)
    if gradients and not beyond:
        compared = compare_gradients(pair, example)
    _, changes = cut(model, selection)
    everything = selection.kept | True
    made = EquivalenceReport(
        trials=trials,
        gradient_difference=compared.difference,
        gradient_tolerance=compared.tolerance,
        gradient_note=compared.said,
        untried=untried,
        restated=restatements(selection),
        attributes=changes,
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


def shrink(model: nn.Module, selection: UnitSelection, *, check: bool = True) -> nn.Module:
    """Remove everything but what is kept: a new module of the same classes.

    Weights that a layer computes from others (masks, weight norm, any parametrisation) are cut as
    the layer sees them, and stay computed where that gives exactly what is left of them.

    The original is not touched. Buffers, dtypes, devices, training flags, ties between weights and
    hooks are kept.

    Args:
        model: the network in which the units were found.
        selection: what stays.
        check: run the result beside the masked original, both with noise on their weights, and
            refuse if their outputs differ.

    Raises:
        InvalidInput: the code of the model cannot follow the removal, or the check fails.

    Warns:
        UserWarning: no call that was traced reads some parameter, so that another use of the
            network may need what is removed; or a weight is no longer computed from others, as a
            spectral norm of fewer channels would be another one.

    Example:
        >>> from boxwood._internal.graph.ranking import best_units
        >>> from boxwood._internal.graph.units import find_units
        >>> import numpy as np, torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> shrink(net, best_units(find_units(net, torch.ones(1, 4)), np.arange(3.0), 0.7))
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=2, bias=True)
        )
    """
    check_network(model)
    check_selection(selection)
    small, _ = cut(model, selection)
    if check:
        pair = Pair(model, small, selection, 0)
        trial = _quick_trial(pair)
        if not trial.equal:
            raise _differing(pair, trial)
    unread = selection.units.unused
    # Behind what depends on data nothing is followed, and both networks are run to their end.
    if unread and selection.removed and not selection.units.flow.trace.beyond:
        warnings.warn(
            f"Expected every parameter to be read by the calls that were traced, got "
            f"{len(unread)} that no call reads, such as {unread[0]!r}: another argument or method "
            "that reads them may need what is removed. Give find_units() an example of that use too, "
            "find_units(model, example, another), or call=, or protect what these read.",
            stacklevel=2,
        )
    for weight in written(model, cuts_of(selection)).baked:
        warnings.warn(
            f"Expected weights that are the same function of fewer numbers, got {str(weight)!r}, "
            "whose parametrisation gives other values after the cut; the smaller network holds its "
            "values as an ordinary parameter: apply the parametrisation anew where it is needed.",
            stacklevel=2,
        )
    return small


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
