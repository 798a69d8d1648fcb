"""Frames of synthesised speech, each with the phone that is heard in its middle."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from boxwood._internal.core.replacing import disk_errors
from boxwood._internal.core.seeds import generator_for
from boxwood._internal.core.tensor_files import read_checked, write_tensors
from boxwood._internal.data.data_paths import data_home
from boxwood._internal.data.splits import fingerprint
from boxwood.data import Splits
from boxwood.errors import CheckpointError, InvalidInput
from boxwood_studies.brown import brown_sentences
from boxwood_studies.espeak import Line, Utterance, speak
from boxwood_studies.filterbanks import frame_middles, log_filterbanks

BEFORE, AFTER, BANDS = 20, 5, 40
PAUSE, OTHER = "_", "other"
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
_LEARNT_FROM = (
    "f1 f2 f4 m1 m2 m4 m6 m7 Alex Andrea Andy Annie Gene Mario Michael anika antonio belinda boris "
    "ed gustave iven john linda marcelo max norbert pedro quincy robert sandro shelby victor zac"
)
VOICES = {
    "train": tuple(_LEARNT_FROM.split()),
    "validation": ("f5", "m8", "Mike", "paul", "steph", "travis"),
    "test": ("f3", "m3", "m5", "Denis", "Jacky", "aunty"),
}
"""Variants of voices by part, none in two; every one speaks all accents."""

_WORDS = (5, 20)  # of a sentence
_SPEEDS = (150, 190)  # words a minute
_FEWEST = 50  # training frames that make a phone a class
_LEFT_OUT = frozenset(("``", "''"))

Sentences = Sequence[Sequence[str]]
Contents = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Frames:
    """Every frame with those before and after it, of which many examples share the memory.

    At the ends of an utterance its first or last frame is repeated.

    Args:
        energies: float32 [f, bands], utterance after utterance.
        labels: int64 [f].
        lengths: frames of each utterance, int64 [u], sum f.
        phones: name of each class.
        before: frames that an example shows before its own.
        after: frames that it shows after it.

    Example:
        >>> energies = torch.arange(5.0).reshape(5, 1)
        >>> two = Frames(energies, torch.arange(5), torch.tensor([3, 2]), tuple("abcde"), 2, 1)
        >>> two.take(torch.tensor([1, 3]))[0].squeeze(2)
        tensor([[0., 0., 1., 2.],
                [3., 3., 3., 4.]])
    """

    energies: Tensor
    labels: Tensor
    lengths: Tensor
    phones: tuple[str, ...]
    before: int = BEFORE
    after: int = AFTER

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Take a batch: float32 [batch, before + 1 + after, bands], and labels.

        Args:
            indices: int64 [batch], each in [0, f).
        """
        shown = indices[:, None] + torch.arange(-self.before, self.after + 1)
        first, last = self._ends
        shown = shown.clamp(first[indices, None], last[indices, None])
        return self.energies[shown], self.labels[indices]

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """First and last frame of the utterance of every frame."""
        ends = self.lengths.cumsum(0)
        starts = ends - self.lengths
        return starts.repeat_interleave(self.lengths), (ends - 1).repeat_interleave(self.lengths)


def speech(
    sentences: Callable[[], Sequence[Sentences]] = brown_sentences,
    train: int = 480,
    validation: int = 60,
    test: int = 120,
) -> Splits:
    """Let eSpeak NG read sentences, and ask for the phone of every frame: inputs [26, 40].

    An input is 26 frames of 40 log filterbank energies, a hundredth of a second apart, and its
    target the phone in the middle of the 21st; every frame of an utterance is an example. Energies
    are standardised, each band by its mean and standard deviation over the training frames. The
    classes are the phones of 50 training frames or more, all pauses being one of them, and one for
    the others. A sentence is read once, by a voice, in an accent and at 150 to 190 words a minute
    that a fixed seed draws. No sentence and no voice (see `VOICES`) is in two parts; the accents
    are in all.

    What was computed is kept in ``$BOXWOOD_DATA/speech``, a file named by all the lines that were
    said, and eSpeak NG is only needed where there is none. Other versions of eSpeak NG speak
    otherwise: the identity is that of the contents.

    Args:
        sentences: returns training, validation and test sentences, word by word; those of 5 to 20
            words are drawn from.
        train: training sentences, at some 400 frames each.
        validation: validation sentences.
        test: test sentences.

    Raises:
        InvalidInput: there are too few sentences, eSpeak NG is not installed, or a kept file is
            damaged or cannot be written.

    Example:
        >>> data = speech()  # doctest: +SKIP
        >>> data.shape, data.classes  # doctest: +SKIP
        ((26, 40), 70)

    Source: Hinton, Vinyals and Dean (2015), section 4: 26 frames of 40 mel-scaled filterbank
    coefficients, of which the 21st is to be recognised. Differs from the paper: minutes of a
    synthesiser's English instead of 2000 hours of people's, and tens of phones, whose times are
    exact, instead of 14,000 states of a hidden Markov model, whose times a recogniser guessed.
    """
    lines = _lines(sentences(), {"train": train, "validation": validation, "test": test})
    name = fingerprint("speech 2", json.dumps([[vars(line) for line in p] for p in lines.values()]))
    path = data_home() / "speech" / f"{name[:16]}.safetensors"
    if path.exists():
        contents, phones = _read(path)
    else:
        contents, phones = _spoken(lines)
        _write(path, contents, phones)
    energies = contents["train"]["energies"]
    sd, mean = torch.std_mean(energies, 0, correction=0, keepdim=True)
    parts = {
        part: Frames((each["energies"] - mean) / sd, each["labels"], each["lengths"], phones)
        for part, each in contents.items()
    }
    return Splits(
        "speech", **parts, classes=len(phones), identity=_identity("speech", contents, phones)
    )


def _lines(sentences: Sequence[Sentences], wanted: dict[str, int]) -> dict[str, list[Line]]:
    """Draw what is said by whom; no sentence is drawn twice."""
    drawn: set[str] = set()
    lines: dict[str, list[Line]] = {}
    for (part, count), texts in zip(wanted.items(), sentences, strict=True):
        chance = generator_for(0, f"speech/{part}")

        def among(choices: Sequence[str], chance: torch.Generator = chance) -> str:
            return choices[int(torch.randint(len(choices), (1,), generator=chance))]

        found = lines.setdefault(part, [])
        for index in torch.randperm(len(texts), generator=chance).tolist():
            if len(found) == count:
                break
            words = [word for word in texts[index] if word not in _LEFT_OUT]
            said = " ".join(words)
            spoken = sum(any(c.isalpha() for c in word) for word in words)
            if not _WORDS[0] <= spoken <= _WORDS[1] or "*" in said or said in drawn:
                continue
            drawn.add(said)
            speed = int(torch.randint(_SPEEDS[0], _SPEEDS[1] + 1, (1,), generator=chance))
            found.append(Line(f"{among(ACCENTS)}+{among(VOICES[part])}", said, speed))
        if count < 1 or len(found) < count:
            raise InvalidInput(
                f"Expected between 1 and {len(found)} {part} sentences of {_WORDS[0]} to "
                f"{_WORDS[1]} words, got {part}={count} of {len(texts)} sentences; ask for another "
                f"number, or give more text."
            )
    return lines


def _spoken(lines: dict[str, list[Line]]) -> tuple[Contents, tuple[str, ...]]:
    """Speak all lines, and number the phones by the training part."""
    said = iter(speak([line for each in lines.values() for line in each]))
    energies: dict[str, list[Tensor]] = {}
    heard: dict[str, list[list[str]]] = {}
    for part, each in lines.items():
        utterances = [next(said) for _ in each]
        energies[part] = [log_filterbanks(u.samples, u.rate, bands=BANDS) for u in utterances]
        heard[part] = [_phones(u) for u in utterances]
    counts = Counter(phone for each in heard["train"] for phone in each)
    known = sorted(phone for phone in counts if counts[phone] >= _FEWEST and phone != PAUSE)
    phones = (PAUSE, *known, OTHER)
    number = {phone: index for index, phone in enumerate(phones)}
    other = number[OTHER]
    contents = {
        part: {
            "energies": torch.cat(energies[part]),
            "labels": torch.tensor(
                [number.get(phone, other) for each in heard[part] for phone in each]
            ),
            "lengths": torch.tensor([len(each) for each in heard[part]]),
        }
        for part in lines
    }
    return contents, phones


def _phones(said: Utterance) -> list[str]:
    """Name the phone in the middle of each frame; all pauses have one name."""
    found = said.phone_at(frame_middles(len(said.samples), said.rate))
    return [PAUSE if phone.startswith(PAUSE) else phone for phone in found]


def _identity(title: str, contents: Contents, phones: tuple[str, ...]) -> str:
    tensors = [each[name] for each in contents.values() for name in sorted(each)]
    return fingerprint(title, " ".join(phones), *tensors)


def _write(path: Path, contents: Contents, phones: tuple[str, ...]) -> None:
    flat = {f"{part}/{name}": t for part, each in contents.items() for name, t in each.items()}
    with disk_errors(path, "free some space, or set BOXWOOD_DATA to a folder that can be written."):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, flat, {"phones": json.dumps(phones)})


def _read(path: Path) -> tuple[Contents, tuple[str, ...]]:
    contents: Contents = {part: {} for part in VOICES}
    try:
        found = read_checked(path)
        phones = tuple(json.loads(found.texts["phones"]))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"Expected undamaged frames of speech at {path}, got a file that cannot be used "
            f"({error}); delete it: it is made again."
        ) from error
    for key, tensor in found.tensors.items():
        part, _, name = key.partition("/")
        contents[part][name] = tensor
    return contents, phones
