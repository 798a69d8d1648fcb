"""The operations allowed between two weight layers of a plain feed-forward network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import getitem, methodcaller
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Pointwise:
    """A function of each activation by itself.

    Args:
        name: the module's dotted name, or the node's name in the trace.
        apply: the function, on a tensor of any shape; it may write in place.

    Example:
        >>> Pointwise("act", torch.relu).apply(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    name: str
    apply: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Dropout:
    """Dropout that is the identity in evaluation.

    Args:
        name: the module's dotted name, or the node's name in the trace.
        rate: the module's, in [0, 1]; None for a function call, whose rate nobody can set.

    Example:
        >>> Dropout("drop", 0.5).rate
        0.5
    """

    name: str
    rate: float | None


@dataclass(frozen=True)
class Pool:
    """Pooling over the positions of each channel.

    Args:
        name: the module's dotted name, or the node's name in the trace.
        keeps_constant: whether a channel that is one constant is that constant afterwards.

    Example:
        >>> Pool("pool", keeps_constant=True).keeps_constant
        True
    """

    name: str
    keeps_constant: bool


@dataclass(frozen=True)
class Flatten:
    """All but the batch axis made into one, channel after channel.

    Args:
        name: the module's dotted name, or the node's name in the trace.

    Example:
        >>> Flatten("flatten").name
        'flatten'
    """

    name: str


Step = Pointwise | Dropout | Pool | Flatten

_POINTWISE_MODULES = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU,
    nn.Mish, nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Sigmoid, nn.LogSigmoid,
    nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink,
)  # fmt: skip
_POINTWISE_CALLS = (
    torch.relu, torch.relu_, torch.tanh, torch.sigmoid, F.relu, F.relu_, F.relu6, F.leaky_relu,
    F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.softsign, F.tanhshrink,
    F.logsigmoid, F.hardtanh, F.hardsigmoid, F.hardswish, F.hardshrink, F.softshrink,
)  # fmt: skip
_POINTWISE_METHODS = ("relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_", "contiguous")
DROPOUT_MODULES = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
)  # fmt: skip
_DROPOUT_CALLS = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
)  # fmt: skip
_POOL_MODULES = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
_POOL_CALLS: Mapping[Any, type[nn.Module]] = {
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}


def step_of(node: fx.Node, model: nn.Module) -> Step | None:
    """Recognise the step that a node of a trace takes, or return None.

    Args:
        node: of a trace made in evaluation mode.
        model: the traced model, which holds the modules that nodes name.

    Example:
        >>> net = nn.Sequential(nn.ReLU())
        >>> step_of(list(fx.Tracer().trace(net).nodes)[1], net)
        Pointwise(name='0', apply=ReLU())
    """
    if node.op == "call_module":
        name = str(node.target)
        return _module_step(name, model.get_submodule(name))
    if node.op not in ("call_function", "call_method"):
        return None
    if flattens(node):
        return Flatten(node.name)
    if any(isinstance(argument, fx.Node) for argument in (*node.args[1:], *node.kwargs.values())):
        return None
    if node.op == "call_method":
        method = str(node.target)
        if method in _POINTWISE_METHODS:
            return Pointwise(node.name, methodcaller(method, *node.args[1:], **node.kwargs))
        return None
    return _function_step(node)


def flattens(node: fx.Node) -> bool:
    """Say whether a call makes one axis of all but the batch axis.

    ``view(-1, n)`` counts, though it flattens each example only where ``n`` is its size.

    Example:
        >>> graph = fx.Tracer().trace(lambda x: x.view(x.size(0), -1).flatten())
        >>> [flattens(node) for node in graph.nodes if node.op == "call_method"]
        [False, True, False]
    """
    rest = node.args[1:]
    if node.target is torch.flatten or (node.op, node.target) == ("call_method", "flatten"):
        ends = dict(zip(("start_dim", "end_dim"), rest, strict=False)) | node.kwargs
        return bool(ends.get("start_dim", 0) == 1 and ends.get("end_dim", -1) == -1)
    if node.op == "call_method" and node.target in ("view", "reshape"):
        shape = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple) else rest
        if len(shape) != 2 or isinstance(shape[1], fx.Node):
            return False
        first = shape[0]
        return _is_batch_size(first) if isinstance(first, fx.Node) else bool(first == -1)
    return False


def is_size(node: fx.Node) -> bool:
    """Say whether a node only asks for a size, and so carries no activations.

    Example:
        >>> graph = fx.Tracer().trace(lambda x: x.view(x.shape[0], -1))
        >>> [node.name for node in graph.nodes if is_size(node)]
        ['getattr_1', 'getitem']
    """
    if node.op == "call_method":
        return node.target in ("size", "dim")
    if node.target is getattr:
        return bool(node.args[1] == "shape")
    return node.target is getitem and isinstance(node.args[0], fx.Node) and is_size(node.args[0])


def _is_batch_size(node: fx.Node) -> bool:
    return is_size(node) and node.args[1:] == (0,)


def _module_step(name: str, module: nn.Module) -> Step | None:
    kind = type(module)
    if kind in _POINTWISE_MODULES:
        return Pointwise(name, module)
    if isinstance(module, DROPOUT_MODULES):
        return Dropout(name, module.p)
    if kind in _POOL_MODULES and not getattr(module, "return_indices", False):
        return Pool(name, _keeps_constant(module))
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        return Flatten(name)
    return None


def _function_step(node: fx.Node) -> Step | None:
    call: Any = node.target
    if call in _POINTWISE_CALLS:
        settings = dict(node.kwargs)
        return Pointwise(node.name, lambda value: call(value, *node.args[1:], **settings))
    if call in _DROPOUT_CALLS and not node.kwargs["training"]:
        return Dropout(node.name, None)
    if call in _POOL_CALLS:
        return _module_step(node.name, _POOL_CALLS[call](*node.args[1:], **node.kwargs))
    return None


def _keeps_constant(pool: nn.Module) -> bool:
    if isinstance(pool, nn.AvgPool2d):
        inside = not any(_pair(pool.padding)) or not pool.count_include_pad
        return inside and pool.divisor_override is None
    if isinstance(pool, nn.MaxPool2d):  # a dilated window may lie in the padding, all of it
        return not any(_pair(pool.padding)) or _pair(pool.dilation) == (1, 1)
    return True


def _pair(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)
