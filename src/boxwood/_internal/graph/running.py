"""Run copies of a network under equal conditions: in double precision if possible, seeded, on weights with noise."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.graph.comparison import gradient_tolerance, is_coarser, is_numbers
from boxwood._internal.graph.examples import called, mapped, moved_to, tensors_of
from boxwood._internal.graph.rebuild import Replace, rebuilt

_T = TypeVar("_T")


def in_finest(network: nn.Module, trial: Callable[[torch.dtype | None], _T]) -> _T:
    """Run in double precision, or else as the network is; one in half precision first in single.

    Args:
        network: whose parameters and buffers say what it computes in.
        trial: given the type; None for the network as it is.

    Example:
        >>> in_finest(nn.Linear(1, 1), lambda dtype: dtype)
        torch.float64
    """
    held = [each.dtype for each in (*network.parameters(), *network.buffers()) if is_numbers(each)]
    half = any(not gradient_tolerance(dtype.to_real()) for dtype in held)
    for dtype in (torch.float64, *[torch.float32] * half):
        try:
            return trial(dtype)
        except Exception:  # noqa: BLE001, S112 - it may be for the type; if not, it comes again
            continue
    return trial(None)


def prepared(tensor: Tensor, dtype: torch.dtype | None, noise: Tensor | None) -> Tensor:
    """Bring floats into a type, and add noise; what is left alone is not copied.

    Example:
        >>> prepared(torch.ones(1), torch.float64, None)
        tensor([1.], dtype=torch.float64)
    """
    made = tensor.detach()
    if dtype is not None:
        made = widened(made, dtype)
    return made if noise is None or not is_numbers(made) else _perturbed(made, noise)


def widened(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring floats into a type, and complex numbers into one as wide.

    Example:
        >>> widened(torch.ones(1, dtype=torch.complex64), torch.float64).dtype
        torch.complex128
    """
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def ready(network: nn.Module, replace: Replace, dtype: torch.dtype | None) -> nn.Module:
    """Copy a network with other tensors, for evaluation in a type.

    Example:
        >>> ready(nn.Dropout(), lambda name, tensor: tensor, None).training
        False
    """
    made = rebuilt(network, replace, isolated=True).eval()
    if dtype is not None:
        _widen_plain_tensors_(made, dtype)
    return made


def noise_of(seed: int) -> Tensor:
    """Draw what `prepared` adds, repeatedly along a tensor.

    Example:
        >>> torch.equal(noise_of(0), noise_of(0))
        True
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(10007, generator=generator, dtype=torch.float64)  # a prime: no pattern


def _perturbed(tensor: Tensor, noise: Tensor) -> Tensor:
    """Add noise of a tenth of the tensor's size, or a little where it is all but zero."""
    if tensor.is_complex():
        real = torch.view_as_real(tensor.resolve_conj())
        return torch.view_as_complex(_perturbed(real, noise).contiguous())
    count = tensor.numel()
    norm = float(torch.linalg.vector_norm(tensor)) if count else 0.0
    size = max(0.1 * norm / max(count, 1) ** 0.5, 0.02)
    flat, noise = tensor.reshape(-1), noise.to(tensor)
    # Row after row: repeated, the noise would be as large as the tensor.
    made = torch.empty_like(flat)
    whole = count - count % len(noise)
    rows = (-1, len(noise))
    torch.add(flat[:whole].view(rows), noise, alpha=size, out=made[:whole].view(rows))
    torch.add(flat[whole:], noise[: count - whole], alpha=size, out=made[whole:])
    made = made.view(tensor.shape)
    # What lies otherwise, such as channels last, is to be run as it lies.
    return made if tensor.is_contiguous() else torch.empty_like(tensor).copy_(made)


def _widen_plain_tensors_(network: nn.Module, dtype: torch.dtype) -> None:
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                vars(module)[name] = widened(value, dtype)


def run(
    network: nn.Module,
    example: Any,
    dtype: torch.dtype | None,
    seed: int,
    *contexts: AbstractContextManager[Any],
) -> list[Tensor]:
    """Run a network in a type, with its random numbers seeded, and list the tensors it returns.

    Example:
        >>> run(nn.ReLU(), torch.tensor([-1.0, 2.0]), torch.float64, seed=0)
        [tensor([0., 2.], dtype=torch.float64)]
    """

    def wide(each: Tensor) -> Tensor:
        # A copy, for code may write into what it is given.
        return each.detach().clone() if dtype is None else widened(each.detach().clone(), dtype)

    given = mapped(wide, moved_to(network, example))
    devices = devices_of((*network.parameters(), *network.buffers()))
    with ExitStack() as stack:
        for each in (_seeded(seed, devices), _default_dtype(dtype), *contexts):
            stack.enter_context(each)
        return list(tensors_of(called(network, given)))


def observe_(network: nn.Module, into: list[Tensor]) -> None:
    """Let a network, which is a copy, note what each of its modules returns.

    Example:
        >>> net, seen = nn.Sequential(nn.ReLU()), []
        >>> observe_(net, seen)
        >>> _ = net(torch.ones(1))
        >>> seen
        [tensor([1.]), tensor([1.])]
    """

    def note(_: nn.Module, __: Any, returned: Any) -> None:
        into.extend(tensors_of(returned))

    for module in network.modules():
        module.register_forward_hook(note)


class Precisions(TorchDispatchMode):
    """Notes the coarsest type of floats into which anything finer is rounded.

    What is made in a coarse type without reading anything finer, such as a table of positions, is
    the same in every network.

    Example:
        >>> with Precisions() as noted:
        ...     _ = torch.ones(1, dtype=torch.float32) + torch.ones(1, dtype=torch.float64)
        >>> noted.coarsest
        torch.float64
        >>> with Precisions() as noted:
        ...     _ = torch.ones(1, dtype=torch.float64).float()
        >>> noted.coarsest
        torch.float32
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.coarsest: torch.dtype = torch.float64

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = {each.dtype.to_real() for each in tensors_of((args, kwargs)) if is_numbers(each)}
        made = {each.dtype.to_real() for each in tensors_of(out) if is_numbers(each)}
        for kind in made:
            if is_coarser(kind, self.coarsest) and any(is_coarser(kind, each) for each in read):
                self.coarsest = kind
        return out


class Widening(TorchDispatchMode):
    """Computes in double precision where code asks for a coarser type of floats.

    Example:
        >>> with Widening():
        ...     torch.ones(1, dtype=torch.float64).half()
        tensor([1.], dtype=torch.float64)
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map_only(torch.dtype, _widest, (args, kwargs or {}))
        return func(*args, **kwargs)


def _widest(dtype: torch.dtype) -> torch.dtype:
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


@contextmanager
def _seeded(seed: int, devices: Sequence[torch.device]) -> Iterator[None]:
    """Seed all generators that code draws from, and put them back."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - the one that code uses
    try:
        with own_random_numbers(devices, seed=seed):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


@contextmanager
def _default_dtype(dtype: torch.dtype | None) -> Iterator[None]:
    before = torch.get_default_dtype()
    try:
        if dtype is not None:
            torch.set_default_dtype(dtype)
        yield
    finally:
        torch.set_default_dtype(before)
