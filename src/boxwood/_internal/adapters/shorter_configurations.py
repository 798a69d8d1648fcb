"""A configuration that describes a model with fewer blocks.

No field is known by its name alone: a configuration is tried, the model that it describes is built
without data, and its blocks must be of the kinds of those that stay.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boxwood._internal.adapters.block_lists import block_lists, kind_of
from boxwood.errors import InvalidInput

Edits = Mapping[tuple[str, ...], Any]
"""New values by the path of a field: its name, after those of the configurations around it."""

_LEADING = ("first_k_dense_replace", "max_window_layers")
"""Fields that count blocks from the first one."""

_LOOSE = {"transformers_version": None, "_name_or_path": None}
"""Fields that say where a configuration comes from."""


@dataclass(frozen=True)
class Shorter:
    """A configuration of fewer blocks.

    Args:
        config: describes them.
        edits: what is other than before.
    """

    config: Any
    edits: Edits


def shorter_configuration(
    kind: Callable[[Any], nn.Module], config: Any, blocks: Sequence[str], kept: Sequence[int]
) -> Shorter:
    """Find the configuration of a model of which only some blocks are left.

    Lists of one entry per block lose those of the blocks that go; lists of places of blocks, and
    numbers of leading blocks, follow.

    Args:
        kind: the model's class.
        config: its configuration.
        blocks: dotted names of its blocks, in order.
        kept: places of those that stay, ascending.

    Raises:
        InvalidInput: no block is left, or no configuration describes those that are.

    Example:
        >>> import transformers
        >>> config = transformers.GPT2Config(n_layer=3, n_embd=4, n_head=1, vocab_size=5)
        >>> names = [f"transformer.h.{place}" for place in range(3)]
        >>> found = shorter_configuration(transformers.GPT2LMHeadModel, config, names, [0, 2])
        >>> found.config.n_layer, dict(found.edits)
        (2, {('n_layer',): 2})
    """
    if not kept:
        raise InvalidInput(
            f"Expected at least one of the {len(blocks)} blocks to stay, got none; drop fewer."
        )
    dense = shell(kind, config)
    outer = blocks[0].rpartition(".")[0]
    wanted = [kind_of(dense.get_submodule(blocks[place])) for place in kept]
    lists = {name: len(each) for name, each in block_lists(dense)} | {outer: len(kept)}
    rest = _outside(dense, outer)
    odd: str | None = None
    name = getattr(kind, "__name__", "the model")
    counts: dict[str, bool] = {}  # whether a field says how many blocks there are
    for field, edits in _candidates(config, len(blocks), kept):
        if not counts.get(field, True not in counts.values()):
            continue
        try:
            tried = edited(config, edits)
            small = shell(kind, tried)
        except Exception:  # noqa: BLE001, S112 - whatever a class says about values that cannot be
            continue
        counts[field] = {name: len(each) for name, each in block_lists(small)} == lists
        if not counts[field]:
            continue
        made = [kind_of(small.get_submodule(f"{outer}.{at}")) for at in range(len(kept))]
        if made == wanted and _outside(small, outer) == rest:
            _check_attention(name, config, tried)
            return Shorter(tried, edits)
        odd = odd or next(
            (blocks[place] for place, one, other in zip(kept, made, wanted, strict=True) if one != other),
            f"what is around {outer}",
        )  # fmt: skip
    gone = ", ".join(str(place) for place in range(len(blocks)) if place not in kept)
    if odd is None:
        raise InvalidInput(
            f"Expected a field of the configuration of {name} that says that it has {len(blocks)} "
            f"blocks in {outer}, got none; this model cannot lose blocks."
        )
    raise InvalidInput(
        f"Expected blocks of {name} that stay what they are without {gone}, got {odd}, which its "
        f"configuration would make another kind of block; drop others."
    )


def removable(
    kind: Callable[[Any], nn.Module], config: Any, blocks: Sequence[str]
) -> tuple[int, ...]:
    """List the places of the blocks without which a configuration describes the others.

    Args:
        kind: the model's class.
        config: its configuration.
        blocks: dotted names of its blocks, in order.

    Example:
        >>> import transformers
        >>> config = transformers.T5Config(num_layers=3, d_model=4, d_ff=4, num_heads=1, vocab_size=5)
        >>> names = [f"encoder.block.{place}" for place in range(3)]
        >>> removable(transformers.T5ForConditionalGeneration, config, names)  # 0 knows of places
        (1, 2)
    """
    dense = shell(kind, config)
    if len(blocks) < 2:
        return ()
    if len({kind_of(dense.get_submodule(name)) for name in blocks}) == 1:
        return tuple(range(len(blocks)))  # any will do

    def can_go(place: int) -> bool:
        kept = [other for other in range(len(blocks)) if other != place]
        try:
            shorter_configuration(kind, config, blocks, kept)
        except InvalidInput:
            return False
        return True

    return tuple(filter(can_go, range(len(blocks))))


def shell(kind: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """Build a model without data.

    Example:
        >>> shell(lambda size: nn.Linear(size, size), 2).weight.device
        device(type='meta')
    """
    with torch.device("meta"):
        return kind(copy.deepcopy(config))


def edited(config: Any, edits: Edits) -> Any:
    """Copy a configuration with other values, and let its class read them, as from_pretrained will.

    Example:
        >>> import transformers
        >>> edited(transformers.GPT2Config(), {("n_layer",): 3}).n_layer
        3
    """
    fields = copy.deepcopy(config.to_dict())
    for path, value in edits.items():
        inner = fields
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
    made = type(config).from_dict(fields)
    made._attn_implementation = config._attn_implementation
    made.use_cache = getattr(config, "use_cache", None)
    return made


def edited_text(source: Path, config: Any, edits: Edits) -> str:
    """Put new values into the text of a folder's config.json, whose other fields stay as they are.

    Where the text says things in other words, all of it is written again.

    Args:
        source: the folder.
        config: what the new text has to say.
        edits: what is other than before.

    Example:
        >>> import tempfile, transformers
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     transformers.GPT2Config(n_layer=3).save_pretrained(folder)
        ...     edits = {("n_layer",): 2}
        ...     text = edited_text(Path(folder), edited(transformers.GPT2Config(), edits), edits)
        >>> json.loads(text)["n_layer"]
        2
    """
    fields = json.loads((source / "config.json").read_text(encoding="utf-8"))
    aliases: dict[str, list[str]] = {}
    for alias, name in config.attribute_map.items():
        aliases.setdefault(name, []).append(alias)
    for path, value in edits.items():
        inner = fields
        for name in path[:-1]:
            inner = inner.setdefault(name, {})
        names = [path[-1], *aliases.get(path[-1], ())]
        inner[next((name for name in names if name in inner), path[-1])] = value
    again = type(config).from_dict(copy.deepcopy(fields))
    if {**again.to_dict(), **_LOOSE} != {**config.to_dict(), **_LOOSE}:
        return str(config.to_json_string())
    return json.dumps(fields, indent=2) + "\n"


def _check_attention(name: str, before: Any, after: Any) -> None:
    """Refuse a hybrid without attention, whose caches transformers cannot count the tokens of."""

    def attends(config: Any) -> bool:
        kinds = getattr(config.get_text_config(), "layer_types", None) or ("attention",)
        return any("attention" in each and "linear" not in each for each in kinds)

    if attends(before) and not attends(after):
        raise InvalidInput(
            f"Expected one block of {name} with attention to stay, got none: caches count "
            f"tokens in it; drop other blocks."
        )


def _outside(model: nn.Module, outer: str) -> dict[str, tuple[int, ...]]:
    """List the shapes of what is in no block."""
    return {
        name: tuple(each.shape)
        for name, each in model.state_dict().items()
        if not name.startswith(f"{outer}.")
    }


def _candidates(config: Any, count: int, kept: Sequence[int]) -> Iterator[tuple[str, Edits]]:
    """Make edits that may say that there are as many blocks as stay, the most probable first.

    Each comes with the field that says how many there are.
    """
    for path, fields in parts_of(config.to_dict()):
        counts = [name for name, each in fields.items() if type(each) is int and each == count]
        lists = [name for name, each in fields.items() if _is_list(name, each)]
        per_block = {n: [fields[n][at] for at in kept] for n in lists if len(fields[n]) == count}
        likely = {name: each for name, each in per_block.items() if "layer" in name}
        places = {name: _moved(fields[name], kept) for name in lists if "layer" in name and all(
            type(at) is int and 0 <= at < count for at in fields[name])}  # fmt: skip
        first = {
            name: sum(at < fields[name] for at in kept)
            for name in _LEADING
            if type(fields.get(name)) is int and fields[name] <= count
        }
        counts.sort(key=lambda name: "layer" not in name)
        ways: tuple[dict[str, Any], ...] = (
            {**places, **likely, **first},
            {**places, **per_block, **first},
            {**per_block, **places, **first},
            likely,
            {},
        )
        for name, more in itertools.product(counts, ways):
            edits = {**more, name: len(kept)}
            changed = {(*path, n): each for n, each in edits.items() if fields[n] != each}
            yield ".".join((*path, name)), changed


def parts_of(fields: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield the fields of a configuration, and of those inside it, with their paths.

    Example:
        >>> [path for path, _ in parts_of({"size": 1, "text": {"model_type": "a", "size": 2}})]
        [(), ('text',)]
    """
    yield (), fields
    for name, each in fields.items():
        if isinstance(each, dict) and "model_type" in each:
            for path, inner in parts_of(each):
                yield (name, *path), inner


def _is_list(name: str, value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and name != "architectures"
        and not name.endswith(("token_id", "token_ids"))
    )


def _moved(places: Sequence[int], kept: Sequence[int]) -> list[int]:
    """Give places of blocks as they are counted among those that stay."""
    return [at for at, place in enumerate(kept) if place in set(places)]
