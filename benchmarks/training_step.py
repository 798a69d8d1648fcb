"""The training loop against the barest PyTorch loop that does the same arithmetic."""

from collections.abc import Callable

import torch
from measuring import Row, compare, main
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from boxwood._internal.core.call import Call
from boxwood._internal.core.timing import by_turns
from boxwood._internal.data.augmentation import FlipAndCrop
from boxwood._internal.data.splits import InMemory
from boxwood._internal.model.prunable import linear_and_conv
from boxwood._internal.train.averaging import EMA
from boxwood._internal.train.loop import train_
from boxwood._internal.train.losses import cross_entropy as loss
from boxwood._internal.train.lr_schedules import CosineLR
from boxwood._internal.train.optimizers import SGD, AdamW
from boxwood._internal.train.settings import Regularisation, Training
from boxwood._internal.zoo.cifar_nets import small_resnet
from boxwood._internal.zoo.lenet import lenet_300_100

SMOOTHING, DECAY, CLIP = 0.1, 5e-4, 1.0


class Encoder(nn.Module):
    """A small transformer over 16 patches of 48 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(48, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.leave = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, 16, 48] to [batch, 10]."""
        hidden: Tensor = self.leave(self.layers(self.enter(x)).mean(1))
        return hidden


def measure(quick: bool) -> list[Row]:
    """Train three networks for some steps, by turns."""
    return [
        _compare("LeNet-300-100, SGD", lenet_300_100, (1, 28, 28), 60, 200, quick,
                 Training(epochs=1, batch=60, optimizer=SGD(lr=0.01, momentum=0.9)), bare_lenet),
        _compare("ResNet-8, SGD, flips and crops, label smoothing, decay groups",
                 lambda: small_resnet(channels=3), (3, 16, 16), 64, 12, quick, RESNET, bare_resnet),
        _compare("transformer, AdamW, cosine, clipping, EMA", Encoder, (16, 48), 32, 20, quick,
                 TRANSFORMER, bare_transformer),
    ]  # fmt: skip


RESNET = Training(
    epochs=1,
    batch=64,
    optimizer=SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=DECAY),
    regularisation=Regularisation(decay_layers=linear_and_conv),
    loss=Call.of(loss, label_smoothing=SMOOTHING),
    augment=FlipAndCrop(pad=2),
)
TRANSFORMER = Training(
    epochs=1,
    batch=32,
    optimizer=AdamW(lr=1e-3, weight_decay=0.05, lr_schedule=CosineLR()),
    regularisation=Regularisation(max_gradient_norm=CLIP),
    averaging=EMA(decay=0.99),
)


def bare_lenet(net: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """An epoch of momentum and nothing else."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for indices in torch.randperm(len(inputs)).split(60):
        optimizer.zero_grad()
        outputs = net(inputs.index_select(0, indices))
        cross_entropy(outputs, targets.index_select(0, indices)).backward()
        optimizer.step()


def bare_resnet(net: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """An epoch with two groups of parameters, changed images and smoothed labels."""
    matrices = [p for p in net.parameters() if p.dim() > 1]
    rest = [p for p in net.parameters() if p.dim() == 1]
    groups = [{"params": matrices}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, 0.01, 0.9, nesterov=True, weight_decay=DECAY)
    change, chance = FlipAndCrop(pad=2), torch.Generator()
    for indices in torch.randperm(len(inputs)).split(64):
        optimizer.zero_grad()
        outputs = net(change(inputs.index_select(0, indices), chance))
        wanted = targets.index_select(0, indices)
        cross_entropy(outputs, wanted, label_smoothing=SMOOTHING).backward()
        optimizer.step()


def bare_transformer(net: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """An epoch of AdamW with clipped gradients and torch's own moving average."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    batches = torch.randperm(len(inputs)).split(32)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    for indices in batches:
        optimizer.zero_grad()
        outputs = net(inputs.index_select(0, indices))
        cross_entropy(outputs, targets.index_select(0, indices)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        falling.step()
        average.update_parameters(net)


def _compare(
    name: str,
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    batch: int,
    steps: int,
    quick: bool,
    training: Training,
    bare: Callable[[nn.Module, Tensor, Tensor], None],
) -> Row:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(steps * batch, *shape, generator=generator)
    targets = torch.randint(10, (len(inputs),), generator=generator)
    examples = InMemory(inputs, targets)
    torch.manual_seed(0)
    ours, theirs = make(), make()

    def bare_loop() -> None:
        theirs.train()
        bare(theirs, inputs, targets)

    loops = {"ours": lambda: train_(ours, examples, training, seed=0), "bare": bare_loop}
    times = by_turns(loops, turns=15 if quick else 101, warm_up=1)
    rates = {way: [steps / seconds for seconds in each] for way, each in times.items()}
    return compare(name, rates["ours"], rates["bare"], "bare PyTorch", unit="steps/s")


if __name__ == "__main__":
    main(measure, "Training steps per second, one thread unless --threads says otherwise")
