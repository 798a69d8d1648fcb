"""One masked parameter: its mask, and whether something wrote to it since its zeros were written."""

import ctypes
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from boxwood._internal.core.masks import and_, bits_of, mask_of, sparse_and, zero_
from boxwood._internal.core.placement import check_unflattened
from boxwood._internal.core.shards import is_distributed, local
from boxwood.errors import InvalidInput, UnsupportedModel

_WORDS: dict[int, Any] = {
    1: ctypes.c_int8,
    2: ctypes.c_int16,
    4: ctypes.c_int32,
    8: ctypes.c_int64,
}


class HeldWeight:
    """A masked parameter of a network.

    `changed` costs less than a microsecond and never waits for a device. It compares the counter
    of in-place changes and the address of the data; and where the data lie in main memory it reads
    a kept and a pruned weight, because writes through ``parameter.data`` raise no counter.

    Args:
        names: all of its names; the first one is used in messages.
        parameter: the parameter.
        mask: True keeps.

    Raises:
        UnsupportedModel: it is a kind of tensor that no mask can be held on.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> held = HeldWeight(("w",), weight, torch.tensor([True, False]))
        >>> held.project()
        >>> held.changed()
        False
        >>> weight.data.fill_(3.0), held.changed()
        (tensor([3., 3.]), True)
    """

    def __init__(self, names: tuple[str, ...], parameter: nn.Parameter, mask: Tensor) -> None:
        _check_kind(names[0], parameter)
        self.names = names
        self.parameter = parameter
        self.sharded = is_distributed(parameter)
        self.places: list[tuple[dict[str, Any], str]] = []
        self.owned = False  # by an optimizer that the binding knows
        self.gradient_hook: Any = None
        self.gradient_masked = False  # since the last step of an optimizer
        self.gradient_came = False  # since the last change of the weight
        self.hidden: Tensor | None = None  # the whole weight less what the forward pass reads
        self.whole = False  # whether the hidden part is in the parameter at the moment
        self._gradient: tuple[Any, int, int] = (_nothing, 0, 0)
        self._shape = parameter.shape
        self._version = self._pointer = -1
        self._word: Any = None  # how a weight is read from main memory
        self._offsets = self._addresses = self._values = 0, 0  # of a kept and of a pruned weight
        self._make_bits(mask)

    @property
    def name(self) -> str:
        """The first name."""
        return self.names[0]

    @property
    def mask(self) -> Tensor:
        """True keeps."""
        return mask_of(self.bits, self.parameter)

    @property
    def readable(self) -> bool:
        """Whether `changed` also notices writes through ``parameter.data``."""
        return self._word is not None

    def changed(self) -> bool:
        """Say whether something wrote to the weight since `project`."""
        # Operations on a sharded tensor are counted there, and its data are elsewhere.
        if self.parameter._version != self._version or self._data_ptr() != self._pointer:
            return True
        word = self._word
        if word is None:
            return False
        kept, pruned = self._addresses
        return (word.from_address(kept).value, word.from_address(pruned).value) != self._values

    def moved(self) -> bool:
        """Say whether the data lie elsewhere than at the last `project`."""
        return self._data_ptr() != self._pointer

    def project(self) -> None:
        """Write the zeros."""
        if self.moved():
            self._fit()
        and_(self.parameter, self.bits)
        self.note()

    @torch.no_grad()
    def reveal(self) -> None:
        """Add the hidden part to what the forward pass has read, for a step to start from."""
        if self.hidden is not None and not self.whole:
            self.parameter.add_(self.hidden.to(self.parameter.device))
            self.whole = True

    @torch.no_grad()
    def hide(self, shown: Tensor) -> None:
        """Leave ``shown`` of the whole weight, with zeros at pruned places; keep the rest aside."""
        self.hidden = self.parameter.detach() - shown
        self.parameter.copy_(shown)
        self.whole = False
        self.project()

    def note(self) -> None:
        """Take the weight as it is now for unchanged."""
        pointer, word = self._data_ptr(), self._word
        self._version, self._pointer = self.parameter._version, pointer
        if word is not None:
            kept, pruned = pointer + self._offsets[0], pointer + self._offsets[1]
            self._addresses = kept, pruned
            self._values = word.from_address(kept).value, word.from_address(pruned).value

    def wrong(self) -> int:
        """Count the pruned weights that are not zero; waits for the device."""
        return int(((local(self.parameter.detach()) != 0) & ~local(self.mask)).sum())

    def unhook(self) -> None:
        """Remove the hook of its gradient, if there is one."""
        if self.gradient_hook is not None:
            self.gradient_hook.remove()
            self.gradient_hook = None

    def check_read(self) -> None:
        """Refuse a backward pass in which pruned weights were not zero, and no hook saw it.

        Raises:
            InvalidInput: some are not zero.
        """
        if count := self.wrong():
            raise InvalidInput(
                f"Expected the {self.mask.numel() - int(self.mask.sum())} pruned weights of "
                f"{self.name!r} to be zero in a backward pass, got {count} that are not: "
                f"something changed them, and no hook saw that they were read. Perhaps the "
                f"network was compiled and "
                f"called before the masks were bound; bind masks to the compiled network, or "
                f"before its first call."
            )
        self.note()

    def set_mask(self, mask: Tensor) -> None:
        """Take another mask, in the same memory, where a captured CUDA graph would read it."""
        self._fit()
        self.bits.copy_(_bits(mask, self.parameter))
        self._choose_offsets()

    def mask_gradient(self) -> None:
        """Write zeros into the gradient where the mask is False."""
        gradient = self.parameter.grad
        if gradient is None:
            return
        if gradient.is_sparse:
            self.parameter.grad = sparse_and(gradient, self.bits)
        elif gradient.is_complex() or gradient.dtype != self.parameter.dtype:
            zero_(gradient, self.bits)
        else:
            and_(gradient, self.bits)

    def note_gradient(self) -> None:
        """Take the gradient as it is now for the sum of all passes so far."""
        gradient = self.parameter.grad
        if gradient is not None:
            self._gradient = weakref.ref(gradient), gradient._version, local(gradient)._version

    def accumulates(self, *, averaged: bool) -> bool:
        """Say whether the gradient is the one that was noted, plus that of one more pass.

        Args:
            averaged: whether DistributedDataParallel may have averaged it in between.
        """
        gradient, version, version_of_part = self._gradient
        now = self.parameter.grad
        if now is None or gradient() is not now:
            return False
        # What fully_shard adds it adds to the shard alone, and all others to the whole alone.
        added = now._version - version, local(now)._version != version_of_part
        if self.sharded:
            return added in ((1, False), (0, True))
        return added[0] == 1 or (averaged and added[0] > 1)

    def _data_ptr(self) -> int:
        return (local(self.parameter) if self.sharded else self.parameter).data_ptr()

    def _fit(self) -> None:
        """Bring the bits to where the parameter is now, and to its width and layout."""
        check_unflattened({self.name: self.parameter})  # wrapped since
        weight = self.parameter.detach()
        if weight.shape != self._shape:
            raise UnsupportedModel(
                f"Expected {self.name!r} to have shape {tuple(self._shape)} as when the masks were "
                f"bound, got {tuple(weight.shape)}; detach this binding and make a new one."
            )
        if self._made_for != _kind(weight):
            self._make_bits(mask_of(self.bits, weight))

    def _make_bits(self, mask: Tensor) -> None:
        self.bits = _bits(mask, self.parameter)
        self._made_for = _kind(self.parameter)
        self._choose_offsets()

    def _choose_offsets(self) -> None:
        """Choose, in bytes, a kept and a pruned weight to read."""
        bits, weight, self._word = self.bits, self.parameter.detach(), None
        weight = torch.view_as_real(weight) if weight.dim() != bits.dim() else weight
        if (
            self.sharded
            or bits.device.type != "cpu"
            or not bits.numel()
            or bits.stride() != weight.stride()
        ):
            return
        width, flat = bits.element_size(), bits.as_strided((bits.numel(),), (1,))
        self._word = _WORDS[width]
        self._offsets = int(flat.argmin()) * width, int(flat.argmax()) * width
        self._pointer = -1  # the addresses are another weight's now


def _nothing() -> None:
    """Stand for a weak reference to no tensor."""


def _bits(mask: Tensor, parameter: nn.Parameter) -> Tensor:
    # Tensors made in inference mode could not be written to outside of it.
    with torch.inference_mode(mode=False), torch.no_grad():
        return bits_of(mask, parameter)


def _kind(weight: Tensor) -> tuple[Any, ...]:
    return weight.device, weight.element_size(), weight.stride()


def _check_kind(name: str, parameter: nn.Parameter) -> None:
    what = do = None
    if parameter.layout != torch.strided or parameter.is_quantized:
        what, do = f"a {parameter.layout} one", "bind masks to dense weights"
    elif parameter.is_inference():
        what, do = "an inference tensor", "build the network outside of torch.inference_mode()"
    if what:
        raise UnsupportedModel(
            f"Expected {name!r} to be a parameter with data of its own, got {what}; {do}."
        )
