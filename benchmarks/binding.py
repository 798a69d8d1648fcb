"""A training step under masks against the same step without any, and against two other ways."""

import copy
import itertools
import time
from collections.abc import Callable, Iterator

import torch
from measuring import Row, compare, main
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import custom_from_mask

from boxwood._internal.core.masks import Masks
from boxwood._internal.core.timing import Clock, by_turns
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood._internal.zoo.lenet import lenet_300_100

SPARSITY = 0.9


class Masked(nn.Module):
    """``weight * mask`` as a parametrisation."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.float())

    def forward(self, weight: Tensor) -> Tensor:
        """Multiply."""
        return weight * self.mask


def measure(quick: bool) -> list[Row]:
    """Run both nets, the large one on images that keep it busy and on ones that hardly do."""
    torch.manual_seed(0)
    small = lenet_300_100(), torch.randn(60, 1, 28, 28), torch.randint(10, (60,))
    size = 96 if quick else 224
    large = resnet(), torch.randn(32, 3, size, size), torch.randint(10, (32,))
    # The cost is two passes over the weights whatever the images are; here they count most.
    tiny = resnet(), torch.randn(32, 3, 32, 32), torch.randint(10, (32,))
    return [
        *ways(f"ResNet-18, {size} px, batch 32", *large, repeats=7, calls=1),
        *ways("ResNet-18, 32 px, batch 32", *tiny, repeats=9 if quick else 60, calls=2),
        *ways("LeNet-300-100, batch 60", *small, repeats=40 if quick else 300, calls=25),
    ]


def ways(
    net_name: str,
    net: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    repeats: int,
    calls: int,
    clock: Clock = time.perf_counter,
) -> list[Row]:
    """Time one net without masks, under a `MaskBinding`, and the two ways of PyTorch."""
    masks = find_masks(net, SPARSITY)
    apply_masks_(net, masks)
    nets = {way: copy.deepcopy(net) for way in ("dense", "ours", "torch prune", "parametrize")}
    optimizers = {"ours": sgd(nets["ours"])}
    MaskBinding(nets["ours"], optimizers["ours"], masks)
    for module, name, mask in owners(nets["torch prune"], masks):
        custom_from_mask(module, name, mask)
    for module, name, mask in owners(nets["parametrize"], masks):
        parametrize.register_parametrization(module, name, Masked(mask))
    steps = {
        way: step(net, optimizers.get(way) or sgd(net), inputs, targets)
        for way, net in nets.items()
    }
    times = {
        way: [1e3 * seconds for seconds in each]
        for way, each in by_turns(steps, turns=repeats, calls=calls, clock=clock, warm_up=1).items()
    }
    dense = times.pop("dense")
    return [
        compare(
            f"{net_name}: {'MaskBinding' if way == 'ours' else way}",
            each,
            dense,
            "no masks",
            unit="ms per step",
        )
        for way, each in times.items()
    ]


def owners(net: nn.Module, masks: Masks) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Find the module and the attribute of each dotted name."""
    for name, mask in masks.items():
        module, _, attribute = name.rpartition(".")
        yield net.get_submodule(module), attribute, mask


def sgd(net: nn.Module) -> torch.optim.SGD:
    """The optimizer of all ways; so low a rate that nothing overflows, however long it runs."""
    return torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)


def step(
    net: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor
) -> Callable[[], None]:
    """One step of training, always on the same batch."""

    def run() -> None:
        optimizer.zero_grad()
        cross_entropy(net(inputs), targets).backward()
        optimizer.step()

    return run


def resnet() -> nn.Module:
    """Torchvision's ResNet-18, or else plain convolutions of as many weights."""
    try:
        from torchvision.models import resnet18
    except ImportError:
        widths = [3, 64, 128, 256, 512, 512, 512, 512, 512]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            stride = 2 if wide > narrow else 1
            layers += [nn.Conv2d(narrow, wide, 3, stride, 1), nn.BatchNorm2d(wide), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    return resnet18(num_classes=10)


if __name__ == "__main__":
    main(measure, "Training steps under masks (sparsity 0.9, SGD with momentum)")
