"""Torch's own random state, on the CPU and on devices: save it, seed it for a while, restore it."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def devices_of(tensors: Iterable[Tensor]) -> tuple[torch.device, ...]:
    """List the devices of some tensors that have generators of their own; not the CPU.

    Example:
        >>> devices_of([torch.ones(1)])
        ()
    """
    found = {tensor.device for tensor in tensors}
    return tuple(
        sorted((each for each in found if hasattr(_module(each), "get_rng_state")), key=str)
    )


def in_use() -> tuple[torch.device, ...]:
    """List all devices of this machine's accelerator, if this process uses it.

    Example:
        >>> all(device.type != "cpu" for device in in_use())
        True
    """
    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return ()
    module: Any = _module(kind)
    if not getattr(module, "is_initialized", lambda: True)():
        return ()
    return tuple(torch.device(kind.type, place) for place in range(module.device_count()))


@contextmanager
def own_random_numbers(
    devices: Iterable[torch.device] = (), *, seed: int | None = None
) -> Iterator[None]:
    """Draw random numbers for a while without disturbing those that come afterwards.

    Args:
        devices: on which numbers are drawn; on the CPU they always are. See `devices_of`.
        seed: what they follow from on each of these devices; None to go on from where they are.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with own_random_numbers(seed=5):
        ...     first = torch.rand(1)
        >>> with own_random_numbers(seed=5):
        ...     again = torch.rand(1)
        >>> _ = torch.manual_seed(0)
        >>> torch.equal(first, again), torch.initial_seed()
        (True, 0)
    """
    devices = tuple(devices)
    before = random_states(devices)
    try:
        if seed is not None:
            # Not torch.manual_seed, which seeds every device of the machine.
            torch.default_generator.manual_seed(seed)
            for device in devices:
                _seed(device, seed)
        yield
    finally:
        put_back(before, devices)


def random_states(devices: Iterable[torch.device]) -> dict[str, Tensor]:
    """Return the states of the CPU's generator and of those of some devices, by device.

    Example:
        >>> list(random_states([]))
        ['cpu']
    """
    states = {"cpu": torch.default_generator.get_state()}
    return states | {
        str(device): _module(device).get_rng_state(*_named(device)) for device in devices
    }


def put_back(states: Mapping[str, Tensor], devices: Iterable[torch.device]) -> None:
    """Set generators to the states that `random_states` returned; those without one are left.

    Example:
        >>> kept = random_states([])
        >>> first = torch.rand(1)
        >>> put_back(kept, [])
        >>> torch.equal(torch.rand(1), first)
        True
    """
    torch.default_generator.set_state(states["cpu"])
    for device in devices:
        if str(device) in states:
            _module(device).set_rng_state(states[str(device)], *_named(device))


def _seed(device: torch.device, seed: int) -> None:
    module = _module(device)
    if device.type == "mps":  # there is one
        module.manual_seed(seed)
    else:
        with module.device(device):
            module.manual_seed(seed)


def _module(device: torch.device) -> Any:
    """``torch.cuda`` or one like it; None for the CPU, and where torch knows of no generator."""
    return None if device.type in ("cpu", "meta") else getattr(torch, device.type, None)


def _named(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)
