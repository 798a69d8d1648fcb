"""Compensate for removed units: refit the layers that read them, and re-estimate batch statistics."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.agreement import check_alike
from boxwood._internal.core.arguments import check_network, described
from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.core.placement import check_whole
from boxwood._internal.core.ranks import Group, all_or_none
from boxwood._internal.graph.batch_norm import reestimate_batch_norm_
from boxwood._internal.graph.examples import called_on_batch, inputs_like, moved_to
from boxwood._internal.graph.least_squares import alike, fold_mean_, readers, refit_, width_of
from boxwood._internal.graph.rebuild import rebuilt
from boxwood._internal.graph.reparametrised import assignable, baked, filled
from boxwood._internal.graph.selection import UnitSelection, check_selection
from boxwood._internal.graph.stepping import Steps
from boxwood.errors import InvalidInput, TooFewExamples

_WIDEST = 6000
"""Inputs of a layer that least squares are solved for; wider ones have only their means folded."""

Watch = Callable[[int, int], None]
"""Is called with the number of finished layers and of all layers."""


def compensate(
    model: nn.Module,
    small: nn.Module,
    selection: UnitSelection,
    batches: Iterable[Any],
    *,
    refit: bool = True,
    ridge: float = 1e-4,
    batch_norm: bool = True,
    watch: Watch | None = None,
    group: Group = None,
) -> nn.Module:
    """Refit the layers that lost inputs, on unlabelled data, and return the repaired network.

    Layer by layer from the input side, the weights of each reading layer become

        argmin over W of Σ ‖W x - y‖² + λ ‖W - W₀‖²

    where ``x`` is the layer's input in the already repaired small network, ``y`` the output of the
    original layer for its whole input, and ``W₀`` the weights that remain. Then the running
    statistics of batch normalisations are re-estimated.

    Args:
        model: the original.
        small: what `shrink` made of it; it is not changed.
        selection: the selection that `shrink` got.
        batches: a few hundred examples, in batches as `find_units` takes them, or from a
            DataLoader; anything after the inputs, such as targets, is ignored. They are moved to
            the network's device.
        refit: False adds only the mean of what was removed to the next bias.
        ridge: λ over the mean square of the inputs.
        batch_norm: re-estimate running means and variances.
        watch: called with the number of finished layers and of all layers.
        group: ranks of ``torch.distributed`` that hold this network, each with batches of its own,
            as for `boxwood.find_masks`; all get the same repaired network.

    Raises:
        InvalidInput: there are no batches, something other than batches is given, such as one
            tensor, a batch does not have the inputs of the example, the network fails on a batch,
            no batch has several values for a batch normalisation, or ridge is negative; or ranks
            hold different weights.

    Warns:
        TooFewExamples: a layer has more unknowns, its inputs and a bias, than the batches have rows
            for it (an example is a row of a linear layer, a position of a convolution): the refit
            then overfits these examples.

    Example:
        >>> from boxwood import find_units, select_units, shrink
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> selection = select_units(find_units(net, x), keep=0.5)
        >>> small = shrink(net, selection)
        >>> better = compensate(net, small, selection, [x])
        >>> bool((better(x) - net(x)).square().mean() < (small(x) - net(x)).square().mean())
        True

    Source: He, Zhang and Sun (2017), section 3.1, for refitting a layer to the outputs of the
    original.
    Differs from the paper: every layer that lost inputs is refitted in one pass in order, from
    what the repaired network produces, with a pull towards the old weights.
    """
    check_network(model)
    check_selection(selection)
    if ridge < 0:
        raise InvalidInput(f"Expected ridge of at least 0, got {ridge}; it is a penalty.")
    weights = dict(model.named_parameters())
    check_whole(weights)
    weights |= {f"small.{name}": parameter for name, parameter in small.named_parameters()}
    with all_or_none(group):
        check_alike(weights, "weights", "load the same ones on every rank first", group)
        data = _inputs(small, selection, batches)
        whole_model, plain = baked(model), baked(small)  # what is refitted are effective weights
        repaired = rebuilt(plain, lambda _, tensor: tensor.clone()).eval()
        original = rebuilt(whole_model, lambda _, tensor: tensor, isolated=True).eval()
        devices = devices_of((*model.parameters(), *model.buffers()))
        with torch.no_grad(), own_random_numbers(devices):
            found = {reader.name: reader for reader in readers(whole_model, selection)}
            for name in list(found):
                if not all(assignable(small, f"{name}.{each}") for each in ("weight", "bias")):
                    del found[name]
            steps, whole = (
                Steps(net, data, list(found), called_on_batch) for net in (repaired, original)
            )
            order, short = steps.order, list[str]()
            for several in alike(repaired, steps.together(order)):
                if watch is not None:
                    watch(order.index(several[0]), len(order))
                layers = [found[name] for name in several]
                unknowns = width_of(repaired.get_submodule(several[0]))
                if refit and unknowns <= _WIDEST:
                    rows = refit_(repaired, steps, whole, layers, len(data), ridge, group)
                    if rows < unknowns:
                        short.append(f"{rows:,} for {unknowns:,} of {several[0]}")
                else:
                    for reader in layers:
                        fold_mean_(original, repaired, whole, reader, len(data), group)
            if batch_norm:
                reestimate_batch_norm_(repaired, data, group=group)
        if short:
            more = f" and {len(short) - 3} more layers" if len(short) > 3 else ""
            warnings.warn(
                f"Expected batches with more rows than a layer has unknowns, got "
                f"{', '.join(short[:3])}{more}; give more examples, or a higher ridge.",
                TooFewExamples,
                stacklevel=2,
            )
        for mine, theirs in zip(repaired.modules(), plain.modules(), strict=True):
            mine.training = theirs.training
    return repaired if plain is small else filled(small, repaired)


def _inputs(small: nn.Module, selection: UnitSelection, batches: Iterable[Any]) -> list[Any]:
    """Take the inputs from batches, and bring them to the network's device."""
    if isinstance(batches, Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise InvalidInput(
            f"Expected batches of inputs, got {described(batches)}; give a DataLoader, or a list of "
            "batches: [inputs]."
        )
    data = [moved_to(small, inputs_like(selection.units.example, batch)) for batch in batches]
    if not data:
        raise InvalidInput("Expected batches of inputs, got none; give a few hundred examples.")
    return data
