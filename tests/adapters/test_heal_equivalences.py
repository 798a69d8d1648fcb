"""Healing: what the trainer does is a plain loop, masks hold, a kill changes nothing, the folder loads."""

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from boxwood._internal.cli.main import app
from boxwood._internal.core.seeds import seed_for
from boxwood._internal.files.mask_files import load_masks
from boxwood.distill import Distillation
from boxwood.errors import (
    BoxwoodError,
    CheckpointError,
    InvalidInput,
    MissingDependency,
    SelectionWarning,
)

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("accelerate")

from boxwood._internal.adapters.healing_preparation import work_folder  # noqa: E402
from boxwood._internal.core.call import Call  # noqa: E402
from boxwood._internal.model.blockwise import by_criterion  # noqa: E402
from boxwood.criteria import magnitude  # noqa: E402
from boxwood.integrations.transformers import (  # noqa: E402
    Healing,
    evaluate_pretrained,
    heal_pretrained,
    plan_healing,
    prune_pretrained,
)

TEXT = "the quick brown fox jumps over the lazy dog. a lazy fox sleeps. the dog jumps. " * 12
HOW = Healing(tokens=4 * 2 * 16, length=16, batch=2, learning_rate=3e-3, bf16=False)


def pieces(text: str) -> torch.Tensor:
    places = {letter: at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz .?")}
    ids = [places[letter] for letter in text]
    return torch.tensor(ids[: len(ids) // 16 * 16]).view(-1, 16)


def write_model(folder: Path, seed: int, kind: str = "Llama", **more: Any) -> Path:
    """A tiny model that has learnt the text, with a tokenizer of letters."""
    sizes = {"vocab_size": 30, "bos_token_id": 29, "eos_token_id": 29}
    if kind == "Llama":
        sizes |= {
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": True,
        }  # fmt: skip
    else:
        sizes |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = getattr(transformers, f"{kind}Config")(**sizes | more)
        model = getattr(transformers, made.architectures[0] if made.architectures else {"Llama": "LlamaForCausalLM", "GPT2": "GPT2LMHeadModel"}[kind])(made)  # fmt: skip
        model.get_input_embeddings().weight.data.mul_(5)
        optimizer, ids = torch.optim.Adam(model.parameters(), 1e-2), pieces(TEXT)
        for _ in range(60):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    model.to(more.get("dtype", torch.float32)).save_pretrained(folder)
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    places = {letter: at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz .?")}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(places, unk_token="?"))  # noqa: S106
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="?").save_pretrained(folder)  # noqa: S106  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model, half of it, and one in bfloat16."""
    root = tmp_path_factory.mktemp("models")
    write_model(root / "dense", 0)
    write_model(root / "dense16", 0, dtype=torch.bfloat16)
    write_model(root / "gpt2", 0, "GPT2")
    how = Call.of(by_criterion, criterion=magnitude)
    for name in ("dense", "dense16", "gpt2"):
        prune_pretrained(root / name, root / f"{name} half", 0.5, decide=how)
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def naive(student: Path, teacher: Path | None, text: str, how: Healing) -> dict[str, torch.Tensor]:
    """The same training as a plain loop."""
    model = transformers.AutoModelForCausalLM.from_pretrained(student).train()
    taught = teacher and transformers.AutoModelForCausalLM.from_pretrained(teacher).eval()
    masks = load_masks(student) if (student / "masks").is_dir() else {}
    cut = pieces(text)
    learned = cut[: -max(len(cut) // 50, 1)]
    each = how.batch * how.accumulate
    steps = how.tokens // (16 * each)
    order = torch.cat([
        torch.randperm(len(learned), generator=torch.Generator().manual_seed(seed_for(how.seed, "order", turn)))
        for turn in range(steps * each // len(learned) + 1)
    ])  # fmt: skip
    # As transformers groups them, though without decay it makes no difference.
    optimizer = torch.optim.AdamW(model.parameters(), how.rate, (0.9, 0.95), weight_decay=0.0)
    warm = round(how.warmup * steps)
    for step in range(steps):
        rate = step / max(warm, 1) if step < warm else (
            0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = how.rate * rate
        optimizer.zero_grad()
        for batch in range(how.accumulate):
            start = step * each + batch * how.batch
            ids = learned[order[start : start + how.batch]]
            logits = model(input_ids=ids).logits
            if taught:
                with torch.no_grad():
                    targets = taught(input_ids=ids).logits.softmax(2)
                loss = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), targets.flatten(0, 1)
                )
            else:
                flat = logits[:, :-1].flatten(0, 1)
                loss = torch.nn.functional.cross_entropy(flat, ids[:, 1:].flatten())
            (loss / how.accumulate).backward()
        for name, mask in masks.items():
            model.get_parameter(name).grad[~mask] = 0
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize(
    ("student", "teacher", "how"),
    [
        ("dense half", "dense", HOW),
        ("dense half", None, replace(HOW, warmup=0.5)),
        ("gpt2 half", "gpt2", replace(HOW, accumulate=2, batch=1)),
        ("dense", None, replace(HOW, tokens=30 * 2 * 16, learning_rate=1e-3)),
    ],
)
def test_it_is_a_plain_loop(
    student: str, teacher: str | None, how: Healing, folders: Path, tmp_path: Path
) -> None:
    """Orders, schedule, accumulation, clipping, masks: weight by weight; the last one passes over the text twice."""
    if student.startswith("gpt2"):
        for name in (student, teacher):
            _without_dropout(folders / str(name))
    given = None if teacher is None else folders / teacher
    heal_pretrained(folders / student, tmp_path / "healed", TEXT, how, teacher=given, cache=False)
    expected = naive(folders / student, given, TEXT, how)
    for name, weight in weights(tmp_path / "healed").items():
        torch.testing.assert_close(weight, expected[name], rtol=2e-4, atol=2e-5)
    assert not same(folders / student, tmp_path / "healed")


def _without_dropout(folder: Path) -> None:
    path = folder / "config.json"
    none = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    path.write_text(json.dumps(json.loads(path.read_text()) | none))


@pytest.mark.parametrize("name", ["dense", "dense16"])
def test_what_comes_out(name: str, folders: Path, tmp_path: Path) -> None:
    """Better, as sparse to the last bit, of the same types and files, with masks and a record."""
    source, out = folders / f"{name} half", tmp_path / "healed"
    how = replace(HOW, tokens=40 * 2 * 16)
    seen: list[int] = []
    done = heal_pretrained(
        source, out, TEXT, how, teacher=folders / name,
        watch=lambda step, total, history: seen.append(step),
    )  # fmt: skip
    assert done.after < 0.9 * done.before
    assert done.history.best <= done.after
    assert (seen[0], seen[-1], done.plan.steps, done.plan.teacher) == (0, 40, 40, "cached")
    masks, healed = load_masks(source), weights(out)
    again = load_masks(out)
    assert again.keys() == masks.keys()
    assert all(torch.equal(again[name], mask) for name, mask in masks.items())
    for key, weight in weights(source).items():
        assert healed[key].dtype == weight.dtype
        if key in masks:
            assert not healed[key][~masks[key]].count_nonzero()
    record = json.loads((out / "healing.json").read_text())
    assert record["plan"]["steps"] == 40
    assert [step for step, _ in record["history"]["held_out"]] == list(range(0, 41, 4))
    assert {path.name for path in source.iterdir()} | {"healing.json"} == {
        p.name for p in out.iterdir()
    }
    config = [json.loads((folder / "config.json").read_text()) for folder in (source, out)]
    assert config[0] == config[1]
    # The last measurement is that of the folder, but for rounding to its types.
    held = TEXT[len(TEXT) // 16 * 16 - 16 : len(TEXT) // 16 * 16]
    found = evaluate_pretrained(out, {"held": held}, length=15).texts["held"]
    assert found.nats_per_token == pytest.approx(done.after, rel=1e-5 if name == "dense" else 0.02)
    assert list(tmp_path.iterdir()) == [out]


def test_less_memory_is_the_same_training(folders: Path, tmp_path: Path) -> None:
    """Recomputed activations give the same bits; batches that are added up nearly so."""
    source, teacher = folders / "dense half", folders / "dense"
    for name, how in (
        ("plain", HOW),
        ("recomputed", replace(HOW, checkpointing=True)),
        ("added", replace(HOW, batch=1, accumulate=2)),
    ):
        heal_pretrained(source, tmp_path / name, TEXT, how, teacher=teacher)
    assert same(tmp_path / "plain", tmp_path / "recomputed")
    for name, weight in weights(tmp_path / "added").items():
        torch.testing.assert_close(weight, weights(tmp_path / "plain")[name], rtol=1e-4, atol=1e-5)


def test_bfloat16(folders: Path, tmp_path: Path) -> None:
    """Where it is asked for; weights learn in float32 all the same."""
    how = replace(HOW, tokens=20 * 2 * 16)
    ends = [
        heal_pretrained(
            folders / "dense half", tmp_path / str(bf16), TEXT, replace(how, bf16=bf16),
            teacher=folders / "dense",
        )
        for bf16 in (False, True)
    ]  # fmt: skip
    assert ends[1].plan.bf16
    assert ends[1].after != ends[0].after
    assert ends[1].after == pytest.approx(ends[0].after, rel=0.05)


def test_the_teacher_s_words_are_kept(folders: Path, tmp_path: Path) -> None:
    """A second student reads them: nobody asks the teacher, whatever becomes of it."""
    how = replace(HOW, keep=29)
    teacher = write_model(tmp_path / "teacher", 0)
    given = {"teacher": teacher, "cache": tmp_path / "kept"}
    heal_pretrained(folders / "dense half", tmp_path / "one", TEXT, how, **given)
    shards = {path: path.read_bytes() for path in (tmp_path / "kept").rglob("*.safetensors")}
    assert len(shards) == 8  # 4 steps of 2 pieces
    heal_pretrained(folders / "dense half", tmp_path / "two", TEXT, how, **given)
    assert same(tmp_path / "one", tmp_path / "two")
    assert {path: path.read_bytes() for path in shards} == shards
    heal_pretrained(folders / "dense half", tmp_path / "online", TEXT, how, teacher=teacher, cache=False)  # fmt: skip
    for name, weight in weights(tmp_path / "online").items():  # all words but one are all words
        torch.testing.assert_close(weight, weights(tmp_path / "one")[name], rtol=1e-2, atol=2e-3)
    with pytest.raises(InvalidInput, match="those of another number of kept words"):
        heal_pretrained(folders / "dense half", tmp_path / "x", TEXT, replace(how, keep=3), **given)
    with pytest.raises(InvalidInput, match="those of another text"):
        heal_pretrained(folders / "dense half", tmp_path / "x", TEXT[::-1], how, **given)
    with pytest.raises(InvalidInput, match="those of another teacher"):
        heal_pretrained(folders / "dense half", tmp_path / "x", TEXT, how, teacher=folders / "dense16", cache=tmp_path / "kept")  # fmt: skip


def test_a_teacher_of_another_size(folders: Path, tmp_path: Path) -> None:
    """Depth, width and kind may differ; the vocabulary may not."""
    small = write_model(tmp_path / "small", 3, hidden_size=8, num_hidden_layers=1)
    how = replace(HOW, tokens=20 * 2 * 16)
    done = heal_pretrained(small, tmp_path / "healed", TEXT, how, teacher=folders / "gpt2")
    assert done.after < done.before
    assert done.plan.masked == 0
    assert not (tmp_path / "healed" / "masks").exists()


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Mixtral", {"num_key_value_heads": 1, "num_local_experts": 4}),
        ("Gemma3Text", {"num_key_value_heads": 1, "head_dim": 8}),
    ],
)
def test_other_kinds(kind: str, more: dict[str, Any], tmp_path: Path) -> None:
    """Experts that are one tensor in memory and many in the file, and layers that differ: the folder is the network."""
    sizes = {
        "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**sizes | more)
    made = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
    made.save_pretrained(tmp_path / "made")
    _write_tokenizer(tmp_path / "made")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SelectionWarning)  # experts stay dense
        how = Call.of(by_criterion, criterion=magnitude)
        prune_pretrained(tmp_path / "made", tmp_path / "half", 0.5, decide=how)
    longer = replace(HOW, tokens=20 * 2 * 16, learning_rate=1e-2)
    done = heal_pretrained(tmp_path / "half", tmp_path / "healed", TEXT, longer)
    assert done.after < done.before
    held = TEXT[len(TEXT) // 16 * 16 - 16 : len(TEXT) // 16 * 16]
    found = evaluate_pretrained(tmp_path / "healed", {"held": held}, length=15, begin=False)
    assert found.texts["held"].nats_per_token == pytest.approx(done.after, rel=1e-5)
    assert weights(tmp_path / "healed").keys() == weights(tmp_path / "half").keys()
    assert load_masks(tmp_path / "healed").keys() == load_masks(tmp_path / "half").keys()


KILLED = """
import os, signal, sys
from pathlib import Path
from boxwood.distill import Distillation
from boxwood.integrations.transformers import Healing, heal_pretrained
source, teacher, out, text = map(Path, sys.argv[1:5])

def watch(step, total, history):
    if step == 7 and history.losses and history.losses[-1][0] == 7:
        os.kill(os.getpid(), signal.SIGKILL)

heal_pretrained(source, out, text.read_text(), eval(sys.argv[5]), teacher=teacher, snapshot_every=0, watch=watch)
"""


def test_a_killed_healing_goes_on(folders: Path, tmp_path: Path) -> None:
    """To the same bits, with dropout and a cache; a checkpoint that was not finished is passed over."""
    source, teacher = folders / "gpt2 half", folders / "gpt2"
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resid_pdrop": 0.1}))
    how = replace(HOW, tokens=10 * 2 * 16)
    (tmp_path / "text").write_text(TEXT)
    out = tmp_path / "healed"
    called = [sys.executable, "-c", KILLED, source, teacher, out, tmp_path / "text", repr(how)]
    ended = subprocess.run(list(map(str, called)), capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not out.exists()
    work = work_folder(out)
    assert sorted(path.name for path in work.glob("checkpoint-*")) == [
        "checkpoint-5",
        "checkpoint-6",
    ]
    (
        work / "checkpoint-6" / "history.json"
    ).unlink()  # as if it had been killed while it was written
    with pytest.raises(InvalidInput, match=r"the interrupted healing in .* got another seed"):
        heal_pretrained(source, out, TEXT, replace(how, seed=1), teacher=teacher)
    seen: list[int] = []
    done = heal_pretrained(
        source, out, TEXT, how, teacher=teacher,
        watch=lambda step, total, history: seen.append(step),
    )  # fmt: skip
    assert seen[0] == 5
    whole = heal_pretrained(source, tmp_path / "whole", TEXT, how, teacher=teacher)
    assert same(out, tmp_path / "whole")
    assert (done.history.losses, done.history.held_out) == (whole.history.losses, whole.history.held_out)  # fmt: skip
    assert not work.exists()


def test_a_healing_that_was_killed_while_it_wrote(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained again."""
    source, out = folders / "dense half", tmp_path / "healed"

    def full(*_: object, **__: object) -> None:
        raise CheckpointError("the disk is full")

    monkeypatch.setattr("boxwood._internal.adapters.healing.write_healed", full)
    with pytest.raises(CheckpointError):
        heal_pretrained(source, out, TEXT, HOW, teacher=folders / "dense")
    monkeypatch.undo()
    seen: list[int] = []
    done = heal_pretrained(
        source, out, TEXT, HOW, teacher=folders / "dense",
        watch=lambda step, total, history: seen.append(step),
    )  # fmt: skip
    assert not seen
    heal_pretrained(source, tmp_path / "whole", TEXT, HOW, teacher=folders / "dense")
    assert same(out, tmp_path / "whole")
    assert [step for step, _ in done.history.losses] == [1, 2, 3, 4]


needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")


@needs_peft
@pytest.mark.parametrize("name", ["dense", "gpt2"])
def test_adapters_are_merged_under_the_masks(name: str, folders: Path, tmp_path: Path) -> None:
    """As sparse to the last bit, and the network is the one that was trained; the rest stays."""
    source, out = folders / f"{name} half", tmp_path / "healed"
    if name == "gpt2":
        _without_dropout(source)
    how = replace(HOW, tokens=40 * 2 * 16, lora=4, learning_rate=1e-2)
    done = heal_pretrained(source, out, TEXT, how, teacher=folders / name)
    if name == "dense":  # the other has lost next to nothing
        assert done.after < 0.98 * done.before
    before, healed, masks = weights(source), weights(out), load_masks(source)
    assert healed.keys() == before.keys()
    for key, weight in healed.items():
        assert torch.equal(weight, before[key]) == (key not in masks or "c_attn.bias" in key), key
        if key in masks:
            assert not weight[~masks[key]].count_nonzero()
            assert int(torch.linalg.matrix_rank(weight - before[key])) > 0
    held = TEXT[len(TEXT) // 16 * 16 - 16 : len(TEXT) // 16 * 16]
    found = evaluate_pretrained(out, {"held": held}, length=15).texts["held"]
    assert found.nats_per_token == pytest.approx(done.after, rel=1e-5)


@needs_peft
def test_killed_adapters_go_on(folders: Path, tmp_path: Path) -> None:
    """To the same bits."""
    source, out = folders / "dense half", tmp_path / "healed"
    how = replace(HOW, tokens=6 * 2 * 16, lora=2)

    def stop(step: int, total: int, history: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal_pretrained(source, out, TEXT, how, snapshot_every=0, watch=stop)
    heal_pretrained(source, out, TEXT, how)
    heal_pretrained(source, tmp_path / "whole", TEXT, how)
    assert same(out, tmp_path / "whole")


def test_without_peft(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named, and nothing is left."""
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependency, match=r"pip install 'boxwood\[lora\]'"):
        heal_pretrained(folders / "dense half", tmp_path / "out", TEXT, replace(HOW, lora=4))
    assert not list(tmp_path.iterdir())


def test_a_plan_trains_nothing(folders: Path, tmp_path: Path) -> None:
    """It says how much there is to do, and leaves nothing behind."""
    before = weights(folders / "dense half")
    plan = plan_healing(
        folders / "dense half", tmp_path / "healed", TEXT, replace(HOW, tokens=100_000),
        teacher=folders / "dense", cache=tmp_path / "kept",
    )  # fmt: skip
    learned = len(TEXT) // 16 - 1
    assert (plan.steps, plan.tokens, plan.tokens_per_step) == (3125, 100_000, 32)
    assert plan.passes == pytest.approx(100_000 / (16 * learned))
    assert (plan.teacher, plan.trained) == ("cached", 30 * 16 + 2 * (4 * 256 + 3 * 384 + 32) + 16)
    assert plan.masked == 2 * (4 * 256 + 3 * 384) // 2
    assert plan.seconds is not None
    assert 0 < plan.seconds < 3600
    assert plan.peak_memory_bytes is not None
    assert plan.peak_memory_bytes > 100_000_000
    assert not list(tmp_path.iterdir())
    assert all(
        torch.equal(weight, before[n]) for n, weight in weights(folders / "dense half").items()
    )


def _change(name: str, **more: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return change


def test_bad_input(folders: Path, tmp_path: Path) -> None:
    """Each is one sentence, and nothing is written."""
    half, dense, out = folders / "dense half", folders / "dense", tmp_path / "out"
    wide = write_model(tmp_path / "wide", 0, vocab_size=31)
    other = write_model(tmp_path / "other", 0)
    path = other / "tokenizer.json"
    found = json.loads(path.read_text())
    vocabulary = found["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(found))
    mixed = tmp_path / "mixed"
    prune_pretrained(dense, mixed, 0.3, decide=Call.of(by_criterion, criterion=magnitude))
    (mixed / "masks" / "model.safetensors").write_bytes((half / "masks" / "model.safetensors").read_bytes())  # fmt: skip
    stranger = tmp_path / "stranger"
    prune_pretrained(folders / "gpt2", stranger, 0.3, decide=Call.of(by_criterion, criterion=magnitude))  # fmt: skip
    (stranger / "masks" / "model.safetensors").write_bytes((half / "masks" / "model.safetensors").read_bytes())  # fmt: skip
    cases: list[tuple[Path, str, Healing, dict[str, Any], str]] = [
        (half, TEXT, HOW, {"teacher": wide}, "the student's vocabulary of 30 tokens, got 31"),
        (half, TEXT, HOW, {"teacher": other}, "with the student's tokenizer, got one in"),
        (half, TEXT, HOW, {"teacher": tmp_path / "gone"}, "a folder with config.json at .*gone, got none"),
        (tmp_path / "gone", TEXT, HOW, {}, "a folder with config.json at .*gone, got none"),
        (half, "the lazy dog", HOW, {}, "at least two pieces of 16 tokens, .* got 12 tokens"),
        (half, TEXT, replace(HOW, tokens=31), {}, "at least one step of 16 x 2 x 1 = 32, got 31"),
        (half, TEXT, replace(HOW, length=17), {}, r"a length in \[2, 16\], which is what the model"),
        (half, TEXT, HOW, {"cache": True}, "--teacher with --cache or --cache-folder, got none"),
        (mixed, TEXT, HOW, {}, "zeros in .* where its mask prunes, got other values"),
        (stranger, TEXT, HOW, {}, "which it does not have; delete"),
        (half, TEXT, replace(HOW, learning_rate=0.99, tokens=4000, warmup=0.0), {}, "finite loss|^never$"),
    ]  # fmt: skip
    before = set(tmp_path.iterdir())
    for student, text, how, given, words in cases[:-1]:
        with pytest.raises(BoxwoodError, match=words):
            heal_pretrained(student, out, text, how, **given)
        assert set(tmp_path.iterdir()) == before
    out.mkdir()
    (out / "mine").write_text("kept")
    with pytest.raises(BoxwoodError, match="holds something"):
        heal_pretrained(half, out, TEXT, HOW)
    for wrong in ({"tokens": 0}, {"lora": -1}, {"learning_rate": 0.0}, {"warmup": 1.0}):
        with pytest.raises(InvalidInput, match="correct them"):
            replace(HOW, **wrong)


def test_the_default_is_the_teacher_alone() -> None:
    """As of Muralidharan et al.; and the learning rate of adapters is higher."""
    assert Healing(tokens=1).distillation == Distillation(temperature=1.0, soft=1.0, hard=0.0)
    assert (Healing(tokens=1).rate, Healing(tokens=1, lora=8).rate) == (1e-4, 5e-4)


def test_two_processes_do_not_share_a_place(folders: Path, tmp_path: Path) -> None:
    """The second one is refused."""
    from filelock import FileLock

    out = tmp_path / "healed"
    work_folder(out).mkdir()
    with FileLock(work_folder(out) / "lock"), pytest.raises(InvalidInput, match="no other process"):
        heal_pretrained(folders / "dense half", out, TEXT, HOW)
    assert os.listdir(work_folder(out)) == ["lock"] or not out.exists()  # noqa: PTH208


def test_the_command(folders: Path, tmp_path: Path) -> None:
    """A plan, the same healing as the function's, as text and as JSON."""
    (tmp_path / "text").write_text(TEXT)
    given = [
        "heal", folders / "dense half", "--teacher", folders / "dense", "--text", tmp_path / "text",
        "--length", 16, "--batch", 2, "--learning-rate", 3e-3, "--no-bf16",
    ]  # fmt: skip

    def run(*more: object) -> Any:
        done = CliRunner().invoke(app, [str(each) for each in (*given, *more)])
        assert done.exit_code == 0, done.exception
        return done

    plan = run("--tokens", "1M", "--out", tmp_path / "x", "--dry-run")
    assert "31,250 steps of 32 tokens, 1.00M in all: 1.08e+03 passes over 928 tokens" in plan.stdout
    assert not (tmp_path / "x").exists()
    found = json.loads(run("--tokens", "128", "--out", tmp_path / "out", "--json").stdout)
    heal_pretrained(folders / "dense half", tmp_path / "same", TEXT, HOW, teacher=folders / "dense")
    assert same(tmp_path / "out", tmp_path / "same")
    assert found["plan"]["steps"] == len(found["history"]["losses"]) == 4
    assert found["held_out_nats"]["before"] == found["history"]["held_out"][0][1]
    said = run("--tokens", "128", "--out", tmp_path / "again").stdout
    assert f"{found['held_out_nats']['after']:.4f} after 4 steps of 32 tokens" in said
    taken = CliRunner().invoke(app, [str(each) for each in (*given, "--tokens", "128", "--out", tmp_path / "out")])  # fmt: skip
    assert "holds something" in str(taken.exception)
