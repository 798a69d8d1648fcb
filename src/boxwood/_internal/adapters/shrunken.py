"""A shrunken Hugging Face model as a folder that ``from_pretrained`` loads."""

import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from torch import nn

from boxwood._internal.adapters.configuration_search import ConfigurationError
from boxwood._internal.adapters.configurations import configured
from boxwood._internal.adapters.resident import open_config
from boxwood._internal.core.extras import extra
from boxwood._internal.core.replacing import replacing_folder
from boxwood._internal.files.checkpoint import companion_files, find_files
from boxwood._internal.files.writing import check_new_folder
from boxwood._internal.graph.compensate import Watch, compensate
from boxwood._internal.graph.equivalence import check_outputs
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import Group, Units
from boxwood.errors import NoEffect

with extra("transformers", "transformers for pretrained models"):
    import transformers

Even = Callable[[UnitSelection, Collection[str]], UnitSelection]
"""A selection, and names of groups that are to keep the same number, to another selection."""

_STEPS = 8  # that a group has at least, however coarse the multiples are
_MULTIPLES = (128, 64, 32, 16, 8, 4, 2, 1)


@dataclass(frozen=True)
class Shrunken:
    """A smaller model, and the choice that a configuration can say.

    Args:
        selection: what stays.
        small: what `boxwood.shrink` made of it.
        built: the same as its configuration describes it.
        whole: groups of which everything stays, since no configuration can say less.
    """

    selection: UnitSelection
    small: nn.Module
    built: transformers.PreTrainedModel
    whole: tuple[str, ...]


def shrink_pretrained(
    model: transformers.PreTrainedModel,
    found: Units,
    select: Callable[[Callable[[Group], int]], UnitSelection],
    *,
    multiple: int | None = None,
    even: Even | None = None,
) -> Shrunken:
    """Shrink a model of transformers to the nearest sizes that its configuration can say.

    Where a configuration cannot say what was chosen, more is kept there: everything, where the code
    computes with the size itself (Gemma scales its embedding by the root of the hidden size), or a
    multiple (Llama wants a hidden size that its number of heads divides).

    Args:
        model: as `boxwood.load` returns it for a folder, with `config.use_cache` off.
        found: its units.
        select: chooses what stays, given of how many units each group keeps a multiple.
        multiple: for all groups; by default the largest power of two, up to 128, that leaves a
            group at least 8 sizes to choose from.
        even: lets groups keep the same number, where layers that share a field kept different numbers;
            without it everything stays there.

    Raises:
        ConfigurationError: no configuration describes anything smaller.
        InvalidInput: the check of `shrink` fails.

    Example:
        >>> config = transformers.GemmaConfig(
        ...     vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        ...     num_attention_heads=4, num_key_value_heads=4, head_dim=4, use_cache=False,
        ... )
        >>> import torch
        >>> from boxwood import find_units, select_units
        >>> net = transformers.GemmaForCausalLM(config).eval()
        >>> found = find_units(net, torch.arange(8)[None])
        >>> done = shrink_pretrained(net, found, lambda m: select_units(found, 0.5, multiple=m))
        >>> done.built.config.hidden_size, done.built.config.intermediate_size
        (16, 12)
    """
    needed: dict[str, int] = {}  # by group: what the configuration asks for; 0 is everything

    def multiple_of(group: Group) -> int:
        size, needs = len(group.units), needed.get(group.name, 1)
        if not needs:
            return size
        steps = _MULTIPLES if multiple is None else (multiple,)
        fine = (lcm(step, needs) for step in steps if lcm(step, needs) * _STEPS <= size)
        return next(fine, needs if multiple is None else lcm(multiple, needs))

    evened: frozenset[str] = frozenset()

    def selected() -> UnitSelection:
        chosen = select(multiple_of)
        return chosen if even is None or not evened else even(chosen, evened)

    selection = selected()
    while True:
        small = shrink(model, selection, check=False)
        try:
            built = configured(cast("transformers.PreTrainedModel", small), found.example)
        except ConfigurationError as refusal:
            uneven = _uneven(selection, refusal)
            if even is not None and uneven - evened:
                evened |= uneven
                selection = selected()
                continue
            more = _more(found, refusal, needed)
            if more == needed:
                raise
            needed = more
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NoEffect)  # which is an error here
                selection = selected()
            if not selection.removed:
                raise
        else:
            check_outputs(model, small, selection)
            whole = tuple(name for name, needs in needed.items() if not needs)
            return Shrunken(selection, small, built, whole)


def repaired(
    model: transformers.PreTrainedModel,
    shrunken: Shrunken,
    batches: Iterable[Any],
    *,
    watch: Watch | None = None,
) -> Shrunken:
    """Make up for what was removed, as `boxwood.compensate` does, in the model that was built too.

    Args:
        model: the original.
        shrunken: what `shrink_pretrained` made of it; its ``built`` is changed.
        batches: inputs, as for `boxwood.compensate`.
        watch: as for `boxwood.compensate`.

    Example:
        >>> better = repaired(model, shrunken, [ids])  # doctest: +SKIP
    """
    better = compensate(model, shrunken.small, shrunken.selection, batches, watch=watch)
    shrunken.built.load_state_dict(better.state_dict())
    return replace(shrunken, small=better)


def _more(found: Units, refusal: ConfigurationError, needed: dict[str, int]) -> dict[str, int]:
    """Ask for more of the groups that stand in the way."""
    more = dict(needed)
    for group in found.groups:
        if refusal.axes & set(group.axes):
            more[group.name] = lcm(needed.get(group.name, 1), refusal.multiple)
    return more


def _uneven(selection: UnitSelection, refusal: ConfigurationError) -> frozenset[str]:
    """Name the groups of a refusal, and those of other layers, of which layers kept different numbers."""
    alike: dict[str, list[Group]] = {}
    for group in selection.units.groups:
        alike.setdefault(re.sub(r"\d+", "#", group.name), []).append(group)
    found: set[str] = set()
    for groups in alike.values():
        counts = {int(selection.kept[group.units].sum()) for group in groups}
        if len(counts) > 1 and any(refusal.axes & set(group.axes) for group in groups):
            found |= {group.name for group in groups}
    return frozenset(found)


def save_pretrained(
    small: transformers.PreTrainedModel,
    folder: Path | str,
    example: Any,
    *,
    source: Path | None = None,
) -> None:
    """Write a shrunken model to a new folder that ``from_pretrained`` loads, whole or not at all.

    Args:
        small: what `boxwood.shrink` made of one of transformers' models.
        folder: new or empty.
        example: inputs to compare outputs on, as for `boxwood.find_units`.
        source: the folder that the model was loaded from, for the tokenizer and other texts.

    Raises:
        InvalidInput: as `configured`, or the folder holds something.

    Example:
        >>> save_pretrained(small, "small", example)  # doctest: +SKIP
    """
    folder = Path(folder)
    check_new_folder(folder)
    write_folder(configured(small, example), folder, source=source)


def write_folder(
    built: transformers.PreTrainedModel,
    folder: Path,
    *,
    source: Path | None = None,
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a model that a configuration describes, as `save_pretrained` does.

    Args:
        built: the model.
        folder: new or empty.
        source: the folder that it was made from, for the tokenizer and other texts.
        texts: by the names of their files, in place of what transformers writes.
    """
    with replacing_folder(folder) as new:
        if source is not None:
            built.config.use_cache = open_config(source).use_cache
            index, _ = find_files(source)
            for path in companion_files(source, index):
                if path != index:  # of other shards
                    shutil.copyfile(path, new / path.name)
        built.save_pretrained(new)
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
