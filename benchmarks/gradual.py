"""Training with masks that change every 100 steps against dense training of the same network."""

import copy
import itertools
from collections.abc import Callable

import torch
from measuring import Row, compare, main
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from boxwood._internal.core.schedules import Cubic
from boxwood._internal.core.timing import by_turns, clock_for
from boxwood._internal.model.prunable import Layers, Named, linear_and_conv
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood.policies import Gradual, Policy, RigL

EVERY = 100
TRAININGS: dict[str, Policy | None] = {
    "dense": None,
    # The ramp is longer than any run, so that every hundredth step updates.
    "gradual": Gradual(schedule=Cubic(final=0.9, end=1_000_000), every=EVERY),
    "RigL": RigL(sparsity=0.9, until=1_000_000, every=EVERY),
}


class LanguageModel(nn.Module):
    """Two stacked LSTM layers over words, as in Zaremba's small model."""

    def __init__(self, words: int = 1000, hidden: int = 200) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.lstm = nn.LSTM(hidden, hidden, num_layers=2, batch_first=True)
        self.output = nn.Linear(hidden, words)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the next word at every place: [batch, words, steps]."""
        return self.output(self.lstm(self.embedding(tokens))[0]).transpose(1, 2)


def conv_net() -> nn.Module:
    """Four convolutions on small images."""
    widths = [3, 32, 64, 128, 128]
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(widths):
        layers += [nn.Conv2d(narrow, wide, 3, 2, 1), nn.BatchNorm2d(wide), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def measure(quick: bool) -> list[Row]:
    """Time runs of one hundred steps: each holds one update.

    Every round has new copies of the network: where in memory one lies is worth two per cent.
    """
    torch.manual_seed(0)
    tokens = torch.randint(1000, (20, 20))
    images = torch.randn(32, 3, 32, 32)
    lstm = Named(("embedding.weight", "lstm.weight*", "output.weight"))
    cases = {
        "LSTM 2x200, batch 20 x 20": (LanguageModel(), tokens, tokens.roll(-1, 1), lstm),
        "conv net, batch 32": (conv_net(), images, torch.randint(10, (32,)), linear_and_conv),
    }
    rows = []
    for name, (net, inputs, targets, layers) in cases.items():
        times = {word: list[float]() for word in TRAININGS}
        for _ in range(1 if quick else 10):
            runs = {
                word: hundred_steps(copy.deepcopy(net), inputs, targets, policy, layers)
                for word, policy in TRAININGS.items()
            }
            turns = by_turns(runs, turns=2, clock=clock_for(torch.get_num_threads()), warm_up=1)
            for word, found in turns.items():
                times[word] += found
        rows += [
            compare(f"{name}: {word}", times[word], times["dense"], "dense", unit="s per 100 steps")
            for word in TRAININGS
            if word != "dense"
        ]
    return rows


def hundred_steps(
    net: nn.Module, inputs: Tensor, targets: Tensor, policy: Policy | None, layers: Layers
) -> Callable[[], None]:
    """Train for one hundred steps, always on the same batch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    if policy is not None:
        SparseTraining(net, optimizer, policy, layers=layers)

    def run() -> None:
        for _ in range(EVERY):
            optimizer.zero_grad()
            cross_entropy(net(inputs), targets).backward()
            optimizer.step()

    return run


if __name__ == "__main__":
    main(measure, f"Training with new masks every {EVERY} steps (SGD with momentum)")
