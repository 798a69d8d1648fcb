"""Run two networks alike, in double precision where they can, and compare what they return."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.graph.equivalence_report import SMALLEST, Trial
from boxwood._internal.graph.examples import called, mapped, moved_to, tensors_of
from boxwood._internal.graph.rebuild import Replace, named_tensors, rebuilt
from boxwood.errors import InvalidInput

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference of outputs by their type, over the largest output."""

GRADIENT_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3}
"""Largest difference of gradients, over the largest: they pass through a network twice."""

_T = TypeVar("_T")


def compare(one: nn.Module, other: nn.Module, example: Any, *, seed: int = 0) -> Trial:
    """Run two networks with parameters of the same names and shapes, with the same noise on them.

    Args:
        one: its weights are taken, for both.
        other: anything else is its own.
        example: inputs, as for `boxwood.find_units`.
        seed: of the noise, and of what the networks draw.

    Example:
        >>> compare(nn.Linear(2, 1), nn.Linear(2, 1), torch.ones(1, 2)).equal
        True
    """
    learned = {name for name, _ in one.named_parameters(remove_duplicate=False)}
    weights = {names[0]: tensor for names, tensor in named_tensors(one) if names[0] in learned}

    def trial(dtype: torch.dtype | None) -> Trial:
        noise = noise_of(seed)

        def made(name: str, tensor: Tensor) -> Tensor:
            noisy = noise if name in weights else None
            return prepared(weights.get(name, tensor), dtype, noisy).clone()

        outputs = []
        for network in (one, other):
            copied = ready(network, made, dtype)
            with torch.no_grad():
                outputs.append(run(copied, example, dtype, seed))
        kind = precision(outputs[0], dtype)
        name = str(kind).removeprefix("torch.")
        return Trial("given", "perturbed", name, *distance(*outputs), TOLERANCE.get(kind, 0.05))

    return in_double(trial)


def in_double(trial: Callable[[torch.dtype | None], _T]) -> _T:
    """Run in double precision, or as the network is where it cannot.

    Example:
        >>> in_double(lambda dtype: dtype)
        torch.float64
    """
    try:
        return trial(torch.float64)
    except Exception:  # noqa: BLE001 - whatever it is, it may be for the type; if not, it comes again
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
    """Draw what `prepared` adds, again and again along a tensor.

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


def distance(expected: Sequence[Tensor], got: Sequence[Tensor]) -> tuple[float, float]:
    """Find the output that differs most for its size: its largest difference, and its largest entry.

    Entries that are infinite or no number count as equal where both have the same; whole numbers
    and truth values must be the same. What differs otherwise differs infinitely.

    Raises:
        InvalidInput: one of those expected has no finite entry.

    Example:
        >>> distance([torch.tensor([1.0, -4.0])], [torch.tensor([1.5, -4.0])])
        (0.5, 4.0)
    """
    if [t.shape for t in expected] != [t.shape for t in got]:
        return math.inf, 1.0
    pairs = [_apart(one, other) for one, other in zip(expected, got, strict=True) if one.numel()]
    return max(
        pairs, key=lambda pair: (pair[0] / max(pair[1], SMALLEST), pair[1]), default=(0.0, 0.0)
    )


def _apart(expected: Tensor, got: Tensor) -> tuple[float, float]:
    if not is_numbers(expected):
        return (0.0 if torch.equal(expected, got.to(expected.dtype)) else math.inf), 0.0
    finite = expected.isfinite()
    if not finite.any():
        raise InvalidInput(
            f"Expected finite outputs to compare, got one of shape {tuple(expected.shape)} without "
            "any finite entry; give an example on which all are finite."
        )
    scale = float(expected[finite].abs().max())
    same = (expected == got) | (expected.isnan() & got.isnan())
    difference = float((expected - got).abs().masked_fill(same, 0).max())
    return (math.inf if math.isnan(difference) else difference), scale


def precision(outputs: Sequence[Tensor], dtype: torch.dtype | None) -> torch.dtype:
    """Return the coarsest type of the outputs, which is what their difference can show.

    Example:
        >>> precision([torch.ones(1), torch.ones(1, dtype=torch.float64)], None)
        torch.float32
    """
    kinds = [_real(t.dtype) for t in outputs if is_numbers(t)]
    return min(kinds, key=lambda kind: -torch.finfo(kind).eps, default=dtype or torch.float32)


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
        read = {_real(each.dtype) for each in tensors_of((args, kwargs)) if is_numbers(each)}
        made = {_real(each.dtype) for each in tensors_of(out) if is_numbers(each)}
        for kind in made:
            eps = torch.finfo(kind).eps
            rounds = any(torch.finfo(each).eps < eps for each in read)
            if rounds and eps > torch.finfo(self.coarsest).eps:
                self.coarsest = kind
        return out


def is_numbers(tensor: Tensor) -> bool:
    """Say whether a tensor holds floats or complex numbers.

    Example:
        >>> is_numbers(torch.ones(1)), is_numbers(torch.arange(1))
        (True, False)
    """
    return tensor.is_floating_point() or tensor.is_complex()


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real()


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
