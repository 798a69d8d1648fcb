"""The training loop against the barest PyTorch loop that does the same arithmetic.

Networks under masks are compared with a loop that multiplies gradients and weights by the masks.
"""

import time
from collections.abc import Callable, Mapping

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
from boxwood._internal.zoo.language_models import lstm_language_model
from boxwood._internal.zoo.lenet import lenet_5, lenet_300_100
from boxwood._internal.zoo.mobilenet import mobilenet_v1

SMOOTHING, DECAY, CLIP, L1 = 0.1, 5e-4, 1.0, 1e-4
WORDS, LENGTH = 1000, 20

Bare = Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], None]
"""A network, inputs, targets and masks, which a loop may leave aside, to an epoch of training."""


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
    """Train six networks for some steps, by turns; three of them at 80 % of zeros."""
    return [
        _compare("LeNet-300-100, SGD", lenet_300_100, (1, 28, 28), 60, 200, quick,
                 Training(epochs=1, batch=60, optimizer=SGD(lr=0.01, momentum=0.9)), bare_lenet),
        _compare("ResNet-8, SGD, flips and crops, label smoothing, decay groups",
                 lambda: small_resnet(channels=3), (3, 16, 16), 64, 12, quick, RESNET, bare_resnet),
        _compare("transformer, AdamW, cosine, clipping, EMA", Encoder, (16, 48), 32, 20, quick,
                 TRANSFORMER, bare_transformer),
        _compare("LeNet-5, SGD, L1, masks", lambda: _channels_last(lenet_5()), (1, 28, 28), 60, 40,
                 quick, LENET_5, bare_lenet_5, sparsity=0.8),
        _compare("MobileNet at 3/8 of the width, SGD, masks",
                 lambda: _channels_last(mobilenet_v1(width=0.375, channels=1, classes=10)),
                 (1, 28, 28), 64, 20, quick, MOBILENET, bare_mobilenet, sparsity=0.8),
        _compare("LSTM of 128 units, SGD, clipping, masks",
                 lambda: lstm_language_model(words=WORDS, hidden=128), (), 20, 30, quick,
                 LSTM, bare_lstm, sparsity=0.8),
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
LENET_5 = Training(
    epochs=1,
    batch=60,
    optimizer=SGD(lr=1e-3, momentum=0.9, weight_decay=DECAY),
    regularisation=Regularisation(l1=L1),
)
MOBILENET = Training(epochs=1, batch=64, optimizer=SGD(lr=0.01, momentum=0.9, weight_decay=DECAY))
LSTM = Training(
    epochs=1,
    batch=20,
    optimizer=SGD(lr=1.0),
    regularisation=Regularisation(max_gradient_norm=CLIP),
    stateful=True,
)


def bare_lenet(net: nn.Module, inputs: Tensor, targets: Tensor, _: Mapping[str, Tensor]) -> None:
    """An epoch of momentum and nothing else."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for indices in torch.randperm(len(inputs)).split(60):
        optimizer.zero_grad()
        outputs = net(inputs.index_select(0, indices))
        cross_entropy(outputs, targets.index_select(0, indices)).backward()
        optimizer.step()


def bare_resnet(net: nn.Module, inputs: Tensor, targets: Tensor, _: Mapping[str, Tensor]) -> None:
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


def bare_transformer(
    net: nn.Module, inputs: Tensor, targets: Tensor, _: Mapping[str, Tensor]
) -> None:
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


def bare_lenet_5(
    net: nn.Module, inputs: Tensor, targets: Tensor, masks: Mapping[str, Tensor]
) -> None:
    """An epoch of momentum and an L1 penalty, with gradients and weights times the masks."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, 0.9, weight_decay=DECAY)
    matrices, held = [p for p in net.parameters() if p.dim() > 1], _Held(net, masks)
    for indices in torch.randperm(len(inputs)).split(60):
        optimizer.zero_grad()
        outputs = net(inputs.index_select(0, indices))
        cross_entropy(outputs, targets.index_select(0, indices)).backward()
        with torch.no_grad():
            gradients = [p.grad for p in matrices if p.grad is not None]
            torch._foreach_add_(gradients, torch._foreach_sign(matrices), alpha=L1)
        held.mask_gradients()
        optimizer.step()
        held.mask_weights()


def bare_mobilenet(
    net: nn.Module, inputs: Tensor, targets: Tensor, masks: Mapping[str, Tensor]
) -> None:
    """An epoch of momentum, with gradients and weights times the masks."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=DECAY)
    held = _Held(net, masks)
    for indices in torch.randperm(len(inputs)).split(64):
        optimizer.zero_grad()
        outputs = net(inputs.index_select(0, indices))
        cross_entropy(outputs, targets.index_select(0, indices)).backward()
        held.mask_gradients()
        optimizer.step()
        held.mask_weights()


def bare_lstm(net: nn.Module, inputs: Tensor, targets: Tensor, masks: Mapping[str, Tensor]) -> None:
    """An epoch of clipped gradients on a running text, with scores as rows for the loss."""
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    state: dict[str, Tensor] = {}
    held = _Held(net, masks)
    for indices in torch.arange(len(inputs)).view(20, -1).unbind(1):
        optimizer.zero_grad()
        outputs, state = net.forward_with_state(inputs.index_select(0, indices), state)
        wanted = targets.index_select(0, indices).flatten()
        cross_entropy(outputs.transpose(1, 2).flatten(0, 1), wanted).backward()
        held.mask_gradients()
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        held.mask_weights()


class _Held:
    """Weights, and their masks as numbers laid out as they are."""

    def __init__(self, net: nn.Module, masks: Mapping[str, Tensor]) -> None:
        named = dict(net.named_parameters())
        self._weights = [named[name] for name in masks]
        self._masks = [torch.empty_like(named[name]).copy_(mask) for name, mask in masks.items()]

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Multiply."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        torch._foreach_mul_(gradients, self._masks)

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Multiply."""
        torch._foreach_mul_(self._weights, self._masks)


def _channels_last(net: nn.Module) -> nn.Module:
    return net.to(memory_format=torch.channels_last)


def _compare(
    name: str,
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    batch: int,
    steps: int,
    quick: bool,
    training: Training,
    bare: Bare,
    *,
    sparsity: float = 0.0,
) -> Row:
    generator = torch.Generator().manual_seed(0)
    if shape:
        inputs = torch.randn(steps * batch, *shape, generator=generator)
        targets = torch.randint(10, (len(inputs),), generator=generator)
    else:
        inputs, targets = torch.randint(
            WORDS, (2, steps * batch, LENGTH), generator=generator
        ).unbind()
    examples = InMemory(inputs, targets)
    torch.manual_seed(0)
    ours, theirs = make(), make()
    masks = {
        name: torch.rand(weight.shape, generator=generator) >= sparsity
        for name, weight in ours.named_parameters()
        if sparsity and weight.dim() > 1
    }

    def bare_loop() -> None:
        theirs.train()
        bare(theirs, inputs, targets, masks)

    loops = {
        "ours": lambda: train_(ours, examples, training, seed=0, masks=masks),
        "bare": bare_loop,
    }
    # Of one thread what it computes counts, and not what it waits for on a busy machine.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times = by_turns(loops, turns=9 if quick else 101, warm_up=1, clock=clock)
    rates = {way: [steps / seconds for seconds in each] for way, each in times.items()}
    return compare(name, rates["ours"], rates["bare"], "bare PyTorch", unit="steps/s")


if __name__ == "__main__":
    main(measure, "Training steps per second, one thread unless --threads says otherwise")
