"""IDX files written by hand, whole and damaged, and the places where they are looked for."""

import gzip
import struct
from pathlib import Path

import pytest
import torch

from boxwood._internal.data import idx
from boxwood._internal.data.idx import fashion_mnist, mnist, read_idx
from boxwood.errors import BoxwoodError

TWO_BY_THREE = bytes([0, 0, 0x08, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255])
STEMS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_bytes_by_hand(tmp_path: Path) -> None:
    """A header of two dimensions and six bytes is a 2 × 3 tensor of those bytes."""
    expected = torch.tensor([[1, 2, 3], [4, 5, 255]], dtype=torch.uint8)
    assert torch.equal(read_idx(write(tmp_path / "plain", TWO_BY_THREE)), expected)
    zipped = write(tmp_path / "zipped", gzip.compress(TWO_BY_THREE))
    assert torch.equal(read_idx(str(zipped)), expected)


@pytest.mark.parametrize(
    ("code", "form", "dtype"),
    [
        (0x08, "B", torch.uint8),
        (0x09, "b", torch.int8),
        (0x0B, "h", torch.int16),
        (0x0C, "i", torch.int32),
        (0x0D, "f", torch.float32),
        (0x0E, "d", torch.float64),
    ],
)
def test_every_type_is_big_endian(tmp_path: Path, code: int, form: str, dtype: torch.dtype) -> None:
    """Each of the format's six types is read with its width, sign and byte order."""
    values = [0, 1, 100] if form == "B" else [0, 1, -100]
    header = bytes([0, 0, code, 1]) + struct.pack(">I", 3)
    tensor = read_idx(write(tmp_path / "typed", header + struct.pack(f">3{form}", *values)))
    assert tensor.dtype == dtype
    assert tensor.tolist() == values


def test_result_is_writable_and_own(tmp_path: Path) -> None:
    """What is read may be written to, and leaves the next reading as it was."""
    path = write(tmp_path / "plain", TWO_BY_THREE)
    read_idx(path).zero_()
    assert int(read_idx(path).sum()) == 270


@pytest.mark.parametrize("length", range(len(TWO_BY_THREE)))
def test_cut_off_anywhere(tmp_path: Path, length: int) -> None:
    """A file that ends at any byte but its last is refused by name, plain or gzipped."""
    for name, content in (
        ("plain", TWO_BY_THREE[:length]),
        ("zipped", gzip.compress(TWO_BY_THREE[:length])),
    ):
        path = write(tmp_path / name, content)
        with pytest.raises(BoxwoodError, match=r"(bytes in|IDX file at) .*fetch .*again") as caught:
            read_idx(path)
        assert str(path) in str(caught.value)


def test_longer_than_it_says(tmp_path: Path) -> None:
    """Bytes after the last value are refused, with both lengths."""
    path = write(tmp_path / "long", TWO_BY_THREE + b"\0")
    with pytest.raises(BoxwoodError, match=r"Expected 18 bytes in .* \[2, 3\], got 19"):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"\x89PNG and more", "89 50 4e 47"),
        (b"\0\1" + TWO_BY_THREE[2:], "00 01 08 02"),
        (b"\0\0\x0a" + TWO_BY_THREE[3:], "00 00 0a 02"),
        (b"", r"\(none\)"),
    ],
)
def test_wrong_magic(tmp_path: Path, content: bytes, shown: str) -> None:
    """A file that starts otherwise is no IDX file; the message shows how it starts."""
    path = write(tmp_path / "other", content)
    with pytest.raises(BoxwoodError, match=f"Expected an IDX file at .*other.* bytes {shown};"):
        read_idx(path)


def test_damaged_gzip(tmp_path: Path) -> None:
    """A gzip stream that is cut off, altered inside or no gzip after all is refused by name."""
    whole = gzip.compress(TWO_BY_THREE)
    altered = bytearray(whole)
    altered[-6] ^= 0xFF
    for content in (whole[:-9], bytes(altered), b"\x1f\x8bnot gzip at all", whole[:10] + b"\xff"):
        path = write(tmp_path / "bad.gz", content)
        with pytest.raises(BoxwoodError, match=r"readable IDX file at .*bad\.gz, got .*delete it"):
            read_idx(path)


def test_no_file(tmp_path: Path) -> None:
    """A path without a file is refused like a damaged one."""
    with pytest.raises(BoxwoodError, match=r"readable IDX file at .*nowhere, got FileNotFound"):
        read_idx(tmp_path / "nowhere")


def write_set(folder: Path, first: int, *, zipped: bool = False) -> None:
    """Write a data set of 5,004 + 3 images of 1 × 2 pixels; the first test pixel is ``first``."""
    for stem, count in zip(STEMS, (5004, 5004, 3, 3), strict=True):
        images = "images" in stem
        shape = (count, 1, 2) if images else (count,)
        header = bytes([0, 0, 0x08, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        values = bytearray(i % 2 for i in range(count * (2 if images else 1)))
        if stem == "t10k-images-idx3":
            values[0] = first
        content = header + bytes(values)
        name = f"{stem}-ubyte.gz" if zipped else f"{stem}-ubyte"
        write(folder / name, gzip.compress(content) if zipped else content)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Leave no place where this machine may have the real data."""
    for name in ("MNIST_DIR", "FASHION_MNIST_DIR", "BOXWOOD_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(idx, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("load", "variable", "below"),
    [
        (mnist, "MNIST_DIR", ("mnist", "MNIST/raw")),
        (fashion_mnist, "FASHION_MNIST_DIR", ("fashion-mnist", "FashionMNIST/raw")),
    ],
)
def test_places_in_order(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, load, variable: str, below: tuple[str, str]
) -> None:
    """Each place is found, and the more explicit one wins; half a data set does not count."""
    places = [nowhere / ".data" / below[1], nowhere / ".data" / below[0], nowhere / "variable"]
    if load is fashion_mnist:
        places.insert(0, nowhere / "debian")
    monkeypatch.setenv(variable, str(nowhere / "variable"))
    root = nowhere / "root"
    write(root / "train-images-idx3-ubyte", b"the other three are missing")
    found = []
    for number, place in enumerate(places):
        write_set(place, 10 * (number + 1), zipped=number % 2 == 0)
        data = load(str(root))
        found.append(data.identity)
        assert (len(data.train), len(data.validation), len(data.test)) == (4, 5000, 3)
        assert (data.shape, data.classes) == ((1, 1, 2), 2)
    write_set(root, 99)
    found.append(load(str(root)).identity)
    assert len(set(found)) == len(places) + 1


def test_data_home_from_the_environment(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BOXWOOD_DATA moves the folder that holds the data sets."""
    monkeypatch.setenv("BOXWOOD_DATA", str(nowhere / "elsewhere"))
    write_set(nowhere / "elsewhere" / "mnist", 7)
    assert mnist().name == "mnist"


def test_mnist_not_found(nowhere: Path) -> None:
    """The message lists every place looked at, in order, and the three ways out."""
    with pytest.raises(
        BoxwoodError,
        match=r"four IDX files of mnist .*: given, \.data/mnist, \.data/MNIST/raw; "
        r"run `make data`, call .*download_mnist\(\) .*or set MNIST_DIR",
    ):
        mnist("given")


def test_fashion_mnist_not_found(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fashion-MNIST is looked for in Debian's place too, and in its variable's folder."""
    monkeypatch.setenv("FASHION_MNIST_DIR", "set")
    with pytest.raises(
        BoxwoodError,
        match=r"of fashion-mnist .*: set, \.data/fashion-mnist, \.data/FashionMNIST/raw, .*debian; "
        r"run `make data`, call .*download_fashion_mnist\(\) .*or set FASHION_MNIST_DIR",
    ):
        fashion_mnist()


def test_damaged_data_set_is_not_passed_over(nowhere: Path) -> None:
    """A damaged file in the first place is an error, not a reason to look in the next."""
    write_set(nowhere / ".data" / "MNIST" / "raw", 1)
    write_set(nowhere / ".data" / "mnist", 1)
    write(nowhere / ".data" / "mnist" / "t10k-labels-idx1-ubyte", TWO_BY_THREE[:-1])
    with pytest.raises(BoxwoodError, match=r"\.data/mnist/t10k-labels-idx1-ubyte .*cut off"):
        mnist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "per_class"),
    [
        (mnist, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
        (fashion_mnist, [1000] * 10),
    ],
)
def test_published_counts(load, per_class: list[int]) -> None:
    """The fetched sets have the published sizes and the published counts per class of the test."""
    data = load()
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert data.shape == (1, 28, 28)
    _, targets = data.test.take(torch.arange(10_000))
    assert torch.bincount(targets).tolist() == per_class
