"""Models with fewer blocks: which of them matter least, and the model without them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from boxwood._internal.adapters.block_lists import find_blocks
from boxwood._internal.adapters.perplexity import perplexity
from boxwood._internal.adapters.pretrained import Watch, states_of
from boxwood._internal.adapters.resident import open_resident
from boxwood._internal.adapters.shorter_configurations import (
    Edits,
    removable,
    shorter_configuration,
)
from boxwood._internal.core.extras import extra
from boxwood._internal.model.blockwise import states_before
from boxwood._internal.model.evidence.calibration import Batches
from boxwood._internal.model.running_blocks import influences
from boxwood.errors import InvalidInput

with extra("transformers", "transformers and accelerate for pretrained models"):
    import transformers
    from accelerate import init_empty_weights

Measure = Callable[[transformers.PreTrainedModel, Batches], float]
"""A model and batches, to what should be low."""


def block_influences(
    source: transformers.PreTrainedModel | Path | str,
    batches: Batches,
    *,
    blocks: str | None = None,
    follow_links: bool = False,
    watch: Watch = lambda done, total: None,  # noqa: ARG005
) -> dict[str, float]:
    """Measure the influence of every block that can go: the mean of ``1 − cos(input, output)``.

    A folder is read block by block, so that one block is in memory at a time.

    Args:
        source: a model, or its folder.
        batches: what the model is called with; see `batches_for`.
        blocks: dotted name of the list of blocks, where there are several, as
            ``"encoder.block"`` and ``"decoder.block"``.
        follow_links: let files of a folder be links out of it.
        watch: called with the progress.

    Returns:
        Influence by the dotted name of the block, in order; in [0, 2].

    Raises:
        InvalidInput: there is no such list, the batches do not fit, or the model does something
            between its blocks.

    Example:
        >>> import torch
        >>> config = transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=3, n_head=2)
        >>> model = transformers.GPT2LMHeadModel(config).eval()
        >>> found = block_influences(model, [{"input_ids": torch.arange(6)[None]}])
        >>> list(found)
        ['transformer.h.0', 'transformer.h.1', 'transformer.h.2']

    Source: Men et al. (2024), equation 1.
    """
    if isinstance(source, str | Path):
        opened = open_resident(source, blocks=blocks, follow_links=follow_links)
        model, names = cast("transformers.PreTrainedModel", opened.model), opened.blocks
        states, modules = states_of(opened, batches), opened.resident()
    else:
        model, names = source, find_blocks(source, blocks)
        inner = [model.get_submodule(name) for name in names]
        states, modules = iter(_states(model, inner, batches)), iter(inner)
    found = influences(modules, states, partial(_watched, watch, len(names)))
    scores = dict(zip(names, found, strict=True))
    return {names[place]: scores[names[place]] for place in removable_blocks(model, names)}


def block_perplexities(
    model: transformers.PreTrainedModel,
    batches: Batches,
    *,
    measure: Measure = perplexity,
    blocks: str | None = None,
    watch: Watch = lambda done, total: None,  # noqa: ARG005
) -> dict[str, float]:
    """Measure perplexity without each of the blocks that can go.

    Args:
        model: a language model, in evaluation.
        batches: ``input_ids``, and ``labels`` for an encoder and a decoder.
        measure: what should be low, `perplexity` by default.
        blocks: dotted name of the list of blocks, where there are several.
        watch: called with the progress.

    Returns:
        Perplexity without it, by the dotted name of the block.

    Raises:
        InvalidInput: there is no such list of blocks, or `measure` refuses the batches.

    Example:
        >>> import torch
        >>> config = transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=3, n_head=2)
        >>> model = transformers.GPT2LMHeadModel(config).eval()
        >>> found = block_perplexities(model, [{"input_ids": torch.arange(6)[None]}])
        >>> sorted(found, key=found.get)[:1]  # doctest: +SKIP
        ['transformer.h.1']

    Source: Kim et al. (2024), section 3.2.
    """
    names = find_blocks(model, blocks)
    able = removable_blocks(model, names)
    found = {}
    for done, place in enumerate(able, start=1):
        with without_blocks(model, [names[place]]):
            found[names[place]] = measure(model, batches)
        watch(done, len(able))
    return found


def greedy_blocks(
    model: transformers.PreTrainedModel,
    count: int,
    batches: Batches,
    *,
    measure: Measure = perplexity,
    blocks: str | None = None,
    watch: Watch = lambda done, total: None,  # noqa: ARG005
) -> dict[str, float]:
    """Repeatedly remove the block whose loss hurts least, measuring again every time.

    Args:
        model: a language model, in evaluation.
        count: how many blocks go.
        batches: as for `block_perplexities`.
        measure: what should be low, `perplexity` by default.
        blocks: dotted name of the list of blocks, where there are several.
        watch: called with the progress.

    Returns:
        By the name of the block, in the order in which they go: perplexity once it has gone too.

    Raises:
        InvalidInput: there are not that many blocks that can go.

    Example:
        >>> import torch
        >>> config = transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=3, n_head=2)
        >>> model = transformers.GPT2LMHeadModel(config).eval()
        >>> len(greedy_blocks(model, 2, [{"input_ids": torch.arange(6)[None]}]))
        2

    Source: Song et al. (2024), algorithm 1.
    """
    names = find_blocks(model, blocks)
    able = [names[place] for place in removable_blocks(model, names)]
    check_count(count, len(able), len(names), type(model).__name__)
    total = sum(len(able) - gone for gone in range(count))
    found: dict[str, float] = {}
    done = 0
    for _ in range(count):
        tried: dict[str, float] = {}
        for name in able:
            if name not in found:
                with without_blocks(model, [*found, name]):
                    tried[name] = measure(model, batches)
                watch(done := done + 1, total)
        best = min(tried, key=lambda name: tried[name])
        found[best] = tried[best]
    return found


def drop_blocks(
    model: transformers.PreTrainedModel, dropped: Sequence[str]
) -> transformers.PreTrainedModel:
    """Build the model without some of its blocks, with a configuration that says so.

    The blocks that stay are renumbered, so that their caches are. Layer types and other lists of the
    configuration that speak of blocks are cut along.

    Args:
        model: it stays as it is.
        dropped: dotted names of blocks of one list, as `block_influences` gives them.

    Returns:
        A model of its own, which ``save_pretrained`` writes.

    Raises:
        InvalidInput: names of no blocks, all blocks, or blocks without which no configuration describes
            the others.

    Example:
        >>> config = transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=3, n_head=2)
        >>> model = transformers.GPT2LMHeadModel(config).eval()
        >>> drop_blocks(model, ["transformer.h.1"]).config.n_layer
        2

    Source: Men et al. (2024), section 3.
    """
    names, kept = kept_blocks(model, dropped)
    found = shorter_configuration(type(model), model.config, names, kept)
    outer = names[0].rpartition(".")[0]
    renamed = {names[place]: f"{outer}.{at}" for at, place in enumerate(kept)}
    own: dict[int, Tensor] = {}  # what is tied stays so

    def copied(tensor: Tensor) -> Tensor:
        return own.setdefault(id(tensor), tensor.detach().clone())

    state = {
        new: copied(tensor)
        for name, tensor in model.state_dict(keep_vars=True).items()
        if (new := renamed_tensor(name, outer, renamed)) is not None
    }
    with init_empty_weights(include_buffers=False):
        built: Any = type(model)(found.config)
    built.load_state_dict(state, assign=True)
    built.tie_weights()
    if model.can_generate():
        built.generation_config = model.generation_config
    return cast("transformers.PreTrainedModel", built.to(model.device).train(model.training))


@contextmanager
def without_blocks(model: transformers.PreTrainedModel, dropped: Sequence[str]) -> Iterator[None]:
    """Run a model without some of its blocks for a while; nothing is copied.

    Example:
        >>> config = transformers.GPT2Config(vocab_size=8, n_embd=8, n_layer=3, n_head=2)
        >>> model = transformers.GPT2LMHeadModel(config)
        >>> with without_blocks(model, ["transformer.h.1"]):
        ...     len(model.transformer.h)
        2
    """
    names, kept = kept_blocks(model, dropped)
    edits = shorter_configuration(type(model), model.config, names, kept).edits
    owner, _, last = names[0].rpartition(".")[0].rpartition(".")
    parent = model.get_submodule(owner)
    whole = getattr(parent, last)
    with ExitStack() as stack:
        _edit(model, edits, stack)
        stack.callback(setattr, parent, last, whole)
        setattr(parent, last, nn.ModuleList(whole[place] for place in kept))
        yield


def kept_blocks(model: nn.Module, dropped: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """List the blocks of the list that some are of, and the places of the others.

    Raises:
        InvalidInput: none are dropped, they are of several lists, or no such blocks.

    Example:
        >>> net = nn.Sequential(nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)]))
        >>> kept_blocks(net, ["0.1"])
        (('0.0', '0.1'), [0])
    """
    outer = {name.rpartition(".")[0] for name in dropped}
    if len(outer) != 1 or isinstance(dropped, str):
        raise InvalidInput(
            f"Expected the names of blocks of one list, got {dropped!r}; give them as "
            f"block_influences does, such as ['model.layers.3']."
        )
    names = find_blocks(model, outer.pop())
    for name in dropped:
        if name not in names:
            raise InvalidInput(
                f"Expected blocks out of {names[0]} to {names[-1]}, got {name!r}; correct the name."
            )
    return names, [place for place, name in enumerate(names) if name not in dropped]


def renamed_tensor(name: str, outer: str, renamed: Mapping[str, str]) -> str | None:
    """Say how a tensor of a model is named once blocks are renumbered; None if its block is gone.

    Example:
        >>> renamed_tensor("h.2.ln.weight", "h", {"h.2": "h.1"}), renamed_tensor("h.1.w", "h", {})
        ('h.1.ln.weight', None)
    """
    if not name.startswith(f"{outer}."):
        return name
    place, _, rest = name.removeprefix(f"{outer}.").partition(".")
    block = renamed.get(f"{outer}.{place}")
    return None if block is None else f"{block}.{rest}"


def removable_blocks(model: Any, names: Sequence[str]) -> tuple[int, ...]:
    """List the places of blocks that can go, as `removable` does for a model's class."""
    return removable(type(model), model.config, names)


def check_count(count: int, able: int, blocks: int, kind: str) -> None:
    """Refuse to drop no block, or more than can go.

    Example:
        >>> check_count(2, 2, 2, "Llama")
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected 1 to 1 of the 2 blocks of Llama to drop, got 2; one at least has to stay.
    """
    most = min(able, blocks - 1)
    if not 0 < count <= most:
        why = (
            f"the configuration cannot describe the model without {blocks - able} of them"
            if able < blocks
            else "one at least has to stay"
        )
        raise InvalidInput(
            f"Expected 1 to {most} of the {blocks} blocks of {kind} to drop, got {count}; {why}."
        )


def _states(model: Any, blocks: Sequence[nn.Module], batches: Batches) -> list[Any]:
    with ExitStack() as stack:
        for module in model.modules():  # the stacks of an encoder and a decoder hold copies
            config = vars(module).get("config")
            if getattr(config, "use_cache", False):
                stack.callback(setattr, config, "use_cache", True)
                config.use_cache = False  # blocks are run again, on their own
        return states_before(model, blocks, batches)


def _watched(watch: Watch, total: int, done: int) -> None:
    watch(done, total)


def _edit(model: Any, edits: Edits, stack: ExitStack) -> None:
    """Change the configurations that modules hold, and change them back when the stack is closed."""
    for path, value in edits.items():
        part = model.config
        for name in path[:-1]:
            part = getattr(part, name)
        held = {id(part): part} | {  # some modules hold a copy
            id(config): config
            for module in model.modules()
            if type(config := vars(module).get("config")) is type(part)
        }
        for config in held.values():
            if path[-1] in vars(config):
                stack.callback(config.__dict__.__setitem__, path[-1], vars(config)[path[-1]])
                config.__dict__[path[-1]] = value  # what a class would check or derive is not
