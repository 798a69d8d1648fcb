"""Export the smaller network of a structural-pruning run, by removing the units that it stores as masks."""

from pathlib import Path

from boxwood._internal.core.masks import apply
from boxwood._internal.core.trust import Trust
from boxwood._internal.graph.record import record_of, save_shrunken
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.recipes.phase import Genesis
from boxwood._internal.recipes.phases.prune_units import kept_under, units_of
from boxwood._internal.runs.decoding import start_of
from boxwood._internal.runs.store import Store
from boxwood.errors import CheckpointError


def save_cut(
    store: Store,
    key: str,
    path: Path,
    trust: Trust = Trust(),  # noqa: B008 - frozen
) -> tuple[int, int]:
    """Cut the units that a phase left masked out of its network, and write what is left.

    ``boxwood.load(path, build=…)`` reads it, given the function that makes the network of the run.

    Args:
        store: where the run is.
        key: of the phase.
        path: safetensors file to write.
        trust: whose code the store may name, as the network is built.

    Returns:
        How many parameters there were, and how many are left.

    Raises:
        CheckpointError: no run of the store has such a phase, its masks take single weights away or
            nothing, the network cannot be cut, or its code is not trusted.

    Example:
        >>> save_cut(Store(Path("runs")), key, Path("small.safetensors"))  # doctest: +SKIP
        (266610, 56255)

    Source: the law of `boxwood.check_equivalence`.
    """
    genesis = _genesis(store, key, trust)
    state = store.load(key)
    if not state.masks:
        raise CheckpointError(
            f"Expected masks in phase {key[:8]}, got none; give the key of a phase after the "
            f"pruning."
        )
    model = genesis.network(apply(state.weights, state.masks)).eval()
    found = units_of(model, genesis.data())
    selection = UnitSelection(found, kept_under(found, state.masks))
    small = shrink(model, selection)
    save_shrunken(small, record_of(model, selection), path)
    return found.parameters(), sum(p.numel() for p in small.parameters())


def _genesis(store: Store, key: str, trust: Trust) -> Genesis:
    for run in store.runs():
        if key in run["chain"]:
            return start_of(run["genesis"], run["chain"][0], trust)
    raise CheckpointError(
        f"Expected a phase of a run in {store.root}, got {key[:8]}; see `boxwood runs list`."
    )
