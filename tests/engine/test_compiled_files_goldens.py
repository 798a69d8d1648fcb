"""Files of compiled models: what is kept, and what damage says."""

import json
import re

import pytest
import torch
from torch import nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine import choice_cache, compiling, storage
from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.engine.llvm.cache import ObjectCache
from boxwood._internal.engine.session import load_session
from boxwood._internal.engine.targets import AVX2, AVX512, host
from boxwood.errors import BoxwoodError


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    built = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip
    with torch.no_grad():
        for weight in built.parameters():
            weight.mul_(torch.rand_like(weight) >= 0.9)
    return built.eval()


@pytest.fixture(scope="module")
def saved(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "net.bxw"
    session = compile_(net, torch.zeros(1, 3, 16, 16))
    # Whatever was fastest for a net this small, the file shall hold kernels.
    from boxwood._internal.engine.supported import supported_problems

    session = session.with_native(frozenset(supported_problems(session.program, 1)))
    session.compact(1)
    session.save(path)
    return session, path


def test_a_loaded_model_gives_the_same_bits(saved) -> None:
    """For the example's batch and for others."""
    session, path = saved
    loaded = load_session(path)
    assert loaded.native == session.native
    for batch in (1, 4):
        x = torch.randn(batch, 3, 16, 16)
        assert torch.equal(loaded(x), session(x))


def test_a_loaded_model_needs_no_llvm(saved, monkeypatch) -> None:
    """The file holds the machine code, and the packed weights."""
    from boxwood._internal.engine import kernel_problems
    from boxwood._internal.engine.llvm import jit

    session, path = saved
    x = torch.randn(1, 3, 16, 16)
    wanted = session(x)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("compiled or packed")

    monkeypatch.setattr(jit, "compile_text", refuse)
    monkeypatch.setattr(kernel_problems, "build_kernel", refuse)
    assert torch.equal(load_session(path)(x), wanted)


def test_weights_take_little_more_than_their_nonzeros(net, tmp_path) -> None:
    """A weight of 90 % zeros takes four bytes for each other entry, and a bit for each."""
    wide = nn.Linear(512, 512, bias=False)
    with torch.no_grad():
        wide.weight.mul_(torch.rand_like(wide.weight) >= 0.9)
    session = compile_(wide, torch.zeros(1, 512)).with_native(frozenset())
    session.compact(1)
    session.save(tmp_path / "wide.bxw")
    nonzero = int(wide.weight.count_nonzero())
    size = (tmp_path / "wide.bxw").stat().st_size
    assert size <= 4 * nonzero + 512 * 512 / 8 + 8192


def damaged(path, target, change) -> None:
    data = bytearray(path.read_bytes())
    target.write_bytes(bytes(change(data)))


def flipped(position: int):
    def change(data: bytearray) -> bytearray:
        data[position] ^= 1
        return data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-100], "cut short or changed"),
        (lambda data: data[:20], "another kind of file"),
        (lambda data: b"PK\x03\x04" + data[4:], "another kind of file"),
        (lambda data: data[:7] + b"\x04" + data[8:], "another version of the format"),
        (flipped(60), "cut short or changed"),
        (flipped(-200), "cut short or changed"),
        (lambda data: b"", "Expected a compiled model at"),
    ],
)
def test_a_damaged_file_is_refused(saved, tmp_path, change, message) -> None:
    """One bit is enough."""
    damaged(saved[1], tmp_path / "bad.bxw", change)
    with pytest.raises(BoxwoodError, match=message):
        load_session(tmp_path / "bad.bxw")


def test_a_missing_file_is_an_error(tmp_path) -> None:
    """With its path."""
    with pytest.raises(BoxwoodError, match="nowhere"):
        load_session(tmp_path / "nowhere.bxw")


def rewritten(path, target, change) -> None:
    """Change a file's header and make its checksum fit."""
    import hashlib

    data = path.read_bytes()
    length = int.from_bytes(data[40:48], "little")
    header = change(data[48 : 48 + length].decode()).encode()
    sections = data[-(-(48 + length) // 64) * 64 :]
    body = len(header).to_bytes(8, "little") + header
    body += bytes(-(40 + len(body)) % 64) + sections
    target.write_bytes(data[:8] + hashlib.sha256(body).digest() + body)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("aten.flatten.using_ints", "aten.relu_.default", None),
        ('"is": "NativeOp"', '"is": "Popen"', "Expected a part of a compiled program"),
        ('"program"', '"programme"', "cannot read"),
        (r'"all": \[\d+, \d+\]', '"all": [99999999, 64]', "cannot read"),
    ],
)
def test_a_forged_header_is_refused(saved, tmp_path, old, new, message) -> None:
    """A fitting checksum makes no class, operator or section that there is not."""
    rewritten(saved[1], tmp_path / "forged.bxw", lambda text: re.sub(old, new, text))
    if message is None:
        load_session(tmp_path / "forged.bxw")  # nothing in this program to replace
        return
    with pytest.raises(BoxwoodError, match=message):
        load_session(tmp_path / "forged.bxw")


def test_entries_outside_of_a_file_are_refused(tmp_path) -> None:
    """A weight that no kernel holds is read when the file is."""
    net = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        net.weight.mul_(torch.rand_like(net.weight) >= 0.9)
    session = compile_(net, torch.zeros(1, 64)).with_native(frozenset())
    session.compact(1)
    session.save(tmp_path / "net.bxw")
    rewritten(
        tmp_path / "net.bxw", tmp_path / "forged.bxw",
        lambda text: re.sub(r'"kept": \[\d+, \d+\]', '"kept": [99999999, 64]', text),
    )  # fmt: skip
    with pytest.raises(BoxwoodError, match="cannot read"):
        load_session(tmp_path / "forged.bxw")


@pytest.mark.parametrize("target", ["aten.relu_.default", "aten.from_file.default", "os.system.x"])
def test_operators_that_write_or_read_files_are_no_operators(target) -> None:
    """A file cannot name them."""
    from boxwood._internal.engine.aten_ops import operator

    with pytest.raises(BoxwoodError, match="Expected"):
        operator(target)


def test_a_file_of_another_family_is_compiled_anew(saved, tmp_path) -> None:
    """Its kernels are of no use here; its weights are."""
    session, path = saved
    other = AVX2 if host().lanes == AVX512.lanes else AVX512

    def change(text: str) -> str:
        header = json.loads(text)
        header["target"] |= {"cpu": other.cpu, "lanes": other.lanes}
        return json.dumps(header)

    rewritten(path, tmp_path / "other.bxw", change)
    x = torch.randn(1, 3, 16, 16)
    loaded = load_session(tmp_path / "other.bxw")
    assert not loaded.kernels.built
    torch.testing.assert_close(loaded(x), session(x), rtol=0, atol=0)


def test_a_save_that_fails_leaves_the_old_file(saved, tmp_path, monkeypatch) -> None:
    """Whole or not at all, whether the disk fills up at the last step or in the middle."""
    session, _ = saved
    path = tmp_path / "kept.bxw"
    path.write_bytes(b"old")

    def fail(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("replace", "open"):
        with monkeypatch.context() as patch:
            patch.setattr(storage.Path, name, fail)
            with pytest.raises(BoxwoodError, match=r"Expected to write .*, got .*No space left .*; free some space"):  # fmt: skip
                session.save(path)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["kept.bxw"]


def test_a_folder_that_is_not_there_is_named(saved, tmp_path) -> None:
    """Nothing is made where the path is wrong."""
    session, _ = saved
    with pytest.raises(BoxwoodError, match=r"Expected to write .*gone.*; free some space, or give"):
        session.save(tmp_path / "gone" / "net.bxw")
    assert list(tmp_path.iterdir()) == []


def test_a_choice_is_remembered_and_a_damaged_one_forgotten(net, tmp_path) -> None:
    """The key holds weights, shapes and target; the entry a checksum."""
    cache = ObjectCache(tmp_path)
    session = compile_(net, torch.zeros(1, 3, 16, 16))
    name = choice_cache.key(session.program, host(), 1)
    assert name is not None
    assert choice_cache.key(session.program, host(), 2) != name
    choice = (session.native, session.times)
    choice_cache.remember(name, choice, cache)
    assert choice_cache.recall(name, session.program, cache) == choice
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:-1])
    assert choice_cache.recall(name, session.program, cache) is None
    other = nn.Sequential(*net[:-1], nn.Linear(32, 10)).eval()
    changed = compiling.compile(other, torch.zeros(1, 3, 16, 16))
    assert choice_cache.key(changed.program, host(), 1) != name
