"""Values that are known without computing the network, because they follow from integer inputs.

Much code looks at tokens, lengths and masks to decide what to do ("is anything masked?", "how long
is the longest?"). These do not depend on what is removed, so next to tensors without data their real
values are carried along, as long as nothing else enters.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    unset_fake_temporarily,
)
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

LARGEST = 1 << 20  # elements of a value that is carried along


class ConcreteValues:
    """Real values of tensors without data.

    Args:
        faked: makes a tensor without data of one with data.
    """

    def __init__(self, faked: Callable[[Tensor], Tensor]) -> None:
        self._faked = faked
        self._real: dict[int, tuple[Tensor, Tensor]] = {}  # by id; the first keeps the id in use

    def note(self, fake: Tensor, real: Tensor) -> None:
        """Remember the value of a tensor, if it is of whole numbers or truth values, and small."""
        whole = not real.is_floating_point() and not real.is_complex()
        if whole and real.numel() <= LARGEST:
            self._keep(fake, real.detach().clone())  # code may write into it

    def run(self, func: Any, args: Any, kwargs: Any, on_value: Callable[[], None]) -> Any:
        """Run an operation without data, and with data where all that it reads is known.

        ``on_value`` is called where what comes out is not known without data.
        """
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        written = list(_written(func, args, kwargs))
        if (
            torch.Tag.nondeterministic_seeded in func.tags
            or any(self._value(each) is None for each in tensors)
            or not all(isinstance(each, FakeTensor) for each in written)
        ):
            out = func(*args, **kwargs)
            self._forget(written)
            return out
        real_args, real_kwargs = tree_map_only(Tensor, self._value, (args, kwargs))
        try:
            out, known = func(*args, **kwargs), True
        except (DataDependentOutputException, DynamicOutputShapeException):
            out, known = None, False
            on_value()
        with unset_fake_temporarily():
            real = func(*real_args, **real_kwargs)
        if not known:
            out = tree_map(self._without_data, real)
        for fake, value in zip(tree_flatten(out)[0], tree_flatten(real)[0], strict=True):
            if isinstance(fake, Tensor):
                self._keep(fake, value)
        return out

    def _keep(self, fake: Tensor, real: Tensor) -> None:
        if real.numel() <= LARGEST:
            self._real[id(fake)] = fake, real

    def _value(self, tensor: Tensor) -> Tensor | None:
        if not isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in self._real and tensor.constant is not None:
            self._keep(tensor, tensor.constant.clone())
        found = self._real.get(id(tensor))
        return None if found is None else found[1]

    def _without_data(self, each: Any) -> Any:
        return self._faked(each) if isinstance(each, Tensor) else each

    def _forget(self, written: Sequence[Tensor]) -> None:
        """What is written with something unknown is unknown, with all that shares its memory."""
        for tensor in written:
            value = self._value(tensor)
            if value is not None and isinstance(tensor, FakeTensor):
                memory = value.untyped_storage()._cdata
                self._real = {
                    key: pair
                    for key, pair in self._real.items()
                    if pair[1].untyped_storage()._cdata != memory
                }


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (each for each in tree_flatten(given)[0] if isinstance(each, Tensor))
