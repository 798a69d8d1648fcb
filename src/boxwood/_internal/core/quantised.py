"""Which tensors hold quantised weights or their scales, judged by their names and types."""

_NAMES = frozenset(
    {
        *("qweight", "qzeros", "g_idx"),  # GPTQ, AWQ, EETQ
        *("SCB", "absmax", "nested_absmax", "quant_map", "nested_quant_map"),  # bitsandbytes
        *("weight_packed", "weight_zero_point", "weight_g_idx"),  # compressed-tensors
        *("weight_scale", "weight_scale_inv", "weight_scale_2", "scale_weight"),  # fp8, fp4
    }
)
_NAMES_OF_INTEGERS = frozenset(
    {
        "weight",  # int8, and packed 4-bit weights of bitsandbytes and MLX
        "q_weight",  # EXL2
        "trellis",  # EXL3
        "W_q",  # HQQ
        "Qidxs",  # QuIP#
        "codes",  # AQLM
        "_data",  # quanto
    }
)
_ENDS_OF_INTEGERS = ("_blocks", "_scales")  # MXFP4


def looks_quantised(name: str, *, integer: bool, dims: int) -> bool:
    """Say whether a tensor is part of a quantised layer, as far as its name and type say.

    Args:
        name: dotted name.
        integer: whether its elements are integers.
        dims: number of its dimensions.

    Example:
        >>> looks_quantised("layers.0.up_proj.qweight", integer=True, dims=2)
        True
        >>> looks_quantised("layers.0.up_proj.weight", integer=False, dims=2)
        False
    """
    last = name.rpartition(".")[2]
    packed = last in _NAMES_OF_INTEGERS or last.endswith(_ENDS_OF_INTEGERS)
    return last in _NAMES or (integer and dims >= 2 and packed)
