"""Mixtures with fewer experts in every layer: which to drop, and the model without them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from boxwood._internal.adapters.expert_layers import (
    ExpertScores,
    expert_layers,
    experts_of,
    outputs_of,
    run_routed,
)
from boxwood._internal.adapters.resident import open_config
from boxwood._internal.adapters.shorter_configurations import (
    Edits,
    edited,
    edited_text,
    parts_of,
    shell,
)
from boxwood._internal.adapters.shrunken import write_folder
from boxwood._internal.core.extras import extra
from boxwood._internal.files.streaming import REPORT
from boxwood._internal.files.writing import check_new_folder
from boxwood._internal.model.evidence.calibration import Batches
from boxwood.errors import InvalidInput

with extra("transformers", "transformers and accelerate for pretrained models"):
    import transformers
    from accelerate import init_empty_weights

Dropped = Mapping[str, Sequence[int]]
"""Places of experts by the dotted name of their layer."""

_PER_TOKEN = ("num_experts_per_tok", "top_k", "moe_topk", "num_experts_per_token")


def least_experts(
    model: transformers.PreTrainedModel, scores: ExpertScores, count: int
) -> dict[str, tuple[int, ...]]:
    """Choose the experts of least score in every layer, and of every group of a layer as many.

    Args:
        model: a mixture.
        scores: as `expert_scores` gives them.
        count: how many go of every layer.

    Returns:
        Places of experts by the dotted name of their layer, as `drop_experts` takes them.

    Raises:
        InvalidInput: there are not that many experts, too few are left for a token, or the groups of
            experts cannot lose the same number.

    Example:
        >>> config = transformers.MixtralConfig(
        ...     vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, num_key_value_heads=1, num_local_experts=4,
        ... )
        >>> model = transformers.MixtralForCausalLM(config)
        >>> least_experts(model, {"model.layers.0.mlp.experts": (4.0, 1.0, 3.0, 2.0)}, 2)
        {'model.layers.0.mlp.experts': (1, 3)}

    Source: Lasby et al. (2025), section 4: the same number in every layer.
    """
    layers = expert_layers(model)
    if scores.keys() != layers.keys():
        raise InvalidInput(
            f"Expected scores for the layers of experts {', '.join(layers)}, got "
            f"{', '.join(scores)}; score them on this model."
        )
    groups = _groups(model.config)
    for layer in layers.values():
        check_experts(experts_of(layer), count, model.config)
    return {name: _least(each, count, groups) for name, each in scores.items()}


def drop_experts(
    model: transformers.PreTrainedModel, dropped: Dropped, *, merge: Batches = ()
) -> transformers.PreTrainedModel:
    """Build a mixture without some of its experts, and without their rows of the router.

    Args:
        model: it stays as it is.
        dropped: places by the dotted name of the layer, the same number in every layer, as
            `least_experts` chooses them.
        merge: what the model is called with, to average each expert that goes into the one that
            makes most nearly the same of all tokens on average; by how many tokens were routed to
            them. None to only drop.

    Returns:
        A model of its own, which ``save_pretrained`` writes.

    Raises:
        InvalidInput: layers or experts that are not there, different numbers of them, too few that are
            left, or no configuration describes what is left.

    Example:
        >>> config = transformers.MixtralConfig(
        ...     vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, num_key_value_heads=1, num_local_experts=4,
        ... )
        >>> model = transformers.MixtralForCausalLM(config)
        >>> drop_experts(model, {"model.layers.0.mlp.experts": (1,)}).config.num_local_experts
        3

    Source: Lasby et al. (2025), section 4; Chen et al. (2025), section 3, for merging.
    Differs from the latter: experts that stay are chosen by their scores, and rows of the router
    for those that go are dropped, since a configuration cannot map two rows to one expert.
    """
    layers = expert_layers(model)
    kept = _kept(model, layers, dropped)
    left = len(next(iter(kept.values())))
    edits, axes = fewer_experts(type(model), model.config, list(layers), left)
    state: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
    if not isinstance(merge, Sequence) or len(merge):
        state |= _merged(model, kept, merge)
    own: dict[int, Tensor] = {}  # what is tied stays so

    def cut(name: str, tensor: Tensor) -> Tensor:
        key = id(tensor)
        if name in axes:
            mine = torch.tensor(kept[_layer_of(name, layers)], device=tensor.device)
            tensor = tensor.detach().index_select(axes[name], mine)
        return own.setdefault(key, tensor.detach().clone())

    with init_empty_weights(include_buffers=False):
        built: Any = type(model)(edited(model.config, edits))
    built.load_state_dict({name: cut(name, each) for name, each in state.items()}, assign=True)
    built.tie_weights()
    if model.can_generate():
        built.generation_config = model.generation_config
    return cast("transformers.PreTrainedModel", built.to(model.device).train(model.training))


def drop_experts_pretrained(
    model: transformers.PreTrainedModel,
    source: Path | str,
    out: Path | str,
    dropped: Dropped,
    *,
    merge: Batches = (),
) -> transformers.PreTrainedModel:
    """Write the folder of a mixture again without some of its experts.

    Args:
        model: what is in the folder, in memory.
        source: the folder, for its configuration, tokenizer and other texts.
        out: a folder that is new or empty; it appears once it is complete.
        dropped: as for `drop_experts`.
        merge: as for `drop_experts`.

    Returns:
        What was written.

    Raises:
        InvalidInput: as `drop_experts`, or ``out`` holds something; nothing is written then.

    Example:
        >>> chosen = least_experts(model, expert_scores(model, batches), 8)  # doctest: +SKIP
        >>> small = drop_experts_pretrained(model, "olmoe", "small", chosen)  # doctest: +SKIP

    Source: Lasby et al. (2025), section 4.
    """
    source, out = Path(source), Path(out)
    check_new_folder(out)
    built = drop_experts(model, dropped, merge=merge)
    layers = list(expert_layers(model))
    left = experts_of(expert_layers(built)[layers[0]])
    edits, _ = fewer_experts(type(model), model.config, layers, left)
    config = edited(open_config(source), edits)
    report = {
        "format": "boxwood experts",
        "version": 1,
        "merged": bool(not isinstance(merge, Sequence) or len(merge)),
        "dropped": {name: list(places) for name, places in dropped.items()},
    }
    texts = {
        "config.json": edited_text(source, config, edits),
        REPORT: json.dumps(report, indent=1) + "\n",
    }
    write_folder(built, out, source=source, texts=texts)
    return built


def fewer_experts(
    kind: Any, config: Any, layers: Sequence[str], left: int
) -> tuple[Edits, dict[str, int]]:
    """Find which field counts experts, and which axes of which tensors follow from it.

    Args:
        kind: the model's class.
        config: its configuration.
        layers: dotted names of its layers of experts.
        left: experts of each that are left.

    Returns:
        New values of the configuration, and the axis by the name of the tensor.

    Raises:
        InvalidInput: no field does.

    Example:
        >>> config = transformers.MixtralConfig(
        ...     vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, num_key_value_heads=1, num_local_experts=4,
        ... )
        >>> names = ["model.layers.0.mlp.experts"]
        >>> edits, axes = fewer_experts(transformers.MixtralForCausalLM, config, names, 3)
        >>> dict(edits), axes["model.layers.0.mlp.gate.weight"]
        ({('num_local_experts',): 3}, 0)
    """
    dense = {name: each.shape for name, each in shell(kind, config).state_dict().items()}
    first = next(name for name in dense if name.startswith(f"{layers[0]}."))
    count = dense[first][0]
    wanted = {name for name in dense if name.startswith(tuple(f"{each}." for each in layers))}
    for path, fields in parts_of(config.to_dict()):
        for field in (name for name, each in fields.items() if type(each) is int and each == count):
            edits = {(*path, field): left}
            try:
                small = shell(kind, edited(config, edits)).state_dict()
            except Exception:  # noqa: BLE001, S112 - whatever a class says about values that cannot be
                continue
            if small.keys() != dense.keys():
                continue
            axes = {
                name: dim
                for name, each in small.items()
                for dim, size in enumerate(each.shape)
                if size != dense[name][dim]
            }
            right = all(axes.get(name) == 0 for name in wanted)
            if right and all(_layer_of(name, layers) is not None for name in axes):
                return edits, axes
    raise InvalidInput(
        f"Expected a field of the configuration of {getattr(kind, '__name__', 'the model')} that says "
        f"that it has {count} experts, got none; this model cannot lose experts."
    )


def check_experts(experts: int, count: int, config: Any) -> None:
    """Refuse to drop no expert, more than can go, or what groups cannot lose equally.

    Example:
        >>> check_experts(4, 3, transformers.MixtralConfig(num_local_experts=4))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected 1 to 2 of the 4 experts of a layer to drop, got 3; every token is routed to 2.
    """
    part = config.get_text_config()
    each = next((value for name in _PER_TOKEN if (value := getattr(part, name, None))), 1)
    groups = _groups(config)
    # A group is scored by its two best experts, and only some groups are open to a token.
    per_group = max(2, -(-each // (getattr(part, "topk_group", None) or 1))) if groups > 1 else each
    most = experts - groups * per_group
    if not 0 < count <= most:
        why = f"every token is routed to {each}"
        why += f", out of groups of which each needs {per_group}" if groups > 1 else ""
        able = (
            f"1 to {most} of the {experts} experts"
            if most > 0
            else f"none of the {experts} experts"
        )
        raise InvalidInput(f"Expected {able} of a layer to drop, got {count}; {why}.")
    if count % groups:
        raise InvalidInput(
            f"Expected the same number of experts to drop from each of {groups} groups, got "
            f"{count}; give a "
            f"multiple of {groups}."
        )


def _least(scores: Sequence[float], count: int, groups: int) -> tuple[int, ...]:
    """List the places of the least scores, of each group as many."""
    found: list[int] = []
    for group in _cut(range(len(scores)), groups):
        found += sorted(group, key=lambda place: scores[place])[: count // groups]
    return tuple(sorted(found))


def _kept(model: Any, layers: Mapping[str, nn.Module], dropped: Dropped) -> dict[str, list[int]]:
    if dropped.keys() != layers.keys():
        raise InvalidInput(
            f"Expected experts to drop in all of the layers {', '.join(layers)}, got "
            f"{', '.join(dropped) or 'none'}; the configuration has one number for all layers."
        )
    groups = _groups(model.config)
    counts = {len(set(places)) for places in dropped.values()}
    if len(counts) != 1:
        raise InvalidInput(
            f"Expected the same number of experts to drop in every layer, got {sorted(counts)}; "
            f"the configuration has one number for all layers."
        )
    kept = {}
    for name, layer in layers.items():
        experts, places = experts_of(layer), set(dropped[name])
        check_experts(experts, len(places), model.config)
        if not places <= set(range(experts)):
            raise InvalidInput(
                f"Expected experts from 0 to {experts - 1} of {name!r}, got {sorted(places)}; "
                f"correct the numbers."
            )
        of_groups = {len(places & set(group)) for group in _cut(range(experts), groups)}
        if len(of_groups) != 1:
            raise InvalidInput(
                f"Expected the same number of experts to drop from each of the {groups} groups "
                f"of {name!r}, "
                f"got {sorted(places)}; use least_experts."
            )
        kept[name] = [place for place in range(experts) if place not in places]
    return kept


def _merged(model: Any, kept: Mapping[str, Sequence[int]], batches: Batches) -> dict[str, Tensor]:
    """Average the experts that go into the most similar ones that stay; new tensors by name."""
    layers = expert_layers(model)
    tokens = {
        name: torch.zeros(experts_of(each), dtype=torch.float64) for name, each in layers.items()
    }
    means: dict[str, Tensor] = {}

    def see(name: str, layer: nn.Module, hidden: Tensor, chosen: Tensor, gates: Tensor) -> None:  # noqa: ARG001
        tokens[name] += torch.bincount(chosen.flatten(), minlength=len(tokens[name])).cpu()
        made = [
            outputs_of(layer, at, hidden).double().sum(0).cpu() for at in range(len(tokens[name]))
        ]
        means[name] = means.get(name, 0) + torch.stack(made)

    run_routed(model, batches, see)
    found = {}
    for name, layer in layers.items():
        alike = torch.cosine_similarity(means[name][:, None], means[name][None], dim=-1)
        stays = torch.tensor(kept[name])
        into = stays[alike[:, stays].argmax(1)]
        into[stays] = stays
        shares = (tokens[name] + 1e-9) / torch.zeros_like(tokens[name]).index_add(
            0, into, tokens[name] + 1e-9
        )[into]
        for last, tensor in layer.named_parameters(recurse=False):
            wide = tensor.detach().double()
            parts = wide * shares.to(wide).view(-1, *[1] * (wide.dim() - 1))
            summed = torch.zeros_like(wide).index_add(0, into.to(wide.device), parts)
            found[f"{name}.{last}"] = summed.to(tensor.dtype)
    return found


def _groups(config: Any) -> int:
    return getattr(config.get_text_config(), "n_group", None) or 1


def _cut(places: range, groups: int) -> list[range]:
    size = len(places) // groups
    return [places[start : start + size] for start in range(0, len(places), size)]


def _layer_of(name: str, layers: Mapping[str, Any] | Sequence[str]) -> Any:
    """Find the layer of experts whose block a tensor is in: the experts themselves or their router."""
    return next((e for e in layers if name.startswith(f"{e.rpartition('.')[0]}.")), None)
