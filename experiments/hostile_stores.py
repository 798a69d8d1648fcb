"""DamagedFileWarning and hostile stores against every command that reads one.

The law: a command ends with exit code 0, or with one `BoxwoodError` that says what to do. It raises
nothing else, waits for nothing, and runs no code that a store or a recipe file names. What is tried:

    damage     every damage of `DAMAGES` to a store, then every command of `COMMANDS`
    facts      random values in the place of what phases and runs say, then the commands that show it
    code       names that would run code, at every place of a store and of a recipe file, then every
               command

Each command runs in this process, with an alarm that ends it.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from boxwood import Experiment
from boxwood._internal.cli.execute import execute
from boxwood._internal.cli.main import app
from boxwood._internal.cli.serve import open_server
from boxwood._internal.core.spec import encode
from boxwood._internal.report.page.build import Report, articles
from boxwood._internal.runs.provenance import provenance
from boxwood._internal.runs.workers import order_for, work
from boxwood._internal.train.snapshots import Snapshot
from boxwood.data import digits
from boxwood.errors import BoxwoodError
from boxwood.networks import lenet_300_100
from boxwood.optim import SGD
from boxwood.recipes import Call, dense, structural
from boxwood.runs import RunSettings, Store, jobs_of, run_all
from boxwood.training import Training

PATIENCE = 20
"""Seconds after which a command counts as hanging."""

MARKER = "boxwood-ran-code"
NASTY = [
    None, True, 0, -1, 1, 0.5, -2.5, 10**30, 1e308, "", "x", "../../x", "\x1b]0;title\x07", "<script>",
    "boxwood._internal.core.spec:load", [], [[]], [1, 2], {}, {"a": 1}, {"is": "x"}, "x" * 3000,
]  # fmt: skip


def experiment() -> Experiment:
    """Two short recipes, one of which leaves units that can be cut."""
    training = Training(steps=4, batch=20, optimizer=SGD(lr=0.05, momentum=0.9), watch_every=2)
    return Experiment(
        model=Call.of(lenet_300_100, inputs=64),
        data=digits,
        branches=(("dense", dense(training)), ("small", structural(training, training, 0.5))),
    )


def made_store(root: Path) -> Store:
    """A small store with finished runs, a snapshot and measured times."""
    store, jobs = Store(root), jobs_of(experiment(), range(1))
    run_all(jobs, store)
    store.save_snapshot(jobs[0].chain[0], Snapshot({"a": torch.ones(3)}, {"step": 1}))
    key = jobs[0].chain[-1]
    times = {"about": {}, "networks": {key: {"torch": [1.0], "dense": [2.0]}}, "refused": {}}
    (root / "latency.json").write_text(json.dumps(times))
    return store


# Damage: what is done to which files.

Damage = Callable[[Path], object]


def edited(**changes: Any) -> Damage:
    """Put other values into a text that says nothing of its checksum, as old ones do."""

    def damage(path: Path) -> None:
        found = json.loads(path.read_text())
        found.pop("seal", None)
        path.write_text(json.dumps({**found, **changes}))

    return damage


def without(key: str) -> Damage:
    """Take a value out of a text."""

    def damage(path: Path) -> None:
        found = json.loads(path.read_text())
        found.pop("seal", None)
        found.pop(key, None)
        path.write_text(json.dumps(found))

    return damage


def flipped(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def instead(make: Damage) -> Damage:
    """Put something else under the name of a file."""

    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def bytes_of(content: bytes) -> Damage:
    """Write other bytes."""
    return lambda path: path.write_bytes(content)


ANY: dict[str, Damage] = {
    "empty": bytes_of(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "binary": bytes_of(bytes(range(256)) * 9),
    "one bit": flipped,
    "another length": lambda path: path.write_bytes(path.read_bytes() + b"\n\0"),
    "gone": Path.unlink,
    "a pipe": instead(os.mkfifo),
    "a folder": instead(Path.mkdir),
    "a link to nothing": instead(lambda path: path.symlink_to("nowhere")),
    "a link to itself": instead(lambda path: path.symlink_to(path.name)),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "a pickle": bytes_of(b"\x80\x04cos\nsystem\n(S'touch boxwood-ran-code'\ntR."),
}
TEXT: dict[str, Damage] = {
    "no JSON": bytes_of(b"{'a': 1}"),
    "a list": bytes_of(b"[1, 2]"),
    "null": bytes_of(b"null"),
    "an empty object": bytes_of(b"{}"),
    "deep": bytes_of(b"[" * 100_000),
    "NaN": bytes_of(b'{"chain": NaN}'),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "twice": lambda path: path.write_text(path.read_text().replace("{", '{"name":1,"name":2,', 1)),
    "a newer format": edited(format=2),
    "an impossible format": edited(format="x"),
}
NOTE: dict[str, Damage] = {
    **{f"no {key}": without(key) for key in ("name", "chain", "genesis", "recipe")},
    "a number as name": edited(name=3),
    "half a character as name": edited(name="\ud800"),
    "escapes as name": edited(name="\x1b]0;owned\x07\x1b[31m"),
    "an empty chain": edited(chain=[]),
    "numbers as chain": edited(chain=[1, 2]),
    "a chain out of the store": edited(chain=["../../etc", "/etc/passwd"]),
    "a chain of other keys": edited(chain=["0" * 20] * 4),
    "no phases": edited(recipe=[]),
    "texts as phases": edited(recipe=["a", "b", "c"]),
    "a list as start": edited(genesis=[]),
    "a start that is no start": edited(genesis={"is": "boxwood.schedules:OneShot", "final": 0.5}),
    "a text as seed": edited(genesis={"seed": "x"}),
}  # fmt: skip
RECORD: dict[str, Damage] = {
    **{
        f"no {key}": without(key)
        for key in ("spec", "parent", "facts", "provenance", "sha256", "format")
    },
    "comes before itself": lambda path: edited(parent=path.parent.name)(path),
    "a parent out of the store": edited(parent="../../.."),
    "a list as facts": edited(facts=[1]),
    "a text as spec": edited(spec="x"),
    "a text as time": edited(provenance={"seconds": "x"}),
    "another checksum": edited(sha256="0" * 64),
    "a number as checksum": edited(sha256=3),
}


def damages() -> Iterator[tuple[str, str, Damage]]:
    """List what is damaged, how, and by what."""
    files = {
        "runs/*.json": {**ANY, **TEXT, **NOTE},
        "phases/*/phase.json": {**ANY, **TEXT, **RECORD},
        "phases/*/state.safetensors": ANY,
        "partial/*.safetensors": ANY,
        "latency.json": {**ANY, **TEXT},
    }
    for where, kinds in files.items():
        for name, damage in kinds.items():
            yield where, name, damage
    for folder in ("runs", "phases", "partial"):
        yield folder, "a leftover", lambda path: (path / ".new-77-0123.json").write_text("{")
        yield folder, "a stranger", lambda path: (path / "stranger.json").write_text("{")
        yield folder, "a linked folder", lambda path: (path / ("0" * 20)).symlink_to("/tmp")  # noqa: S108
        yield folder, "a pipe more", lambda path: os.mkfifo(path / f"{'1' * 20}.json")


# Commands.


def typed(*words: str) -> str:
    """Type a command; what it raises is raised here."""
    with redirect_stderr(StringIO()):
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    if result.exit_code:
        raise RuntimeError(f"exit code {result.exit_code}: {result.output[-300:]}")
    return result.output


def resumed(store: Path) -> None:
    """Run the experiment again, and show what came out."""
    execute(experiment(), store=store, seeds=range(1), threads=1, as_json=True)


def worked(store: Path) -> None:
    """Begin as a worker does."""
    threads = torch.get_num_threads()
    work(order_for(jobs_of(experiment(), range(1)), Store(store), RunSettings(), threads))


def served(store: Path) -> None:
    """Open a server, and make its page as it does."""
    with open_server([store], lambda: ""):
        articles(Report(stores=(store,)))


Command = tuple[str, ...] | Callable[[Path], object]
"""Words to type, in which ``{store}``, ``{key}`` and ``{other}`` stand for a store, the last phase of
one run and that of another; or what is done to a store."""

READING: dict[str, Command] = {
    "runs list": ("runs", "list", "--store", "{store}"),
    "runs list --json": ("runs", "list", "--json", "--store", "{store}"),
    "runs show": ("runs", "show", "{key}", "--store", "{store}"),
    "runs diff": ("runs", "diff", "{key}", "{other}", "--store", "{store}"),
    "runs export": ("runs", "export", "{key}", "--out", "{store}/out.safetensors", "--store", "{store}"),
    "report --json": ("report", "{store}", "--json"),
    "cite": ("cite", "{store}"),
    "serve": served,
    "runs gc": ("runs", "gc", "--store", "{store}"),
    "plan": ("plan", "{store}/recipe.json", "--store", "{store}"),
}  # fmt: skip
"""Commands that read a store."""

WORKING: dict[str, Command] = {
    "runs export --cut": (
        "runs", "export", "{key}", "--cut", "--out", "{store}/cut.safetensors", "--store", "{store}",
    ),
    "runs latency": ("runs", "latency", "--turns", "1", "--again", "--store", "{store}"),
    "worker": worked,
    "run again": resumed,
}  # fmt: skip
"""Commands that build networks, which takes longer."""

COMMANDS = READING | WORKING


class HangError(Exception):
    """A command that did not end."""


@contextmanager
def alarm() -> Iterator[None]:
    """End what takes too long."""

    def ring(*_: object) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome_of(command: Command, store: Path, key: str, other: str) -> str:
    """Run a command and say how it ended."""
    try:
        with alarm(), warnings.catch_warnings(record=True), redirect_stdout(StringIO()):
            warnings.simplefilter("always")
            if callable(command):
                command(store)
            else:
                typed(*(word.format(store=store, key=key, other=other) for word in command))
    except BoxwoodError:
        return "refused"
    except HangError:
        return "HANGS"
    except BaseException as error:  # noqa: BLE001 - the very thing that is looked for
        return f"RAISES {type(error).__name__}: {error}"[:300]
    return "done"


def copied(store: Store, to: Path) -> Path:
    """Make a fresh copy of a store, with a recipe file in it."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(store.root, to)
    (to / "recipe.json").write_text(json.dumps(encode(experiment())))
    return to


def ends_of(store: Store) -> tuple[str, str]:
    """Keys of the last phase of the run that can be cut, and of the other."""
    dense_, small = (run["chain"][-1] for run in store.runs())
    return small, dense_


def try_damages(store: Store, folder: Path, step: int = 1) -> Counter[str]:
    """Try every damage with every command, or only one in ``step`` of these pairs."""
    key, other = ends_of(store)
    counts: Counter[str] = Counter()
    pairs = itertools.product(damages(), COMMANDS.items())
    for (where, name, damage), (command, call) in itertools.islice(pairs, 0, None, step):
        at = copied(store, folder / "damaged")
        victims = [path for path in sorted(at.glob(where)) if key in str(path)]
        damage((victims or sorted(at.glob(where)))[0])
        counts[reported(outcome_of(call, at, key, other), f"{where}, {name}: {command}")] += 1
    return counts


def try_facts(store: Store, folder: Path, cases: int, seed: int) -> Counter[str]:
    """Try random values at random places of records and notes with the commands that show them."""
    key, other = ends_of(store)
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    for case in range(cases):
        at = copied(store, folder / "facts")
        for _ in range(chance.choice([1, 1, 1, 3])):
            path = chance.choice(sorted([*at.glob("runs/*.json"), *at.glob("phases/*/phase.json")]))
            content = json.loads(path.read_text())
            unsealed = {k: v for k, v in content.items() if k != "seal"} if isinstance(content, dict) else content  # fmt: skip
            path.write_text(json.dumps(changed(unsealed, chance)))
        for name in ("report --json", "runs list", "runs diff", "cite", "runs show", "run again"):
            counts[
                reported(outcome_of(COMMANDS[name], at, key, other), f"case {case}: {name}")
            ] += 1
    return counts


def changed(value: Any, chance: random.Random) -> Any:
    """Put something else at one random place of a JSON value, or take something out."""
    if isinstance(value, dict) and value and chance.random() < 0.92:
        key = chance.choice(list(value))
        if chance.random() < 0.06:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        return [*value[:at], changed(value[at], chance), *value[at + 1 :]]
    return chance.choice(NASTY)


# Code: names that would run something, and where they stand.


def payloads(folder: Path) -> dict[str, Any]:
    """Values that run code if they are looked up, or looked up and called, without trust."""
    marker = folder / MARKER
    file = folder / "evil.py"
    file.write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
        f"import os\ndef net(*a, **k):\n    Path({str(marker)!r}).touch()\n"
    )

    def call(function: str, **settings: Any) -> dict[str, Any]:
        settings_ = [[name, value] for name, value in sorted(settings.items())]
        return {"is": "boxwood.recipes:Call", "function": {"function": function}, "settings": settings_}  # fmt: skip

    touch = f"touch {marker}"
    return {
        "os.system": call("os:system", command=touch),
        "subprocess": call("subprocess:getoutput", cmd=touch),
        "a file": {"function": f"{file}:net"},
        "a class of a file": {"is": f"{file}:net"},
        "through a module of ours": call(
            "boxwood._internal.data.data_paths:os.system", command=touch
        ),
        "through a function of a file": call(f"{file}:os.system", command=touch),
        "by loading": call("boxwood._internal.core.spec:load", target=f"{file}:net"),
        "by importing": call("boxwood._internal.core.spec:importlib.import_module", name="evil"),
        "by decoding": call("boxwood._internal.core.spec:decode", value=[["is", f"{file}:net"]]),
        "by typing": call("boxwood._internal.cli.models:model_of", name=f"{file}:net"),
        "by a command": call("boxwood._internal.cli.target:resolve", target=f"{file}:net"),
        "by a library": call("boxwood_studies.espeak:speak", lines=[], library=str(file)),
        "by writing": call(
            "boxwood._internal.core.replacing:write_whole", path=str(marker), content=""
        ),
        "by a pickle": call("torch:load", f=str(file), weights_only=False),
        "by torch.hub": call("torch.hub:load", repo_or_dir=str(folder), model="x", source="local"),
        "eval": call("builtins:eval", expression=f"__import__('os').system({touch!r})"),
        "a method": call("boxwood._internal.runs.store:Store.commit", key="x"),
        "runpy": call("runpy:run_path", path_name=str(file)),
    }


def hidden(store: Path, payload: Any) -> None:
    """Put a payload at every place where a store names code."""
    for path in store.glob("runs/*.json"):
        note = json.loads(path.read_text())
        note.pop("seal", None)
        genesis = {**note["genesis"], "model": payload, "data": payload}
        recipe = [{**phase, "criterion": payload, "training": payload} for phase in note["recipe"]]
        path.write_text(json.dumps({**note, "genesis": genesis, "recipe": recipe}))
    for path in store.glob("phases/*/phase.json"):
        record = json.loads(path.read_text())
        record.pop("seal", None)
        record["spec"] = {**record["spec"], "model": payload, "criterion": payload}
        path.write_text(json.dumps(record))
    recipe = json.loads((store / "recipe.json").read_text())
    (store / "recipe.json").write_text(json.dumps({**recipe, "model": payload, "data": payload, "judge": payload}))  # fmt: skip


def try_code(store: Store, folder: Path, step: int = 1) -> Counter[str]:
    """Try every payload with every command, and with `run` on the recipe file, or one in ``step``."""
    key, other = ends_of(store)
    counts: Counter[str] = Counter()
    extra: dict[str, Command] = {
        "run recipe.json": ("run", "{store}/recipe.json", "--store", "{store}"),
        "cite recipe.json": ("cite", "{store}/recipe.json"),
    }
    pairs = itertools.product(payloads(folder).items(), (COMMANDS | extra).items())
    for (name, payload), (command, call) in itertools.islice(pairs, 0, None, step):
        at = copied(store, folder / "hostile")
        hidden(at, payload)
        outcome = reported(outcome_of(call, at, key, other), f"{name}: {command}")
        marker = folder / MARKER
        if marker.exists():
            marker.unlink()
            outcome = reported("RUNS CODE", f"{name}: {command}")
        counts[outcome] += 1
    return counts


def reported(outcome: str, where: str) -> str:
    """Print what must not be, and count it under one word."""
    if outcome[:4].isupper():
        print(f"{where}: {outcome}", flush=True)
    return outcome.split()[0] if outcome.startswith("RAISES") else outcome


def main() -> None:
    """Run all three and write the counts down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/hostile_stores.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = made_store(folder / "store")
        damaged = try_damages(store, folder)
        facts = try_facts(store, folder, given.facts, given.seed)
        code = try_code(store, folder)
    found = {
        "damages": len(list(damages())),
        "commands": list(COMMANDS),
        "outcomes": {"damage": damaged, "facts": facts, "code": code},
        "seed": given.seed,
        "seconds": round(time.perf_counter() - begin, 1),
        "machine": provenance(),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
