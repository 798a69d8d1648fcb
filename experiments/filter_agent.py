"""The study of Huang et al. (2018): an agent learns which filters can go; is it worth the trouble?

    boxwood run experiments/filter_agent.py:conv_net --data fashion-mnist --seeds 5 --workers 2

For every bound of the drop, the agent is compared with the L1 norm, Taylor scores and three draws of
chance, each with as many filters in every layer and the same fine-tuning; with removal by sensitivity
at the same multiply-adds; with its own network trained from scratch; and with a dense network trained
as long. A search goes on until the policy is certain, 400 updates at most. Before its reward, every try
is fine-tuned on 20 minibatches, each half as large as in training. `--set best=true` also carries out
the best try of every search.
`run_filter_agent.py` also writes the figures and the curves.

CPU minutes of one seed on one core: 18 for `conv_net`, 29 for `segmentation`, 23 for `residual_net`,
and two thirds of that with `--set "bounds=(4.0, 8.0)"`. These are estimates. For `conv_net` a try takes
0.15 s, and the four searches of one seed at b = 8 made 531, 274, 372 and 300 different tries in 232 s.
The others are counted with as many tries for layers of as many filters, at 0.28 s and 0.31 s.
Not run yet.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import filter as matching

import torch
from scipy.stats import page_trend_test

from boxwood import Experiment
from boxwood._internal.recipes.filter_agent import layers_of
from boxwood._internal.report.contrasts import difference
from boxwood._internal.report.study import by_seed, facts_by_seed
from boxwood._internal.report.verdicts import (
    SMALLEST_GAIN,
    by_p_value,
    compared,
    corrected,
    exceeds,
)
from boxwood.agent import TryAndLearn, best_rewarded
from boxwood.criteria import Criterion, magnitude, random, taylor
from boxwood.data import Splits, fashion_mnist, first_examples
from boxwood.networks import small_resnet, small_vgg
from boxwood.optim import Adam, StepDecay
from boxwood.phases import Measure, Reinitialise, SearchFilters
from boxwood.recipes import Call, Recipe, by_sensitivity, dense, filter_agent, ranked
from boxwood.runs import Finding, Measurement
from boxwood.training import Training
from boxwood_studies.halved_images import halved
from boxwood_studies.memory_layout import channels_last
from boxwood_studies.scenes import scenes
from boxwood_studies.segmentation_nets import encoder_decoder

BOUNDS = (2.0, 4.0, 8.0)  # percentage points; the paper has 0.5, 1, 2 and 4
BASELINES: dict[str, Criterion] = {
    "L1": magnitude,
    "Taylor": taylor,
    "random": random,
    **{f"random {draw}": Call.of(random, draw=draw) for draw in (1, 2)},
}
FINE = Adam(lr=5e-4, fused=True)  # fine-tuning
SLACK = 0.5  # points of validation accuracy by which a bound may be missed


def conv_net(
    data: Callable[[], Splits] = fashion_mnist,
    bounds: tuple[float, ...] = BOUNDS,
    updates: int = 400,
    count: int = 10_000,
    baselines: tuple[str, ...] = tuple(BASELINES),
    best: bool = False,
    rate: float = 1e-3,
) -> Experiment:
    """Search four convolutions of 16, 16, 32 and 32 filters, layer by layer.

    Scaled to what two CPU cores can do: images of 14 × 14 pixels, 10,000 of them to learn from,
    2,000 for a reward, batch-norm statistics taken again on 250 before it.
    """
    return _classified(
        Call.of(channels_last, net=small_vgg), data, bounds, updates, count, baselines, best, rate
    )


def residual_net(
    data: Callable[[], Splits] = fashion_mnist,
    bounds: tuple[float, ...] = BOUNDS,
    updates: int = 400,
    count: int = 10_000,
    baselines: tuple[str, ...] = tuple(BASELINES),
    best: bool = False,
    rate: float = 1e-3,
    streams: bool = False,
) -> Experiment:
    """Search the first convolution of each block of ResNet-8, which the paper (from memory) prunes.

    With ``streams`` the filters that a residual stream ties together are searched too.
    """
    layers = "*" if streams else "block*.conv1.weight"
    return _classified(
        Call.of(channels_last, net=small_resnet),
        data,
        bounds,
        updates,
        count,
        baselines,
        best,
        rate,
        layers,
    )


def _classified(
    net: Call,
    data: Callable[[], Splits],
    bounds: tuple[float, ...],
    updates: int,
    count: int,
    baselines: tuple[str, ...],
    best: bool,
    rate: float,
    layers: str = "*",
) -> Experiment:
    return _study(
        net,
        Call.of(first_examples, data=Call.of(halved, data=data), count=count),
        torch.zeros(1, 1, 14, 14),
        train=Training(
            epochs=12,
            batch=100,
            optimizer=Adam(lr=2e-3, fused=True, lr_schedule=StepDecay(fractions=(0.75,))),
        ),
        finetune=Training(epochs=2, batch=100, optimizer=FINE),
        search=_search(updates, rate, batch=50, examples=2000),
        bounds=bounds,
        baselines=baselines,
        best=best,
        wanted=layers,
    )


def segmentation(
    bounds: tuple[float, ...] = (2.0, 4.0, 8.0),
    updates: int = 400,
    baselines: tuple[str, ...] = tuple(name for name in BASELINES if name != "Taylor"),
    best: bool = False,
    rate: float = 1e-3,
) -> Experiment:
    """Search a small encoder–decoder that segments scenes; accuracy is that of pixels."""
    return _study(
        Call.of(channels_last, net=encoder_decoder),
        scenes,
        torch.zeros(1, 3, 32, 32),
        train=Training(
            epochs=12,
            batch=32,
            optimizer=Adam(lr=2e-3, fused=True, lr_schedule=StepDecay(fractions=(0.75,))),
        ),
        finetune=Training(epochs=1, batch=32, optimizer=FINE),
        search=_search(updates, rate, batch=16, examples=250),
        bounds=bounds,
        baselines=baselines,
        best=best,
        measure=Measure(overlap=True),
    )


def _search(updates: int, rate: float, *, batch: int, examples: int) -> SearchFilters:
    # The bound is filled in for each branch.
    how = TryAndLearn(bound=1.0, updates=updates, lr=rate)
    recover = Training(steps=20, batch=batch, optimizer=FINE)
    return SearchFilters(layer="", search=how, recover=recover, examples=examples, statistics=1)


def _study(
    net: Call,
    data: Callable[[], Splits],
    example: torch.Tensor,
    *,
    train: Training,
    finetune: Training,
    search: SearchFilters,
    bounds: Sequence[float],
    baselines: Sequence[str],
    best: bool,
    wanted: str = "*",
    measure: Measure | None = None,
) -> Experiment:
    layers = tuple(matching(layers_of(net, example), wanted))
    whole = replace(finetune, epochs=len(layers) * (finetune.epochs or 1))
    branches: list[tuple[str, Recipe]] = []
    for bound in bounds:
        bounded = replace(search, search=replace(search.search, bound=bound))
        agent = filter_agent(train, bounded, finetune, layers=layers, measure=measure)
        if not branches:
            branches.append(("dense", (agent[0], agent[-1])))
            branches.append(("dense, as long", (dense(train, as_long_as=agent)[0], agent[-1])))
        branches.append((f"agent b={bound:g}", agent))
        branches += [(f"{name} b={bound:g}", ranked(agent, BASELINES[name])) for name in baselines]
        branches.append((f"sensitivity b={bound:g}", by_sensitivity(agent, whole)))
        long = dense(train, as_long_as=agent)[0]
        branches.append((f"scratch b={bound:g}", (*agent[:-1], Reinitialise(), long, agent[-1])))
        if best:
            chosen = replace(bounded, search=replace(bounded.search, choose=best_rewarded))
            recipe = filter_agent(train, chosen, finetune, layers=layers, measure=measure)
            branches.append((f"best try b={bound:g}", recipe))
    return Experiment(model=net, data=data, branches=tuple(branches), judge=judge)


def judge(measured: tuple[Measurement, ...]) -> tuple[Finding, ...]:
    """Hold the agent to the pass rule, as far as the last measurements say."""
    bounds = sorted(
        {float(m.branch.removeprefix("agent b=")) for m in measured if m.branch.startswith("agent")}
    )
    agents = {bound: by_seed(measured, f"agent b={bound:g}") for bound in bounds}
    dense = by_seed(measured, "dense")
    seeds = sorted(dense)
    findings = []
    if len(bounds) > 2:
        kept = [[agents[bound][seed].kept_fraction for bound in bounds] for seed in seeds]
        findings.append(trend("weights kept fall as the bound rises", kept))
    for bound in bounds:
        agent = {seed: each.facts for seed, each in agents[bound].items()}
        whole = {seed: each.facts for seed, each in dense.items()}
        claim = f"b={bound:g}: the mean validation drop is within {bound + SLACK:g} points"
        findings.append(exceeds(claim, difference(agent, whole, part="validation"), -bound - SLACK))
    others = dict.fromkeys(m.branch.partition(" b=")[0] for m in measured if " b=" in m.branch)
    for other in others:
        for bound in bounds if other != "agent" else ():
            names = f"agent b={bound:g}", f"{other} b={bound:g}"
            ours, theirs = (facts_by_seed(measured, name) for name in names)
            claim = f"b={bound:g}: agent is better than {other}"
            terms = [(1.0, ours), (-1.0, theirs)]
            findings.append(compared(claim, terms, smallest_gain=SMALLEST_GAIN))
    return corrected(findings)


def trend(claim: str, rows: Sequence[Sequence[float]]) -> Finding:
    """Test that values fall along each row, by Page's test; a row for each seed."""
    if len(rows) < 2:
        return Finding(claim, None, "one seed decides nothing", seeds=len(rows))
    found = page_trend_test(rows, predicted_ranks=range(len(rows[0]), 0, -1))
    return by_p_value(claim, float(found.pvalue), len(rows), "Page's trend test")
