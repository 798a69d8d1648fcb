"""The layers of experts of a mixture: where they are, and how much each expert matters."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.extras import extra
from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.model.evidence.calibration import Batches, Calibration
from boxwood.errors import InvalidInput

with extra("transformers", "transformers and accelerate for pretrained models"):
    import transformers

ExpertScores = Mapping[str, tuple[float, ...]]
"""A score for every expert, by the dotted name of their layer."""

Routed = Callable[[str, nn.Module, Tensor, Tensor, Tensor], None]
"""Name and module of a layer; hidden states [tokens, width]; experts and gate values [tokens, k]."""


def expert_scores(
    model: transformers.PreTrainedModel,
    batches: Batches,
    *,
    watch: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> dict[str, tuple[float, ...]]:
    """Score experts by their router-weighted activation norms.

    ``S_j = mean over the tokens that are routed to j of g_j(x) ‖f_j(x)‖₂``, with the gate value g and
    the expert's output f. An expert that no token is routed to scores 0.

    Args:
        model: a mixture whose experts lie in one tensor for all, as in transformers 5.
        batches: what the model is called with; see `batches_for`.
        watch: called with the number of layers that have seen the last batch, and of all.

    Returns:
        A score for each expert, by the dotted name of their layer; never negative.

    Raises:
        InvalidInput: the model has no such experts, or there are no batches.

    Example:
        >>> config = transformers.MixtralConfig(
        ...     vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...     num_attention_heads=2, num_key_value_heads=1, num_local_experts=4,
        ... )
        >>> model = transformers.MixtralForCausalLM(config).eval()
        >>> found = expert_scores(model, [{"input_ids": torch.arange(6)[None]}])
        >>> len(found["model.layers.0.mlp.experts"])
        4

    Source: Lasby et al. (2025), equation 9.
    """
    layers = expert_layers(model)
    sums = {
        name: torch.zeros(experts_of(each), dtype=torch.float64) for name, each in layers.items()
    }
    counts = {name: torch.zeros_like(each) for name, each in sums.items()}
    seen: set[str] = set()

    def add(name: str, layer: nn.Module, hidden: Tensor, chosen: Tensor, gates: Tensor) -> None:
        for expert in chosen.unique().tolist():
            places = chosen == expert
            rows = places.any(-1)
            gate = (gates * places).sum(-1)[rows].double()
            norms = outputs_of(layer, expert, hidden[rows]).double().norm(dim=-1)
            sums[name][expert] += float((gate * norms).sum())
            counts[name][expert] += int(rows.sum())
        seen.add(name)
        watch(len(seen), len(layers))

    run_routed(model, batches, add)
    return {
        name: tuple((total / counts[name].clamp_min(1)).tolist()) for name, total in sums.items()
    }


def expert_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find the layers whose experts lie in one tensor for all, by dotted name.

    Raises:
        InvalidInput: there are none, or their experts cannot be called one by one.

    Example:
        >>> expert_layers(nn.Linear(1, 1))
        Traceback (most recent call last):
        ...
        boxwood.errors.InvalidInput: Expected a mixture whose experts are stored in one tensor, got Linear, which has none; give a model that transformers 5 loads that way.
    """
    found = {name: each for name, each in model.named_modules() if _is_experts(each)}
    if not found:
        raise InvalidInput(
            f"Expected a mixture whose experts are stored in one tensor, got "
            f"{type(model).__name__}, "
            f"which has none; give a model that transformers 5 loads that way."
        )
    for name, layer in found.items():
        if len(_arguments(layer)) < 3:
            raise InvalidInput(
                f"Expected experts that are called with hidden states, chosen experts and gate values, "
                f"got {type(layer).__name__} at {name!r}, whose experts all read every token; "
                f"experts of such a model cannot be scored."
            )
    return found


def experts_of(layer: nn.Module) -> int:
    """Count the experts of a layer.

    Example:
        >>> layer = nn.Module()
        >>> layer.register_parameter("down_proj", nn.Parameter(torch.ones(4, 2, 2)))
        >>> experts_of(layer)
        4
    """
    return max(
        (len(each) for each in layer.parameters(recurse=False) if each.dim() == 3), default=0
    )


def outputs_of(layer: nn.Module, expert: int, hidden: Tensor) -> Tensor:
    """Run one expert on some hidden states, [tokens, width]."""
    chosen = torch.full((len(hidden), 1), expert, device=hidden.device)
    gates = torch.ones(len(hidden), 1, dtype=hidden.dtype, device=hidden.device)
    forward: Any = type(layer).forward  # no hooks
    outputs: Tensor = forward(layer, hidden, chosen, gates)
    return outputs


def run_routed(model: transformers.PreTrainedModel, batches: Batches, see: Routed) -> None:
    """Run a model on batches, and show what is routed to the experts of each layer.

    Raises:
        InvalidInput: there are no batches.
    """
    layers = expert_layers(model)
    seen = Calibration(model, dict(model.named_parameters()), _without_caches(batches))
    with evaluating(model), _showing(layers, see), torch.no_grad():
        for inputs in seen.inputs():
            seen.call(inputs)


def _without_caches(batches: Batches) -> list[Any]:
    return [
        {**batch, "use_cache": False} if isinstance(batch, Mapping) else batch for batch in batches
    ]


@contextmanager
def _showing(layers: Mapping[str, nn.Module], see: Routed) -> Iterator[None]:
    handles = [
        layer.register_forward_pre_hook(partial(_show, see, name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _show(see: Routed, name: str, layer: nn.Module, args: Any, kwargs: Any) -> None:
    given = dict(zip(_arguments(layer), args, strict=False)) | kwargs
    hidden, chosen, gates = (given[each] for each in _arguments(layer)[:3])
    see(name, layer, hidden.flatten(0, -2), chosen.flatten(0, -2), gates.flatten(0, -2))


def _arguments(layer: nn.Module) -> list[str]:
    return list(inspect.signature(layer.forward).parameters)


def _is_experts(module: nn.Module) -> bool:
    """Say whether all parameters of a module, several of them matrices, have one entry per expert."""
    own: Iterable[Tensor] = list(module.parameters(recurse=False))
    stacked = [each for each in own if each.dim() == 3]
    return (
        len(stacked) > 1
        and len({len(each) for each in own}) == 1
        and isinstance(getattr(module, "num_experts", None), int)
    )
