"""Real tasks that `boxwood compress` is tried on: each a network that is trained here, and its data.

    boxwood compress experiments/compress_tasks.py:resnet8 --max-drop 0.5 --for latency --out small

`resnet8` reads Fashion-MNIST of 14 × 14 pixels, `lenet5` MNIST, `tagger` the parts of speech of the
Brown corpus, and `segmentation` scenes of garments on photographs. `make data` fetches the data. A
network is trained once, and kept in `runs/compress_dense`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from boxwood.compression import Task
from boxwood.data import Splits, fashion_mnist, mnist
from boxwood.networks import lenet_5, small_resnet
from boxwood_studies.brown import brown_parts_of_speech
from boxwood_studies.halved_images import halved
from boxwood_studies.scenes import scenes
from boxwood_studies.segmentation_nets import encoder_decoder

KEPT = Path("runs/compress_dense")
LONGEST = 40
"""Words of a sentence; longer ones are cut."""


def resnet8(images: int = 20_000, epochs: int = 15) -> Task:
    """ResNet-8 on Fashion-MNIST of 14 × 14 pixels."""
    train, validate, test = _loaders(halved(fashion_mnist), images)
    net = _trained("resnet8", small_resnet(), train, epochs, lr=3e-3)
    return Task(model=net, train=train, validate=validate, test=test)


def lenet5(images: int = 20_000, epochs: int = 12) -> Task:
    """LeNet-5 on MNIST."""
    train, validate, test = _loaders(mnist(), images)
    net = _trained("lenet5", lenet_5(), train, epochs, lr=1e-3)
    return Task(model=net, train=train, validate=validate, test=test)


def segmentation(epochs: int = 15) -> Task:
    """An encoder and decoder of 28,523 parameters on scenes of 32 × 32 pixels."""
    train, validate, test = _loaders(scenes(), 4000, batch=32)
    net = _trained("segmentation", encoder_decoder(), train, epochs, lr=2e-3)
    return Task(model=net, train=train, validate=validate, test=test)


def tagger(sentences: int = 20_000, epochs: int = 6) -> Task:
    """An LSTM in two directions that says the part of speech of every word."""
    parts = brown_parts_of_speech()
    words = Counter(word for sentence in parts[0][:sentences] for word, _ in sentence)
    number = {word: place for place, (word, _) in enumerate(words.most_common(10_000), 2)}
    tags = sorted({tag for sentence in parts[0] for _, tag in sentence})
    loaders = [
        DataLoader(_encoded(part[:sentences], number, tags), batch_size=32, shuffle=not place)
        for place, part in enumerate(parts)
    ]
    net = _trained("tagger", Tagger(len(number) + 2, len(tags)), loaders[0], epochs, lr=2e-3)
    return Task(model=net, train=loaders[0], validate=loaders[1], test=loaders[2])


class Tagger(nn.Module):
    """Words to the logits of their parts of speech, [N, words, tags].

    Args:
        words: of the vocabulary.
        tags: to tell apart.
    """

    def __init__(self, words: int, tags: int, width: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden, tags)

    def forward(self, words: Tensor) -> Tensor:
        """Tag every word."""
        states, _ = self.lstm(self.embedding(words))
        return self.out(states)


def _encoded(
    sentences: Sequence[Sequence[tuple[str, str]]], number: dict[str, int], tags: Sequence[str]
) -> TensorDataset:
    """Write sentences as numbers: 0 pads, 1 is an unknown word; padded words have no tag."""
    words = torch.zeros(len(sentences), LONGEST, dtype=torch.long)
    wanted = torch.full((len(sentences), LONGEST), -100)
    place = {tag: at for at, tag in enumerate(tags)}
    for row, sentence in enumerate(sentences):
        for column, (word, tag) in enumerate(sentence[:LONGEST]):
            words[row, column] = number.get(word, 1)
            wanted[row, column] = place.get(tag, -100)
    return TensorDataset(words, wanted)


def _loaders(data: Splits, images: int, batch: int = 64) -> list[DataLoader]:
    found = []
    for place, part in enumerate((data.train, data.validation, data.test)):
        count = min(images, len(part)) if place == 0 else len(part)
        dataset = TensorDataset(*part.take(torch.arange(count)))
        size = batch if place == 0 else 250
        found.append(DataLoader(dataset, batch_size=size, shuffle=place == 0))
    return found


def _trained(name: str, net: nn.Module, train: DataLoader, epochs: int, lr: float) -> nn.Module:
    """Train with Adam and one cycle of its rate, or read what was trained before."""
    path = KEPT / f"{name}_{epochs}.safetensors"
    if path.exists():
        net.load_state_dict(load_file(path))
        return net.eval()
    torch.manual_seed(0)
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * len(train))
    loss_of: Callable[[Tensor, Tensor], Tensor] = nn.CrossEntropyLoss()
    net.train()
    for _ in range(epochs):
        for inputs, targets in train:
            logits = net(inputs)
            if name == "tagger":
                logits = logits.transpose(1, 2)
            optimizer.zero_grad()
            loss_of(logits, targets).backward()
            optimizer.step()
            schedule.step()
    KEPT.mkdir(parents=True, exist_ok=True)
    save_file({key: each.contiguous() for key, each in net.state_dict().items()}, path)
    return net.eval()
