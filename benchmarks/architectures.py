"""Networks of many kinds with random weights, each with an example: the corpus of `structure.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, Any]


def corpus() -> dict[str, Callable[[], Built]]:
    """Name every network that the installed libraries offer, with how to build it."""
    found: dict[str, Callable[[], Built]] = {}
    for add in (_recurrent, _transformers, _torchvision, _timm):
        try:
            found |= add()
        except ImportError:
            continue
    return found


def _torchvision() -> dict[str, Callable[[], Built]]:
    from torchvision import models

    def classifier(name: str) -> Built:
        whole = name.startswith(("vit", "maxvit"))  # whose sizes are those of their positions
        size = 224 if whole else 96
        settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        return models.get_model(name, weights=None, **settings), torch.randn(1, 3, size, size)

    def segmentation(name: str) -> Built:
        net = models.get_model(name, weights=None, weights_backbone=None)
        return net, torch.randn(1, 3, 128, 128)

    def detection(name: str) -> Built:
        net = models.get_model(name, weights=None, weights_backbone=None)
        return net, ([torch.rand(3, 96, 96)],)

    def video(name: str) -> Built:
        shape = (16, 224, 224) if name.startswith(("mvit", "s3d")) else (8, 112, 112)
        return models.get_model(name, weights=None), torch.randn(1, 3, *shape)

    def flow(name: str) -> Built:
        return models.get_model(name, weights=None), tuple(torch.randn(2, 1, 3, 128, 128))

    return {
        **{f"torchvision/{n}": lambda n=n: classifier(n) for n in models.list_models(models)},
        **{f"torchvision/{n}": lambda n=n: video(n) for n in models.list_models(models.video)},
        **{
            f"torchvision/{n}": lambda n=n: flow(n) for n in models.list_models(models.optical_flow)
        },
        **{
            f"torchvision/{n}": lambda n=n: segmentation(n)
            for n in models.list_models(models.segmentation)
        },
        **{
            f"torchvision/{n}": lambda n=n: detection(n)
            for n in models.list_models(models.detection)
        },
    }  # type: ignore[misc]


def _timm() -> dict[str, Callable[[], Built]]:
    """One small variant of each family; the list was made by counting parameters."""
    import timm

    variants = json.loads((Path(__file__).parent / "timm_variants.json").read_text())

    def build(name: str, size: list[int]) -> Built:
        return timm.create_model(name), torch.randn(1, *size)

    return {f"timm/{n}": lambda n=n, s=s: build(n, s) for n, s in variants.items()}  # type: ignore[misc]


def ids(*shape: int) -> Tensor:
    """Draw tokens of a vocabulary of 99; those below 3 have meanings of their own."""
    return torch.randint(3, 90, shape)


TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER = {**TEXT, "intermediate_size": 64, "max_position_embeddings": 64}
GROUPED = {**ENCODER, "num_key_value_heads": 2}
VISION = {**{k: v for k, v in ENCODER.items() if "vocab" not in k and "max" not in k},
          "image_size": 32, "patch_size": 8}  # fmt: skip
GPT = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
BART = {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64, "max_position_embeddings": 64, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}  # fmt: skip

_HUGGING_FACE: dict[str, tuple[str, dict[str, Any], str]] = {
    # name: (class without its suffix, configuration, kind of input)
    "bert": ("BertModel", ENCODER, "text"),
    "bert-classifier": ("BertForSequenceClassification", ENCODER, "text"),
    "roberta": ("RobertaModel", ENCODER, "text"),
    "albert": ("AlbertModel", {**ENCODER, "embedding_size": 16}, "text"),
    "distilbert": ("DistilBertModel", {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4,
                                       "hidden_dim": 64, "max_position_embeddings": 64}, "text"),
    "electra": ("ElectraModel", {**ENCODER, "embedding_size": 16}, "text"),
    "mobilebert": ("MobileBertModel", {**ENCODER, "intra_bottleneck_size": 16,
                                       "embedding_size": 16, "true_hidden_size": 16}, "text"),
    "deberta-v2": ("DebertaV2Model", ENCODER, "text"),
    "mpnet": ("MPNetModel", ENCODER, "text"),
    "gpt2": ("GPT2LMHeadModel", GPT, "text"),
    "gpt-neo": ("GPTNeoModel", {"vocab_size": 99, "hidden_size": 32, "num_layers": 2,
                                "num_heads": 4, "attention_types": [[["global", "local"], 1]],
                                "max_position_embeddings": 64}, "text"),
    "gpt-neox": ("GPTNeoXModel", ENCODER, "text"),
    "opt": ("OPTModel", {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 32,
                         "max_position_embeddings": 64}, "text"),
    "bloom": ("BloomModel", {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "text"),
    "llama": ("LlamaForCausalLM", GROUPED, "text"),
    "mistral": ("MistralModel", GROUPED, "text"),
    "qwen2": ("Qwen2Model", GROUPED, "text"),
    "qwen3": ("Qwen3Model", {**GROUPED, "head_dim": 8}, "text"),
    "gemma": ("GemmaModel", {**GROUPED, "head_dim": 8}, "text"),
    "phi": ("PhiModel", ENCODER, "text"),
    "t5": ("T5Model", T5, "pair"),
    "t5-encoder": ("T5EncoderModel", T5, "text"),
    "bart": ("BartModel", BART, "pair"),
    "vit": ("ViTModel", VISION, "image"),
    "deit": ("DeiTModel", VISION, "image"),
    "beit": ("BeitModel", VISION, "image"),
    "dinov2": ("Dinov2Model", {k: v for k, v in VISION.items() if k != "intermediate_size"}, "image"),
    "clip-vision": ("CLIPVisionModel", VISION, "image"),
    "clip-text": ("CLIPTextModel", {**ENCODER, "eos_token_id": 2}, "text"),
    "siglip-vision": ("SiglipVisionModel", VISION, "image"),
    "resnet": ("ResNetModel", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                               "layer_type": "basic"}, "image"),
    "convnext": ("ConvNextModel", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}, "image"),
    "segformer": ("SegformerModel", {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1],
                                     "hidden_sizes": [16, 32], "num_attention_heads": [1, 2],
                                     "patch_sizes": [7, 3], "strides": [4, 2],
                                     "mlp_ratios": [2, 2]}, "image"),
    "mobilevit": ("MobileViTModel", {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes":
                                     [8, 16, 16, 24, 32, 32, 64], "image_size": 64}, "large image"),
    "swin": ("SwinModel", {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "image_size": 32,
                           "patch_size": 4, "window_size": 4}, "image"),
    "wav2vec2": ("Wav2Vec2Model", {**ENCODER, "conv_dim": [16, 16], "conv_stride": [5, 2],
                                   "conv_kernel": [10, 3], "num_feat_extract_layers": 2,
                                   "num_conv_pos_embeddings": 4,
                                   "num_conv_pos_embedding_groups": 2}, "sound"),
    "whisper-encoder": ("WhisperModel", {**{k: v for k, v in BART.items() if "position" not in k},
                                         "num_mel_bins": 8, "max_source_positions": 32,
                                         "max_target_positions": 32}, "speech"),
}  # fmt: skip


def _transformers() -> dict[str, Callable[[], Built]]:
    import transformers

    def build(kind: str, settings: dict[str, Any], inputs: str) -> Built:
        cls = getattr(transformers, kind)
        config = cls.config_class(**settings)
        config.use_cache = False
        return cls(config), _example(inputs)

    return {
        f"transformers/{name}": lambda row=row: build(*row)  # type: ignore[misc]
        for name, row in _HUGGING_FACE.items()
    }


def bert_base() -> Built:
    """BERT in the size that is used; the corpus has a tiny one."""
    import transformers

    return transformers.BertModel(transformers.BertConfig()), {"input_ids": ids(1, 128)}


def _example(kind: str) -> Any:
    if kind == "text":
        return {"input_ids": ids(2, 12)}
    if kind == "pair":
        return {"input_ids": ids(2, 12), "decoder_input_ids": ids(2, 7)}
    if kind == "image":
        return {"pixel_values": torch.randn(2, 3, 32, 32)}
    if kind == "large image":
        return {"pixel_values": torch.randn(2, 3, 64, 64)}
    if kind == "sound":
        return {"input_values": torch.randn(2, 800)}
    return {"input_features": torch.randn(2, 8, 64), "decoder_input_ids": ids(2, 7)}


class LanguageModel(nn.Module):
    """A stacked recurrent language model; its output layer may be its embedding."""

    def __init__(self, kind: type[nn.RNNBase], *, tied: bool, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 24)
        self.rnn = kind(24, 32, layers, batch_first=True)
        self.back = nn.Linear(32, 24)
        self.out = nn.Linear(24, 60)
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the next token."""
        return self.out(self.back(self.rnn(self.embedding(tokens))[0]))


class Tagger(nn.Module):
    """A bidirectional tagger."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(60, 24)
        self.rnn = nn.LSTM(24, 20, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(40, 9)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score tags."""
        return self.out(self.rnn(self.embedding(tokens))[0])


class Translator(nn.Module):
    """An encoder, a decoder that starts from its state, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(60, 16), nn.Embedding(60, 16)
        self.encoder = nn.LSTM(16, 24, batch_first=True)
        self.decoder = nn.LSTM(16, 24, batch_first=True)
        self.out = nn.Linear(48, 60)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Score the target's next tokens."""
        memory, state = self.encoder(self.source(source))
        y, _ = self.decoder(self.target(target), state)
        attention = (y @ memory.transpose(1, 2)).softmax(-1)
        return self.out(torch.cat([y, attention @ memory], -1))


class Recogniser(nn.Module):
    """Convolutions, then a bidirectional net over the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.rnn = nn.LSTM(32 * 8, 24, 2, bidirectional=True)
        self.out = nn.Linear(48, 30)

    def forward(self, image: Tensor) -> Tensor:
        """Score characters by column."""
        x = self.features(image)
        n, c, h, w = x.shape
        return self.out(self.rnn(x.permute(3, 0, 1, 2).reshape(w, n, c * h))[0])


class Stepwise(nn.Module):
    """An LSTM cell, called step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.LSTMCell(16, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Classify a sequence."""
        h = c = torch.zeros(x.shape[0], self.cell.hidden_size)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.out(h)


def _recurrent() -> dict[str, Callable[[], Built]]:
    return {
        "recurrent/lstm": lambda: (LanguageModel(nn.LSTM, tied=False, layers=1), ids(2, 9) % 60),
        "recurrent/lstm-stacked": lambda: (LanguageModel(nn.LSTM, tied=False), ids(2, 9) % 60),
        "recurrent/lstm-tied": lambda: (LanguageModel(nn.LSTM, tied=True), ids(2, 9) % 60),
        "recurrent/gru": lambda: (LanguageModel(nn.GRU, tied=False), ids(2, 9) % 60),
        "recurrent/tagger": lambda: (Tagger(), ids(2, 9) % 60),
        "recurrent/translator": lambda: (Translator(), (ids(2, 9) % 60, ids(2, 7) % 60)),
        "recurrent/recogniser": lambda: (Recogniser(), torch.randn(2, 1, 32, 48)),
        "recurrent/cell": lambda: (Stepwise(), torch.randn(2, 6, 16)),
    }
