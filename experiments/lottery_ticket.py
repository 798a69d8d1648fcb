"""The study of Frankle and Carbin (2019): tickets, their controls, and an honest verdict.

    boxwood run experiments/lottery_ticket.py:lenet_300_100 --data fashion-mnist --seeds 5 --workers 2

All branches of a seed share the chain of the ticket: a control at a level costs one training. Ask for
more levels or seeds, and only what is new is computed.
"""

from collections.abc import Callable
from dataclasses import replace

from boxwood import Experiment, Splits
from boxwood.core.shuffles import within_layers
from boxwood.data.idx import fashion_mnist
from boxwood.recipes import lottery_networks as networks
from boxwood.recipes.lottery_ticket import (
    lottery_ticket,
    randomly_sparse,
    reinitialised,
)
from boxwood.recipes.phase import Recipe

JUDGED = (7, 9)  # levels with 21.1 % and 13.5 % of LeNet's weights left
TOO_LARGE = 8.0  # times the paper's learning rate


def lenet_300_100(
    data: Callable[[], Splits] = fashion_mnist,
    steps: int = 9000,
    levels: int = 9,
    compared: tuple[int, ...] = JUDGED,
    reinits: int = 1,
    too_large: bool = True,
) -> Experiment:
    """Find tickets in LeNet-300-100, and compare them with dense, reinitialised and random networks.

    ``steps`` is J, which the paper has at 50,000 for MNIST; Fashion-MNIST is past its minimum of the
    validation loss long before 9,000. Controls run at the levels of ``compared``.
    """
    row = networks.lenet()
    train = replace(row.train, steps=steps)
    branches = _compared("", train, row.prune, levels, compared, reinits)
    if too_large:
        optimizer = replace(train.optimizer, lr=TOO_LARGE * train.optimizer.lr)
        fast = replace(train, optimizer=optimizer)
        reached = max(level for level in compared if level <= levels)
        branches += _compared("large rate: ", fast, row.prune, reached, compared, 1, random=False)
    return Experiment(model=row.model, data=data, branches=tuple(branches))


def _compared(
    prefix: str,
    train: networks.Fit,
    prune: networks.Pruning,
    levels: int,
    compared: tuple[int, ...],
    reinits: int,
    *,
    random: bool = True,
) -> list[tuple[str, Recipe]]:
    ticket = lottery_ticket(train=train, prune=prune, levels=levels)
    branches = [(f"{prefix}ticket", ticket)]
    for level in compared:
        for index in range(1, reinits + 1):
            name = f"{prefix}reinit {index} at {level}"
            branches.append((name, reinitialised(ticket, level, index=index)))
        if random:
            name = f"{prefix}random at {level}"
            branches.append((name, randomly_sparse(ticket, level, how=within_layers)))
    return branches
