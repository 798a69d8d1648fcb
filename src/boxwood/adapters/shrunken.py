"""A shrunken Hugging Face model as a folder that ``from_pretrained`` loads."""

import copy
import heapq
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn

from boxwood.adapters.resident import architecture_of, open_config
from boxwood.core.errors import BoxwoodError
from boxwood.core.replacing import replacing_folder
from boxwood.files.checkpoint import find_files, texts_beside
from boxwood.files.quantised import refuse_unprunable
from boxwood.files.writing import check_new_folder
from boxwood.graph.comparing import compare

Field = tuple[str | int, ...]
"""Where a configuration holds an int: a name, or a name and a place in a list."""
Place = tuple[str, str, int]
"""Module, name and place: of a size of a tensor that is stored, or of an int that a module holds."""
Numbers = dict[Place, int]
Values = dict[Field, int]

_TRIED = 64  # values of the fields: models built without data


@dataclass(frozen=True)
class _Built:
    """What a configuration makes of a class."""

    sizes: Numbers
    ints: Numbers


@dataclass(frozen=True)
class _Search:
    """A shrunken model, and what the configuration that it has kept describes.

    Args:
        wanted: what the shrunken model is. Its ints may be stale where its code does not read them.
        base: what its configuration describes.
        follows: for each field, what changes with it.
    """

    kind: type[transformers.PreTrainedModel]
    config: Any
    wanted: _Built
    base: _Built
    follows: Mapping[Field, frozenset[Place]]

    @cached_property
    def sole(self) -> dict[Field, list[Place]]:
        """For each field, what follows from it alone, in the order of the model."""
        times = Counter(place for places in self.follows.values() for place in places)
        every = (*self.base.sizes, *self.base.ints)
        return {
            field: [place for place in every if place in places and times[place] == 1]
            for field, places in self.follows.items()
        }


def configured(small: transformers.PreTrainedModel, example: Any) -> transformers.PreTrainedModel:
    """Build the model that a configuration describes and that is the same as a shrunken one.

    Every int of the configuration is doubled in turn to learn which sizes follow from it; then the
    values are found from which all sizes of the shrunken model follow. The model built from them
    is given its weights, and must compute the same.

    Args:
        small: what `boxwood.shrink` made of one of transformers' models.
        example: inputs to compare outputs on, as for `boxwood.units`.

    Returns:
        A model of the same class with a configuration of its own; ``save_pretrained`` writes it.

    Raises:
        BoxwoodError: no configuration describes it, since layers that share a field kept different
            sizes or since the class has no field for a size; or the model built from it computes
            something else.

    Example:
        >>> import boxwood
        >>> config = transformers.LlamaConfig(
        ...     vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        ...     num_attention_heads=4, num_key_value_heads=4, use_cache=False,
        ... )
        >>> net = transformers.LlamaForCausalLM(config).eval()
        >>> example = torch.arange(8)[None]
        >>> small = boxwood.shrink(net, boxwood.units(net, example).keep_best(0.5))
        >>> found = configured(small, example).config
        >>> found.hidden_size, found.intermediate_size, found.num_attention_heads, found.head_dim
        (8, 12, 2, 4)
    """
    search = _search(small)
    worst = 0.0
    for config in _candidates(search):
        with torch.random.fork_rng(devices=[]):
            built: Any = type(small)(config)
        _take_dtypes_(built, small)
        built.load_state_dict(small.state_dict())
        if small.can_generate():
            built.generation_config = small.generation_config
        trial = compare(small, built, example)
        if trial.equal:
            built.train(small.training)
            return cast("transformers.PreTrainedModel", built)
        worst = max(worst, trial.difference)
    if worst:
        raise BoxwoodError(
            f"Expected {type(small).__name__} built from the new configuration to compute the same, "
            f"got outputs that differ by {worst:.3g}: its code computes with a number that has "
            f"changed; protect that axis, or write it with boxwood.graph.record.save_shrunken."
        )
    sizes = search.base.sizes
    raise _refused(
        search, None, [place for place in sizes if search.wanted.sizes[place] != sizes[place]]
    )


def load_pretrained(folder: Path) -> transformers.PreTrainedModel:
    """Load the model in a folder, as it will be shrunk: in evaluation, and without a cache.

    Raises:
        BoxwoodError: the folder holds no model that transformers knows, or one that is quantised or an
            adapter.

    Example:
        >>> load_pretrained(Path("gone"))
        Traceback (most recent call last):
        ...
        boxwood.core.errors.BoxwoodError: Expected a folder with config.json at gone, got none; give a folder as save_pretrained writes it.
    """
    config = open_config(folder)
    refuse_unprunable(folder, find_files(folder)[1])
    kind = architecture_of(config, folder)
    try:
        model = kind.from_pretrained(folder, local_files_only=True, dtype="auto")
    except (OSError, ValueError, RuntimeError) as error:
        raise BoxwoodError(
            f"Expected the weights of {kind.__name__} in {folder}, got "
            f"{str(error).splitlines()[0]}; give a folder as save_pretrained writes it."
        ) from error
    model.config.use_cache = False  # of past tokens: an output of its own
    return cast("transformers.PreTrainedModel", model.eval())


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
        example: inputs to compare outputs on, as for `boxwood.units`.
        source: the folder that the model was loaded from, for the tokenizer and other texts.

    Raises:
        BoxwoodError: as `configured`, or the folder holds something.

    Example:
        >>> save_pretrained(small, "small", example)  # doctest: +SKIP
    """
    folder = Path(folder)
    check_new_folder(folder)
    built = configured(small, example)
    with replacing_folder(folder) as new:
        if source is not None:
            built.config.use_cache = open_config(source).use_cache
            index, _ = find_files(source)
            for path in texts_beside(source, index):
                if path != index:  # of other shards
                    shutil.copyfile(path, new / path.name)
        built.save_pretrained(new)


def _take_dtypes_(built: nn.Module, small: nn.Module) -> None:
    """Give every tensor the dtype that its namesake has: some stay in float32 on purpose."""
    wanted = dict(itertools.chain(small.named_parameters(), small.named_buffers()))
    for name, tensor in itertools.chain(built.named_parameters(), built.named_buffers()):
        tensor.data = tensor.data.to(wanted[name].dtype)


def _search(small: transformers.PreTrainedModel) -> _Search:
    kind, config, wanted = type(small), copy.deepcopy(small.config), _numbers(small)
    base = _built(kind, config, {})
    if base is None or base.sizes.keys() != wanted.sizes.keys():
        raise BoxwoodError(
            f"Expected a configuration that describes {kind.__name__} before it was shrunk, got one "
            f"of which other parameters follow; shrink the model as from_pretrained returns it."
        )
    _say_head_dim_(kind, config, base)
    follows = {}
    for field, value in _fields(config):
        # What doubles with a field follows from it; another number of layers is no size of them.
        built = _built(kind, config, {field: 2 * value})
        if built is not None and built.sizes.keys() == base.sizes.keys():
            changed = {p for p in base.sizes if built.sizes[p] != base.sizes[p]}
            changed |= {p for p in base.ints if built.ints.get(p) != base.ints[p]}
            if changed:
                follows[field] = frozenset(changed)
    return _Search(kind, config, wanted, base, follows)


def _candidates(search: _Search) -> Iterator[Any]:
    """Make the configurations from which the sizes follow, the likeliest first."""
    config, options = search.config, _options(search)
    ways = (dict(zip(options, each, strict=True)) for each in itertools.product(*options.values()))
    likeliest = heapq.nsmallest(_TRIED, ways, key=lambda way: _unlikely(search, way))
    for values in likeliest:
        built = _built(search.kind, config, values)
        if built is not None and built.sizes == search.wanted.sizes:
            yield _changed(config, values)


def _options(search: _Search) -> dict[Field, list[int]]:
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
                raise _refused(search, field, sole)
        elif not places & sizes.keys():
            # A number of heads, where their width is what the code reads, and is not in the sizes.
            found |= {
                old * after // before for after, before in shrunken if old * after % before == 0
            }
        options[field] = sorted(found)
    return options


def _unlikely(search: _Search, values: Values) -> tuple[int, int]:
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


def _changed(config: Any, values: Values) -> Any:
    config = copy.deepcopy(config)
    for (name, *place), value in values.items():
        if place:
            several = list(getattr(config, str(name)))
            several[int(place[0])] = value
            setattr(config, str(name), several)
        else:
            setattr(config, str(name), value)
    return config


def _say_head_dim_(kind: Any, config: Any, base: _Built) -> None:
    """Write down the width of a head where the class reads it and the configuration leaves it out."""
    heads, width = (getattr(config, n, None) for n in ("num_attention_heads", "hidden_size"))
    if getattr(config, "head_dim", None) is None and isinstance(heads, int) and width:
        said, doubled = (
            _built(kind, config, {("head_dim",): n * (width // heads)}) for n in (1, 2)
        )
        if said == base != doubled:
            config.head_dim = width // heads


def _built(kind: Any, config: Any, values: Values) -> _Built | None:
    """Build without data; None where the values do not go together."""
    try:
        with torch.device("meta"):
            return _numbers(kind(_changed(config, values)))
    except Exception:  # noqa: BLE001 - whatever a class says about values that cannot be
        return None


def _numbers(model: nn.Module) -> _Built:
    sizes = {
        ("", name, dim): size
        for name, tensor in model.state_dict().items()
        for dim, size in enumerate(tensor.shape)
    }
    ints = {
        (module, name, place): each
        for module, holder in model.named_modules()
        for name, value in vars(holder).items()
        for place, each in enumerate(value if isinstance(value, tuple) else (value,))
        if type(each) is int and each
    }
    return _Built(sizes, ints)


def _refused(search: _Search, field: Field | None, places: Sequence[Place]) -> BoxwoodError:
    """Name one place of each kind of change."""
    kinds: dict[tuple[int, int], Place] = {}
    for place in places:
        before, after = search.base.sizes[place], search.wanted.sizes[place]
        kinds.setdefault((before, after), place)
    listed = ", ".join(
        f"axis {dim} of {name!r} from {before} to {after}"
        for (before, after), (_, name, dim) in itertools.islice(kinds.items(), 3)
    )
    what = "any field" if field is None else ".".join(map(str, field))
    return BoxwoodError(
        f"Expected sizes that the configuration of {search.kind.__name__} can say, got no value of "
        f"{what} for {listed}; keep as many units in every layer, protect these parameters, or "
        f"write the model with boxwood.graph.record.save_shrunken."
    )
