"""Make a network smaller in one call: find units, select, remove, check, repair."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, overload

from torch import nn

from boxwood._internal.core.arguments import check_kind, check_network, described
from boxwood._internal.graph.compensate import compensate
from boxwood._internal.graph.equivalence import check_outputs
from boxwood._internal.graph.operator_rules import OperatorRule
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.scoring import score_units
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.surgery import cut
from boxwood._internal.graph.units import Units, find_units
from boxwood.errors import InvalidInput


@overload
def shrink(
    model: nn.Module,
    selection: UnitSelection,
    /,
    *,
    data: Iterable[Any] | None = None,
    check: bool = True,
) -> nn.Module: ...


@overload
def shrink(
    model: nn.Module,
    example: Any,
    /,
    keep: float = 0.5,
    data: Iterable[Any] | None = None,
    *,
    rules: Mapping[Any, OperatorRule] | None = None,
    check: bool = True,
) -> nn.Module: ...


def shrink(
    model: nn.Module,
    what: Any,
    /,
    keep: float | None = None,
    data: Iterable[Any] | None = None,
    *,
    rules: Mapping[Any, OperatorRule] | None = None,
    check: bool = True,
) -> nn.Module:
    """Remove whole units from a network, and return a new, smaller module of the same classes.

    ``shrink(model, example, keep=0.5)`` finds the units, and keeps half of every group: those whose
    weights have the largest magnitudes. ``shrink(model, selection)`` removes what a selection leaves
    out; `boxwood.find_units` and `boxwood.select_units` choose by any criterion or budget.

    The smaller network is checked against the masked one, which has zeros where units are removed.
    With ``data`` it is then repaired by `boxwood.compensate`: layers that lost inputs are refitted by
    least squares, and batch statistics are estimated again.

    Weights that a layer computes from others (masks, weight norm, any parametrisation) are reduced
    as the layer sees them. They stay computed if that gives exactly the remaining values.

    The original is not changed. Buffers, dtypes, devices, training flags, ties between weights and
    hooks are preserved.

    Args:
        model: the network.
        what: the units to keep, or an example to find units with: an input, a tuple of inputs, or a
            dict of inputs by name.
        keep: fraction of the units of every group to keep, in (0, 1]; 0.5 by default. Only with an
            example.
        data: a few hundred unlabelled examples for the repair, in batches: a list of inputs, or a
            DataLoader. None leaves the remaining weights unchanged.
        rules: for custom operators, as in `boxwood.find_units`. Only with an example.
        check: run the result and the masked original, both with noise on their weights, and raise
            if their outputs differ.

    Raises:
        InvalidInput: arguments are mixed up, a number is out of range, there are no units to
            remove, or the smaller network fails.
        UnsupportedModel: the model's code cannot be traced, or does not allow the removal.
        EquivalenceError: the check fails.

    Warns:
        UserWarning: some parameter is read by no traced call, so that another use of the network
            may need what is removed; or a weight is no longer computed from others, because its
            computation would give other values (such as a spectral norm of fewer channels).

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> shrink(net, x, keep=0.25, data=[x])
        Sequential(
          (0): Linear(in_features=4, out_features=2, bias=True)
          (1): ReLU()
          (2): Linear(in_features=2, out_features=2, bias=True)
        )

        Step by step:

        >>> from boxwood import find_units, select_units
        >>> small = shrink(net, select_units(find_units(net, x), 0.25))
    """
    check_network(model)
    selection = _selection(model, what, keep, rules)
    small, plain = cut(model, selection)
    if check:
        check_outputs(model, small, selection)
    unread = selection.units.unused
    # After what depends on data nothing is followed, and both networks are run to their end.
    if unread and selection.removed and not selection.units.flow.trace.beyond:
        warnings.warn(
            f"Expected every parameter to be read by the calls that were traced, got "
            f"{len(unread)} that no call reads, such as {unread[0]!r}: another argument or method "
            "that reads them may need what is removed. Give find_units() an example of that use too, "
            "find_units(model, example, another), or call=, or protect what these read.",
            stacklevel=2,
        )
    for weight in plain:
        warnings.warn(
            f"Expected weights that are the same function of fewer numbers, got {weight!r}, "
            "whose parametrisation gives other values after the cut; the smaller network holds its "
            "values as an ordinary parameter: apply the parametrisation again where it is needed.",
            stacklevel=2,
        )
    return small if data is None else compensate(model, small, selection, data)


def _selection(
    model: nn.Module,
    what: Any,
    keep: float | None,
    rules: Mapping[Any, OperatorRule] | None,
) -> UnitSelection:
    """Give the units that stay, or choose them by magnitude on an example."""
    if isinstance(what, UnitSelection):
        if rules is not None:
            raise InvalidInput(
                "Expected a selection alone, got rules= as well; give them to "
                "find_units(model, example, rules=…), which has followed the operators already."
            )
        if keep is not None:
            raise InvalidInput(
                f"Expected only a selection, got keep={described(keep)} as well; leave keep "
                f"out, because the selection says what stays, or give shrink(model, example, "
                f"keep=0.5)."
            )
        return what
    if isinstance(what, Units):
        raise InvalidInput(
            "Expected the units that stay, got all units of a network; choose with "
            "select_units(units, 0.5), or give shrink(model, example, keep=0.5)."
        )
    names = {name for name, _ in model.named_parameters()}
    masks = isinstance(what, Mapping) and len(what) > 0 and names.issuperset(what)
    if masks or what is None or isinstance(what, bool | int | float | str | type):
        raise InvalidInput(
            f"Expected the units that stay or an example input, got "
            f"{'masks or weights by parameter name' if masks else described(what)}; give "
            "shrink(model, example, keep=0.5), or what select_units(find_units(model, example), 0.5) "
            "returns."
        )
    if keep is not None:
        do = "give shrink(model, example, keep=0.5), and batches for the repair as data="
        check_kind(keep, (int, float), "a fraction of units in (0, 1]", do)
    found = find_units(model, what, rules=rules)
    return best_units(found, score_units(found), 0.5 if keep is None else keep)
