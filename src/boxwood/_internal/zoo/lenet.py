"""The two LeNets that pruning papers use on MNIST."""

from collections import OrderedDict

from torch import nn

from boxwood.errors import InvalidInput

_SMALLEST = 16


def lenet_300_100(*, inputs: int = 784, classes: int = 10) -> nn.Sequential:
    """Build LeNet-300-100: three linear layers with ReLU between them.

    266,610 parameters for MNIST. Layers are initialised as PyTorch does by default, from its
    global random numbers.

    Args:
        inputs: values in one input; its shape does not matter.
        classes: outputs.

    Example:
        >>> sum(p.numel() for p in lenet_300_100().parameters())
        266610

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, 1998, section III-C; Han et al.,
    arXiv:1506.02626, 2015, section 4.1.
    Differs from the paper: LeCun's net has squashing functions and another loss, not ReLU.
    """
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(inputs, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, classes),
        )
    )


def lenet_5(*, size: int = 28, channels: int = 1, classes: int = 10) -> nn.Sequential:
    """Build Caffe's LeNet-5, the one that Han et al. pruned.

    Two 5 × 5 convolutions of 20 and 50 filters without padding, each followed by 2 × 2
    max-pooling, then linear layers of 500 and ``classes`` with the net's only ReLU between them.
    431,080 parameters for MNIST. Layers are initialised as PyTorch does by default, from its
    global random numbers.

    Args:
        size: height and width of the images in pixels, at least 16.
        channels: colours of the images.
        classes: outputs.

    Raises:
        InvalidInput: the images are so small that nothing is left of them after pooling.

    Example:
        >>> {name: p.numel() for name, p in lenet_5().named_parameters() if p.dim() > 1}
        {'conv1.weight': 500, 'conv2.weight': 25000, 'fc1.weight': 400000, 'fc2.weight': 5000}

    Source: Han et al., arXiv:1506.02626, 2015, section 4.1; the net is Caffe's
    ``examples/mnist/lenet.prototxt``.
    Differs from the source: Caffe draws Xavier weights, and its pooling rounds sizes up (the same
    wherever ``size`` is a multiple of 4).
    """
    if size < _SMALLEST:
        raise InvalidInput(
            f"Expected images of at least {_SMALLEST} pixels for LeNet-5, got size={size}; "
            f"enlarge or pad them, or use lenet_300_100(inputs={channels * size * size})."
        )
    left = ((size - 4) // 2 - 4) // 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(50 * left * left, 500),
            relu=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )
