"""The networks of the papers."""

from boxwood._internal.zoo.cifar_nets import (
    cifar_vgg_16,
    resnet_20,
    resnet_56,
    small_resnet,
    small_vgg,
    vgg_19,
)
from boxwood._internal.zoo.conv_nets import conv_2, conv_4, conv_6
from boxwood._internal.zoo.glorot import glorot
from boxwood._internal.zoo.language_models import (
    lstm_language_model,
    ptb_large,
    ptb_medium,
    ptb_small,
)
from boxwood._internal.zoo.lenet import lenet_5, lenet_300_100
from boxwood._internal.zoo.mobilenet import mobilenet_v1
from boxwood._internal.zoo.torchvision_nets import (
    alexnet,
    deit_small,
    inception_v3,
    resnet_50,
    vgg_16,
)
from boxwood._internal.zoo.wide_nets import wide_net

__all__ = [
    "alexnet",
    "cifar_vgg_16",
    "conv_2",
    "conv_4",
    "conv_6",
    "deit_small",
    "glorot",
    "inception_v3",
    "lenet_5",
    "lenet_300_100",
    "lstm_language_model",
    "mobilenet_v1",
    "ptb_large",
    "ptb_medium",
    "ptb_small",
    "resnet_20",
    "resnet_50",
    "resnet_56",
    "small_resnet",
    "small_vgg",
    "vgg_16",
    "vgg_19",
    "wide_net",
]
