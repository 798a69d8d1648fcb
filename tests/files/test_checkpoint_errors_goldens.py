"""Checkpoints that lie about their shards, and what the commands say of bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.files.checkpoint import open_checkpoint, read_chunks
from boxwood._internal.files.streaming import prune_checkpoint
from boxwood.errors import BoxwoodError

INDEX = "model.safetensors.index.json"


@pytest.fixture
def source(tmp_path):
    """Two shards and an index."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(2):
        save_file({f"w{index}": torch.randn(8, 8)}, folder / f"model-{index}.safetensors")
    rewrite(folder, {"w0": "model-0.safetensors", "w1": "model-1.safetensors"})
    return folder


def rewrite(folder: Path, where: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


TRICKS = [
    "../secret.safetensors", "/etc/secret.safetensors", "a/../../secret.safetensors", "..", ".",
    "", "sub/model.safetensors", "sub\\model.safetensors", ".hidden.safetensors", "C:model.safetensors",
    "model\n.safetensors", "model\0.safetensors", "x" * 300 + ".safetensors", "model.bin", 7, None,
]  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_path_tricks_in_an_index_are_refused(name, source, tmp_path):
    """A shard is a plain file of the folder; nothing is written anywhere."""
    save_file({"w1": torch.ones(8, 8)}, tmp_path / "secret.safetensors")
    rewrite(source, {"w0": "model-0.safetensors", "w1": name})
    before = everything(tmp_path)
    with pytest.raises(BoxwoodError, match=r"index.json to name the shard .* got the shard name"):
        prune_checkpoint(source, tmp_path / "out", 0.5)
    assert everything(tmp_path) == before


def test_links_out_of_the_folder_are_refused_unless_allowed(source, tmp_path):
    """A shard that is a link elsewhere is read only on demand, and is never written to."""
    save_file({"w1": torch.randn(8, 8)}, tmp_path / "blob")
    (source / "model-1.safetensors").unlink()
    (source / "model-1.safetensors").symlink_to(tmp_path / "blob")
    before = (tmp_path / "blob").read_bytes()
    with pytest.raises(
        BoxwoodError, match=r"'model-1.safetensors', a link to .*blob.*--follow-links"
    ):
        prune_checkpoint(source, tmp_path / "out", 0.5)
    prune_checkpoint(source, tmp_path / "out", 0.5, follow_links=True)
    assert int((load_file(tmp_path / "out" / "model-1.safetensors")["w1"] == 0).sum()) > 0
    assert not (tmp_path / "out" / "model-1.safetensors").is_symlink()
    assert (tmp_path / "blob").read_bytes() == before
    (source / "model-1.safetensors").unlink()
    (source / "model-1.safetensors").symlink_to("model-1.safetensors")
    with pytest.raises(BoxwoodError):
        open_checkpoint(source)
    (source / "model-1.safetensors").unlink()
    os.mkfifo(source / "model-1.safetensors")
    with pytest.raises(BoxwoodError, match="something that is not a file"):
        open_checkpoint(source)


def test_an_index_and_its_shards_must_agree(source):
    """A missing shard, a missing tensor, one too many, one twice, and a truncated shard are named."""
    rewrite(source, {"w0": "model-0.safetensors", "w1": "model-2.safetensors"})
    with pytest.raises(
        BoxwoodError, match=r"a safetensors file at .*model-2.safetensors, got none"
    ):
        open_checkpoint(source)
    right = {"w0": "model-0.safetensors", "w1": "model-1.safetensors"}
    rewrite(source, {**right, "w2": "model-1.safetensors"})
    with pytest.raises(BoxwoodError, match=r"a shard that lacks \['w2'\]"):
        open_checkpoint(source)
    rewrite(source, right)
    save_file({"w1": torch.ones(2), "w0": torch.ones(2)}, source / "model-1.safetensors")
    with pytest.raises(BoxwoodError, match=r"has also \['w0'\]"):
        open_checkpoint(source)
    shard = source / "model-0.safetensors"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(BoxwoodError, match=r"model-0.safetensors, got tensors that end at byte"):
        open_checkpoint(source)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "it is no object"),
        ("{", "no valid JSON"),
        ('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}', "'a' comes twice"),
        ("{}", "no weight_map"),
        ('{"weight_map": {}}', "no weight_map"),
        ('{"weight_map": ["a"]}', "no weight_map"),
        ("\ud800", "no valid JSON"),
        ("{" + " " * (16 << 20) + "}", "more than 16777216 bytes"),
    ],
)  # fmt: skip
def test_an_index_that_is_none_is_refused(text, words, source):
    """Whatever is no map of tensors to shards is named."""
    (source / INDEX).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BoxwoodError, match=words):
        open_checkpoint(source)


def test_a_folder_must_hold_one_checkpoint(tmp_path, source):
    """Neither none nor several; the file that is meant can be named."""
    with pytest.raises(BoxwoodError, match=r"one index of shards in .*, got none; name the file"):
        open_checkpoint(tmp_path)
    (source / "other.safetensors.index.json").write_text("{}")
    with pytest.raises(BoxwoodError, match=r"got model.safetensors.index.json, other.safetens"):
        open_checkpoint(source)
    assert len(open_checkpoint(source / INDEX).shards) == 2
    assert len(open_checkpoint(source / "model-0.safetensors").shards) == 1


def test_a_pickle_with_another_name_is_refused(tmp_path):
    """torch.save under the name of a safetensors file is said to be a pickle."""
    torch.save({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(BoxwoodError, match=r"got a pickle at .*model.safetensors"):
        open_checkpoint(tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_said(tmp_path):
    """Reading never returns less than was asked for."""
    path = tmp_path / "f"
    path.write_bytes(bytes(10))
    with pytest.raises(BoxwoodError, match=r"Expected 12 bytes in .*, got 10; it was changed"):
        list(read_chunks(path, 2, 12, 4))


def test_nothing_to_prune_is_said(source, tmp_path):
    """Patterns that choose only what is no float matrix."""
    with pytest.raises(BoxwoodError, match=r"Expected float tensors to prune, got none .*--layers"):
        prune_checkpoint(source, tmp_path / "out", 0.5, tensors=lambda name, entry: False)
    with pytest.raises(BoxwoodError, match="Expected sparsity"):
        prune_checkpoint(source, tmp_path / "out", 1.0)


def command(*arguments: object):
    """Run a command in this process; one process each would take seconds."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_commands_from_pruning_to_unpacking(source, tmp_path):
    """prune, info, pack, info and unpack: tables and JSON agree, and every byte comes back."""
    (source / "config.json").write_text("{}")
    pruned, packed, back = (tmp_path / name for name in ("pruned", "packed", "back"))
    said = json.loads(
        command("prune", source, "--sparsity", 0.75, "--out", pruned, "--json").stdout
    )
    assert said["total"] == {"weights": 128, "kept": 32, "sparsity": 0.75}
    assert [row["name"] for row in said["tensors"]] == ["w0", "w1"]
    text = command("prune", source, "--sparsity", 0.75, "--out", pruned).stdout
    assert "Kept 32 of 128 weights (sparsity 0.7500)" in text
    dense = json.loads(command("info", pruned, "--json", "--no-zstd").stdout)
    assert dense["tensors"][0]["dense_bytes"] == 256
    done = json.loads(command("pack", pruned, "--out", packed, "--json").stdout)
    assert done["bytes_before"] == dense["total"]["dense"]
    found = json.loads(command("info", packed, "--json", "--no-zstd").stdout)
    assert found["total"] == dense["total"]
    assert done["bytes_after"] == found["total"]["packed"]
    assert found["tensors"] == dense["tensors"]
    assert "% of dense" in command("info", packed, "--no-zstd").stdout
    assert "bytes became" in command("unpack", packed, "--out", back).stdout
    for path in pruned.rglob("*"):
        if path.is_file():
            assert (back / path.relative_to(pruned)).read_bytes() == path.read_bytes()


def test_uniform_sparsity_and_patterns_on_the_command_line(source, tmp_path):
    """--per-tensor keeps the same fraction everywhere, --layers and --skip choose."""
    options = ("--sparsity", 0.5, "--json", "--per-tensor")
    said = json.loads(command("prune", source, "--out", tmp_path / "a", *options).stdout)
    assert [row["kept"] for row in said["tensors"]] == [32, 32]
    options += ("--layers", "w*", "--skip", "*1")
    said = json.loads(command("prune", source, "--out", tmp_path / "b", *options).stdout)
    assert [row["name"] for row in said["tensors"]] == ["w0"]


def test_names_are_shown_as_they_are(tmp_path):
    """A name that looks like markup of the table is no markup."""
    save_file({"[/bold]w[0]": torch.eye(64)}, tmp_path / "a.safetensors")
    assert "[/bold]w[0]" in command("info", tmp_path / "a.safetensors", "--no-zstd").stdout
    done = command("prune", tmp_path / "a.safetensors", "--sparsity", 0.5, "--out", tmp_path / "b")
    assert "[/bold]w[0]" in done.stdout


def test_zstd_is_compared_where_it_is_installed(source):
    """The same dense bytes, whether read from the dense or from the packed file."""
    pytest.importorskip("zstandard")
    total = json.loads(command("info", source, "--json").stdout)["total"]
    assert 0 < total["zstd"] <= total["dense"] + 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune", "in", "--sparsity", "0.5", "--out", "out", "--layers", "x*"], "got 'x*', which matches none"),
        (["pack", "in", "--out", "out", "--masks", "gone"], "Expected --masks to name the file"),
        (["pack", "in/model-0.safetensors", "--out", "out"], "a file to write whose name ends in"),
        (["pack", "in", "--out", "in"], "Expected a new place to write, got in"),
        (["unpack", "in", "--out", "out"], "Expected a packed file"),
        (["info", "gone"], "Expected a safetensors file at gone, got none"),
    ],
)  # fmt: skip
def test_bad_input_to_the_commands(arguments, words, source, tmp_path, monkeypatch):
    """The words of the error reach the command line, and no file is written."""
    monkeypatch.chdir(tmp_path)
    before = {path for path in everything(tmp_path) if path.is_file()}
    error = command(*arguments).exception
    assert isinstance(error, BoxwoodError)
    assert words in str(error)
    assert {path for path in everything(tmp_path) if path.is_file()} == before


def test_two_processes_do_not_write_one_folder(source, tmp_path):
    """While another process holds the folder, a second one is told so."""
    out = tmp_path / "out"
    out.mkdir()
    hold = "import sys, filelock; l = filelock.FileLock(sys.argv[1]); l.acquire(); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(out / ".pruning.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(BoxwoodError, match="one that another process writes"):
            prune_checkpoint(source, out, 0.5)
        other.communicate(b"\n")
