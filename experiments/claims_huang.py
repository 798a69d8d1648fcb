"""The claims of Huang et al. (2018): an agent that prunes filters.

The only figures written here are the paper's own.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial

from result_files import network
from scipy.stats import page_trend_test

from boxwood._internal.report.claims import Claim, Fault, NotRun, Report
from boxwood._internal.report.contrasts import difference
from boxwood._internal.report.estimates import over_seeds
from boxwood._internal.report.verdicts import (
    SMALLEST_GAIN,
    all_hold,
    by_p_value,
    compared,
    exceeds,
)
from boxwood.runs import Finding

Judge = Callable[[Report], Finding]


STOPS_EARLY = Fault(
    reason="searches stopped before the agent had learnt, and the bound was met before fine-tuning",
    commits=("1b6aa7e", "d849742", "b6bd1f3"),
)


def claims() -> list[Claim]:
    """All of them, in the order of the table."""
    paper = "Huang et al. 2018"
    nets = {
        "conv_net_fashion_mnist": ("a net of four convolutions, Fashion-MNIST", "conv_net --data fashion-mnist"),
        "conv_net_mnist": ("a net of four convolutions, MNIST", "conv_net --data mnist"),
        "residual_net_fashion_mnist": ("ResNet-8, Fashion-MNIST", "residual_net --data fashion-mnist"),
        "segmentation": ("an encoder and decoder, scenes", "segmentation"),
    }  # fmt: skip

    def claim(net: str, statement: str, figure: str, judge: Judge) -> Claim:
        words, command = nets[net]
        return Claim(
            paper=paper,
            statement=f"{statement}, {words}",
            figure=figure,
            scaled="small net, small images, 10,000 examples" if net != "segmentation" else "32 × 32 scenes",
            file=f"filter_agent_{net}",
            command=f"python experiments/run_filter_agent.py {command} --seeds 5",
            judge=judge,
            fault=STOPS_EARLY,
        )  # fmt: skip

    found = []
    for net in nets:
        for bound in (4, 8):
            of = partial(_agent_against, bound=bound)
            figure = (
                "−1.9 against −2.4 points (VGG-16)"
                if bound == 4
                else "the gap widens with compression"
            )
            found += [
                claim(
                    net,
                    f"at b = {bound} the agent is better than the L1 norm",
                    figure,
                    partial(of, other="L1"),
                ),
                claim(
                    net,
                    f"at b = {bound} the agent is better than random choice",
                    "our control",
                    partial(of, other="random"),
                ),
            ]
    return [
        *found,
        *(
            claim(net, "fewer filters stay as the bound rises", "45, 55, 65, 81 % of FLOPs saved at b = 0.5, 1, 2, 4", _fewer_with_bound)
            for net in ("conv_net_fashion_mnist", "residual_net_fashion_mnist")
        ),
        *(
            claim(net, "the drop stays within b + 0.5 points on validation", "0.6, 1.1, 1.9, 3.4 points at b = 0.5, 1, 2, 4", _within_bounds)
            for net in ("conv_net_fashion_mnist", "residual_net_fashion_mnist")
        ),
        claim("conv_net_fashion_mnist", "at b = 4 three quarters of the multiply-adds are removed", "80.6 % (VGG-16), 76.0 % (ResNet-18)", _saved),
    ]  # fmt: skip


def _agent_against(report: Report, *, other: str, bound: float) -> Finding:
    """Against the mean of all networks of that name: one, or several draws of chance."""
    ending = f" b={bound:g}"
    names = dict.fromkeys(
        row["name"]
        for row in report["runs"]
        if row["name"].startswith(other) and row["name"].endswith(ending)
    )
    agent = network(report, f"agent{ending}")
    if not names:
        raise NotRun(f"no network {other + ending!r} yet")
    others = [(-1.0 / len(names), network(report, name)) for name in names]
    return compared("", [(1.0, agent), *others], smallest_gain=SMALLEST_GAIN)


def _bounds(report: Report) -> list[float]:
    names = {row["name"] for row in report["runs"] if row["name"].startswith("agent b=")}
    return sorted(float(name.removeprefix("agent b=")) for name in names)


def _fewer_with_bound(report: Report) -> Finding:
    by_bound = [network(report, f"agent b={bound:g}") for bound in _bounds(report)]
    seeds = sorted(set.intersection(*map(set, by_bound)))
    rows = [[each[seed]["kept"] for each in by_bound] for seed in seeds]
    if len(rows) < 2 or len(rows[0]) < 3:
        raise NotRun("too few seeds or bounds yet")
    found = page_trend_test(rows, predicted_ranks=range(len(rows[0]), 0, -1))
    return by_p_value("", float(found.pvalue), len(rows), "weights kept, Page's trend test")


def _within_bounds(report: Report) -> Finding:
    return all_hold("", [
        exceeds(
            f"b = {b:g}",
            difference(network(report, f"agent b={b:g}"), network(report, "dense"), part="validation"),
            -b - 0.5,
        )
        for b in _bounds(report)
    ])  # fmt: skip


def _saved(report: Report) -> Finding:
    ends: dict[int, list[list[int]]] = defaultdict(list)
    for each in report.get("searches", ()):
        if each["bound"] == 4:
            ends[each["seed"]].append(each["multiply_adds"])
    if not ends:
        raise NotRun("no search at b = 4 yet")
    saved = [100 * (1 - layers[-1][1] / layers[0][0]) for _, layers in sorted(ends.items())]
    return exceeds("", over_seeds(saved), 75.0, unit="% saved", digits=1)
