"""Random generators, used and given back as they were."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextmanager
def same_random_numbers() -> Iterator[Callable[[], None]]:
    """Restore the random generators afterwards; yield a function that restarts torch's.

    Python's and numpy's are not started again, so that what is drawn from them differs from call
    to call.

    Example:
        >>> before = torch.get_rng_state()
        >>> with same_random_numbers() as start:
        ...     one = torch.rand(2)
        ...     start()
        ...     two = torch.rand(2)
        >>> torch.equal(one, two), torch.equal(torch.get_rng_state(), before)
        (True, True)
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the user's own
    generators = _Generators()
    with torch.random.fork_rng(devices=[]), generators:
        state = torch.get_rng_state()

        def start() -> None:
            torch.set_rng_state(state)
            generators.restore()

        try:
            yield start
        finally:
            generators.restore()
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def preserved_generators(generators: Iterable[torch.Generator]) -> Iterator[None]:
    """Restore torch's default generator and these ones afterwards."""
    states = [(each, each.get_state()) for each in generators]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


class _Generators(TorchFunctionMode):
    """Remember the states of generators that are handed to torch's functions."""

    def __init__(self) -> None:
        self._states: dict[torch.Generator, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        for each in (*args, *(kwargs or {}).values()):
            if isinstance(each, torch.Generator) and each not in self._states:
                self._states[each] = each.get_state()
        return func(*args, **(kwargs or {}))

    def restore(self) -> None:
        """Give them back their states."""
        for generator, state in self._states.items():
            generator.set_state(state)
