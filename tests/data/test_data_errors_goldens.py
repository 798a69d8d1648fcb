"""What the data layer refuses, in its own words, and image folders made by hand."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from boxwood._internal.data import downloads, vision
from boxwood._internal.data.splits import InMemory, Splits, from_tensors, hold_out
from boxwood._internal.data.vision import cifar10, imagenet_folder
from boxwood.errors import BoxwoodError, MissingDependency

X = torch.arange(24.0).reshape(6, 4)
Y = torch.tensor([0, 1, 0, 1, 0, 1])


def split(
    train: tuple[Tensor, Tensor] = (X, Y),
    test: tuple[Tensor, Tensor] = (X, Y),
    validation: int = 2,
) -> Splits:
    return from_tensors("mine", train, test, validation=validation)


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (
            X.double(),
            Y,
            r"float32 \(or int64\) inputs and int64 targets, got torch.float64 and torch.int64",
        ),
        (X, Y.int(), r"got torch.float32 and torch.int32; convert them with .float\(\)"),
        (X, Y[:5], r"as many inputs as targets .*\(6, 4\) .*\(5,\); give tensors that agree"),
        (X[:0], Y[:0], r"at least one, got inputs of shape \(0, 4\)"),
        (torch.tensor(1.0), torch.tensor(1), r"at least one, got inputs of shape \(\)"),
        (X / 0, Y, r"finite inputs in the examples, got 24 of 24 values .*remove or repair"),
    ],
)
def test_in_memory_refuses(inputs: Tensor, targets: Tensor, words: str) -> None:
    """Tensors of another dtype, length or content than promised are refused."""
    with pytest.raises(BoxwoodError, match=words):
        InMemory(inputs, targets)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [0, 7, 23])
def test_one_value_that_is_not_finite(value: float, where: int) -> None:
    """One NaN or infinity anywhere in either part is found and counted."""
    bad = X.clone()
    bad.view(-1)[where] = value
    with pytest.raises(BoxwoodError, match="training examples of mine, got 1 of 24 values"):
        split(train=(bad, Y))
    with pytest.raises(BoxwoodError, match="test examples of mine, got 1 of 24 values"):
        split(test=(bad, Y))


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ((X, Y[:3]), r"as many inputs as targets in the training examples of mine"),
        ((X.long(), Y), r"floating-point or uint8 inputs .*got torch.int64; convert"),
        ((X.bool(), Y), r"floating-point or uint8 inputs .*got torch.bool"),
        ((X, Y.float()), r"one integer target per example .*torch.float32 targets of shape \(6,\)"),
        ((X, Y.bool()), r"one integer target per example .*torch.bool"),
        ((X, Y[:, None]), r"one integer target .*of shape \(6, 1\); give class numbers"),
        ((X * 1e30 * 1e30, Y), r"finite inputs"),
        ((X.double() * 1e300, Y), r"finite inputs .*got 23 of 24 .*beyond float32"),
    ],
)
def test_training_tensors_refused(train: tuple[Tensor, Tensor], words: str) -> None:
    """Tensors that are no inputs and class numbers are refused with the part's name."""
    with pytest.raises(BoxwoodError, match=words):
        split(train=train, test=train)


def test_parts_that_differ() -> None:
    """Training and test inputs of different shapes or dtypes are refused with both."""
    with pytest.raises(BoxwoodError, match=r"one dtype and shape, got torch.float32 \(4,\) .*\(3,"):
        split(test=(X[:, :3], Y))
    with pytest.raises(BoxwoodError, match=r"torch.float32 \(4,\) and torch.uint8 \(4,\)"):
        split(test=(X.to(torch.uint8), Y))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (Y + 1, "2 distinct values from 1 to 2"),
        (Y * 2, "2 distinct values from 0 to 2"),
        (Y - 1, "2 distinct values from -1 to 0"),
    ],
)
def test_targets_that_are_not_class_numbers(targets: Tensor, words: str) -> None:
    """Targets that skip a number or do not start at 0 are refused, with a way to renumber."""
    with pytest.raises(BoxwoodError, match=f"0 to classes - 1.*{words}; renumber"):
        split(train=(X, targets), test=(X, targets))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
def test_inputs_that_do_not_vary(value: float) -> None:
    """A constant channel has no standard deviation to divide by; the message names it."""
    images = X.reshape(6, 2, 2, 1).clone()
    images[:, 1] = value
    with pytest.raises(BoxwoodError, match=r"inputs of mine that vary.*in channel 1; drop the"):
        split(train=(images, Y), test=(images, Y))


def test_variance_beyond_float32() -> None:
    """Inputs so large that their variance overflows are refused, not flattened to zero."""
    huge = X * 1e37
    with pytest.raises(BoxwoodError, match=r"a variance that float32 can hold, .* rescale"):
        split(train=(huge, Y), test=(huge, Y))


@pytest.mark.parametrize("held", [-1, 0, 6, 7])
def test_parts_that_would_be_empty(held: int) -> None:
    """Holding out nothing or everything is refused with the range that works."""
    words = rf"between 1 and 5 examples held out for {{}}, got {held} of 6; change {{}}="
    with pytest.raises(BoxwoodError, match=words.replace("{}", "validation")):
        split(validation=held)
    with pytest.raises(BoxwoodError, match=words.replace("{}", "test")):
        hold_out(6, held, seed=0, purpose="test")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Leave no place where this machine may have the real data."""
    for name in ("CIFAR10_DIR", "IMAGENET_DIR", "BOXWOOD_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "load",
    [
        cifar10,
        imagenet_folder,
        downloads.download_mnist,
        downloads.download_fashion_mnist,
        downloads.download_cifar10,
    ],
)
def test_without_torchvision(load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchvision the message names the extra to install."""
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(MissingDependency, match=r"torchvision .*pip install 'boxwood\[vision\]'"):
        load()


@pytest.mark.parametrize(
    ("download", "name"),
    [
        (downloads.download_mnist, "MNIST"),
        (downloads.download_fashion_mnist, "FashionMNIST"),
        (downloads.download_cifar10, "CIFAR10"),
    ],
)
def test_downloads(download, name: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each download asks torchvision for its set, in the data folder, and reports a failure."""
    asked = []

    def fetch(root: Path, *, download: bool) -> None:
        asked.append((str(root), download))
        if len(asked) > 1:
            raise RuntimeError("no network")

    stand_in = SimpleNamespace(**{name: fetch})
    monkeypatch.setattr(downloads, "torchvision_datasets", lambda: stand_in)
    download()
    assert asked == [(".data", True)]
    with pytest.raises(BoxwoodError, match=rf"fetch {name} into \.data, got .*no network; try"):
        download()


def test_cifar10_not_found(nowhere: Path) -> None:
    """The message lists the places looked at and how to get the data."""
    pytest.importorskip("torchvision")
    with pytest.raises(
        BoxwoodError, match=r"cifar-10-batches-py .*: given, \.data; call .*download_cifar10\(\)"
    ):
        cifar10("given")


def test_cifar10_damaged(nowhere: Path) -> None:
    """Files that torchvision does not recognise are an error that names their folder."""
    pytest.importorskip("torchvision")
    folder = nowhere / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"damaged")
    with pytest.raises(BoxwoodError, match=r"intact CIFAR-10 files in .*batches-py, got: .*delete"):
        cifar10(str(nowhere))


def test_cifar10_channels_come_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Height × width × channels becomes channels first, each channel standardised on its own."""
    (nowhere / ".data" / "cifar-10-batches-py").mkdir(parents=True)
    pixels = np.arange(5_008 * 3 * 2 * 3, dtype=np.int64).reshape(5_008, 3, 2, 3)
    pixels = ((pixels * 7919) % 251).astype(np.uint8)
    stand_in = SimpleNamespace(
        CIFAR10=lambda root, *, train, download: SimpleNamespace(
            data=pixels if train else pixels[:4], targets=[0, 1] * (2_504 if train else 2)
        )
    )
    monkeypatch.setattr(vision, "torchvision_datasets", lambda: stand_in)
    data = cifar10()
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 5_000, 4)
    assert data.shape == (3, 3, 2)
    kept, _ = hold_out(5_008, 5_000, seed=0)
    scaled = torch.from_numpy(pixels).double().permute(0, 3, 1, 2) / 255
    for channel in range(3):
        part = scaled[kept, channel]
        expected = (scaled[:4, channel] - part.mean()) / part.std(correction=0)
        inputs, _ = data.test.take(torch.arange(4))
        torch.testing.assert_close(inputs[:, channel].double(), expected, rtol=1e-5, atol=1e-6)


def write_images(root: Path) -> None:
    """Write four training images and one test image per class, each of one plain colour."""
    from PIL import Image

    for part, count in (("train", 4), ("val", 1)):
        for kind, red in (("ant", 100), ("bee", 200)):
            folder = root / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (12 + number, 9), (red, number, 0))
                image.save(folder / f"{number}.png")


def test_image_folder(nowhere: Path) -> None:
    """Plain colours come out as those colours, standardised by hand, with their class."""
    pytest.importorskip("torchvision")
    write_images(nowhere / "tiny")
    data = imagenet_folder(str(nowhere / "tiny"), size=7, validation=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (5, 3, 2)
    assert (data.name, data.shape, data.classes) == ("tiny", (3, 7, 7), 2)
    inputs, targets = data.test.take(torch.tensor([1, 0, 1]))
    assert targets.tolist() == [1, 0, 1]
    for image, red in zip(inputs, (200, 100, 200), strict=True):
        colour = torch.tensor(
            [(red / 255 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0 - 0.406) / 0.225]
        )
        torch.testing.assert_close(image, colour[:, None, None].expand(3, 7, 7))
    seen = set()
    for part in (data.train, data.validation):
        inputs, targets = part.take(torch.arange(len(part)))
        number = (inputs[:, 1, 0, 0] * 0.224 + 0.456) * 255
        seen |= set(zip(targets.tolist(), number.round().int().tolist(), strict=True))
    assert seen == {(kind, number) for kind in (0, 1) for number in range(4)}
    empty, none = data.test.take(torch.tensor([], dtype=torch.int64))
    assert (empty.shape, none.shape) == ((0, 3, 7, 7), (0,))


def test_image_folder_matches_torchvision(nowhere: Path) -> None:
    """An uneven image becomes what torchvision's own chain of transforms makes of it."""
    pytest.importorskip("torchvision")
    from PIL import Image
    from torchvision import transforms

    write_images(nowhere / "tiny")
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    path = nowhere / "tiny" / "val" / "ant" / "0.png"
    Image.fromarray(noise).save(path)
    inputs, _ = imagenet_folder(str(nowhere / "tiny"), validation=3).test.take(torch.tensor([0]))
    chain = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    with Image.open(path) as image:
        assert torch.equal(inputs[0], chain(image))


def test_image_folder_identity(nowhere: Path) -> None:
    """Where the folder lies does not change its identity; a file's name or size does."""
    pytest.importorskip("torchvision")
    for name in ("one", "two"):
        write_images(nowhere / name)
    one = imagenet_folder(str(nowhere / "one"), size=7, validation=3).identity
    assert imagenet_folder(str(nowhere / "two"), size=7, validation=3).identity == one
    assert imagenet_folder(str(nowhere / "two"), size=8, validation=3).identity != one
    assert imagenet_folder(str(nowhere / "two"), size=7, validation=2).identity != one
    with (nowhere / "two" / "val" / "ant" / "0.png").open("ab") as file:
        file.write(b"\0")
    assert imagenet_folder(str(nowhere / "two"), size=7, validation=3).identity != one


def test_image_folder_not_found(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message lists the places looked at and the layout that is wanted."""
    pytest.importorskip("torchvision")
    monkeypatch.setenv("IMAGENET_DIR", "set")
    (nowhere / "set" / "train").mkdir(parents=True)
    with pytest.raises(
        BoxwoodError, match=r"train and val .*: given, set, \.data/imagenet; unpack .*IMAGENET_DIR"
    ):
        imagenet_folder("given")


def test_image_folder_refuses(nowhere: Path) -> None:
    """No images, classes that differ, a damaged image and an impossible size are each named."""
    pytest.importorskip("torchvision")
    root = nowhere / "tiny"
    write_images(root)
    with pytest.raises(BoxwoodError, match=r"Expected size >= 1 pixel, got 0"):
        imagenet_folder(str(root), size=0)
    with pytest.raises(BoxwoodError, match=r"between 1 and 7 .*validation, got 50000 of 8"):
        imagenet_folder(str(root))
    (root / "val" / "bee" / "0.png").write_bytes(b"no image")
    data = imagenet_folder(str(root), size=7, validation=3)
    with pytest.raises(BoxwoodError, match=r"can be read at .*bee.0\.png, got Unidentified"):
        data.test.take(torch.tensor([1]))
    (root / "val" / "bee").rename(root / "val" / "wasp")
    with pytest.raises(BoxwoodError, match=r"same classes in train and val .*2 .*such as 'bee'"):
        imagenet_folder(str(root), validation=3)
    (root / "val" / "wasp" / "0.png").unlink()
    with pytest.raises(BoxwoodError, match=r"images per class in .*val, got: .*wasp.*; arrange"):
        imagenet_folder(str(root), validation=3)
