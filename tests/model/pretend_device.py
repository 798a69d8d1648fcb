"""A pretend accelerator on a machine without one: device ``gpu:0`` is memory of the CPU.

Operations raise what they raise on CUDA: where tensors of two devices meet (other than in copies,
as an index into a tensor of the accelerator, or as a number), where a generator of the CPU is to
fill a tensor of the accelerator, and where such a tensor is to become a NumPy array. The device has
random numbers of its own. `LOG` counts the calls after which the host waits for CUDA, the bytes that
go to the host, and the functions that were running while the device worked. It shows nothing about
kernels, memory or speed.

Registering a device changes torch for the whole process: import this only in one of its own.
"""

import sys
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Self

import torch
from torch import Tensor
from torch._guards import active_fake_mode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
_COPIES = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor}
_INDEXING = {
    aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
    aten._unsafe_index.Tensor, aten._index_put_impl_.default,
}  # fmt: skip


_WAITING = {
    aten._local_scalar_dense.default: "item", aten.equal.default: "equal",
    aten.nonzero.default: "nonzero", aten.masked_select.default: "masked_select",
    aten.bincount.default: "bincount", aten._unique2.default: "unique",
    aten.repeat_interleave.Tensor: "repeat_interleave", aten.is_nonzero.default: "item",
    aten._linalg_check_errors.default: "linalg",
}  # fmt: skip


@dataclass
class Log:
    """What the device has seen since `clear`."""

    waits: Counter[str] = field(default_factory=Counter)
    """Calls for which the host waits, by their kind; copies from pageable memory are among them."""
    to_host: int = 0
    """Bytes that were copied to the host."""
    ran: set[CodeType] = field(default_factory=set)
    """Functions that were running while the device worked."""

    def clear(self) -> None:
        """Forget the counts; functions that ran are kept."""
        self.waits.clear()
        self.to_host = 0

    def wait(self, kind: str, to_host: Tensor | None = None) -> None:
        """Note that the host waits, for a tensor if one is copied to it."""
        self.waits[kind] += 1
        self.to_host += 0 if to_host is None else to_host.numel() * to_host.element_size()

    def note_callers(self) -> None:
        """Note all functions that are running."""
        frame = sys._getframe(2)
        while frame is not None:
            self.ran.add(frame.f_code)
            frame = frame.f_back


LOG = Log()


class Module:
    """What torch asks of ``torch.gpu``, with a generator of its own."""

    def __init__(self) -> None:
        self.state = torch.Generator().manual_seed(1).get_state()

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def device(self, device: object) -> nullcontext[None]:
        return nullcontext()

    def manual_seed_all(self, seed: int) -> None:
        self.state = torch.Generator().manual_seed(seed).get_state()

    manual_seed = manual_seed_all

    def get_rng_state(self, device: object = None) -> Tensor:
        return self.state.clone()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        self.state = state.clone()


MODULE = Module()
_setup_privateuseone_for_python_backend("gpu", backend_module=MODULE)
GPU = torch.device("gpu:0")


class OnDevice(Tensor):
    """A tensor of the device; ``raw`` is the memory behind it."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Self:
        made = Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(),
            dtype=raw.dtype, device=GPU,
        )  # fmt: skip
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def data(self) -> Tensor:
        return OnDevice(self.raw)  # writes to it are not counted as the tensor's own

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, OnDevice):
            raise RuntimeError("incompatible tensor type: a tensor of the CPU as data")
        self.raw = new.raw

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        made: Tensor = OnDevice(self.raw.clone())
        if isinstance(self, torch.nn.Parameter):
            made = torch.nn.Parameter(made, self.requires_grad)
        memo[id(self)] = made
        return made

    def __repr__(self) -> str:
        return f"OnDevice({self.raw!r})"

    def tolist(self) -> Any:
        LOG.wait("tolist", self.raw)
        return self.raw.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert gpu:0 device type tensor to numpy; use Tensor.cpu()")
        LOG.wait("copy to the host", self.raw)
        return self.raw.numpy(force=True)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """While entered, tensors can be made on and moved to the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if active_fake_mode() is not None:  # torch asks it last, and it knows devices by itself
            return func(*args, **(kwargs or {}))
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is torch.ops.prim.device.default:
        return GPU
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    on_gpu = [each for each in given if isinstance(each, OnDevice)]
    asked = kwargs.get("device")
    to_gpu = asked is not None and torch.device(asked).type == "gpu"
    _check_generator(args, kwargs, gpu=bool(on_gpu) or to_gpu)
    if on_gpu or to_gpu:
        LOG.note_callers()
        _note_waits(func, args, kwargs, to_gpu=to_gpu)
    if func is aten.copy_.default:
        _raw(args[0]).copy_(_raw(args[1]))
        return args[0]
    if on_gpu and len(on_gpu) < len(given) and func not in _COPIES:
        _check_devices(func, args, given)
    settings = dict(kwargs)
    if to_gpu or func is aten._to_copy.default:
        settings.pop("device", None)
    settings.pop("pin_memory", None)
    settings.pop("non_blocking", None)
    lands = to_gpu if asked is not None else bool(on_gpu)
    chance = torch.Tag.nondeterministic_seeded in func.tags and lands
    before = torch.get_rng_state() if chance else None
    if chance:
        torch.set_rng_state(MODULE.state)
    out = func(*tree_map(_raw, args), **tree_map(_raw, settings))
    if before is not None:
        MODULE.state = torch.get_rng_state()
        torch.set_rng_state(before)
    written = {id(each.raw): each for each in on_gpu} if func._schema.is_mutable else {}

    def wrapped(each: Any) -> Any:
        if not isinstance(each, Tensor) or not lands:
            return each
        return written[id(each)] if id(each) in written else OnDevice(each)

    return tree_map(wrapped, out)


def _note_waits(func: Any, args: Any, kwargs: dict[str, Any], *, to_gpu: bool) -> None:
    """Note whether CUDA lets the host wait: for what a tensor holds, or for a copy."""
    if func in _WAITING:
        LOG.wait(_WAITING[func])
    elif func in _INDEXING:
        if any(each.dtype is torch.bool for each in args[1] if each is not None):
            LOG.wait("boolean index")
        elif any(not isinstance(each, OnDevice) for each in args[1] if each is not None):
            LOG.wait("index from the host")
    elif func is aten.copy_.default:
        _note_copy(
            args[1], on_device=isinstance(args[0], OnDevice), non_blocking=args[2:] == (True,)
        )
    elif func is aten._to_copy.default and kwargs.get("device") is not None:
        _note_copy(args[0], on_device=to_gpu, non_blocking=kwargs.get("non_blocking", False))


def _note_copy(source: Tensor, *, on_device: bool, non_blocking: bool) -> None:
    if isinstance(source, OnDevice) and not on_device:
        LOG.wait("copy to the host", source)
    elif not isinstance(source, OnDevice) and on_device and not non_blocking:
        LOG.wait("copy to the device")


def _raw(each: Any) -> Any:
    return each.raw if isinstance(each, OnDevice) else each


def _check_generator(args: Any, kwargs: dict[str, Any], *, gpu: bool) -> None:
    if gpu and any(isinstance(each, torch.Generator) for each in tree_leaves((args, kwargs))):
        raise RuntimeError("Expected a 'gpu' device type for generator but found 'cpu'")


def _check_devices(func: Any, args: Any, given: list[Tensor]) -> None:
    plain = [each for each in given if not isinstance(each, OnDevice)]
    wrong = [each for each in plain if each.dim()]
    if func in _INDEXING:
        if not isinstance(args[0], OnDevice):
            raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
        wrong = [each for each in wrong if not any(each is index for index in args[1])]
    if func._schema.is_mutable and not isinstance(args[0], OnDevice):
        wrong = wrong or [args[0]]
    if wrong:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, gpu:0 "
            f"and cpu! [{func}]"
        )


_tensor = torch.tensor


def _made(data: Any, *args: Any, device: Any = None, **settings: Any) -> Tensor:
    made = _tensor(data, *args, **settings)
    return made if device is None else made.to(device)


torch.tensor = _made
