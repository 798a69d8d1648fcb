"""Frames of synthesised speech: their energies and windows, and what eSpeak NG makes where it is."""

import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from boxwood._internal.data.splits import Splits
from boxwood.errors import BoxwoodError
from boxwood_studies import speech as spoken
from boxwood_studies.espeak import LIBRARY, Line, speak
from boxwood_studies.filterbanks import band_middles, frame_middles, log_filterbanks
from boxwood_studies.speech import VOICES, Frames, speech

RATE = 22_050


def _installed() -> bool:
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


needs_espeak = pytest.mark.skipif(not _installed(), reason="eSpeak NG is not installed")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BOXWOOD_DATA", str(tmp_path))
    return tmp_path


TEXT = "the old man saw two small ships near that green island last week"


def sentences() -> tuple[list[list[str]], ...]:
    """Three parts of eight sentences; no two are alike."""
    words = TEXT.split()
    texts = [[*words[index % 5 :], str(index), "."] for index in range(24)]
    return tuple(texts[part::3] for part in range(3))


def small() -> Splits:
    return speech(sentences, train=5, validation=2, test=2)


def tone(hertz: float, seconds: float = 0.2) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * RATE)) / RATE) / 2


def test_frames_are_a_hundredth_of_a_second_apart() -> None:
    """A second has a hundred frames, whose middles never drift from their time."""
    middles = frame_middles(RATE, RATE)
    assert len(middles) == 100
    apart = middles - (torch.arange(100) + 0.5) * RATE / 100
    assert apart.abs().max() < 1
    assert len(log_filterbanks(torch.zeros(RATE), RATE)) == 100


@pytest.mark.parametrize("band", [3, 10, 25, 39])
def test_a_tone_is_heard_in_its_band(band: int) -> None:
    """The energy of a tone in the middle of a band is largest there, in every whole frame."""
    energies = log_filterbanks(tone(float(band_middles(40, 8000)[band])), RATE)
    assert set(energies[2:-2].argmax(1).tolist()) == {band}


def test_twice_as_loud_is_log_four_more() -> None:
    """Energies are logarithms: a factor of the wave is a summand; silence is the floor."""
    once, twice = (log_filterbanks(gain * tone(500), RATE)[10, 5:12] for gain in (1, 2))
    torch.testing.assert_close(twice - once, torch.full((7,), math.log(4)), atol=1e-3, rtol=0)
    assert log_filterbanks(torch.zeros(RATE), RATE).unique().item() == pytest.approx(math.log(1e-8))


@pytest.mark.parametrize(
    ("samples", "rate"), [(torch.zeros(2, 500), RATE), (torch.zeros(200), RATE), (tone(9), 8000)]
)
def test_waves_that_have_no_frames(samples: torch.Tensor, rate: int) -> None:
    """A wave of another shape, of less than a frame, or sampled too slowly is refused."""
    with pytest.raises(BoxwoodError, match=r"Expected a wave .* give a longer wave"):
        log_filterbanks(samples, rate)


def test_windows_stay_in_their_utterance() -> None:
    """Every example shows the 20 frames before and the 5 after its own, and no other utterance."""
    lengths = torch.tensor([30, 40])
    frames = Frames(
        torch.arange(70.0)[:, None], torch.zeros(70, dtype=torch.int64), lengths, ("_",)
    )
    inputs, _ = frames.take(torch.tensor([25, 29, 30, 69]))
    shown = inputs.squeeze(2)
    assert shown.shape == (4, 26)
    assert shown[0].tolist() == [*range(5, 30), 29]
    assert shown[1].tolist() == [*range(9, 30), *[29] * 5]
    assert shown[2].tolist() == [*[30] * 20, *range(30, 36)]
    assert shown[3].tolist() == [*range(49, 70), *[69] * 5]


def test_no_voice_and_no_sentence_is_in_two_parts() -> None:
    """Voices are divided by hand, sentences by the text; one that is in all texts is drawn once."""
    assert len({voice for each in VOICES.values() for voice in each}) == sum(
        map(len, VOICES.values())
    )
    texts = sentences()[0]
    with pytest.raises(
        BoxwoodError, match=r"between 1 and 0 validation sentences of 5 to 20 words"
    ):
        spoken._lines((texts, texts, texts), {"train": len(texts), "validation": 1, "test": 1})
    lines = spoken._lines((texts, texts, texts), {"train": 4, "validation": 2, "test": 2})
    said = [line.text for each in lines.values() for line in each]
    assert len(set(said)) == 8
    for part, each in lines.items():
        assert {line.voice.partition("+")[2] for line in each} <= set(VOICES[part])


def test_without_espeak(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library is missing, the error says what to install."""
    with pytest.raises(BoxwoodError, match=r"libnone.so.*apt-get install espeak-ng"):
        speak([Line("en-us", "Hello.")], library="libnone.so")


@needs_espeak
def test_unknown_voices_are_refused() -> None:
    """ESpeak NG would speak with another voice, in training and test alike."""
    with pytest.raises(BoxwoodError, match="no variant 'nobody'"):
        speak([Line("en-us+nobody", "Hello.")])
    with pytest.raises(BoxwoodError, match="no voice 'xx-nowhere"):
        speak([Line("xx-nowhere", "Hello.")])


@needs_espeak
def test_phones_are_where_they_are_heard() -> None:
    """Phones start in order and within the wave; pauses are silent, vowels loud."""
    (said,) = speak([Line("en-us+m3", "Hello, people, see a moon.")])
    assert said.samples.abs().max() < 1
    assert (said.starts.diff() >= 0).all()
    assert said.starts[-1] <= len(said.samples)
    middles = frame_middles(len(said.samples), said.rate)
    names = said.phone_at(middles)
    energy = log_filterbanks(said.samples, said.rate).exp().sum(1).log()
    pause, vowel = (
        energy[torch.tensor([name.startswith(kind) for name in names])] for kind in ("_", "u:")
    )
    assert len(pause) > 10
    assert len(vowel) > 4
    assert pause.median() < vowel.min() - 2


@needs_espeak
def test_the_same_lines_sound_the_same(home: Path) -> None:
    """Frames are the same when they are made again, are kept, and follow from all settings."""
    first = small()
    (kept,) = (home / "speech").iterdir()
    kept.unlink()
    assert small().identity == first.identity
    assert kept.exists()
    assert speech(sentences, train=6, validation=2, test=2).identity != first.identity


@needs_espeak
def test_frames_of_speech(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs are standardised windows, targets phones; what is kept needs no eSpeak NG."""
    data = small()
    assert data.shape == (26, 40)
    assert data.train.phones[0] == "_"
    assert data.train.phones[-1] == "other"
    assert data.classes == len(data.train.phones) > 10
    energies = data.train.energies
    torch.testing.assert_close(energies.mean(0), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(energies.std(0, correction=0), torch.ones(40), atol=1e-4, rtol=0)
    for part in (data.train, data.validation, data.test):
        inputs, labels = part.take(torch.arange(len(part)))
        assert torch.equal(inputs[:, 20], part.energies)
        assert 0 <= labels.min() <= labels.max() < data.classes
    counts = torch.bincount(data.train.labels, minlength=data.classes)
    assert counts[1:-1].min() >= 50
    monkeypatch.setattr(spoken, "speak", None)
    assert small().identity == data.identity


@needs_espeak
@pytest.mark.parametrize("harm", [lambda b: b[:-9], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_damaged_file_of_frames(home: Path, harm: Callable[[bytes], bytes]) -> None:
    """A kept file that was cut off or altered is refused, with the way out."""
    small()
    (kept,) = (home / "speech").iterdir()
    kept.write_bytes(harm(kept.read_bytes()))
    with pytest.raises(BoxwoodError, match=r"undamaged frames of speech at .*; delete it"):
        small()


@needs_espeak
def test_a_place_that_cannot_be_written(home: Path) -> None:
    """Where frames cannot be kept, the error says which variable to set."""
    (home / "speech").write_text("a file, not a folder")
    with pytest.raises(BoxwoodError, match="set BOXWOOD_DATA"):
        small()
