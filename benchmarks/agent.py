"""Tries of the filter agent: cut networks against masked ones, and two processes against one."""

import numpy as np
import torch
from measuring import Row, compare, main

from boxwood._internal.agent.environment import InProcesses, Tries
from boxwood._internal.agent.reinforce import draw
from boxwood._internal.core.timing import by_turns
from boxwood._internal.data.splits import InMemory
from boxwood._internal.graph.units import find_units
from boxwood._internal.model.oneshot import apply_masks_
from boxwood._internal.recipes.phases.prune_units import masks_of
from boxwood._internal.recipes.phases.search_filters import FirstExamples, Recovery
from boxwood._internal.zoo.cifar_nets import small_vgg

TRIES = 5  # of one update


def measure(quick: bool) -> list[Row]:
    """Assess the tries of some updates in each way by turns."""
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randn(1500, 1, 28, 28, generator=chance)
    data = InMemory(pixels, torch.randint(10, (len(pixels),), generator=chance))
    torch.manual_seed(0)
    net = small_vgg(widths=(32, 32, 64, 64)).eval()
    found = find_units(net, pixels[:1])
    tries = Tries(
        model=net,
        units=found,
        kept=np.ones(len(found), dtype=np.bool_),
        group=found.groups[1],
        tune_=Recovery(data, None, 1, 0),
        worth=FirstExamples(data, 300 if quick else 1000),
        best=1.0,
    )
    updates = 1 if quick else 6
    actions = [list(draw(torch.full((32,), 0.5), TRIES, chance)) for _ in range(updates)]

    def masked(action: torch.Tensor) -> float:
        copy = small_vgg(widths=(32, 32, 64, 64)).eval()
        copy.load_state_dict(net.state_dict())
        apply_masks_(copy, masks_of(tries.selection(action)))
        tries.tune_(copy)
        return 100 * (tries.best - tries.worth(copy))

    def all_masked() -> None:
        for update in actions:
            for action in update:
                masked(action)

    def one() -> None:
        for update in actions:
            tries.drops(update)

    with InProcesses(tries, 2) as many:
        many.drops(actions[0][:2])  # both processes have begun

        def two() -> None:
            for update in actions:
                many.drops(update)

        times = by_turns(
            {"one": one, "two": two, "masked": all_masked}, turns=3 if quick else 7, warm_up=1
        )
    rates = {name: [updates * TRIES / seconds for seconds in each] for name, each in times.items()}
    return [
        compare("tries of a cut network", rates["one"], rates["masked"],
                "the same tries, masked", unit="tries/s"),
        compare("two processes", rates["two"], rates["one"], "one process", unit="tries/s"),
    ]  # fmt: skip


if __name__ == "__main__":
    main(measure, __doc__)
