"""Data: training, validation and test examples with an identity."""

from boxwood._internal.data.augmentation import FlipAndCrop
from boxwood._internal.data.datasets import from_datasets
from boxwood._internal.data.digits import digits
from boxwood._internal.data.idx import fashion_mnist, mnist
from boxwood._internal.data.image_augmentation import ImageAugmentation
from boxwood._internal.data.splits import InMemory, Splits, from_tensors
from boxwood._internal.data.subsets import first_examples, without_classes
from boxwood._internal.data.text import Corpus, ptb
from boxwood._internal.data.vision import cifar10, imagenet_folder

__all__ = [
    "Corpus",
    "FlipAndCrop",
    "ImageAugmentation",
    "InMemory",
    "Splits",
    "cifar10",
    "digits",
    "fashion_mnist",
    "first_examples",
    "from_datasets",
    "from_tensors",
    "imagenet_folder",
    "mnist",
    "ptb",
    "without_classes",
]
