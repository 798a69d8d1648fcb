"""Files whose checksum is right and whose content is not: an error before anything is read."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.bxw_sections import MAGIC
from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.session import load_session
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.engine.weight_streams import (
    StreamParts,
    concatenate,
    from_dense,
    from_parts,
    to_dense,
)
from boxwood.errors import BoxwoodError


class Sentence(nn.Module):
    """Attention, normalisation and an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.rnn, self.out = nn.LSTM(16, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.block(x))[0][:, -1])


def picture() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 3, padding=1, groups=2),
        nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


EXAMPLES = {picture: (3, 16, 16), Sentence: (6, 16)}


@pytest.fixture(scope="module", params=EXAMPLES)
def file(request, tmp_path_factory) -> tuple[Path, tuple[int, ...]]:
    torch.manual_seed(0)
    net, shape = request.param().eval(), EXAMPLES[request.param]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(torch.rand_like(parameter) >= 0.5)
    session = compile_(net, torch.zeros(1, *shape))
    session = session.with_native(frozenset(supported_problems(session.program, 1)))
    session.compact(1)
    path = tmp_path_factory.mktemp("forged") / "net.bxw"
    session.save(path)
    assert session.kernels.built
    return path, shape


def parts_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[40:48], "little")
    return json.loads(data[48 : 48 + length]), data[-(-(48 + length) // 64) * 64 :]


def write(path: Path, header: dict[str, Any], sections: bytes) -> None:
    text = json.dumps(header).encode()
    body = len(text).to_bytes(8, "little") + text
    body += bytes(-(40 + len(body)) % 64) + sections
    path.write_bytes(MAGIC + hashlib.sha256(body).digest() + body)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a header but those of machine code, which a file is trusted for."""
    if path in (("objects",), ("versions",), ("target",)):
        return []
    found = [path] if path else []
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in items:
            found += places(each, (*path, key))
    return found


def changed(header: Any, place: tuple[Any, ...], chance: random.Random) -> Any:
    """Return a header with something else at one place."""
    header = json.loads(json.dumps(header))
    owner = header
    for key in place[:-1]:
        owner = owner[key]
    old = owner[place[-1]]
    number = old if isinstance(old, int) else 1
    options = [
        0, -1, number + 1, number - 1, 2 * number + 1, number + 64, 2**31, 2**62, 1.5, "x", None,
        [], {}, True, [old], {"is": "LinearSize", "per": 3, "plus": 1}, {"is": "ValueRef", "value": 0},
    ]  # fmt: skip
    if isinstance(old, list) and old:
        options += [old[:-1], old[1:], old[::-1], [*old, old[0]]]
    if chance.random() < 0.1:
        del owner[place[-1]]
    else:
        owner[place[-1]] = chance.choice(options)
    return header


def refused_or_run(path: Path, shape: tuple[int, ...]) -> bool:
    """Say whether a file is refused, on reading or at a call; nothing else may happen."""
    try:
        session = load_session(path)
        for batch in (1, 3):
            session(torch.randn(batch, *shape))
    except BoxwoodError:
        return True
    return False


@pytest.mark.parametrize(
    "cases",
    [40, pytest.param(2000, marks=pytest.mark.slow)],  # two minutes
)
def test_any_change_of_the_header_is_an_error_or_harmless(file, tmp_path, cases) -> None:
    """Numbers too large, too small, of another type, swapped, missing."""
    path, shape = file
    header, sections = parts_of(path)
    chance = random.Random(0)
    everywhere = places(header)
    refused = 0
    for _ in range(cases):
        write(tmp_path / "bad.bxw", changed(header, chance.choice(everywhere), chance), sections)
        refused += refused_or_run(tmp_path / "bad.bxw", shape)
    assert refused > cases / 3


def test_packed_weights_are_read_within_their_bounds(file, tmp_path) -> None:
    """Whatever counts, rows and columns a section holds."""
    path, shape = file
    header, sections = parts_of(path)
    packed = [spec["parts"] for _, spec in header["kernels"] if spec["packing"]]
    assert packed
    for index, each in enumerate(packed[:5]):
        for part in range(len(each) - 1):  # values are only values
            start, length = each[part]
            for value in (0xFF, 0x01)[: 1 + (index == 0)]:
                damaged = bytearray(sections)
                damaged[start : start + length] = bytes([value]) * length
                write(tmp_path / "bad.bxw", header, bytes(damaged))
                assert refused_or_run(tmp_path / "bad.bxw", shape), (index, part)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("change", [-64, -2, 2, 64])
def test_packed_weights_of_another_length_are_refused(file, tmp_path, part, change) -> None:
    """Longer ones too: nothing says what the rest is."""
    path, shape = file
    header, sections = parts_of(path)
    for _, spec in header["kernels"]:
        if spec["packing"] and part < len(spec["parts"]):
            spec["parts"][part][1] += change
    write(tmp_path / "bad.bxw", header, sections)
    assert refused_or_run(tmp_path / "bad.bxw", shape)


def test_a_stream_is_made_again_from_its_parts() -> None:
    """Of one matrix and of the groups of a convolution, whatever the shares."""
    rng = np.random.default_rng(0)
    for height, block, chunks, groups in ((1, 7, 1, 1), (6, 20, 3, 2), (8, 9, 2, 3), (1, 30, 5, 1)):
        settings = {"height": height, "block": block, "chunks": chunks}
        matrices = [
            (rng.standard_normal((21, 30)) * (rng.random((21, 30)) < 0.3)).astype(np.float32)
            for _ in range(groups)
        ]
        stream = concatenate([from_dense(matrix, **settings) for matrix in matrices])
        parts = StreamParts(
            stream.records["count"].ravel(), stream.headers, stream.indices, stream.values.ravel()
        )
        again = from_parts(parts, (21, 30), groups=groups, **settings)
        assert np.array_equal(again.records.ravel(), stream.records.ravel())
        assert np.array_equal(again.values, stream.values)
        if groups == 1:
            assert np.array_equal(to_dense(again), matrices[0])
