"""Every kind of model that transformers knows, made tiny, each with an example that it takes.

Nobody chose these networks: a kind is left out only where the settings below, put into its default
configuration, give no model of at most 20 million parameters that takes one of the examples.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from architectures import Built, ids
from torch import Tensor, nn

MOST = 20_000_000

_LAYERS = dict.fromkeys(
    ("num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers", "n_layer", "n_layers",
     "num_decoder_layers", "num_encoder_layers", "depth", "conf_num_hidden_layers"), 2,
)  # fmt: skip
_HEADS = dict.fromkeys(
    ("num_attention_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
     "n_head", "n_heads", "mamba_n_heads"), 4,
)  # fmt: skip
_WIDTHS = dict.fromkeys(
    ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "word_embed_proj_dim",
     "encoder_hidden_size", "decoder_hidden_size", "decoder_d_model"), 32,
)  # fmt: skip
_HIDDEN = dict.fromkeys(
    ("intermediate_size", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "hidden_dim",
     "n_inner"), 64,
)  # fmt: skip
_TOKENS = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
           "decoder_start_token_id": 2, "type_vocab_size": 2, "embedding_size": 16}  # fmt: skip
_PLACES = {"max_position_embeddings": 64, "hidden_size_per_layer_input": 8,
           "vocab_size_per_layer_input": 99, "n_positions": 64, "n_ctx": 64, "image_size": 32,
           "patch_size": 8, "projection_dim": 16}  # fmt: skip
_EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size",
                     "expert_ffn_hidden_size"), 32),
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
           "v_head_dim": 8, "index_topk": 4, "index_n_heads": 2, "index_head_dim": 8}  # fmt: skip
_STATES = {"state_size": 8, "mamba_d_state": 8, "rotary_dim": 8}

_COMMON = {**_LAYERS, **_HEADS, **_WIDTHS, **_HIDDEN, **_TOKENS, **_PLACES, **_EXPERTS, **_STATES}
VARIANTS: tuple[dict[str, int], ...] = (
    {**_COMMON, **_LATENT, "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8},
    {**_COMMON, **_LATENT, "num_key_value_heads": 4},
    {**_COMMON, "num_key_value_heads": 2},
    {**_LAYERS, **_WIDTHS, **_HIDDEN, "vocab_size": 99},
    {**_LAYERS, "vocab_size": 99},
    {},
)
"""Settings to try in turn, where a configuration has them."""


def every_transformer() -> dict[str, Callable[[], Built]]:
    """Name every kind of model, with how to build it; building raises LookupError where it fails."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return {f"every/{kind}": lambda kind=kind: _build(kind) for kind in MODEL_MAPPING_NAMES}  # type: ignore[misc]


def _build(kind: str) -> Built:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    name = MODEL_MAPPING_NAMES[kind]
    said = "no settings fit"
    for variant in VARIANTS:
        try:
            configuration = CONFIG_MAPPING[kind]
            factory = getattr(transformers, name if isinstance(name, str) else name[0])
            settings = _settings(configuration, variant)
            with torch.device("meta"):
                size = sum(p.numel() for p in factory(configuration(**settings)).parameters())
            if size > MOST:
                said = f"{size} parameters"
                continue
            made = configuration(**settings)
            made.use_cache = False
            net = factory(made).eval()
        except Exception as error:  # noqa: BLE001 - whatever a configuration cannot be
            said = first_line(error)
            continue
        for example in _examples(net):
            try:
                with torch.no_grad():
                    net(**example)
            except Exception as error:  # noqa: BLE001 - the next one may do
                said = first_line(error)
                continue
            return net, example
    raise LookupError(f"no tiny model with an example: {said}")


def _settings(configuration: Any, variant: dict[str, int]) -> dict[str, Any]:
    default = configuration()
    found: dict[str, Any] = {
        name: value for name, value in variant.items() if type(getattr(default, name, None)) is int
    }
    for name in getattr(configuration, "sub_configs", {}):
        part = getattr(default, name, None)
        if part is not None:
            found[name] = {**_settings(type(part), variant), "model_type": part.model_type}
    return found


def _examples(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    asked = set(inspect.signature(net.forward).parameters)
    tokens, answer = {"input_ids": ids(2, 12)}, {"decoder_input_ids": ids(2, 7)}
    images = [{"pixel_values": torch.randn(2, 3, size, size)} for size in (32, 64, 224)]
    candidates: list[dict[str, Tensor]] = [
        tokens,
        {**tokens, **answer},
        *images,
        {**tokens, **images[0]},
        {**tokens, "bbox": torch.randint(0, 30, (2, 12, 4)).sort(-1).values},
        {"pixel_values": torch.randn(2, 4, 3, 32, 32)},
        {"pixel_values_videos": torch.randn(2, 4, 3, 32, 32)},
        {"input_values": torch.randn(2, 800)},
        {"input_values": torch.randn(2, 1, 800)},
        *({"input_features": torch.randn(2, *shape)} for shape in ((64, 80), (80, 64), (128, 64))),
        {"input_features": torch.randn(2, 80, 64), **answer},
        {"input_features": torch.randn(2, 64, 80), **answer},
        {"past_values": torch.randn(2, 512, 1)},
    ]
    return (each for each in candidates if each.keys() <= asked)


def first_line(error: Exception) -> str:
    """Say what an error is, in a line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
