"""The networks of the papers."""

from boxwood._internal.zoo.cifar_nets import resnet_20, small_resnet, small_vgg, vgg_19
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
from boxwood._internal.zoo.torchvision_nets import alexnet, inception_v3, vgg_16
from boxwood._internal.zoo.wide_nets import wide_net

__all__ = [
    "alexnet",
    "conv_2",
    "conv_4",
    "conv_6",
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
    "small_resnet",
    "small_vgg",
    "vgg_16",
    "vgg_19",
    "wide_net",
]
