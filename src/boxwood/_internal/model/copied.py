"""What happens to a network's hooks in a copy of it: a copy is free of masks, and reports if it was averaged."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.copies import REBUILT, no_hook

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Copied:
    """One copy of a network under masks, shared by all hooks in it.

    A deep copy belongs to whoever made it: it may be trained densely, or kept as it was. Averages
    of weights are made from copies too (`torch.optim.swa_utils.AveragedModel`), and they hold what
    was pruned on the way. Nothing is written into a copy; but when it was written to (its bits are
    compared now and again, as writes through ``.data`` leave no other trace), without having been
    trained, and is read, and is not as sparse as the network, a warning says so, once.

    Args:
        masks: returns the masks of the network by name, or None when they are gone.

    Example:
        >>> Copied(lambda: None).read(nn.Linear(1, 1), (("weight", "weight"),), training=False)
    """

    def __init__(self, masks: Callable[[], Mapping[str, Tensor] | None]) -> None:
        self._masks = masks
        self._over = False
        self._seen: dict[str, int] = {}
        self._reads: dict[str, int] = {}
        self._sums: dict[str, tuple[torch.dtype, int]] = {}

    def note(self, name: str, weight: Tensor) -> None:
        """Remember what is copied: writes through ``.data`` are seen by nothing but their result."""
        if (found := bit_sum(weight)) is not None:
            self._sums[name] = weight.dtype, found

    def read(self, module: nn.Module, own: tuple[tuple[str, str], ...], *, training: bool) -> None:
        """Look at the weights of one module of the copy before it reads them."""
        if self._over:
            return
        if training:
            self._over = True
            return
        for attribute, name in own:
            weight = module._parameters.get(attribute)
            if type(weight) is not nn.Parameter or weight.is_meta or weight.is_inference():
                continue
            if weight._version == self._seen.setdefault(name, 0) and not self._rewritten(
                name, weight
            ):
                continue
            self._seen[name] = weight._version
            mask = (self._masks() or {}).get(name)
            if mask is None or mask.shape != weight.shape:
                self._over = True
                return
            wrong = int((weight.detach()[~mask.to(weight.device)] != 0).sum())
            if wrong:
                self._over = True
                warnings.warn(
                    f"Expected a copy of a network under masks to be as sparse as that network, "
                    f"got {wrong} weights of {name!r} that are pruned there and not zero here, as "
                    f"an average of networks has them; call boxwood.apply_masks_(copy, masks) before "
                    f"the copy is read, or ignore this if the copy is meant to be dense.",
                    stacklevel=3,
                )

    def _rewritten(self, name: str, weight: Tensor) -> bool:
        """Look at the bits, the more seldom the more often they were read."""
        reads = self._reads[name] = self._reads.get(name, 0) + 1
        dtype, before = self._sums.get(name, (None, 0))
        if reads & (reads - 1) or dtype is not weight.dtype:
            return False
        now = bit_sum(weight)
        if now is None or now == before:
            return False
        self._sums[name] = weight.dtype, now
        return True


def bit_sum(weight: Tensor) -> int | None:
    """Add up the bits of the entries as whole numbers: the same on every device, in any order.

    Returns:
        The sum; None where it cannot be known, as on the device ``meta``.

    Example:
        >>> bit_sum(torch.ones(2)) == 2 * 0x3F800000
        True
        >>> bit_sum(torch.ones(2, device="meta"))
    """
    if weight.is_meta or weight.layout is not torch.strided:
        return None
    if weight.is_cuda and torch.cuda.is_current_stream_capturing():
        return None  # a sum that is waited for would break the graph
    try:
        return int(weight.detach().view(_WHOLE[weight.element_size()]).sum())
    except Exception:  # noqa: BLE001 - fake, distributed or other tensors: they are not compared
        return None


class CopiedHook:
    """The hook of one module of a copy.

    Args:
        copied: the whole copy.
        own: attribute of the module, and name of the masked parameter that it was copied from.
        saving: called before `state_dict` rather than before a forward pass.

    Example:
        >>> hook = CopiedHook(Copied(lambda: None), (("weight", "weight"),))
        >>> net = nn.Linear(1, 1)
        >>> _ = net.register_forward_pre_hook(hook)
        >>> net(torch.ones(1, 1)).shape
        torch.Size([1, 1])
    """

    def __init__(
        self, copied: Copied, own: tuple[tuple[str, str], ...], *, saving: bool = False
    ) -> None:
        self._copied, self._own, self._saving = copied, own, saving

    def __call__(self, module: nn.Module, *_: object) -> None:
        """Look at the weights."""
        if not torch.compiler.is_compiling():
            training = not self._saving and module.training and torch.is_grad_enabled()
            self._copied.read(module, self._own, training=training)

    def __deepcopy__(self, memo: dict[Any, Any]) -> Any:
        return no_hook if id(REBUILT) in memo else self

    def __reduce__(self) -> Any:
        return nothing(saving=self._saving)


def nothing(*, saving: bool) -> tuple[Any, ...]:
    """How pickle makes a hook that does nothing, also where Boxwood is not installed.

    ``{}.get(module, inputs)`` returns the inputs, which a module then goes on with; and
    ``"".format(module, prefix, keep_vars)`` returns what `state_dict` does not look at.

    Example:
        >>> make, arguments = nothing(saving=False)
        >>> make(*arguments)("module", "inputs")
        'inputs'
    """
    return (getattr, ("", "format")) if saving else (getattr, ({}, "get"))
