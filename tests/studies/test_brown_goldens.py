"""The Brown corpus made into a text in the form of the Penn Treebank."""

from pathlib import Path

import pytest
import torch

from boxwood.errors import BoxwoodError
from boxwood_studies.brown import brown, brown_sentences, ptb_words


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("Fulton", ["fulton"]),
        ("Atlanta's", ["atlanta", "'s"]),
        ("Don't", ["do", "n't"]),
        ("we'll", ["we", "'ll"]),
        ("jurors'", ["jurors", "'"]),
        ("1,250.5", ["N"]),
        ("$40", ["N"]),
        ("21st", ["N"]),
        ("1960s", ["N"]),
        ("1/2", ["N"]),
        ("term-end", ["term-end"]),
        ("``", []),
        ("--", []),
    ],
)
def test_words_are_written_as_in_the_penn_treebank(word: str, written: list[str]) -> None:
    """Lower case, N for numbers, clitics apart, no punctuation."""
    assert ptb_words(word) == written


def brown_folder(path: Path) -> Path:
    genres = "abcdefghjklmnpr"
    names = [f"c{genres[i % 15]}{i // 15 + 1:02d}" for i in range(500)]
    for name in names:
        (path / name).write_text(f"\n\tThe/at {name}/np ran/vbd ./.\n\n\tIt's/pps+bez 12/cd ./.\n")
    return path


def test_the_brown_corpus_is_divided_by_files(tmp_path: Path) -> None:
    """Every genre has files in all three parts, and no file is in two."""
    data = brown(str(brown_folder(tmp_path)), words=None, length=5, held_out_length=10)
    words = {
        "training": len(data.train) * 5,
        "validation": int((data.validation.take(torch.arange(len(data.validation)))[1] >= 0).sum()),
        "test": int((data.test.take(torch.arange(len(data.test)))[1] >= 0).sum()),
    }
    # A file has 3 + 3 words and 2 ends. Of 33 or 34 files of a genre, 3 are for each other part.
    assert words == {"training": 410 * 8 - 5, "validation": 45 * 8 - 1, "test": 45 * 8 - 1}
    known = {"the", "ran", "it", "'s", "N", "<eos>", "<unk>"}
    assert data.classes == len(known) + 410


def test_sentences_as_they_were_printed(tmp_path: Path) -> None:
    """The same files are in the same parts, and words keep their capitals and marks."""
    parts = brown_sentences(str(brown_folder(tmp_path)))
    assert [len(each) for each in parts] == [2 * 410, 2 * 45, 2 * 45]
    assert parts[0][:2] == [["The", "ca01", "ran", "."], ["It's", "12", "."]]


def test_a_corpus_without_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are missing, not tagged or not ASCII are refused by name."""
    monkeypatch.setenv("BOXWOOD_DATA", str(tmp_path / "none"))  # whatever `make data` fetched here
    monkeypatch.delenv("BROWN_DIR", raising=False)
    with pytest.raises(BoxwoodError, match=r"500 files of the Brown corpus .*run `make data`"):
        brown(str(tmp_path))
    brown_folder(tmp_path)
    (tmp_path / "ca01").write_text("The/at jury\n")
    with pytest.raises(
        BoxwoodError, match=r"a slash and a tag in .*ca01, got 'jury'; give the tag"
    ):
        brown(str(tmp_path))
    (tmp_path / "ca01").write_bytes(b"caf\xe9/nn\n")
    with pytest.raises(BoxwoodError, match=r"file of the Brown corpus at .*ca01, got Unicode"):
        brown(str(tmp_path))
