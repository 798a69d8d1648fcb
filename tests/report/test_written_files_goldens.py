"""What commands write: nothing is lost unasked, names say what is in them, and modes follow the umask."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

from boxwood._internal.cli.main import app
from boxwood._internal.engine import compiling
from boxwood._internal.engine.llvm.cache import ObjectCache
from boxwood._internal.files.mask_files import write_with_masks
from boxwood._internal.graph.record import record_of, save_shrunken
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood._internal.report.page.store_reader import read
from boxwood._internal.runs.store import Store
from boxwood.errors import BoxwoodError

NET = ("boxwood.networks:lenet_300_100", "--set", "inputs=64", "--input", "2x64")
LOOK = "boxwood._internal.cli.demo:experiment"


def typed(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def commands(store: Store) -> dict[str, tuple[object, ...]]:
    """Commands that write a file; its name comes last."""
    (run,) = read([store], only=["pruned / seed 0"])[0].runs
    return {
        "compile": ("compile", *NET, "--out", "net.bxw"),
        "shrink": ("shrink", *NET, "--keep", "0.5", "net.safetensors"),
        "export": ("runs", "export", run.key, "--store", store.root, "--out", "net.safetensors"),
        "report": ("report", store.root, "--out", "page.html"),
        "run": ("run", LOOK, "--store", "new", "--out", "figures.json"),
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["compile", "shrink", "export", "report", "run"])
def test_a_file_that_is_there_is_kept(name: str, store: Store, here: Path) -> None:
    """It is refused before any work is done, and nothing is written."""
    words = commands(store)[name]
    there = here / str(words[-1])
    there.write_bytes(b"mine")
    error = typed(*words).exception
    assert isinstance(error, BoxwoodError)
    assert str(error) == (
        f"Expected a new name to write, got {there.name}, which is there already; give another, or "
        f"--overwrite."
    )
    assert [path.name for path in here.iterdir()] == [there.name]
    assert there.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["compile", "shrink", "export"])
def test_a_file_is_overwritten_where_that_is_asked_for(name: str, store: Store, here: Path) -> None:
    """The masks beside it as well."""
    words = commands(store)[name]
    there = here / str(words[-1])
    there.write_bytes(b"mine")
    done = typed(*words, "--overwrite")
    assert done.exit_code == 0, done.output
    assert there.stat().st_size > 500


def test_masks_that_are_there_are_kept(store: Store, here: Path) -> None:
    """An export writes two files, and takes the place of neither."""
    beside = here / "masks" / "net.safetensors"
    beside.parent.mkdir()
    beside.write_bytes(b"mine")
    error = typed(*commands(store)["export"]).exception
    assert "got masks/net.safetensors, which is there already" in str(error)
    assert beside.read_bytes() == b"mine"
    assert len(list(here.rglob("*"))) == 2


@pytest.mark.parametrize("option", ["--csv", "--figures"])
def test_folders_of_tables_and_figures_are_new(option: str, store: Store, here: Path) -> None:
    """A folder that holds something is left as it is."""
    (here / "folder").mkdir()
    (here / "folder" / "study-1-cost.csv").write_text("mine")
    error = typed("report", store.root, option, "folder").exception
    assert "Expected a new or an empty folder, got folder, which is not empty" in str(error)
    assert [path.read_text() for path in (here / "folder").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["compile", "shrink", "export"])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PT", ".onnx"])
def test_names_of_other_formats_are_refused(
    name: str, suffix: str, store: Store, here: Path
) -> None:
    """With the name that is right."""
    *words, out = commands(store)[name]
    error = typed(*words, Path(str(out)).with_suffix(suffix)).exception
    assert isinstance(error, BoxwoodError)
    assert f"got net{suffix}; the file written here is not a {suffix} file: name it {out}." in str(
        error
    )
    assert not list(here.iterdir())


@pytest.mark.parametrize("words", [("prune", "--sparsity", "0.5"), ("pack",), ("unpack",)])
def test_a_checkpoint_is_not_called_a_pickle(words: tuple[str, ...], here: Path) -> None:
    """Neither is the folder that is made."""
    save_file({"w": torch.eye(64)}, here / "in.safetensors")
    done = typed(words[0], "in.safetensors", *words[1:], "--out", "out.pt")
    assert isinstance(done.exception, BoxwoodError)
    assert "got out.pt" in str(done.exception)
    assert [path.name for path in here.iterdir()] == ["in.safetensors"]


def test_the_library_refuses_such_names_too(here: Path) -> None:
    """All that write a file of a given format."""
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    selection = select_units(find_units(net, torch.ones(1, 4)), 0.5)
    session = compiling.compile(net, torch.ones(1, 4))
    for write in (
        lambda: save_shrunken(shrink(net, selection), record_of(net, selection), "a.pt"),
        lambda: write_with_masks("a.bin", {"w": torch.eye(2)}, {}),
        lambda: session.save("a.pth"),
        lambda: session.save("a.safetensors"),
    ):
        with pytest.raises(BoxwoodError, match=r"Expected a name for a \.\w+ file, got a\."):
            write()
    assert not list(here.iterdir())


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_modes_follow_the_umask(
    umask: int, store: Store, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and folder that commands write is as readable as any new one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    ObjectCache(here / "objects").put("a" * 64, b"code")
    save_file({"w": torch.randn(64, 64)}, here / "in.safetensors")
    (here / "in.safetensors").chmod(0o600)  # what is read does not decide
    for words in (
        *(commands(store)[name] for name in ("compile", "export")),
        ("shrink", *NET, "--keep", "0.5", "small.safetensors"),
        ("prune", "in.safetensors", "--sparsity", "0.9", "--out", "pruned"),
        ("pack", "pruned", "--out", "packed"),
        ("pack", "pruned/in.safetensors", "--out", "packed.safetensors"),
        ("unpack", "packed", "--out", "dense"),
        ("report", store.root, "--csv", "csv"),
    ):
        done = typed(*words)
        assert done.exit_code == 0, done.exception
    Store(here / "store").note_run("a" * 64, {"name": "a", "chain": ["a" * 64]})
    (here / "in.safetensors").unlink()
    wrong = {
        str(path.relative_to(here)): oct(mode)
        for path in here.rglob("*")
        if (mode := stat.S_IMODE(path.stat().st_mode))
        != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong
    assert len(list(here.rglob("*"))) > 30
