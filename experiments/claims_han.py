"""The claims of Han et al. (2015): weights and connections.

The only figures written here are the paper's own.
"""

from collections.abc import Callable
from functools import partial

from han2015 import KEPT, LENET_5, LENET_300_100, Strengths
from result_files import DATA, better, first_run, network

from boxwood._internal.report.claims import Claim, Fault, NotRun, Report
from boxwood._internal.report.contrasts import difference
from boxwood._internal.report.verdicts import exceeds
from boxwood.runs import Finding

Judge = Callable[[Report], Finding]


NOT_ANNEALED = Fault(
    reason="retraining was not annealed, strengths lay at the edges of their grids, sizes were not "
    "matched after dead units had gone",
    commits=("23ed1cc",),
)


def claims() -> list[Claim]:
    """All of them, in the order of the table."""

    def of(net: str, data: str) -> Callable[..., Claim]:
        words = {"lenet_300_100": "LeNet-300-100", "lenet5": "LeNet-5"}[net]

        def claim(
            statement: str, figure: str, judge: Judge, fault: Fault | None = NOT_ANNEALED
        ) -> Claim:
            return Claim(
                paper="Han et al. 2015",
                statement=f"{statement}, {words}, {DATA[data]}",
                figure=figure,
                scaled="Fashion-MNIST" if data == "fashion_mnist" else "fewer epochs",
                file=f"han2015_{net}_{data}",
                command=f"python experiments/run_han2015.py {net} {data.replace('_', '-')}"
                + (" --set l1=true" if net == "lenet5" else ""),
                judge=judge,
                fault=fault,
            )

        return claim

    found = []
    for net, data in (
        ("lenet_300_100", "mnist"), ("lenet_300_100", "fashion_mnist"), ("lenet5", "mnist"), ("lenet5", "fashion_mnist"),
    ):  # fmt: skip
        claim, given = of(net, data), {"lenet5": LENET_5}.get(net, LENET_300_100)
        headline = {
            "lenet_300_100": "1.64 → 1.59 % error at 12×",
            "lenet5": "0.80 → 0.77 % error at 12×",
        }[net]
        found += [
            claim("pruned iteratively to a twelfth, within 0.3 points of dense", headline, lambda r: better(r, "", "L2 iterative round-5", "dense", -0.3)),
            claim("pruned iteratively to 8 %, better than at once", "9× against 5× without loss (AlexNet)", lambda r: better(r, "", "L2 iterative round-5", "L2 one-step 0.08")),
            claim("pruned iteratively to 12 %, better than at once", "9× against 5× without loss (AlexNet)", lambda r: better(r, "", "L2 iterative round-4", "L2 one-step 0.12")),
            claim("at 8 %, retraining is better than none", "without loss to 1/10 against 1/3 (AlexNet)", lambda r: better(r, "", "L2 one-step 0.08", "L2 not retrained 0.08"), None),
            claim("half of the weights can be removed without retraining, within 0.3 points", "halving is free (AlexNet)", _half_is_free),
            claim("before retraining L1 is better than L2, at 8 %", "L1 better before retraining", partial(_alone, given=given, kept="0.08")),
            claim("before retraining L1 is better than L2, at 30 %", "L1 better before retraining", partial(_alone, given=given, kept="0.3")),
            claim("after retraining L2 is better than L1, at 8 %", "L2 better after retraining", lambda r: better(r, "", "L2 iterative round-5", "L1 iterative round-5")),
            claim("re-initialising the remaining weights is worse than keeping them, at 8 %", "worse", lambda r: better(r, "", "L2 iterative round-5", "L2 reinitialised 0.08")),
        ]  # fmt: skip
    found.append(
        of("lenet5", "fashion_mnist")(
            "the first convolution is more sensitive than the largest linear layer",
            "most sensitive of all layers (AlexNet)",
            _scan,
            None,
        )
    )
    return found


def _half_is_free(report: Report) -> Finding:
    found = difference(network(report, "L2 not retrained 0.5"), network(report, "dense"))
    return exceeds("", found, -0.3)


def _alone(report: Report, *, given: Strengths, kept: str) -> Finding:
    """Each with the strength that is best without retraining, chosen on a seed outside the study."""
    at = KEPT.index(float(kept))
    ours, theirs = (
        first_run(report, _names(kind, strengths[at], first, kept))
        for kind, strengths, first in (("L1", given.l1_alone, 1e-4), ("L2", given.l2_alone, 1e-3))
    )
    return better(report, "", ours, theirs)


def _names(kind: str, strength: float, first: float, kept: str) -> tuple[str, ...]:
    """Where to look: under the strength, and in results that had one strength for all sparsities."""
    old = (f"{kind} alone not retrained {kept}",) if strength == first else ()
    return (f"{kind} alone {strength:g} not retrained {kept}", *old, f"{kind} not retrained {kept}")


def _scan(report: Report) -> Finding:
    found = [each for each in report["findings"] if each["claim"].startswith("scan:")]
    if not found:
        raise NotRun("no scan yet")
    return Finding("", found[0]["held"], found[0]["evidence"], seeds=len(report["seeds"]))
