"""The header reader: what it accepts is true, and whatever it is given it refuses in its own words."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood._internal.files.header import (
    BITS,
    LONGEST,
    make_header,
    parse_header,
    preamble,
    read_header,
)
from boxwood.errors import BoxwoodError

NAMES = st.text(min_size=1, max_size=8).filter(str.isprintable)
DTYPES = st.sampled_from(sorted(set(BITS) - {"F4", "F6_E2M3", "F6_E3M2"}))
PATH = Path("weights.safetensors")


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Draw a small file that is right."""
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    tensors = []
    for name in names:
        dtype, shape = draw(DTYPES), tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        tensors.append((name, dtype, shape, int(np.prod(shape, dtype=int)) * BITS[dtype] // 8))
    header = make_header(tensors, draw(st.dictionaries(NAMES, NAMES, max_size=2)), PATH)
    return preamble(header) + bytes(sum(size for *_, size in tensors))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a file of which bytes were changed, taken out or put in, or numbers made others."""
    data = bytearray(draw(files()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del data[at : at + draw(st.integers(1, 9))]
            case 2:
                data[at:at] = draw(
                    st.sampled_from([b"-1", b"9" * 19, b"0", b"[", b'"', b"\x80\x02"])
                )
            case 3:
                data[:8] = draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
            case 4:
                data += draw(st.binary(max_size=9))
    return bytes(data)


def read(data: bytes, folder: Path):
    path = folder / "f.safetensors"
    path.write_bytes(data)
    return read_header(path)


@given(files())
def test_what_is_right_is_read_and_safetensors_reads_the_same(data):
    """Names, types, shapes and places are those that the library of the format finds."""
    header = parse_header(data[8 : 8 + int.from_bytes(data[:8], "little")], len(data), PATH)
    theirs = dict(safetensors.deserialize(data))
    assert header.entries.keys() == theirs.keys()
    for name, entry in header.entries.items():
        assert (entry.dtype, list(entry.shape)) == (theirs[name]["dtype"], theirs[name]["shape"])
        assert data[entry.start : entry.end] == bytes(theirs[name]["data"])


@given(damaged())
@settings(max_examples=400, deadline=None)
def test_whatever_is_damaged_is_refused_or_true(tmp_path_factory, data):
    """A damaged file raises a BoxwoodError, or is one that the library of the format reads alike."""
    try:
        header = read(data, tmp_path_factory.getbasetemp())
    except BoxwoodError:
        return  # most cases; the words of each are tested below
    theirs = dict(safetensors.deserialize(data))
    assert header.entries.keys() == theirs.keys()
    reached = len(preamble(header))
    for name, entry in header.entries.items():
        assert entry.start == reached
        assert (entry.dtype, list(entry.shape)) == (theirs[name]["dtype"], theirs[name]["shape"])
        reached = entry.end
    assert reached == len(data)


def test_a_length_may_begin_as_a_pickle_does(tmp_path):
    """A header of 0x0480 bytes is no pickle, though its first two bytes are those of one."""
    text = b"{" + b" " * (0x0480 - 2) + b"}"
    assert read(len(text).to_bytes(8, "little") + text, tmp_path).entries == {}


def written(listed: object, body: bytes = b"") -> bytes:
    text = (listed if isinstance(listed, str) else json.dumps(listed)).encode()
    return len(text).to_bytes(8, "little") + text + body


def one(**changes: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}


FOUR = bytes(4)
REFUSED = {
    "empty": (b"", "only 0 bytes"),
    "seven bytes": (bytes(7), "only 7 bytes"),
    "length that lies": (written({}) [:8] + b"{", "a header of 2 bytes in a file of 9"),
    "huge length": (b"\xff" * 8 + b"{}", "a header of 18446744073709551615 bytes in a file of 10"),
    "pickle": (b"\x80\x04" + bytes(30), "a pickle at .*weights_only=True"),
    "zip pickle": (b"PK\x03\x04" + bytes(30), "a pickle at"),
    "no object": (written("[]"), "no JSON object"),
    "not JSON": (written('{"a}'+"}"), r"no valid JSON \("),
    "not UTF-8": (written({})[:8] + b"{}"[:1] + b"\xff", "no JSON object"),
    "NaN": (written('{"w":NaN}'), "NaN is no JSON"),
    "nested deeply": (written('{"w":' + "[" * 200_000 + "]" * 200_000 + "}"), "nested too deeply"),
    "entry twice": (written('{"w":{},"w":{}}'), "'w' comes twice"),
    "key twice": (written('{"w":{"dtype":"F32","dtype":"F32"}}'), "'dtype' comes twice"),
    "metadata": (written({"__metadata__": {"a": 1}}), "metadata that are not texts"),
    "no shape": (written({"w": {"dtype": "F32"}}), "not dtype, shape and data_offsets for 'w'"),
    "no entry": (written({"w": 3}), "not dtype, shape and data_offsets for 'w'"),
    "unknown type": (written(one(dtype="F33"), FOUR), "the unknown type 'F33' for 'w'"),
    "type no text": (written(one(dtype=["F32"]), FOUR), r"the unknown type \['F32'\]"),
    "negative size": (written(one(shape=[-1]), FOUR), r"the impossible shape \[-1\]"),
    "bool size": (written(one(shape=[True]), FOUR), r"the impossible shape \[True\]"),
    "float size": (written(one(shape=[1.0]), FOUR), r"the impossible shape \[1.0\]"),
    "too many dimensions": (written(one(shape=[1] * 33), FOUR), "the impossible shape"),
    "overflow": (written(one(shape=[2**32, 2**32]), FOUR), "the huge shape"),
    "overflow hidden by zero": (written(one(shape=[0, 2**62, 2]), b""), "the huge shape"),
    "too large": (written(one(shape=[2**40]), FOUR), "4 bytes for 'w', where F32 .* takes 4398046511104"),
    "negative offset": (written(one(data_offsets=[-4, 0]), FOUR), "the impossible offsets"),
    "backwards": (written(one(data_offsets=[4, 0]), FOUR), "the impossible offsets"),
    "three offsets": (written(one(data_offsets=[0, 4, 4]), FOUR), "the impossible offsets"),
    "wrong size": (written(one(data_offsets=[0, 8]), bytes(8)), "8 bytes for 'w', where F32 .* takes 4"),
    "cut short": (written(one(), FOUR[:3]), "tensors that end at byte"),
    "bytes left": (written(one(), bytes(5)), "tensors that end at byte"),
    "hole": (written(one(data_offsets=[4, 8]), bytes(8)), "'w' that leaves a hole"),
    "overlap": (written({**one(), "v": one(shape=[1])["w"]}, FOUR), "overlaps the tensor before it"),
    "odd name": (written({"a\nb": one()["w"]}, FOUR), r"whose name cannot be printed, 'a\\nb'"),
    "half a character": (written('{"\\ud800":' + json.dumps(one()["w"]) + "}", FOUR), "cannot be printed"),
    "half a byte": (written(one(dtype="F4", data_offsets=[0, 1]), b"0"), "takes 0.5"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_every_lie_is_named(case, tmp_path):
    """Each way in which a header can be untrue has its words, and the file is named."""
    data, words = REFUSED[case]
    with pytest.raises(BoxwoodError, match=words) as caught:
        read(data, tmp_path)
    assert "f.safetensors" in str(caught.value)


def test_a_header_that_takes_too_much_memory_is_refused(tmp_path):
    """A length that is true and enormous is refused before it is read, and is never written."""
    path = tmp_path / "f.safetensors"
    with path.open("wb") as opened:
        opened.write((LONGEST + 1).to_bytes(8, "little"))
        opened.truncate(LONGEST + 100)
    with pytest.raises(BoxwoodError, match="more than 16777216 are never needed"):
        read_header(path)
    with pytest.raises(BoxwoodError, match="split the checkpoint"):
        make_header([], {"a": "b" * LONGEST}, PATH)


def test_what_is_no_file_is_refused(tmp_path):
    """Neither a folder nor a missing path is opened."""
    with pytest.raises(BoxwoodError, match="something that is not a file"):
        read_header(tmp_path)
    with pytest.raises(BoxwoodError, match=r"Expected a safetensors file at .*gone.*, got none"):
        read_header(tmp_path / "gone")
    with pytest.raises(BoxwoodError, match="Expected to read"):
        read_header(Path("/dev/null/x") if Path("/dev/null").exists() else tmp_path / "gone/x")
