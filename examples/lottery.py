"""A lottery-ticket study with controls and verdicts: `boxwood run examples/lottery.py:study --seeds 5`.

After Frankle and Carbin (2019): train, prune, reset what is left to its first values, train again.
"""

from boxwood import Experiment
from boxwood.data import digits
from boxwood.networks import glorot, lenet_300_100
from boxwood.optim import Adam
from boxwood.recipes import (
    Call,
    layerwise_rates,
    lottery_ticket,
    random_ticket,
    reinitialised_ticket,
)
from boxwood.runs import Finding, Measurement
from boxwood.statistics import corrected, exceeds, over_seeds
from boxwood.training import Training


def study(steps: int = 300, levels: int = 7) -> Experiment:
    """Find tickets in LeNet-300-100 on digits; at the last level, compare them with two controls."""
    train = Training(steps=steps, batch=60, optimizer=Adam(lr=1.2e-3))
    rates = layerwise_rates(
        ("fc3.*", 0.1), ("fc*", 0.2)
    )  # a fifth of each layer goes at each level
    ticket = lottery_ticket(train=train, prune=rates, levels=levels)
    return Experiment(
        model=Call.of(glorot, net=Call.of(lenet_300_100, inputs=64)),
        data=digits,
        branches={
            "ticket": ticket,
            "reinit": reinitialised_ticket(ticket, levels),  # the same mask, other first values
            "random": random_ticket(ticket, levels),  # as many weights in each layer, elsewhere
        },
        judge=judge,
    )


def judge(measured: tuple[Measurement, ...]) -> tuple[Finding, ...]:
    """Hold the ticket against the dense network and against its controls, seed by seed."""
    last = max(int(each.label.removeprefix("level-")) for each in measured if each.label)
    points = {
        name: {each.seed: 100 * each.test for each in measured if each.name == name}
        for name in (
            "ticket level-0",
            *(f"{b} level-{last}" for b in ("ticket", "reinit", "random")),
        )
    }
    ticket = points.pop(f"ticket level-{last}")
    limits = {"ticket level-0": ("not more than 0.5 points below the dense network", -0.5)}
    findings = []
    for name, other in points.items():
        claim, limit = limits.get(name, (f"better than {name.split()[0]}", 0.0))
        differences = [ticket[seed] - other[seed] for seed in sorted(ticket.keys() & other.keys())]
        estimate = over_seeds(differences) if len(differences) > 1 else None
        findings.append(exceeds(f"the ticket is {claim}", estimate, limit))
    return corrected(findings)
