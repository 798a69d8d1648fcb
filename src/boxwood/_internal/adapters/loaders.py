"""Which programs load a folder correctly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from boxwood._internal.adapters.resident import open_config


def loaders_of(folder: Path | str) -> list[str]:
    """Say of a folder which programs load it.

    Args:
        folder: as ``boxwood shrink`` writes it.

    Returns:
        Sentences for people.

    Example:
        >>> loaders_of(Path("small"))  # doctest: +SKIP
        ['Loads in transformers; in vLLM and llama.cpp's converter where they know llama.']
    """
    config = open_config(folder)
    kind = config.model_type
    where = f"Loads in transformers; in vLLM and llama.cpp's converter where they know {kind}"
    said = [f"{where}: all blocks have the same sizes, and config.json says them."]
    for name, each in _listed_sizes(config.to_dict()):
        said[0] = (
            f"Loads in transformers. Not in llama.cpp, and in vLLM only where it knows lists: {name} is "
            f"{each}."
        )
    if _new_order(config):
        said.append(
            "The kinds of blocks come in a new order, which layer_types says. transformers reads it; "
            "llama.cpp, and vLLM for some models, take the order that the architecture has had, and "
            "would compute something else."
        )
    return said


def _listed_sizes(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, each in fields.items():
        if name.endswith("_size") and isinstance(each, list) and len(set(each)) > 1:
            yield name, each


def _new_order(config: Any) -> bool:
    """Say whether layer types are others than a configuration that does not list them has."""
    config = config.get_text_config()
    fields = config.to_dict()
    if not fields.pop("layer_types", None):
        return False
    try:
        return bool(type(config).from_dict(fields).layer_types != config.layer_types)
    except Exception:  # noqa: BLE001 - a class may ask for them
        return len(set(config.layer_types)) > 1
