"""A streamed pruning that is killed goes on, whenever that was, and ends with the same bytes."""

import errno
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from boxwood._internal.files.streaming import prune_checkpoint
from boxwood.errors import BoxwoodError

# One process forks a child for every moment: importing torch that often would take minutes.
DYING = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from boxwood._internal.files import checkpoint
from boxwood._internal.files.streaming import prune_checkpoint

source, folder = map(Path, sys.argv[1:])

def attempt(out, moment):
    child = os.fork()
    if child == 0:
        calls = 0
        def tick():
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
        def ticking(real):
            def call(*given, **named):
                tick()
                return real(*given, **named)
            return call
        Path.replace, Path.unlink = map(ticking, (Path.replace, Path.unlink))
        os.fsync = lambda handle: tick()  # a kill loses nothing that the system holds
        read = checkpoint.read_chunks
        def pieces(*given):
            for piece in read(*given):
                tick()
                yield piece
        checkpoint.read_chunks = pieces
        try:
            prune_checkpoint(source, out, 0.5)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, moment
    return False

def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

attempt(folder / "calm", 0)
calm = contents(folder / "calm")
moment = 1
while attempt(folder / str(moment), moment):
    attempt(folder / str(moment), 0)
    assert contents(folder / str(moment)) == calm, moment
    moment += 1
storm = 1
while attempt(folder / "storm", storm % 17 + 14):
    storm += 1
assert contents(folder / "storm") == calm, "storm"
print(moment - 1, storm - 1)
"""


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    where = {}
    for index in range(2):
        tensors = {
            f"l{index}.weight": torch.randn(40, 30, generator=generator),
            f"l{index}.bias": torch.ones(3),
        }
        save_file(tensors, folder / f"model-{index}.safetensors")
        where |= dict.fromkeys(tensors, f"model-{index}.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_killed_at_every_moment_the_result_is_the_undisturbed_one(tmp_path):
    """SIGKILL before every read, sync, rename and removal: run again, every file has the same bytes."""
    source = checkpoint(tmp_path / "in")
    before = contents(source)
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(source), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    moments, storms = map(int, done.stdout.split())
    assert moments > 40
    assert storms > 2
    assert contents(source) == before


def test_a_disk_that_is_full_is_said_and_the_run_goes_on_later(tmp_path):
    """The shard under way is gone, those before it stay, and the result is the undisturbed one."""
    source = checkpoint(tmp_path / "in")
    prune_checkpoint(source, tmp_path / "calm", 0.5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        with pytest.raises(
            BoxwoodError, match=r"Expected to write .*model-0.*File too large.*free some space"
        ):
            prune_checkpoint(source, tmp_path / "out", 0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert not list((tmp_path / "out").rglob(".new-*"))
    prune_checkpoint(source, tmp_path / "out", 0.5)
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    """The bytes that are needed are compared with those that are free."""
    source = checkpoint(tmp_path / "in")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("", (), {"free": 999}))
    with pytest.raises(BoxwoodError, match=r"Expected 9,\d+ bytes free in .*out, got 999"):
        prune_checkpoint(source, tmp_path / "out", 0.5)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    """A file in the way, and a read-only disk."""
    source = checkpoint(tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(BoxwoodError, match="Expected to write"):
        prune_checkpoint(source, tmp_path / "file", 0.5)

    def read_only(*given, **named):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(BoxwoodError, match=r"Expected to write .*out, got .*Read-only"):
        prune_checkpoint(source, tmp_path / "out", 0.5)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    """Neither a stranger's files, nor another pruning, nor a changed checkpoint is mixed in."""
    source = checkpoint(tmp_path / "in")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    (other / ".new-idea").write_text("mine")
    with pytest.raises(BoxwoodError, match=r"got 2 files such as '\.new-idea'"):
        prune_checkpoint(source, other, 0.5)
    assert {path.name for path in other.iterdir()} == {"thesis.txt", ".new-idea"}
    with pytest.raises(BoxwoodError, match="to be new, empty, or begun by this same command"):
        prune_checkpoint(source, source, 0.5)
    done = tmp_path / "done"
    rows = prune_checkpoint(source, done, 0.5)
    assert prune_checkpoint(source, done, 0.5) == rows
    with pytest.raises(BoxwoodError, match="the result of another pruning"):
        prune_checkpoint(source, done, 0.6)
    (done / "model-1.safetensors").rename(tmp_path / "model-1.safetensors")
    with pytest.raises(BoxwoodError, match=r"a result that lacks model-1\.safetensors"):
        prune_checkpoint(source, done, 0.5)
    (done / "pruning.json").rename(done / ".pruning.json")
    with pytest.raises(BoxwoodError, match="the beginning of another pruning or of a checkpoint"):
        prune_checkpoint(source, done, 0.6)
    (done / ".pruning.json").rename(done / "pruning.json")
    (done / "pruning.json").write_text("{")
    with pytest.raises(BoxwoodError, match="Expected a file that Boxwood wrote in"):
        prune_checkpoint(source, done, 0.5)


def test_a_first_try_that_wrote_nothing_does_not_stand_in_the_way(tmp_path):
    """After an error before the first shard, the same folder serves for other settings."""
    bad = tmp_path / "bad.safetensors"
    save_file({"w": torch.tensor([[1.0, float("nan")]]), "v": torch.ones(2, 2)}, bad)
    with pytest.raises(
        BoxwoodError, match=r"Expected finite weights, got 1 NaN or infinite value in 'w' .*bad"
    ):
        prune_checkpoint(bad, tmp_path / "out", 0.5)
    prune_checkpoint(bad, tmp_path / "out", 0.5, tensors=lambda name, entry: name == "v")


def test_links_in_the_output_are_not_written_through(tmp_path):
    """A folder of masks that is a link elsewhere is refused."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "masks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BoxwoodError, match=r"got the link .*masks"):
        prune_checkpoint(checkpoint(tmp_path / "in"), tmp_path / "out", 0.5)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_checkpoint_that_changes_meanwhile_is_noticed(tmp_path):
    """Other weights between the readings give another count, which is said."""
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.randn(10, 10)}, path)

    def meddle(what, done, total):
        if what == "writing" and not done:
            save_file({"w": torch.zeros(10, 10)}, path)

    with pytest.raises(BoxwoodError, match=r"Expected to keep 50 weights in .*, got 0; the check"):
        prune_checkpoint(path, tmp_path / "out", 0.5, watch=meddle)
