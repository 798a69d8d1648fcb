"""Train, prune and retrain in a plain loop of your own: no runner, no recipe, no store."""

import torch
from torch import nn
from torch.nn import functional

import boxwood
from boxwood.data import digits
from boxwood.training import accuracy


def train(net: nn.Module, data: boxwood.data.Splits, epochs: int, lr: float, masks=None) -> None:
    """An ordinary loop; the one line that is Boxwood's holds the masks."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    held = boxwood.MaskBinding(net, optimizer, masks) if masks else None
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train)).split(60):
            inputs, targets = data.train.take(batch)
            optimizer.zero_grad()
            functional.cross_entropy(net(inputs), targets).backward()
            optimizer.step()
    if held:
        held.detach()


def main() -> float:
    """Return the accuracy of the pruned network."""
    torch.manual_seed(0)
    data = digits()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    train(net, data, epochs=15, lr=0.05)
    print(f"dense      {accuracy(net, data.test).fraction:.3f}")
    masks = boxwood.find_masks(net, 0.9)
    train(net, data, epochs=10, lr=0.01, masks=masks)
    pruned = accuracy(net, data.test).fraction
    print(f"10x fewer  {pruned:.3f}")
    return pruned


if __name__ == "__main__":
    main()
