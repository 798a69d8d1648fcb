"""What tensors in a file were when they were written."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor


def checksum_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """Return the SHA-256 of some tensors and of what is written beside them, in hexadecimal digits.

    It guards against damage, not against malice: whoever changes a file can change this too.

    Args:
        tensors: by name; their order does not matter.
        text: what is written beside them.

    Example:
        >>> checksum_of({"a": torch.ones(2)}) == checksum_of({"a": torch.ones(2, 1)})
        False
    """
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
