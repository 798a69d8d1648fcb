"""MNIST and Fashion-MNIST from their IDX files."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from boxwood._internal.data.data_paths import find_folder, folders_to_search
from boxwood._internal.data.splits import Splits, from_tensors
from boxwood.errors import InvalidInput

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

_STEMS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_VALIDATION = 5_000
_GZIP = b"\x1f\x8b"
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> Tensor:
    """Read one IDX file, gzipped or not, whatever its name.

    The format: two zero bytes, a type byte, the number of dimensions, each dimension as a
    big-endian 32-bit integer, then the big-endian values.

    Args:
        path: the file.

    Returns:
        A tensor of the file's shape and type: uint8, int8, int16, int32, float32 or float64.

    Raises:
        InvalidInput: the file cannot be read, is no IDX file, or is not as long as its
            dimensions say.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "labels")
        ...     _ = file.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
        ...     read_idx(file)
        tensor([7, 8, 9], dtype=torch.uint8)

    Source: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits",
    1998, section "File formats".
    """
    try:
        content = Path(path).read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(
            f"Expected a readable IDX file at {path}, got {type(error).__name__}: {error}; "
            f"delete it and fetch it again."
        ) from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _DTYPES:
        raise InvalidInput(
            f"Expected an IDX file at {path}, which starts with two zero bytes and a known type, "
            f"got the bytes {content[:4].hex(' ') or '(none)'}; fetch the file again."
        )
    dtype, start = np.dtype(_DTYPES[content[2]]), 4 + 4 * content[3]
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise InvalidInput(
            f"Expected {expected} bytes in {path} from its dimensions {shape}, got "
            f"{len(content)}; the file is cut off or damaged: fetch it again."
        )
    values = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))


def mnist(root: str | None = None) -> Splits:
    """Load MNIST: 55,000 training, 5,000 validation and 10,000 test digits of shape (1, 28, 28).

    The four IDX files, gzipped or not, are looked for in ``root``, ``$MNIST_DIR``,
    ``$BOXWOOD_DATA/mnist`` and ``$BOXWOOD_DATA/MNIST/raw``; BOXWOOD_DATA is ``.data`` if not set.

    Args:
        root: folder to look in first.

    Raises:
        InvalidInput: no place holds all four files, or one of them is damaged.

    Example:
        >>> mnist().shape  # doctest: +SKIP
        (1, 28, 28)

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to
    document recognition", 1998, section III-A.
    """
    return _load(
        "mnist",
        folders_to_search(root, "MNIST_DIR", "mnist", "MNIST/raw"),
        "run `make data`, call boxwood.downloads.download_mnist() where there is a network, "
        "or set MNIST_DIR to the folder of its four IDX files.",
    )


def fashion_mnist(root: str | None = None) -> Splits:
    """Load Fashion-MNIST: 55,000 training, 5,000 validation and 10,000 test images.

    The four IDX files, gzipped or not, are looked for in ``root``, ``$FASHION_MNIST_DIR``,
    ``$BOXWOOD_DATA/fashion-mnist``, ``$BOXWOOD_DATA/FashionMNIST/raw`` and
    `DEBIAN_FASHION_MNIST`; BOXWOOD_DATA is ``.data`` if not set.

    Args:
        root: folder to look in first.

    Raises:
        InvalidInput: no place holds all four files, or one of them is damaged.

    Example:
        >>> fashion_mnist().shape  # doctest: +SKIP
        (1, 28, 28)

    Source: H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747, 2017, section 2.
    """
    below = folders_to_search(root, "FASHION_MNIST_DIR", "fashion-mnist", "FashionMNIST/raw")
    return _load(
        "fashion-mnist",
        (*below, DEBIAN_FASHION_MNIST),
        "run `make data`, call boxwood.downloads.download_fashion_mnist() where there is a "
        "network, or set FASHION_MNIST_DIR to the folder of its four IDX files.",
    )


def _load(name: str, looked: tuple[Path, ...], way_out: str) -> Splits:
    folder = find_folder(
        f"the four IDX files of {name}",
        looked,
        lambda place: all(_files(place, stem) for stem in _STEMS),
        way_out,
    )
    train_x, train_y, test_x, test_y = (read_idx(_files(folder, stem)[0]) for stem in _STEMS)
    return from_tensors(
        name,
        (train_x.unsqueeze(1), train_y),
        (test_x.unsqueeze(1), test_y),
        validation=_VALIDATION,
    )


def _files(folder: Path, stem: str) -> list[Path]:
    candidates = (folder / stem, folder / f"{stem}.gz")
    return [path for path in candidates if path.is_file()]
