"""Prune a pretrained Hugging Face model in its folder, one block in memory at a time."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sized
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from torch import nn

from boxwood._internal.adapters.resident import Resident, open_resident
from boxwood._internal.core import spec
from boxwood._internal.core.call import Call
from boxwood._internal.core.schedules import check_sparsity
from boxwood._internal.files.checkpoint import StoredTensor
from boxwood._internal.files.rewriting import rewritten_copy
from boxwood._internal.files.streaming import REPORT, PrunedTensor
from boxwood._internal.files.thresholds import FLOAT_DTYPES
from boxwood._internal.model.blockwise import State, by_criterion, states_before, through_blocks
from boxwood._internal.model.evidence.calibration import Batches
from boxwood._internal.model.reconstruct import Reconstruction
from boxwood._internal.model.unpruned import matrices_left_out, patterns_for, with_shapes
from boxwood.errors import InvalidInput, SelectionWarning

Watch = Callable[[int, int], None]
"""Called with the number of blocks that are done, and of all blocks."""


def prune_pretrained(
    source: Path | str,
    out: Path | str,
    sparsity: float | Mapping[str, float],
    *,
    decide: Call = Call.of(by_criterion),  # noqa: B008 - frozen
    batches: Batches = (),
    skip: tuple[str, ...] = (),
    blocks: str | None = None,
    follow_links: bool = False,
    watch: Watch = lambda done, total: None,  # noqa: ARG005
) -> tuple[PrunedTensor, ...]:
    """Prune the linear layers in the blocks of a model into a new folder.

    One block's weights are in memory at a time, in float32 at least, and the hidden states of all
    batches; the embeddings are while the batches go through them. Each block is pruned on what the
    pruned ones before it make. Embeddings, norms, biases and the head stay as they are. The folder
    has the same files as before, so ``from_pretrained`` loads it; masks lie in ``masks/``, and
    ``pruning.json`` says what was done.

    Args:
        source: a folder with config.json and safetensors files, as ``save_pretrained`` writes it.
        out: a folder that is new or empty; it appears once it is complete.
        sparsity: fraction of zeros of every linear layer, in [0, 1); or of those of each block, by
            its dotted name, as `outlier_sparsities` gives.
        decide: `by_criterion`, by default of Wanda, or `by_sparse_gpt`, with their settings.
        batches: what the model is called with, such as ``{"input_ids": ids}``; none for a criterion
            that looks at weights alone. See `boxwood.integrations.transformers.batches_for`.
        skip: patterns of names to leave alone, as in a shell: ``"*.k_proj.weight"``.
        blocks: dotted name of the list of blocks, where there are several.
        follow_links: let files be links out of the folder, as in a download cache.
        watch: called with the progress.

    Returns:
        What was kept of every pruned tensor, in the order of the blocks.

    Raises:
        InvalidInput: the folder holds no such model, the batches or the settings do not fit it, or
            ``out`` holds something; nothing is written then.

    Warns:
        SelectionWarning: matrices of the blocks belong to other layers, such as experts that are one
            tensor, and stay dense.

    Example:
        >>> from boxwood.criteria import magnitude
        >>> how = Call.of(by_criterion, criterion=magnitude)
        >>> rows = prune_pretrained(Path("llama"), Path("half"), 0.5, decide=how)  # doctest: +SKIP

    Source: Sun, Liu, Bair and Kolter (2024); Frantar and Alistarh (2023), section 4.
    """
    source, out = Path(source), Path(out)
    opened = open_resident(source, blocks=blocks, follow_links=follow_links)
    chosen = {name: not_skipped(name, opened.weights(name), skip) for name in opened.blocks}
    _check(opened, chosen, skip, sparsity)
    _warn_of_others(opened)
    masked = {tensor.name: tensor for each in chosen.values() for tensor in each.values()}
    names = {opened.model.get_submodule(name): name for name in opened.blocks}

    def decide_chosen(fed: nn.Module, seen: Batches) -> Reconstruction:
        name = names[fed.get_submodule("block")]
        mine = chosen[name]
        if not mine:
            return Reconstruction({}, {})
        wanted = sparsity[name] if isinstance(sparsity, Mapping) else sparsity
        layers = partial(_parameters, names=tuple(_fed(mine)))
        done = decide(fed, seen, sparsity=wanted, layers=layers)
        # What comes next sees the weights as they are stored.
        types = {name: FLOAT_DTYPES[tensor.entry.dtype] for name, tensor in _fed(mine).items()}
        weights = {n: w.to(types[n]).to(w.dtype) for n, w in done.weights.items()}
        return Reconstruction(weights, done.masks)

    rows = []
    with rewritten_copy(source, opened.checkpoint, out, masked, follow_links=follow_links) as files:
        watch(0, len(names))
        pruned = through_blocks(opened.resident(), states_of(opened, batches), decide_chosen)
        for done, (block, masks) in enumerate(pruned, start=1):
            for name, mask in masks.items():
                full, stored = f"{names[block]}.{name}", chosen[names[block]][name]
                weight = opened.as_stored(full, block.get_parameter(name).detach())
                files.write(stored.name, weight, opened.as_stored(full, mask))
                rows.append(PrunedTensor(stored.name, mask.numel(), int(mask.sum()), None))
            watch(done, len(names))
        (files.folder / REPORT).write_text(_report(sparsity, decide, rows))
    return tuple(rows)


def states_of(opened: Resident, batches: Batches) -> Iterator[State]:
    """Read the batches up to the first block; an iterator, so that nobody else holds them.

    Example:
        >>> from boxwood._internal.adapters.resident import open_resident
        >>> states = states_of(open_resident(Path("llama")), batches)  # doctest: +SKIP
    """
    if isinstance(batches, Sized) and not len(batches):
        return iter(())
    with opened.loading_when_called() as model:
        blocks = [model.get_submodule(name) for name in opened.blocks]
        return iter(states_before(model, blocks, batches))


def _parameters(module: nn.Module, names: tuple[str, ...]) -> dict[str, nn.Parameter]:
    return {name: module.get_parameter(name) for name in names}


def not_skipped(
    block: str, weights: Mapping[str, StoredTensor], skip: tuple[str, ...]
) -> dict[str, StoredTensor]:
    """Leave out the weights of a block whose full names match a pattern.

    Example:
        >>> not_skipped("layers.0", {}, ("*.k_proj.weight",))
        {}
    """
    return {
        name: tensor
        for name, tensor in weights.items()
        if not any(fnmatchcase(f"{block}.{name}", pattern) for pattern in skip)
    }


def _fed(names: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Name weights as they are named while a block is pruned."""
    return {f"block.{name}": tensor for name, tensor in names.items()}


def _check(
    opened: Resident,
    chosen: Mapping[str, Mapping[str, StoredTensor]],
    skip: tuple[str, ...],
    sparsity: float | Mapping[str, float],
) -> None:
    for wanted in sparsity.values() if isinstance(sparsity, Mapping) else (sparsity,):
        check_sparsity(wanted)
    if isinstance(sparsity, Mapping) and sparsity.keys() != chosen.keys():
        raise InvalidInput(
            f"Expected a sparsity for each of the blocks {', '.join(chosen)}, got "
            f"{', '.join(sparsity)}; measure them on this model."
        )
    names = [f"{block}.{name}" for block in opened.blocks for name in opened.weights(block)]
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidInput(
                f"Expected patterns that match a linear layer of the blocks, got {pattern!r}, which "
                f"matches none of {', '.join(names[:8])}; correct the pattern."
            )
    if not any(chosen.values()):
        raise InvalidInput("Expected linear layers to prune, got none; skip fewer.")


def _warn_of_others(opened: Resident) -> None:
    """Name the matrices of the blocks that are no weights of linear layers, such as experts."""
    left: dict[str, nn.Parameter] = {}
    names: dict[str, nn.Parameter] = {}
    for block in opened.blocks:
        module = opened.model.get_submodule(block)
        modules = {f"{block}.{name}": each for name, each in module.named_modules()}
        mine = {f"{block}.{name}": each for name, each in module.named_parameters()}
        linear = {f"{block}.{name}" for name in opened.weights(block)}
        left |= matrices_left_out(modules, mine, linear, [])
        names |= mine
    if left:
        warnings.warn(
            f"Expected the matrices of all blocks to be weights of linear layers, got {len(left)} of "
            f"other layers, which stay dense: {with_shapes(left)}; prune them in memory with "
            f"boxwood.find_masks and layers=Matrices(also={patterns_for(left, names)}) of "
            f"boxwood.layers, or by magnitude with the whole checkpoint, without --by.",
            SelectionWarning,
            stacklevel=3,
        )


def _report(sparsity: float | Mapping[str, float], decide: Call, rows: list[PrunedTensor]) -> str:
    report = {
        "format": "boxwood pruning",
        "version": 1,
        "sparsity": sparsity,
        "by": spec.encode(decide),
        "tensors": [asdict(row) for row in rows],
    }
    return json.dumps(report, indent=1) + "\n"
