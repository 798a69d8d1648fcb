"""Which values of a configuration describe the sizes of a shrunken Hugging Face model."""

import copy
import heapq
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from boxwood._internal.core.extras import extra
from boxwood._internal.graph.reparametrised import reparametrised
from boxwood.errors import InvalidInput

with extra("transformers", "transformers for pretrained models"):
    import transformers

Field = tuple[str | int, ...]
"""Where a configuration holds an int: a name, or a name and a place in a list."""
Place = tuple[str, str, int]
"""Module, name and place: of a size of a tensor that is stored, or of an int that a module holds."""
Numbers = dict[Place, int]
Values = dict[Field, int]

_TRIED = 64  # values of the fields: models built without data
_DERIVED = ("n_inner", "intermediate_size", "ffn_hidden_size")
"""Widths of hidden layers that configurations may leave out, as four times that of the stream."""


class ConfigurationError(InvalidInput):
    """No configuration describes a shrunken model, which keeping more of some axes would change.

    Args:
        message: what is wrong, and what to do.
        axes: (name, dim) of tensors of which more should be kept.
        multiple: of this many; 0 for everything.

    Example:
        >>> ConfigurationError("Expected ...", axes={("wte.weight", 1)}, multiple=6).multiple
        6
    """

    def __init__(
        self, message: str, axes: Collection[tuple[str, int]] = (), multiple: int = 0
    ) -> None:
        super().__init__(message)
        self.axes, self.multiple = frozenset(axes), multiple


@dataclass(frozen=True)
class Built:
    """What a configuration makes of a class.

    Args:
        sizes: of stored tensors.
        ints, floats: that modules hold.
    """

    sizes: Numbers
    ints: Numbers
    floats: Mapping[Place, float]


@dataclass(frozen=True)
class Search:
    """A shrunken model, and what the configuration that it has kept describes.

    Args:
        wanted: what the shrunken model is. Its ints may be stale where its code does not read them.
        base: what its configuration describes.
        follows: for each field, which sizes and ints change with it.
        floats: for each field, which floats that modules hold change with it.
    """

    kind: type[transformers.PreTrainedModel]
    config: Any
    wanted: Built
    base: Built
    follows: Mapping[Field, frozenset[Place]]
    floats: Mapping[Field, frozenset[Place]]

    @cached_property
    def changed(self) -> list[Place]:
        """The sizes that are not what the configuration describes."""
        return [p for p, size in self.base.sizes.items() if self.wanted.sizes[p] != size]

    def changed_fields(self, values: Values) -> list[Field]:
        """List the fields that get another value."""
        return [field for field, value in values.items() if value != _get(self.config, field)]

    def axes_of(self, field: Field) -> list[Place]:
        """List the changed sizes that follow from a field."""
        return [place for place in self.changed if place in self.follows[field]]

    @cached_property
    def sole(self) -> dict[Field, list[Place]]:
        """For each field, what follows from it alone, in the order of the model."""
        times = Counter(place for places in self.follows.values() for place in places)
        every = (*self.base.sizes, *self.base.ints)
        return {
            field: [place for place in every if place in places and times[place] == 1]
            for field, places in self.follows.items()
        }


def search_of(small: transformers.PreTrainedModel) -> Search:
    """Double every int of a configuration in turn, and note what follows from it.

    Raises:
        InvalidInput: the model was another than its configuration describes before it was shrunk.
    """
    kind, config, wanted = type(small), copy.deepcopy(small.config), numbers_of(small)
    base = _built(kind, config, {})
    computed = reparametrised(small)  # masks of torch.nn.utils.prune, for one
    if base is None or base.sizes.keys() != wanted.sizes.keys():
        raise InvalidInput(
            f"Expected a configuration that describes {kind.__name__} before it was shrunk, got one "
            f"of which other parameters follow; shrink the model as from_pretrained returns it"
            + (", or write boxwood.structure.baked(small)." if computed else ".")
        )
    _say_widths_(kind, config, base)
    follows, floats = {}, {}
    for field, value in _fields(config):
        # What doubles with a field follows from it; another number of layers is no size of them.
        built = _built(kind, config, {field: 2 * value})
        if built is not None and built.sizes.keys() == base.sizes.keys():
            changed = {p for p in base.sizes if built.sizes[p] != base.sizes[p]}
            changed |= {p for p in base.ints if built.ints.get(p) != base.ints[p]}
            if changed:
                follows[field] = frozenset(changed)
                floats[field] = frozenset(
                    p for p, number in base.floats.items() if built.floats.get(p) != number
                )
    return Search(kind, config, wanted, base, follows, floats)


def candidates(search: Search) -> Iterator[tuple[Values, Any]]:
    """Make the configurations from which the sizes follow, the most probable first."""
    config, options = search.config, _options(search)
    ways = (dict(zip(options, each, strict=True)) for each in itertools.product(*options.values()))
    ranked = heapq.nsmallest(_TRIED, ways, key=lambda way: _unlikely(search, way))
    for values in ranked:
        built = _built(search.kind, config, values)
        if built is not None and built.sizes == search.wanted.sizes:
            yield values, changed_config(config, values)


def _options(search: Search) -> dict[Field, list[int]]:
    """List the values that each field may have."""
    sizes = search.wanted.sizes
    shrunken = {(sizes[p], size) for p, size in search.base.sizes.items() if sizes[p] != size}
    options = {}
    for field, places in search.follows.items():
        old = _get(search.config, field)
        sole = [place for place in search.sole[field] if place in sizes]
        found = {old}
        for wanted, base in (
            (search.wanted.sizes, search.base.sizes),
            (search.wanted.ints, search.base.ints),
        ):
            for place in base:
                if place in places and place in wanted and wanted[place] * old % base[place] == 0:
                    found.add(wanted[place] * old // base[place])
        if sole:
            # What follows from one field alone says what it is, and all that does must agree.
            found = {
                v for v in found if all(sizes[p] * old == search.base.sizes[p] * v for p in sole)
            }
            if not found:
                raise without_value(search, field, sole)
        elif not places & sizes.keys():
            # A number of heads, where their width is what the code reads, and is not in the sizes.
            found |= {
                old * after // before for after, before in shrunken if old * after % before == 0
            }
        options[field] = sorted(found)
    return options


def _unlikely(search: Search, values: Values) -> tuple[int, int]:
    """Count the ints of modules that would be others, then the fields that change."""
    wrong = changed = 0
    for field, value in values.items():
        old = _get(search.config, field)
        changed += value != old
        for place in search.sole[field]:
            if place in search.base.ints and place in search.wanted.ints:
                wrong += search.wanted.ints[place] * old != search.base.ints[place] * value
    return wrong, changed


def _fields(config: Any) -> Iterator[tuple[Field, int]]:
    for name, value in config.to_dict().items():
        if name.endswith("token_id") or not hasattr(config, name):
            continue
        several = enumerate(value) if isinstance(value, list) else ()
        for field, each in [((name,), value), *(((name, at), each) for at, each in several)]:
            if type(each) is int and each > 1:
                yield field, each


def _get(config: Any, field: Field) -> int:
    value = getattr(config, str(field[0]))
    return int(value if len(field) == 1 else value[field[1]])


def changed_config(config: Any, values: Values) -> Any:
    """Copy a configuration with other values.

    Example:
        >>> changed_config(transformers.GPT2Config(), {("n_embd",): 12}).n_embd
        12
    """
    config = copy.deepcopy(config)
    for (name, *place), value in values.items():
        if place:
            several = list(getattr(config, str(name)))
            several[int(place[0])] = value
            setattr(config, str(name), several)
        else:
            setattr(config, str(name), value)
    return config


def _say_widths_(kind: Any, config: Any, base: Built) -> None:
    """Write down widths that the class reads and that the configuration leaves to be derived."""
    heads, width = (getattr(config, n, None) for n in ("num_attention_heads", "hidden_size"))
    per_head = [width // heads] if isinstance(heads, int) and heads and width else []
    sizes = sorted(set(base.sizes.values()))
    for field, values in (("head_dim", per_head), *((name, sizes) for name in _DERIVED)):
        if field in _DERIVED and not hasattr(config, field):
            continue
        if getattr(config, field, None) is None:
            # The one that makes the same, where twice as much makes something else.
            said = next((v for v in values if _built(kind, config, {(field,): v}) == base), None)
            if said is not None and _built(kind, config, {(field,): 2 * said}) != base:
                setattr(config, field, said)


def _built(kind: Any, config: Any, values: Values) -> Built | None:
    """Build without data; None where the values do not go together."""
    try:
        with torch.device("meta"):
            return numbers_of(kind(changed_config(config, values)))
    except Exception:  # noqa: BLE001 - whatever a class says about values that cannot be
        return None


def numbers_of(model: nn.Module) -> Built:
    """List the sizes of a model's tensors, and the numbers that its modules hold.

    Example:
        >>> numbers_of(nn.Linear(2, 1)).sizes
        {('', 'weight', 0): 1, ('', 'weight', 1): 2, ('', 'bias', 0): 1}
    """
    sizes = {
        ("", name, dim): size
        for name, tensor in model.state_dict().items()
        for dim, size in enumerate(tensor.shape)
    }
    held = {
        (module, name, place): each
        for module, holder in model.named_modules()
        for name, value in vars(holder).items()
        for place, each in enumerate(value if isinstance(value, tuple) else (value,))
    }
    return Built(
        sizes,
        ints={place: each for place, each in held.items() if type(each) is int and each},
        floats={place: each for place, each in held.items() if type(each) is float},
    )


def without_value(
    search: Search, field: Field | None, places: Collection[Place]
) -> ConfigurationError:
    """Name one place of each kind of change."""
    kinds: dict[tuple[int, int], Place] = {}
    for place in places:
        before, after = search.base.sizes[place], search.wanted.sizes[place]
        kinds.setdefault((before, after), place)
    listed = ", ".join(
        f"axis {dim} of {name!r} from {before} to {after}"
        for (before, after), (_, name, dim) in itertools.islice(kinds.items(), 3)
    )
    what = "any field" if field is None else named(field)
    return ConfigurationError(
        f"Expected sizes that the configuration of {search.kind.__name__} can say, got no value of "
        f"{what} for {listed}; keep as many units in every layer, protect these parameters, or "
        f"write the model with boxwood.save.",
        [(name, dim) for _, name, dim in (places if field is None else search.axes_of(field))],
    )


def named(field: Field) -> str:
    """Write a field as people do.

    Example:
        >>> named(("hidden_sizes", 1))
        'hidden_sizes.1'
    """
    return ".".join(map(str, field))
