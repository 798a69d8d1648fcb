"""Tiny models of random weights of many families of transformers, for tests of what is made of them."""

from pathlib import Path
from typing import Any

import torch

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
WIDE_HEADS = {**SIZES, "head_dim": 8}
ONE_KIND_OF_HEADS = {name: each for name, each in SIZES.items() if name != "num_key_value_heads"}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
DEEPSEEK = {
    **SIZES, "num_key_value_heads": 4, "moe_intermediate_size": 16, "n_routed_experts": 8,
    "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
    "first_k_dense_replace": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip

DECODERS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": SIZES,
    "MistralForCausalLM": {**SIZES, "sliding_window": 8},
    "Qwen2ForCausalLM": SIZES,
    "Qwen3ForCausalLM": WIDE_HEADS,
    "Gemma2ForCausalLM": {**WIDE_HEADS, "sliding_window": 4},
    "Gemma3ForCausalLM": {**WIDE_HEADS, "sliding_window": 4, "layer_types": ALTERNATING},
    "Phi3ForCausalLM": SIZES,
    "GPT2LMHeadModel": {"vocab_size": 64, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "GPTNeoXForCausalLM": ONE_KIND_OF_HEADS,
    "GPTNeoForCausalLM": {
        "vocab_size": 64, "hidden_size": 32, "num_layers": 4, "num_heads": 4,
        "attention_types": [[["global", "local"], 2]], "max_position_embeddings": 64,
    },
    "OPTForCausalLM": {**ONE_KIND_OF_HEADS, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "FalconForCausalLM": ONE_KIND_OF_HEADS,
    "BloomForCausalLM": {"vocab_size": 64, "hidden_size": 32, "n_layer": 4, "n_head": 4},
    "Olmo2ForCausalLM": SIZES,
    "SmolLM3ForCausalLM": SIZES,
    "Cohere2ForCausalLM": SIZES,
}  # fmt: skip

MIXTURES: dict[str, dict[str, Any]] = {
    "MixtralForCausalLM": {**SIZES, "num_local_experts": 4},
    "Qwen2MoeForCausalLM": {
        **SIZES, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24,
        "num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": [1],
    },
    "Qwen3MoeForCausalLM": {
        **WIDE_HEADS, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2,
    },
    "OlmoeForCausalLM": {**SIZES, "num_experts": 4, "num_experts_per_tok": 2},
    "GptOssForCausalLM": {
        **WIDE_HEADS, "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "DeepseekV3ForCausalLM": DEEPSEEK,
    "Llama4ForCausalLM": {
        **WIDE_HEADS, "num_local_experts": 4, "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 40,
    },
}  # fmt: skip

PAIRS: dict[str, dict[str, Any]] = {
    "T5ForConditionalGeneration": {
        "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 5,
        "num_decoder_layers": 3, "num_heads": 4,
    },
    "BartForConditionalGeneration": {
        "vocab_size": 64, "d_model": 32, "encoder_layers": 4, "decoder_layers": 3,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48, "max_position_embeddings": 64, "forced_eos_token_id": None,
    },
}  # fmt: skip

IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))


def made(name: str, settings: dict[str, Any]) -> Any:
    """A model of a class of transformers, of which no weight is one that it starts with."""
    import transformers

    kind = getattr(transformers, name)
    own = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if name.startswith(("T5", "Bart")):
        own["decoder_start_token_id"] = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(kind.config_class(**{**settings, **own})).eval()
        stored = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
        for tensor in stored.values():
            if tensor.is_floating_point():  # ones of norms and zeros of biases would hide a mistake
                tensor.data += 0.1 * torch.randn_like(tensor)
    return model


def written(model: Any, **more: Any) -> list[int]:
    """The five tokens that a model writes after `IDS`."""
    with torch.no_grad():
        ids = model.generate(
            IDS, attention_mask=torch.ones_like(IDS), do_sample=False, min_new_tokens=5,
            max_new_tokens=5, **more,
        )  # fmt: skip
    return [int(each) for each in ids[:, -5:].flatten()]


def logits(model: Any) -> torch.Tensor:
    """What a model makes of `IDS`."""
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False, **more).logits
    return found


def folder_of(model: Any, folder: Path) -> Path:
    """Write a model with a tokenizer of letters, and a text next to the folder."""
    import tokenizers
    import transformers

    model.save_pretrained(folder)
    letters = {letter: at for at, letter in enumerate("?abcdefghijklmnopqrstuvwxyz .")}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="?"))  # noqa: S106
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="?")  # noqa: S106
    fast.save_pretrained(folder)
    (folder.parent / "text.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    return folder
