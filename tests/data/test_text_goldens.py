"""Texts in the form of the Penn Treebank."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood._internal.data.text import corpus, ptb
from boxwood.errors import BoxwoodError

TRAIN = "the cat sat \n the <unk> ran \n\n a cat ran \n"


def folder(path: Path, prefix: str = "ptb.") -> Path:
    texts = {"train": TRAIN, "valid": "the dog sat\n", "test": "a cat and a dog\n"}
    for part, text in texts.items():
        (path / f"{prefix}{part}.txt").write_text(text)
    return path


@pytest.mark.parametrize("prefix", ["ptb.", ""])
def test_a_folder_in_the_form_of_the_penn_treebank(tmp_path: Path, prefix: str) -> None:
    """Lines are sentences with an end of their own; targets are the words that follow."""
    data = ptb(str(folder(tmp_path, prefix)), length=3, held_out_length=4)
    # By count, then by the alphabet: <eos> 3, cat 2, ran 2, the 2, <unk>, a, sat.
    inputs, targets = data.train.take(torch.arange(len(data.train)))
    assert data.classes == 7
    assert inputs.tolist() == [[3, 1, 6], [0, 3, 4], [2, 0, 5]]
    assert targets.tolist() == [[1, 6, 0], [3, 4, 2], [0, 5, 1]]
    inputs, targets = data.validation.take(torch.tensor([0]))
    assert inputs[0, :3].tolist() == [3, 4, 6]  # the dog sat
    assert targets.tolist() == [[4, 6, 0, -100]]


def test_the_test_text_decides_nothing() -> None:
    """The vocabulary is that of the training text, and unknown words elsewhere are marked."""
    found = corpus("toy", [["a", "b", "a"]], [["z"]], [["b", "y", "b"]])
    assert found.vocabulary == ("a", "<eos>", "b", "<unk>")
    assert found.test.tolist() == [2, 3, 2, 1]


def test_a_smaller_vocabulary() -> None:
    """Rare words become one, which may then be the most frequent."""
    text = [["a", "b", "c", "d", "a"]]
    found = corpus("toy", text, text, text, words=3)
    assert found.vocabulary == ("<unk>", "a", "<eos>")
    assert found.train.tolist() == [1, 0, 0, 0, 1, 2]


@settings(deadline=None)
@given(words=st.integers(2, 40), length=st.integers(1, 50))
def test_every_held_out_word_is_a_target_once(words: int, length: int) -> None:
    """Rows of any length hold all words but the first as targets, in order."""
    text = [[f"w{i}" for i in range(words)]]
    found = corpus("toy", text, text, text)
    data = found.splits(length=1, held_out_length=length)
    inputs, targets = data.test.take(torch.arange(len(data.test)))
    counted = targets.flatten() >= 0
    assert torch.equal(targets.flatten()[counted], found.test[1:])
    assert torch.equal(inputs.flatten()[counted], found.test[:-1])
    assert counted[: int(counted.sum())].all()


def test_identity_says_how_a_text_is_cut() -> None:
    """Other rows or another vocabulary are other data."""
    text = [["a", "b", "c", "b"] * 5]
    whole = corpus("toy", text, text, text)
    small = corpus("toy", text, text, text, words=3)
    cuts = [whole.splits(2, 4), whole.splits(3, 4), whole.splits(2, 5), small.splits(2, 4)]
    assert len({each.identity for each in cuts}) == 4
    assert whole.splits(2, 4).identity == cuts[0].identity


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, empty or short texts, other encodings and tiny vocabularies are refused."""
    with pytest.raises(BoxwoodError, match=r"three files of ptb .*set PTB_DIR to the folder"):
        ptb(str(tmp_path / "nowhere"))
    folder(tmp_path)
    with pytest.raises(
        BoxwoodError, match=r"rows of 1 to 11 words of the training text of ptb, got"
    ):
        ptb(str(tmp_path), length=12)
    with pytest.raises(BoxwoodError, match="got rows of 0; give a longer text, or shorter rows"):
        ptb(str(tmp_path), length=2, held_out_length=0)
    with pytest.raises(BoxwoodError, match=r"at least 3 words, .* got words=2; 10,000 is usual"):
        ptb(str(tmp_path), words=2)
    (tmp_path / "ptb.valid.txt").write_text("\n")
    with pytest.raises(
        BoxwoodError, match="words in the valid text of ptb, got none; add some text"
    ):
        ptb(str(tmp_path))
    (tmp_path / "ptb.valid.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(BoxwoodError, match=r"text in UTF-8 at .*valid.txt, got UnicodeDecodeError"):
        ptb(str(tmp_path))
