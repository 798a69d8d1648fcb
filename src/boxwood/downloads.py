"""Data sets that torchvision downloads."""

from boxwood._internal.data.downloads import (
    download_cifar10,
    download_fashion_mnist,
    download_mnist,
)

__all__ = [
    "download_cifar10",
    "download_fashion_mnist",
    "download_mnist",
]
