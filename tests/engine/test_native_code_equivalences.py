"""Kernels become objects for every family; objects are cached, checked, and load without LLVM."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from boxwood._internal.engine import targets
from boxwood._internal.engine.kernels import conv, copying, elementwise, matvec, pooling, recurrent
from boxwood._internal.engine.kernels.contract import Activation, Code
from boxwood._internal.engine.kernels.packing import ConvPacking
from boxwood._internal.engine.layouts import contiguous, padded
from boxwood._internal.engine.llvm import jit, objects
from boxwood._internal.engine.llvm.build import Builder, module
from boxwood.errors import BoxwoodError, MissingDependency

pytest.importorskip("llvmlite")


def answer(entry="answer", number=42):
    """A function that writes a number to where its first argument points."""
    f = Builder(entry, (("ptr", "%arguments"), ("i64", "%thread"), ("i64", "%threads")))
    f.store("i64", str(number), "%arguments")
    return Code(entry, lambda: module([f]))


def kernels(target):
    """One of each kind of kernel."""
    layout, half = padded(4, 8, 8, halo=1), padded(4, 4, 4)
    rng = np.random.default_rng(0)
    filters = rng.standard_normal((4, 4, 3, 3)).astype(np.float32)
    conv3 = conv.Conv(layout, layout, (3, 3), padding=(1, 1), activation=Activation.GELU)
    strided = conv.Conv(layout, half, (3, 3), (2, 2), (1, 1), activation=Activation.SILU)
    deep = conv.Conv(layout, half, (3, 3), (2, 2), (1, 1), groups=4)
    matrix = filters.reshape(4, -1)
    return [
        conv.build(conv3, filters, None, target),
        conv.build(conv3, filters, None, target, packing=ConvPacking(3, 18)),
        conv.build(strided, filters, None, target),
        conv.build(conv3, filters, None, target, packing=ConvPacking(2, 9, height=4)),
        conv.build(deep, filters[:, :1], None, target),
        conv.build(conv.linear(4, 4, 20), filters[:, :, :1, :1], None, target),
        matvec.build(matvec.MatVec(36, 4), matrix, None, target),
        matvec.build(matvec.MatVec(36, 4), matrix, None, target, height=8),
        pooling.build(pooling.Pool(layout, half, (2, 2), (2, 2)), target),
        pooling.build_global(pooling.GlobalAverage(layout), target),
        elementwise.build(elementwise.Elementwise(layout, layout), target),
        copying.build(copying.Copy(contiguous(4, 8, 8), layout), target),
        recurrent.build_lstm(recurrent.LstmCell(9), target),
        recurrent.build_gru(recurrent.GruCell(9), target),
    ]


@pytest.mark.parametrize("target", [targets.AVX2, targets.AVX512, targets.NEON])
def test_every_family_compiles(target):
    """Each kernel's text becomes an object for x86-64 and for Arm, on any machine."""
    found = jit.compile_all([kernel.code for kernel in kernels(target)], target)
    assert all(data.startswith(b"\x7fELF") for data in found.values())


@pytest.mark.parametrize(
    ("target", "instruction", "register"),
    [
        (targets.AVX2, "vfmadd231ps", "%ymm"),
        (targets.AVX512, "vfmadd231ps", "%zmm"),
        (targets.NEON, "fmla", "v0.4s"),
    ],
)
def test_inner_loops_use_full_vectors_and_do_not_spill(target, instruction, register):
    """The sparse kernel multiplies and adds whole registers, and no sum goes through the stack."""
    weight = np.ones((64, 64, 1, 1), np.float32)
    kernel = conv.build(conv.linear(64, 64, 256), weight, None, target, packing=ConvPacking(8, 32))
    text = objects.assembly(kernel.code.emit(), target)
    lines = [line for line in text.splitlines() if instruction in line]
    assert len(lines) >= 8
    assert register in text
    stack = "rsp" if target is not targets.NEON else "[sp"
    moves = [line for line in text.splitlines() if "mov" in line and register in line]
    assert not [line for line in moves if stack in line]


def test_equal_codes_are_compiled_once():
    """Codes with one entry give one object."""
    assert list(jit.compile_all([answer(), answer()], targets.host())) == ["answer"]


def test_cache_returns_what_was_put(tmp_path):
    """A second compile takes the object from the cache."""
    cache = jit.ObjectCache(tmp_path / "new")
    first = jit.compile_all([answer()], targets.host(), cache)
    (file,) = (tmp_path / "new").iterdir()
    marker = file.stat().st_mtime_ns
    assert jit.compile_all([answer()], targets.host(), cache) == first
    assert file.stat().st_mtime_ns == marker


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_cache_files_are_compiled_again(tmp_path, damage):
    """A damaged file counts as absent and is replaced."""
    cache = jit.ObjectCache(tmp_path)
    first = jit.compile_all([answer()], targets.host(), cache)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    whole = bytes(data)
    if damage == "flip":
        data[-1] ^= 1
    file.write_bytes({"truncate": data[:-9], "flip": data, "empty": b""}[damage])
    assert jit.compile_all([answer()], targets.host(), cache) == first
    assert file.read_bytes() == whole


def test_cache_key_holds_text_and_family(tmp_path):
    """Another text or another family is another object."""
    cache = jit.ObjectCache(tmp_path)
    for code, target in (
        (answer(), targets.AVX2),
        (answer(number=43), targets.AVX2),
        (answer(), targets.AVX512),
    ):
        jit.compile_all([code], target, cache)
    assert len(list(tmp_path.iterdir())) == 3


def test_cache_that_cannot_be_written(tmp_path):
    """A folder that cannot be made costs a compile, not the call."""
    (tmp_path / "file").write_text("x")
    cache = jit.ObjectCache(tmp_path / "file" / "inside")
    assert jit.compile_all([answer()], targets.host(), cache)


def test_concurrent_compiles_share_a_cache(tmp_path):
    """Compiles at the same time leave one whole file and the same object."""
    cache = jit.ObjectCache(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(jit.compile_all, [answer()], targets.host(), cache) for _ in range(8)]
        results = [job.result() for job in jobs]
    assert all(result == results[0] for result in results)
    assert len(list(tmp_path.iterdir())) == 1


def test_loaded_functions_run():
    """Two objects in one library are two functions."""
    library = jit.load_codes([answer(), answer("other", 7)], targets.host())
    block = np.zeros(1, np.int64)
    for entry, number in (("answer", 42), ("other", 7)):
        library.function(entry)(block.ctypes.data, 0, 1)
        assert block[0] == number


def test_objects_load_without_llvm(tmp_path):
    """A process in which llvmlite cannot be imported loads and runs an object."""
    if objects.sys.platform != "linux" or objects.platform.machine() != "x86_64":
        pytest.skip("only x86-64 Linux loads objects by itself")
    file = tmp_path / "answer.o"
    file.write_bytes(jit.compile_all([answer()], targets.host())["answer"])
    script = (
        "import sys, numpy; sys.modules['llvmlite'] = None\n"
        "from boxwood._internal.engine.llvm import objects\n"
        "library = objects.load_library({'answer': open(sys.argv[1], 'rb').read()})\n"
        "block = numpy.zeros(1, numpy.int64)\n"
        "library.function('answer')(block.ctypes.data, 0, 1)\n"
        "assert block[0] == 42\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert done.returncode == 0


def test_missing_llvmlite_is_named(monkeypatch):
    """Compiling without llvmlite says what to install."""
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    with pytest.raises(MissingDependency, match=r"llvmlite .*pip install 'boxwood\[engine\]'"):
        objects.compile_text("", targets.AVX2)


def test_text_that_llvm_refuses():
    """Wrong text is refused with LLVM's reason."""
    with pytest.raises(BoxwoodError, match="Expected LLVM text that verifies, got an error"):
        objects.compile_text("define nonsense", targets.AVX2)


def test_unknown_entries():
    """A function that was not compiled is refused by name."""
    library = jit.load_codes([answer()], targets.host())
    with pytest.raises(BoxwoodError, match="Expected a function 'question' among 1 compiled"):
        library.address("question")


@pytest.mark.skipif(
    objects.sys.platform != "linux" or objects.platform.machine() != "x86_64",
    reason="only x86-64 Linux loads objects by itself",
)
@pytest.mark.parametrize("cut", [0, 3, 70, 300])
def test_cut_objects_are_refused(cut):
    """An object cut short is refused, not run."""
    data = jit.compile_all([answer()], targets.host())["answer"]
    with pytest.raises(BoxwoodError, match="compile the program again"):
        objects.load_library({"answer": data[:cut]})


@pytest.mark.skipif(
    objects.sys.platform != "linux" or objects.platform.machine() != "x86_64",
    reason="only x86-64 Linux loads objects by itself",
)
def test_objects_of_another_machine_or_entry():
    """An Arm object, and one without the entry, are refused."""
    arm = jit.compile_all([answer()], targets.NEON)["answer"]
    with pytest.raises(BoxwoodError, match="Expected an x86-64 object that holds 'answer'"):
        objects.load_library({"answer": arm})
    own = jit.compile_all([answer()], targets.host())["answer"]
    with pytest.raises(BoxwoodError, match="Expected an object that holds 'question'"):
        objects.load_library({"question": own})


def test_processors_without_vectors(monkeypatch):
    """A processor with neither AVX2 nor NEON is named."""
    monkeypatch.setattr(targets.torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(targets.platform, "machine", lambda: "x86_64")
    targets.host.cache_clear()
    with pytest.raises(BoxwoodError, match="Expected a processor with AVX2, AVX-512 or NEON"):
        targets.host()
    targets.host.cache_clear()


@pytest.mark.skipif(
    objects.sys.platform != "linux" or objects.platform.machine() != "x86_64",
    reason="only x86-64 Linux loads objects by itself",
)
def test_objects_that_need_a_linker():
    """An object that calls something outside itself is refused by the name of what it calls."""
    text = (
        "declare void @outside()\ndefine void @answer() {\n  call void @outside()\n  ret void\n}\n"
    )
    data = objects.compile_text(text, targets.host())
    with pytest.raises(BoxwoodError, match="refers to nothing outside itself, got 'outside'"):
        objects.load_library({"answer": data})


@pytest.mark.skipif(
    objects.sys.platform != "linux" or objects.platform.machine() != "x86_64",
    reason="only x86-64 Linux loads objects by itself",
)
def test_systems_that_refuse_executable_memory(monkeypatch):
    """A refusal by the system is an error that says what to allow."""

    class Refusing:
        def mprotect(self, *_):
            return -1

    data = jit.compile_all([answer()], targets.host())
    monkeypatch.setattr(objects.ctypes, "CDLL", lambda *_, **__: Refusing())
    with pytest.raises(BoxwoodError, match="Expected to make compiled code executable"):
        objects.load_library(data)
