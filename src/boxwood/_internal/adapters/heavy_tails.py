"""Sparsities of a pretrained model's blocks: blocks whose spectra have heavier tails stay denser."""

from pathlib import Path

from boxwood._internal.adapters.pretrained import Watch, not_skipped
from boxwood._internal.adapters.resident import open_resident
from boxwood._internal.core.heavy_tails import HeavyTailed, tail_exponent
from boxwood._internal.core.schedules import check_sparsity


def heavy_tail_sparsities(
    source: Path | str,
    sparsity: float,
    *,
    spread: float = 0.3,
    skip: tuple[str, ...] = (),
    blocks: str | None = None,
    follow_links: bool = False,
    watch: Watch = lambda done, total: None,  # noqa: ARG005
) -> dict[str, float]:
    """Measure how heavy the tails of each block's spectra are, and share out a sparsity (AlphaPruning).

    A block's exponent is the mean over its linear layers. It needs no text; one block is in memory
    at a time.

    Args:
        source: as for `boxwood.integrations.transformers.prune_pretrained`.
        sparsity: of all blocks together.
        spread: as for `boxwood.allocation.HeavyTailed`.
        skip: patterns of names that will be left alone, as for ``prune_pretrained``.
        blocks: dotted name of the list of blocks, where there are several.
        follow_links: let files be links out of the folder.
        watch: called with the progress.

    Returns:
        Sparsity by the dotted name of the block.

    Raises:
        InvalidInput: the sparsity or the spread is out of range, or the folder holds no such model.

    Example:
        >>> spread = heavy_tail_sparsities(Path("llama"), 0.7)  # doctest: +SKIP

    Source: Lu et al. (2024), "AlphaPruning", section 3.3: all linear layers of a block get one sparsity.
    """
    check_sparsity(sparsity)
    HeavyTailed((), spread)  # before anything is measured
    opened = open_resident(source, blocks=blocks, follow_links=follow_links)
    sizes: dict[str, int] = {}
    exponents: dict[str, float] = {}
    watch(0, len(opened.blocks))
    for done, (name, block) in enumerate(zip(opened.blocks, opened.resident(), strict=True), 1):
        chosen = not_skipped(name, opened.weights(name), skip)
        weights = [block.get_parameter(each).detach() for each in chosen]
        if weights:
            sizes[name] = sum(weight.numel() for weight in weights)
            exponents[name] = sum(map(tail_exponent, weights)) / len(weights)
        watch(done, len(opened.blocks))
        del block, weights
    densities = HeavyTailed(tuple(exponents.items()), spread).densities(sizes, sparsity)
    return {name: 1 - densities.get(name, 1 - sparsity) for name in opened.blocks}
