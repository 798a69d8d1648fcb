"""Functions of Python's torch that are recorded whole, with the names of their arguments.

Below them PyTorch takes most functions apart into smaller operations, which are recorded one by
one. These here are kept whole, for one of two reasons: the sizes that the user's code wrote are
visible only here, or the pieces would say less than the whole (a recurrent net, attention).
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def _stub(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


_CONV = _stub(lambda input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1: 0)
_CONV_TRANSPOSED = _stub(
    lambda input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1: 0
)
_SIZES = _stub(lambda self, *size, **more: 0)
_BINARY = _stub(lambda self, other: 0)
_REDUCE = _stub(lambda self, dim=None, keepdim=False, **more: 0)
_VARIANCE = _stub(lambda self, dim=None, *more, keepdim=False, **named: 0)
_FILLED = _stub(lambda *size, **more: 0)
_FILLED_LIKE = _stub(lambda self, *more, **named: 0)
_RECURRENT = _stub(lambda *given: 0)
_BATCH_NORM = _stub(
    lambda input, running_mean=None, running_var=None, weight=None, bias=None, training=False,
    momentum=0.1, eps=1e-5: 0
)  # fmt: skip
_BATCH_NORM_RAW = _stub(
    lambda input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn: 0
)
_INSTANCE_NORM = _stub(
    lambda input, running_mean=None, running_var=None, weight=None, bias=None,
    use_input_stats=True, momentum=0.1, eps=1e-5: 0
)  # fmt: skip
_LAYER_NORM = _stub(
    lambda input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True: 0
)
_GROUP_NORM = _stub(lambda input, num_groups, weight=None, bias=None, eps=1e-5, cudnn=True: 0)
_RMS_NORM = _stub(lambda input, normalized_shape, weight=None, eps=None: 0)

WHOLE: dict[Any, tuple[str, inspect.Signature]] = {
    Tensor.view: ("view", _SIZES),
    Tensor.reshape: ("view", _SIZES),
    torch.reshape: ("view", _stub(lambda self, shape: 0)),
    Tensor.unflatten: ("unflatten", _stub(lambda self, dim, sizes: 0)),
    torch.unflatten: ("unflatten", _stub(lambda self, dim, sizes: 0)),
    Tensor.expand: ("expand", _SIZES),
    Tensor.repeat: ("repeat", _SIZES),
    torch.tile: ("repeat", _stub(lambda self, dims: 0)),
    Tensor.split: ("split", _stub(lambda self, split_size_or_sections=None, dim=0, **named: 0)),
    torch.split: ("split", _stub(lambda self, split_size_or_sections, dim=0: 0)),
    Tensor.chunk: ("chunk", _stub(lambda self, chunks, dim=0: 0)),
    torch.chunk: ("chunk", _stub(lambda self, chunks, dim=0: 0)),
    Tensor.narrow: ("narrow", _stub(lambda self, dim, start, length: 0)),
    torch.narrow: ("narrow", _stub(lambda self, dim, start, length: 0)),
    Tensor.__getitem__: ("getitem", _stub(lambda self, index: 0)),
    Tensor.__setitem__: ("setitem", _stub(lambda self, index, value: 0)),
    torch.repeat_interleave: ("repeat_interleave", _stub(lambda self, repeats, dim=None, **m: 0)),
    Tensor.repeat_interleave: ("repeat_interleave", _stub(lambda self, repeats, dim=None, **m: 0)),
    torch.zeros: ("filled_zeros", _FILLED),
    torch.ones: ("filled", _FILLED),
    torch.empty: ("filled", _FILLED),
    torch.full: ("filled_full", _stub(lambda size, fill_value, **more: 0)),
    torch.rand: ("filled", _FILLED),
    torch.randn: ("filled", _FILLED),
    Tensor.new_zeros: ("new_zeros", _SIZES),
    Tensor.new_ones: ("new", _SIZES),
    Tensor.new_empty: ("new", _SIZES),
    Tensor.new_full: ("new", _stub(lambda self, size, fill_value, **more: 0)),
    torch.zeros_like: ("zeros_like", _FILLED_LIKE),
    torch.conv1d: ("conv", _CONV),
    torch.conv2d: ("conv", _CONV),
    torch.conv3d: ("conv", _CONV),
    torch.conv_transpose1d: ("conv_transpose", _CONV_TRANSPOSED),
    torch.conv_transpose2d: ("conv_transpose", _CONV_TRANSPOSED),
    torch.conv_transpose3d: ("conv_transpose", _CONV_TRANSPOSED),
    F.linear: ("linear", _stub(lambda input, weight, bias=None: 0)),
    F.bilinear: ("bilinear", _stub(lambda input1, input2, weight, bias=None: 0)),
    torch.matmul: ("matmul", _BINARY),
    Tensor.matmul: ("matmul", _BINARY),
    Tensor.__matmul__: ("matmul", _BINARY),
    Tensor.__rmatmul__: ("matmul_reversed", _BINARY),
    torch.einsum: ("einsum", _stub(lambda equation, *operands: 0)),
    F.batch_norm: ("batch_norm", _BATCH_NORM),
    torch.batch_norm: ("batch_norm", _BATCH_NORM_RAW),
    F.instance_norm: ("instance_norm", _INSTANCE_NORM),
    F.layer_norm: ("layer_norm", _LAYER_NORM),
    torch.layer_norm: ("layer_norm", _LAYER_NORM),
    F.group_norm: ("group_norm", _GROUP_NORM),
    torch.group_norm: ("group_norm", _GROUP_NORM),
    F.rms_norm: ("rms_norm", _RMS_NORM),
    torch.rms_norm: ("rms_norm", _RMS_NORM),
    F.scaled_dot_product_attention: (
        "scaled_dot_product_attention",
        _stub(
            lambda query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None,
            enable_gqa=False: 0
        ),
    ),
    F.multi_head_attention_forward: (
        "multi_head_attention",
        inspect.signature(F.multi_head_attention_forward),
    ),
    torch.lstm: ("lstm", _RECURRENT),
    torch.gru: ("gru", _RECURRENT),
    torch.rnn_tanh: ("rnn_tanh", _RECURRENT),
    torch.rnn_relu: ("rnn_relu", _RECURRENT),
    torch.lstm_cell: ("lstm_cell", _RECURRENT),
    torch.gru_cell: ("gru_cell", _RECURRENT),
    torch.rnn_tanh_cell: ("rnn_tanh_cell", _RECURRENT),
    torch.rnn_relu_cell: ("rnn_relu_cell", _RECURRENT),
    torch.mean: ("mean", _REDUCE),
    Tensor.mean: ("mean", _REDUCE),
    torch.amax: ("amax", _REDUCE),
    Tensor.amax: ("amax", _REDUCE),
    torch.max: ("max", _REDUCE),
    Tensor.max: ("max", _REDUCE),
    torch.var: ("var", _VARIANCE),
    Tensor.var: ("var", _VARIANCE),
    torch.std: ("var", _VARIANCE),
    Tensor.std: ("var", _VARIANCE),
    torch.pixel_shuffle: ("pixel_shuffle", _stub(lambda self, upscale_factor: 0)),
    F.pixel_shuffle: ("pixel_shuffle", _stub(lambda self, upscale_factor: 0)),
    torch.pixel_unshuffle: ("pixel_unshuffle", _stub(lambda self, downscale_factor: 0)),
    F.pixel_unshuffle: ("pixel_unshuffle", _stub(lambda self, downscale_factor: 0)),
    torch.channel_shuffle: ("channel_shuffle", _stub(lambda self, groups: 0)),
    F.channel_shuffle: ("channel_shuffle", _stub(lambda self, groups: 0)),
}  # fmt: skip
"""Function to the name of its rule and its signature."""

STATISTICS = {"layer_norm", "rms_norm", "group_norm", "mean", "var", "amax", "max"}
"""Names of those that may span channels; a run counts them, so that each can be found again."""

ASKS_SIZE = {Tensor.shape.__get__, Tensor.size}
"""Functions whose result is sizes."""


def bind(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """Give arguments their names, defaults included."""
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)
