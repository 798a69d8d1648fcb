"""Python functions of torch that are recorded as one operation, with the names of their arguments.

Below them PyTorch takes most functions apart into smaller operations, which are recorded one by
one. These here are kept whole, for one of two reasons: the sizes that the user's code wrote are
visible only here, or the pieces would say less than the whole (a recurrent net, attention).
"""

import ast
import inspect
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def _signature(text: str) -> inspect.Signature:
    """Read a signature from text: names, defaults that are plain values, stars."""
    found: list[inspect.Parameter] = []
    kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    for part in text.split(", "):
        name, _, default = part.partition("=")
        if name.startswith("*"):
            stars = len(name) - len(name.lstrip("*"))
            star = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)[stars - 1]
            found.append(inspect.Parameter(name.lstrip("*"), star))
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        value = ast.literal_eval(default) if default else inspect.Parameter.empty
        found.append(inspect.Parameter(name, kind, default=value))
    return inspect.Signature(found)


_CONV = _signature("input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1")
_CONV_TRANSPOSED = _signature(
    "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1"
)
_SIZES = _signature("self, *size, **more")
_OTHER = _signature("self, other")
_BINARY = _signature("self, other")
_REDUCE = _signature("self, dim=None, keepdim=False, **more")
_VARIANCE = _signature("self, dim=None, unbiased=True, keepdim=False, **more")
_FILLED = _signature("*size, **more")
_FILLED_LIKE = _signature("self, *more, **named")
_RECURRENT = _signature("*given")
_BATCH_NORM = _signature("input, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5")  # fmt: skip
_BATCH_NORM_RAW = _signature(
    "input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn"
)
_INSTANCE_NORM = _signature("input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5")  # fmt: skip
_LAYER_NORM = _signature(
    "input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True"
)
_GROUP_NORM = _signature("input, num_groups, weight=None, bias=None, eps=1e-5, cudnn=True")
_UNPOOL = _signature("input, indices, kernel_size, stride=None, padding=0, output_size=None")
_POOL = _signature("self, output_size")
_RMS_NORM = _signature("input, normalized_shape, weight=None, eps=None")

WHOLE: dict[Any, tuple[str, inspect.Signature]] = {
    Tensor.view: ("view", _SIZES),
    Tensor.reshape: ("view", _SIZES),
    torch.reshape: ("view", _signature("self, shape")),
    Tensor.unflatten: ("unflatten", _signature("self, dim, sizes")),
    torch.unflatten: ("unflatten", _signature("self, dim, sizes")),
    Tensor.expand: ("expand", _SIZES),
    Tensor.expand_as: ("expand", _OTHER),
    Tensor.view_as: ("view", _OTHER),
    Tensor.reshape_as: ("view", _OTHER),
    Tensor.broadcast_to: ("expand", _SIZES),
    torch.broadcast_to: ("expand", _SIZES),
    torch.broadcast_tensors: ("broadcast_tensors", _signature("*tensors")),
    Tensor.repeat: ("repeat", _SIZES),
    torch.tile: ("repeat", _signature("self, dims")),
    Tensor.split: ("split", _signature("self, split_size_or_sections=None, dim=0, **named")),
    torch.split: ("split", _signature("self, split_size_or_sections, dim=0")),
    Tensor.chunk: ("chunk", _signature("self, chunks, dim=0")),
    torch.chunk: ("chunk", _signature("self, chunks, dim=0")),
    Tensor.narrow: ("narrow", _signature("self, dim, start, length")),
    torch.narrow: ("narrow", _signature("self, dim, start, length")),
    Tensor.__getitem__: ("getitem", _signature("self, index")),
    Tensor.__setitem__: ("setitem", _signature("self, index, value")),
    torch.repeat_interleave: ("repeat_interleave", _signature("self, repeats, dim=None, **m")),
    Tensor.repeat_interleave: ("repeat_interleave", _signature("self, repeats, dim=None, **m")),
    torch.take_along_dim: ("take_along_dim", _signature("self, indices, dim=None")),
    Tensor.take_along_dim: ("take_along_dim", _signature("self, indices, dim=None")),
    torch.zeros: ("filled_zeros", _FILLED),
    torch.ones: ("filled", _FILLED),
    torch.empty: ("filled", _FILLED),
    torch.full: ("filled_full", _signature("size, fill_value, **more")),
    torch.rand: ("filled", _FILLED),
    torch.randn: ("filled", _FILLED),
    Tensor.new_zeros: ("new_zeros", _SIZES),
    Tensor.new_ones: ("new", _SIZES),
    Tensor.new_empty: ("new", _SIZES),
    Tensor.new_full: ("new", _signature("self, size, fill_value, **more")),
    torch.zeros_like: ("zeros_like", _FILLED_LIKE),
    torch.conv1d: ("conv", _CONV),
    torch.conv2d: ("conv", _CONV),
    torch.conv3d: ("conv", _CONV),
    torch.conv_transpose1d: ("conv_transpose", _CONV_TRANSPOSED),
    torch.conv_transpose2d: ("conv_transpose", _CONV_TRANSPOSED),
    torch.conv_transpose3d: ("conv_transpose", _CONV_TRANSPOSED),
    F.linear: ("linear", _signature("input, weight, bias=None")),
    F.bilinear: ("bilinear", _signature("input1, input2, weight, bias=None")),
    torch.matmul: ("matmul", _BINARY),
    Tensor.matmul: ("matmul", _BINARY),
    Tensor.__matmul__: ("matmul", _BINARY),
    Tensor.__rmatmul__: ("matmul_reversed", _BINARY),
    torch.einsum: ("einsum", _signature("equation, *operands")),
    F.batch_norm: ("batch_norm", _BATCH_NORM),
    torch.batch_norm: ("batch_norm", _BATCH_NORM_RAW),
    F.instance_norm: ("instance_norm", _INSTANCE_NORM),
    F.layer_norm: ("layer_norm", _LAYER_NORM),
    torch.layer_norm: ("layer_norm", _LAYER_NORM),
    F.group_norm: ("group_norm", _GROUP_NORM),
    torch.group_norm: ("group_norm", _GROUP_NORM),
    F.rms_norm: ("rms_norm", _RMS_NORM),
    torch.rms_norm: ("rms_norm", _RMS_NORM),
    F.normalize: ("normalize", _signature("input, p=2.0, dim=1, eps=1e-12, out=None")),
    F.max_unpool1d: ("max_unpool1d", _UNPOOL),
    F.max_unpool2d: ("max_unpool2d", _UNPOOL),
    F.max_unpool3d: ("max_unpool3d", _UNPOOL),
    F.scaled_dot_product_attention: (
        "scaled_dot_product_attention",
        _signature("query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False"),
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
    torch.pixel_shuffle: ("pixel_shuffle", _signature("self, upscale_factor")),
    F.pixel_shuffle: ("pixel_shuffle", _signature("self, upscale_factor")),
    torch.pixel_unshuffle: ("pixel_unshuffle", _signature("self, downscale_factor")),
    F.pixel_unshuffle: ("pixel_unshuffle", _signature("self, downscale_factor")),
    torch.channel_shuffle: ("channel_shuffle", _signature("self, groups")),
    F.channel_shuffle: ("channel_shuffle", _signature("self, groups")),
    # With channels last, PyTorch ends an average over the whole image with as_strided.
    F.adaptive_avg_pool2d: ("adaptive_avg_pool2d", _POOL),
    F.adaptive_avg_pool3d: ("adaptive_avg_pool3d", _POOL),
}  # fmt: skip
"""Function to the name of its rule and its signature."""

WITHOUT_DATA: dict[Any, Any] = {}
"""Functions that PyTorch runs in fewer types where there are no data than where there are."""

# Private names, so a build of torch may lack them.
_grouped_mm: Any = getattr(torch, "_grouped_mm", None)
_functions: Any = getattr(getattr(torch, "_C", None), "_nn", None)

for _name in ("adaptive_avg_pool2d", "adaptive_avg_pool3d"):
    if hasattr(_functions, _name):
        WHOLE[getattr(_functions, _name)] = (_name, _POOL)


def _grouped_product(rows: Tensor, weights: Tensor, *more: Any, **named: Any) -> Tensor:
    if (rows.ndim, weights.ndim) != (2, 3):
        return cast("Tensor", _grouped_mm(rows, weights, *more, **named))
    return rows.new_empty(rows.shape[0], weights.shape[-1])


if _grouped_mm is not None:
    _GROUPED = _signature("self, mat2, offs=None, bias=None, out_dtype=None")
    WHOLE[_grouped_mm] = ("grouped_mm", _GROUPED)
    WITHOUT_DATA[_grouped_mm] = _grouped_product

STATISTICS = {"layer_norm", "rms_norm", "group_norm", "mean", "var", "amax", "max"}
"""Names of those that may span channels; a run counts them, so that each can be found again."""

ASKS_SIZE: set[Any] = {Tensor.shape.__get__, Tensor.size}  # type: ignore[attr-defined]
"""Functions whose result is sizes."""

PLAIN: set[Any] = {
    F.linear,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.__rmatmul__,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
}
"""Those of `WHOLE` in which no sizes of channels are written."""

SETS_DATA: Any = Tensor.data.__set__  # type: ignore[attr-defined]

COUNTS: set[Any] = {torch.numel, Tensor.numel, Tensor.nelement}
"""Functions whose result is the product of all sizes."""


_ALIASES = {"input": "self", "tensor": "self", "axis": "dim", "keepdims": "keepdim"}
"""Other names that torch takes for the same arguments."""


def bind(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """Give arguments their names, defaults included.

    Example:
        >>> bind(_REDUCE, (), {"axis": 1, "input": None})["dim"]
        1
    """
    known = signature.parameters
    named = {
        _ALIASES[name] if name not in known and _ALIASES.get(name) in known else name: value
        for name, value in kwargs.items()
    }
    bound = signature.bind(*args, **named)
    bound.apply_defaults()
    return dict(bound.arguments)
