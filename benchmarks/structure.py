"""Structural pruning of many architectures: equivalent, refused or wrong; next to two other libraries.

Half of the units of every group go. A network counts as equivalent if the smaller one computes what
the masked one computes, in double precision, on given and random inputs, with its own weights and
with noise on them; of networks above 12 million parameters, with noise only and in single precision.
Torch-Pruning and torch-kirigami count as working if the pruned network is smaller and runs.

    python benchmarks/structure.py --quick          a few networks and times, under a minute
    python benchmarks/structure.py --all            every network; goes on where it was stopped
    python benchmarks/structure.py --transformers   every kind of model of transformers, likewise
"""

import argparse
import contextlib
import copy
import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from architectures import bert_base, corpus
from every_transformer import every_transformer, first_line
from measuring import Row, compare, machine, main
from torch import nn

from boxwood._internal.core.timing import by_turns, clock_for
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.examples import as_arguments
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.reference import restatements
from boxwood._internal.graph.scoring import score_units
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.errors import BoxwoodError

TABLE = Path(__file__).parent.parent / "experiments" / "results" / "structure.json"
EVERY = TABLE.with_name("structure_transformers.json")
LIMITS = {"ours": 240, "peer": 60, "kirigami": 10}  # seconds of the processor; some never end
LARGEST = 700_000_000
FULLY_CHECKED = 12_000_000
QUICK = (
    "torchvision/resnet18", "torchvision/mobilenet_v3_small", "torchvision/shufflenet_v2_x0_5",
    "recurrent/lstm-tied", "recurrent/translator", "recurrent/tagger",
    "transformers/bert", "transformers/vit", "transformers/gpt2",
)  # fmt: skip
TIMED = (
    "torchvision/resnet50", "torchvision/vit_b_16", "torchvision/densenet121",
    "torchvision/convnext_tiny", "transformers/bert", "transformers/bert-base",
)  # fmt: skip


def ours(net: nn.Module, example: Any) -> dict[str, Any]:
    """Remove half, and check the rest; where something cannot be followed, keep whole what it reads."""
    followed: dict[str, Any] = {}
    try:
        found = find_units(net, example)
    except BoxwoodError as error:
        followed["not_followed"] = _reason(error)
        found = find_units(net, example, freeze_unknown=True)
    if not len(found):
        return {"result": "refused", "reason": followed.get("not_followed", "no removable units")}
    selection = best_units(found, score_units(found), 0.5)
    after = found.parameters(selection.kept) / found.parameters()
    row = {
        **followed,
        "restated": len(restatements(selection)),
        "units": len(found),
        "groups": len(found.groups),
        "parameters": after,
        "multiply_adds": found.multiply_adds(selection.kept) / max(found.multiply_adds(), 1),
    }
    if found.parameters() > FULLY_CHECKED:  # one comparison, which shrink makes by itself
        shrink(net, selection)
        return {"result": "equivalent", "by": "shrink", **row}
    report = check_equivalence(net, shrink(net, selection, check=False), selection, gradients=False)
    row["difference"] = max(t.difference / max(t.scale, 1e-3) for t in report.trials)
    return {"result": "equivalent" if report.equivalent else "wrong", "by": "report", **row}


def peer(prune: Callable[[nn.Module, Any], None]) -> Callable[[nn.Module, Any], dict[str, Any]]:
    """Let another library do the same, in place."""

    def side(net: nn.Module, example: Any) -> dict[str, Any]:
        before = sum(p.numel() for p in net.parameters())
        args, kwargs = as_arguments(example)
        prune(net, example)
        with torch.no_grad():
            net(*args, **kwargs)
        after = sum(p.numel() for p in net.parameters())
        result = "runs" if after < before else "nothing removed"
        return {"result": result, "parameters": after / before}

    return side


def _torch_kirigami(net: nn.Module, example: Any) -> None:
    """As its README says, with half of every axis that it offers."""
    from torch_kirigami import DependencyGraph
    from torch_kirigami.pruning import ChannelRatio, Greedy, GroupMagnitude, Pruner

    args, kwargs = as_arguments(example)
    pruner = Pruner(net, graph=DependencyGraph.build(net, args=args, kwargs=kwargs))
    pruner.prune(
        pruner.discover_candidates(),
        budget=ChannelRatio(0.5),
        strategy=Greedy(GroupMagnitude(p=2)),
    )


def _torch_pruning(net: nn.Module, example: Any) -> None:
    """As its README says: all but the last layer."""
    import torch_pruning

    args, kwargs = as_arguments(example)
    last = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    heads = {m: m.num_heads for m in net.modules() if isinstance(m, nn.MultiheadAttention)}
    pruner = torch_pruning.pruner.BasePruner(
        net,
        kwargs or (args if len(args) > 1 else args[0]),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[last],
        num_heads=heads,
    )
    pruner.step()


SIDES = {"ours": ours, "peer": peer(_torch_pruning), "kirigami": peer(_torch_kirigami)}


def to_smaller_ours(net: nn.Module, example: Any, *, check: bool) -> Callable[[], object]:
    """From a network to the smaller one; ``check`` runs it and the masked one."""

    def run() -> nn.Module:
        selection = select_units(find_units(net, example), 0.5)
        return shrink(net, selection, check=check)

    return run


def to_smaller_peer(net: nn.Module, example: Any) -> Callable[[], object]:
    """From a copy of the network to the smaller one; the copy is part of what ours does."""
    return lambda: _torch_pruning(copy.deepcopy(net), example)


class _TooLongError(BaseException):
    """Nothing that catches every `Exception` may catch it."""


def _stop(*_: Any) -> None:
    raise _TooLongError


def attempt(name: str, who: str) -> dict[str, Any]:
    """Build one network and prune it, with a limit on the time."""
    torch.manual_seed(0)
    signal.signal(signal.SIGPROF, _stop)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            signal.setitimer(signal.ITIMER_PROF, LIMITS["ours"])  # to build may take long as well
            build = every_transformer if name.startswith("every/") else corpus
            try:
                net, example = build()[name]()
            except LookupError as error:
                return {"result": "left out", "reason": str(error)}
            net.eval()
            size = sum(p.numel() for p in net.parameters())
            if size > LARGEST:
                return {"result": "left out", "reason": f"{size} parameters"}
            signal.setitimer(signal.ITIMER_PROF, LIMITS[who])
            return {"size": size, **SIDES[who](net, example)}
    except BoxwoodError as error:
        return {"result": "refused", "reason": _reason(error)}
    except _TooLongError:
        return {"result": "too long", "reason": f"more than {LIMITS[who]} s of this processor"}
    except Exception as error:  # noqa: BLE001 - a crash is a result here
        return {"result": "failed", "reason": first_line(error)}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _reason(error: BoxwoodError) -> str:
    # Where the package lies is this machine's affair.
    return re.sub(r"\S*/site-packages/", "", str(error))


def in_processes(jobs: list[tuple[str, str]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Work off jobs in a process of their own; one that dies takes only its job with it."""
    waiting = list(jobs)
    while waiting:
        command = [sys.executable, __file__, "--worker"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        ) as process:  # fmt: skip
            if process.stdin is None or process.stdout is None:
                raise OSError("no pipes")
            process.stdin.write(json.dumps(waiting))
            process.stdin.close()
            for line in process.stdout:
                if line.startswith("{"):
                    name, who = waiting.pop(0)
                    yield name, who, json.loads(line)
        if process.returncode and waiting:
            name, who = waiting.pop(0)
            yield name, who, {"result": "failed", "reason": f"process died ({process.returncode})"}


def worker() -> None:
    """Answer jobs from the standard input, one line each."""
    torch.set_num_threads(1)
    for name, who in json.loads(sys.stdin.read()):
        print(json.dumps(attempt(name, who)), flush=True)


def everything(names: Iterable[str], path: Path, *, who: tuple[str, ...]) -> None:
    """Fill the table, one network at a time; what is in it already is not done again."""
    table = json.loads(path.read_text()) if path.exists() else {"models": {}}
    rows = table["models"]
    jobs = [(n, w) for n in names for w in who if w not in rows.get(n, {})]
    for name, side, row in in_processes(jobs):
        rows.setdefault(name, {})[side] = row
        table["machine"] = machine()
        table["summary"] = summary(rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(table, indent=1) + "\n")
        temporary.replace(path)
        print(f"{name:<44} {side:<8} {row['result']:<8} {row.get('reason', '')[:150]}", flush=True)
    print(json.dumps(summary(rows), indent=1))


def summary(rows: dict[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """Count results by library."""
    counted: dict[str, dict[str, Counter[str]]] = {}
    for name, sides in rows.items():
        for side, row in sides.items():
            counted.setdefault(name.split("/")[0], {}).setdefault(side, Counter())[
                row["result"]
            ] += 1
    return {lib: {s: dict(c) for s, c in sides.items()} for lib, sides in counted.items()}


def measure(quick: bool) -> list[Row]:
    """Count what works, and time the way from a network to the smaller one."""
    rows = []
    known = corpus()
    names = [name for name in QUICK if name in known]
    good = {"ours": 0, "peer": 0}
    for name in names:
        good["ours"] += attempt(name, "ours")["result"] == "equivalent"
        good["peer"] += attempt(name, "peer")["result"] == "runs"
    rows.append(
        compare("networks that work (ours: checked; the peer's: run)", [good["ours"]],
                [max(good["peer"], 1)], "Torch-Pruning", unit=f"of {len(names)}")
    )  # fmt: skip
    if "transformers/bert" in known:
        known["transformers/bert-base"] = bert_base
    for name in TIMED[:1] if quick else TIMED:
        if name not in known:
            continue
        net, example = known[name]()
        net.eval()
        steps = {
            "to the smaller network": to_smaller_ours(net, example, check=False),
            "and checked by running both": to_smaller_ours(net, example, check=True),
            "peer": to_smaller_peer(net, example),
        }
        with contextlib.redirect_stdout(io.StringIO()):
            clock = clock_for(torch.get_num_threads())
            times = by_turns(
                steps,
                turns=1 if quick else 5,
                clock=clock,
                before=lambda _: gc.collect(),
                warm_up=1,
            )
        rows += [
            compare(f"{name}: {step}", times[step], times["peer"], "Torch-Pruning", unit="s")
            for step in steps
            if step != "peer"
        ]
    return rows


if __name__ == "__main__":
    if "--worker" in sys.argv:
        worker()
    elif "--all" in sys.argv or "--transformers" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--all", action="store_true")
        parser.add_argument("--transformers", action="store_true", help="ours alone, by default")
        parser.add_argument("--only", default="", help="part of the names to run")
        parser.add_argument("--side", choices=SIDES, help="one library alone; peer: Torch-Pruning")
        parser.add_argument("--table", type=Path, help="file to fill")
        given = parser.parse_args()
        sides = ("ours",) if given.transformers else tuple(SIDES)
        known = every_transformer() if given.transformers else corpus()
        everything(
            [name for name in known if given.only in name],
            given.table or (EVERY if given.transformers else TABLE),
            who=(given.side,) if given.side else sides,
        )
    else:
        main(measure, "Structural pruning of many architectures (half of every group)")
