"""A configuration that describes a shrunken Hugging Face model."""

import itertools
from math import gcd
from typing import Any, cast

from torch import nn

from boxwood._internal.adapters.configuration_search import (
    ConfigurationError,
    Field,
    Search,
    Values,
    candidates,
    changed_config,
    named,
    numbers_of,
    search_of,
    without_value,
)
from boxwood._internal.core.extras import extra
from boxwood._internal.core.generators import own_random_numbers
from boxwood._internal.graph.equivalence import compare

with extra("transformers", "transformers for pretrained models"):
    import transformers


def configured(small: transformers.PreTrainedModel, example: Any) -> transformers.PreTrainedModel:
    """Build the model that a configuration describes and that is the same as a shrunken one.

    Every int of the configuration is doubled in turn to learn which sizes follow from it; then the
    values are found from which all sizes of the shrunken model follow. The model built from them
    is given its weights, and must compute the same.

    Args:
        small: what `boxwood.shrink` made of one of transformers' models.
        example: inputs to compare outputs on, as for `boxwood.find_units`.

    Returns:
        A model of the same class with a configuration of its own; ``save_pretrained`` writes it.

    Raises:
        ConfigurationError: no configuration describes it, since layers that share a field kept different
            sizes, since the class has no field for a size, or since it does not allow a value; or
            the model built from it computes something else.

    Example:
        >>> import boxwood, torch
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        ...     num_attention_heads=4, num_key_value_heads=4, use_cache=False,
        ... )
        >>> net = transformers.LlamaForCausalLM(config).eval()
        >>> example = torch.arange(8)[None]
        >>> small = boxwood.shrink(net, boxwood.select_units(boxwood.find_units(net, example), 0.5))
        >>> found = configured(small, example).config
        >>> found.hidden_size, found.intermediate_size, found.num_attention_heads, found.head_dim
        (8, 12, 2, 4)
    """
    search = search_of(small)
    forbidden: list[tuple[Values, str]] = []
    different: list[tuple[Values, nn.Module, float]] = []
    for values, config in candidates(search):
        built = _filled(small, config)
        trial = compare(small, built, example)
        if not trial.equal:
            different.append((values, built, trial.difference))
            continue
        reason = _refusal_of(config)
        if reason is None:
            return built
        forbidden.append((values, reason))
    if forbidden:
        raise _not_allowed(search, *forbidden[0])
    if different:
        raise _computes_otherwise(search, small, *min(different, key=lambda each: each[2]))
    followed = frozenset().union(*search.follows.values())
    alone = [place for place in search.changed if place not in followed]
    raise without_value(search, None, alone or search.changed)


def _filled(small: transformers.PreTrainedModel, config: Any) -> transformers.PreTrainedModel:
    """Build what a configuration describes, with the weights of a shrunken model."""
    with own_random_numbers():
        built: Any = type(small)(config)
    wanted = dict(itertools.chain(small.named_parameters(), small.named_buffers()))
    for name, tensor in itertools.chain(built.named_parameters(), built.named_buffers()):
        if name in wanted:
            # Not one type for all: rotary frequencies, for one, stay in float32 on purpose.
            tensor.data = tensor.data.to(wanted[name].dtype)
    built.load_state_dict(small.state_dict())
    if small.can_generate():
        built.generation_config = small.generation_config
    built.train(small.training)
    return cast("transformers.PreTrainedModel", built)


def _refusal_of(config: Any) -> str | None:
    """Read a configuration again, as from_pretrained will, and return what it says against it."""
    try:
        type(config).from_dict(config.to_dict())
    except Exception as error:  # noqa: BLE001 - whatever a class says about values that cannot be
        return " ".join(str(error).split())
    return None


def _not_allowed(search: Search, values: Values, reason: str) -> ConfigurationError:
    """Say what the class does not allow, and which values near by it does."""
    refused = f"Expected sizes that {search.kind.__name__} allows, got: {reason}"
    near: list[tuple[float, Field, list[int]]] = []
    for field in search.changed_fields(values):
        both = (_nearest(search.config, values, field, step) for step in (-1, 1))
        found = [other for other in both if other is not None]
        if found:
            farthest = max(abs(other - values[field]) for other in found)
            near.append((farthest / values[field], field, found))
    if not near:
        return ConfigurationError(
            f"{refused}; keep other numbers of units, or protect some of them."
        )
    _, field, found = min(near)
    multiple = gcd(*found)
    return ConfigurationError(
        f"{refused}; the nearest values of {named(field)} that it allows are "
        f"{' and '.join(map(str, found))}: keep a multiple of {multiple}.",
        [(name, dim) for _, name, dim in search.axes_of(field)],
        multiple,
    )


def _nearest(config: Any, values: Values, field: Field, step: int) -> int | None:
    value = values[field]
    for other in range(value + step, value + step * value, step):
        if _refusal_of(changed_config(config, {**values, field: other})) is None:
            return other
    return None


def _computes_otherwise(
    search: Search, small: nn.Module, values: Values, built: nn.Module, difference: float
) -> ConfigurationError:
    """Say which number of its code has changed, where a module holds it; else that it is a guess."""
    was, now = numbers_of(small).floats, numbers_of(built).floats
    stale = {place for place, number in was.items() if now.get(place) != number}
    changed = search.changed_fields(values)
    guilty = [field for field in changed if search.floats[field] & stale]
    axes = {(name, dim) for field in guilty or changed for _, name, dim in search.axes_of(field)}
    names = " and ".join(map(named, guilty or changed)) or "its configuration"
    if guilty:
        module, attribute, _ = min(stale)
        cause = f"its code computes with {names} itself ({attribute!r} of {module!r})"
    else:
        cause = f"its code seems to compute with a number that follows from {names}"
    return ConfigurationError(
        f"Expected {search.kind.__name__} built from the new configuration to compute the same, got "
        f"outputs that differ by {difference:.3g}: {cause}; protect what follows from it, or write "
        f"the model with boxwood.save.",
        axes,
    )
