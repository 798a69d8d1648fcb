"""Sparsities of a pretrained model's blocks: blocks with more outliers stay denser."""

from pathlib import Path

from torch import nn

from boxwood._internal.adapters.pretrained import Watch, not_skipped, states_of
from boxwood._internal.adapters.resident import open_resident
from boxwood._internal.core.allocation_by_layer import OutlierWeighed
from boxwood._internal.core.criteria.activations import wanda
from boxwood._internal.core.evidence import evidence_of
from boxwood._internal.model.blockwise import through_blocks
from boxwood._internal.model.evidence.calibration import Batches, Calibration
from boxwood._internal.model.evidence.gathering import gather
from boxwood._internal.model.reconstruct import Reconstruction
from boxwood._internal.model.scoring import score


def outlier_sparsities(
    source: Path | str,
    sparsity: float,
    batches: Batches,
    *,
    weighed: OutlierWeighed = OutlierWeighed(),  # noqa: B008 - frozen
    skip: tuple[str, ...] = (),
    blocks: str | None = None,
    follow_links: bool = False,
    watch: Watch = lambda done, total: None,  # noqa: ARG005
) -> dict[str, float]:
    """Measure what share of each block's Wanda scores are outliers, and share out a sparsity (OWL).

    Runs the dense model once, one block in memory at a time.

    Args:
        source: as for `boxwood.integrations.transformers.prune_pretrained`.
        sparsity: of all blocks together.
        batches: what the model is called with.
        weighed: how strongly outliers count.
        skip: patterns of names that will be left alone, as for ``prune_pretrained``.
        blocks: dotted name of the list of blocks, where there are several.
        follow_links: let files be links out of the folder.
        watch: called with the progress.

    Returns:
        Sparsity by the dotted name of the block.

    Example:
        >>> spread = outlier_sparsities(Path("llama"), 0.7, batches)  # doctest: +SKIP

    Source: Yin et al. (2024), section 4: all linear layers of a block count as one.
    """
    opened = open_resident(source, blocks=blocks, follow_links=follow_links)
    sizes: dict[str, int] = {}
    shares: dict[str, float] = {}
    names = iter(opened.blocks)

    def look(fed: nn.Module, seen: Batches) -> Reconstruction:
        name = next(names)
        chosen = not_skipped(name, opened.weights(name), skip)
        if not chosen:
            return Reconstruction({}, {})
        weights = {f"block.{each}": fed.get_parameter(f"block.{each}") for each in chosen}
        evidence = gather(evidence_of(wanda), Calibration(fed, weights, seen))
        scores = score(weights, wanda, evidence=evidence).values()
        sizes[name] = sum(each.numel() for each in scores)
        mean = sum(float(each.double().sum()) for each in scores) / sizes[name]
        above = sum(int((each > weighed.outlier * mean).sum()) for each in scores)
        shares[name] = above / sizes[name]
        return Reconstruction({}, {})

    watch(0, len(opened.blocks))
    blocks_seen = through_blocks(opened.resident(), states_of(opened, batches), look)
    for done, _ in enumerate(blocks_seen, start=1):
        watch(done, len(opened.blocks))
    densities = weighed.densities(shares, sizes, sparsity)
    return {name: max(1 - densities.get(name, 1 - sparsity), 0.0) for name in opened.blocks}
