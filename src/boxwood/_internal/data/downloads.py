"""Download data sets through torchvision."""

from importlib import import_module
from types import ModuleType

from boxwood._internal.core.extras import extra
from boxwood._internal.data.data_paths import data_home
from boxwood.errors import InvalidInput


def torchvision_datasets() -> ModuleType:
    """Import ``torchvision.datasets``.

    Raises:
        MissingDependency: torchvision is not installed.
    """
    with extra("vision", "torchvision for this data set"):
        return import_module("torchvision.datasets")


def download_mnist() -> None:
    """Download MNIST to ``$BOXWOOD_DATA/MNIST/raw``, where `boxwood.data.mnist` looks.

    Raises:
        MissingDependency: torchvision is not installed.
        InvalidInput: the download failed.
    """
    _download("MNIST")


def download_fashion_mnist() -> None:
    """Download Fashion-MNIST to ``$BOXWOOD_DATA/FashionMNIST/raw``.

    Raises:
        MissingDependency: torchvision is not installed.
        InvalidInput: the download failed.
    """
    _download("FashionMNIST")


def download_cifar10() -> None:
    """Download CIFAR-10 to ``$BOXWOOD_DATA/cifar-10-batches-py``.

    Raises:
        MissingDependency: torchvision is not installed.
        InvalidInput: the download failed.
    """
    _download("CIFAR10")


def _download(name: str) -> None:
    kind = getattr(torchvision_datasets(), name)
    try:
        kind(data_home(), download=True)
    except (OSError, RuntimeError) as error:
        raise InvalidInput(
            f"Expected to fetch {name} into {data_home()}, got {type(error).__name__}: {error}; "
            f"try again with a network connection, or copy the files there by hand."
        ) from error
