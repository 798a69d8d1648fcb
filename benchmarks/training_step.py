"""The training loop against the barest PyTorch loop that does the same arithmetic."""

import torch
from measuring import Row, compare, main
from torch.nn.functional import cross_entropy

from boxwood._internal.core.timing import by_turns
from boxwood._internal.data.splits import InMemory
from boxwood._internal.train.loop import train_
from boxwood._internal.train.optimizers import SGD
from boxwood._internal.train.settings import Training
from boxwood._internal.zoo.lenet import lenet_300_100

BATCH = 60
RATE = 0.01


def measure(quick: bool) -> list[Row]:
    """Train LeNet-300-100 for epochs of 200 steps, by turns."""
    steps = 200
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(steps * BATCH, 1, 28, 28, generator=generator)
    targets = torch.randint(10, (len(inputs),), generator=generator)
    examples = InMemory(inputs, targets)
    training = Training(epochs=1, batch=BATCH, optimizer=SGD(lr=RATE, momentum=0.9))
    torch.manual_seed(0)
    ours, theirs = lenet_300_100(), lenet_300_100()

    def bare() -> None:
        optimizer = torch.optim.SGD(theirs.parameters(), lr=RATE, momentum=0.9)
        theirs.train()
        for indices in torch.randperm(len(inputs)).split(BATCH):
            optimizer.zero_grad()
            outputs = theirs(inputs.index_select(0, indices))
            cross_entropy(outputs, targets.index_select(0, indices)).backward()
            optimizer.step()

    loops = {"ours": lambda: train_(ours, examples, training, seed=0), "bare": bare}
    times = by_turns(loops, turns=15 if quick else 101, warm_up=1)
    rates = {way: [steps / seconds for seconds in each] for way, each in times.items()}
    return [compare("train_", rates["ours"], rates["bare"], "bare PyTorch", unit="steps/s")]


if __name__ == "__main__":
    main(measure, f"Training LeNet-300-100 at batch {BATCH} (SGD with momentum, one thread)")
