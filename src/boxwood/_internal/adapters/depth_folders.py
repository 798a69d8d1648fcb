"""Copy a folder without some of the blocks of its model, with one block in memory at a time."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from boxwood._internal.adapters.depth import kept_blocks, renamed_tensor
from boxwood._internal.adapters.depth_repair import Fold, folds
from boxwood._internal.adapters.pretrained import Watch
from boxwood._internal.adapters.resident import Resident, open_config, open_resident
from boxwood._internal.adapters.shorter_configurations import edited_text, shorter_configuration
from boxwood._internal.files.checkpoint import StoredTensor
from boxwood._internal.files.renaming import renamed_copy
from boxwood._internal.files.streaming import REPORT
from boxwood._internal.model.evidence.calibration import Batches
from boxwood.errors import InvalidInput


@dataclass(frozen=True)
class DroppedBlocks:
    """What was dropped from a folder.

    Args:
        dropped: dotted names of the blocks that are gone, in order.
        kept: how many stay.
        folds: what was folded into the blocks before them.
    """

    dropped: tuple[str, ...]
    kept: int
    folds: tuple[Fold, ...]


def drop_blocks_pretrained(
    source: Path | str,
    out: Path | str,
    dropped: Sequence[str],
    *,
    repair: Batches = (),
    follow_links: bool = False,
    watch: Watch = lambda done, total: None,  # noqa: ARG005
) -> DroppedBlocks:
    """Write the folder of a model again without some of its blocks.

    Shards are copied tensor by tensor, so a folder may be larger than memory. Blocks that stay are
    renumbered, the configuration follows, and ``from_pretrained`` loads what comes out. Nothing else
    changes, unless there are batches to repair with: then what the dropped blocks did is fitted by a
    linear map, which is folded into the block before them; see `docs/explanation/depth.md`.

    Args:
        source: a folder with config.json and safetensors files, as ``save_pretrained`` writes it.
        out: a folder that is new or empty; it appears once it is complete.
        dropped: dotted names of blocks of one list, as `block_influences` gives them.
        repair: what the model is called with; none to leave all weights as they are.
        follow_links: let files be links out of the folder.
        watch: called with the number of blocks that were run for the repair, and of all.

    Returns:
        What was dropped and folded.

    Raises:
        InvalidInput: the folder holds no such model or has masks, the names are not its blocks, no
            configuration describes what is left, ``out`` holds something, or there is nothing to
            fold into; nothing is written then.

    Example:
        >>> scores = block_influences(Path("llama"), batches)  # doctest: +SKIP
        >>> least = sorted(scores, key=scores.get)[:4]  # doctest: +SKIP
        >>> drop_blocks_pretrained(Path("llama"), Path("small"), least)  # doctest: +SKIP

    Source: Men et al. (2024), section 3; Shopkhoev et al. (2025), section 3, for the repair.
    """
    source, out = Path(source), Path(out)
    outer = dropped[0].rpartition(".")[0] if dropped and not isinstance(dropped, str) else None
    opened = open_resident(source, blocks=outer, follow_links=follow_links)
    names, kept = kept_blocks(opened.model, dropped)
    config = open_config(source)
    found = shorter_configuration(type(opened.model), config, names, kept)
    renamed = _renamed_tensors(opened, names, kept)
    folded: list[Fold] = []
    with renamed_copy(source, opened.checkpoint, out, renamed, follow_links=follow_links) as files:
        for fold, tensors in folds(opened, kept, repair, watch):
            for name, tensor in tensors.items():
                files.write(renamed[_alone(opened, name).name], opened.as_stored(name, tensor))
            folded.append(fold)
        (files.folder / "config.json").write_text(edited_text(source, found.config, found.edits))
        gone = tuple(name for place, name in enumerate(names) if place not in kept)
        result = DroppedBlocks(gone, len(kept), tuple(folded))
        (files.folder / REPORT).write_text(_report(result))
    return result


def _renamed_tensors(opened: Resident, names: Sequence[str], kept: Sequence[int]) -> dict[str, str]:
    """Give the tensors of the file that stay, with their new names."""
    outer = names[0].rpartition(".")[0]
    blocks = {names[place]: f"{outer}.{at}" for at, place in enumerate(kept)}
    owners: dict[str, str] = {}
    for name, each in opened.stored.items():
        for tensor in each.tensors:
            owners.setdefault(tensor.name, name)
    prefix = f"{opened.model.base_model_prefix}."
    paths = (outer, outer.removeprefix(prefix), prefix + outer)
    renamed = {}
    for tensor in opened.checkpoint.tensors():
        owner = owners.get(tensor.name)
        if owner is None:  # of what this class does not have, such as another head
            under = next((each for each in paths if tensor.name.startswith(f"{each}.")), None)
            owner = outer + tensor.name.removeprefix(under) if under else tensor.name
        new = renamed_tensor(owner, outer, blocks)
        if new is not None:
            renamed[tensor.name] = _as_stored(tensor.name, owner, new, outer)
    return renamed


def _as_stored(stored: str, owner: str, new: str, outer: str) -> str:
    """Change the number of the block in a name of the file, where it may lie under another path."""
    if new == owner:
        return stored
    old_place, place = (name.removeprefix(f"{outer}.").partition(".")[0] for name in (owner, new))
    parts = stored.split(".")
    at = next((at for at, part in enumerate(parts) if part.isdigit()), None)
    if at is None or parts[at] != old_place:
        raise InvalidInput(
            f"Expected the number of the block, {old_place}, in the name of {stored!r}, which is "
            f"{owner!r} of the model, got none; save the model again with save_pretrained."
        )
    return ".".join((*parts[:at], place, *parts[at + 1 :]))


def _alone(opened: Resident, name: str) -> StoredTensor:
    (tensor,) = opened.stored[name].tensors
    return tensor


def _report(result: DroppedBlocks) -> str:
    report = {"format": "boxwood depth", "version": 1, **asdict(result)}
    return json.dumps(report, indent=1) + "\n"
