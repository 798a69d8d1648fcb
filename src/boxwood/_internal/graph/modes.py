"""The two modes that write a pass down: one sees functions of Python, one all operations."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from boxwood._internal.graph.recording import (
    Recorder,
    flat,
    is_foreign,
    is_wrapped,
    plain_shape,
    unwrapped,
)
from boxwood._internal.graph.sizes import OfShape, Shape, Size
from boxwood._internal.graph.traced_functions import (
    ASKS_SIZE,
    COUNTS,
    PLAIN,
    SETS_DATA,
    STATISTICS,
    WHOLE,
    WITHOUT_DATA,
    bind,
)


class Functions(TorchFunctionMode):
    """Records the functions of `traced_functions.WHOLE`, and makes sizes remember."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        recorder, kwargs = self._recorder, kwargs or {}
        if any(map(is_wrapped, flat((args, tuple(kwargs.values()))))):
            return self._within_vmap(func, args, kwargs)
        if func in ASKS_SIZE:
            return _remembering(recorder, func(*args, **kwargs), args, kwargs)
        if func in COUNTS and args:
            return _remembering(recorder, plain_shape(args[0]), args, kwargs).numel()
        if func is Tensor.__len__:  # Python makes a plain int of it
            return _remembering(recorder, plain_shape(args[0]), args, kwargs)[0].as_number()
        if func == SETS_DATA and not recorder.whole:
            given = recorder.given({"self": args[1]})
            out = func(*args)
            recorder.renumber(args[0])
            recorder.record("alias", given, args[0], writes=False)
            return out
        known = WHOLE.get(func)
        if known is None:
            for size in _sizes(args, kwargs):
                size.as_number()
            return func(*args, **kwargs)
        name, signature = known
        recorder.number += name in STATISTICS
        given = {} if recorder.whole else recorder.given(bind(signature, args, kwargs))
        recorder.whole += 1
        try:
            out = WITHOUT_DATA.get(func, func)(*args, **kwargs)
        finally:
            recorder.whole -= 1
        if recorder.whole == 0:
            recorder.record(name, given, out, writes=name == "setitem")
        return out

    def _within_vmap(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Leave the call to the operations below, which see whole tensors.

        Their sizes are not those that code within ``vmap`` writes, so what is given sizes stays.
        """
        recorder, given = self._recorder, list(flat((args, tuple(kwargs.values()))))
        if func in ASKS_SIZE:
            return _remembering(recorder, func(*args, **kwargs), args, kwargs)
        recorder.number += func in WHOLE and WHOLE[func][0] in STATISTICS
        if not recorder.whole and (func in WHOLE.keys() - PLAIN or any(_sizes(args, kwargs))):
            wrapped = tuple(recorder.refs(each) for each in given if isinstance(each, Tensor))
            recorder.record("within_vmap", {"tensors": wrapped}, (), writes=False)
        for size in _sizes(args, kwargs):
            size.as_number()
        return func(*args, **kwargs)


class Operations(TorchDispatchMode):
    """Records every other operation."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs, recorder = kwargs or {}, self._recorder
        if recorder.whole or func.namespace == "prim":
            return self._run(func, args, kwargs)
        recorder.last = ("", recorder.place()[1])
        schema = func._schema
        given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        given |= dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
        given = recorder.given(given)
        out = self._run(func, args, kwargs)
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments)
        # An operator of somebody else may return nothing, and change what it is given.
        if not any(map(torch.is_tensor, flat(out))) and not (writes and is_foreign(func)):
            return out
        if torch.Tag.inplace_view in func.tags:
            recorder.renumber(out)
            writes = False
        name = schema.name.partition("::")[2].rstrip("_") or schema.name
        name = schema.name if is_foreign(func) else name.lstrip("_")
        recorder.record(name, given, out, writes=writes, operator=str(func))
        return out

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        concrete = self._recorder.concrete
        if concrete is None:
            return func(*args, **kwargs)
        return concrete.run(func, args, kwargs, self._recorder.on_value)


def _remembering(recorder: Recorder, out: Any, args: Any, kwargs: Any) -> Any:
    if not isinstance(args[0], Tensor):
        return out
    tensor, axes = unwrapped(args[0])
    value = recorder.value(tensor)
    if isinstance(out, int):
        axis = axes[args[1] if len(args) > 1 else kwargs["dim"]]
        return Size(out, OfShape(value, axis), recorder)
    return Shape(
        Size(size, OfShape(value, axis), recorder) for axis, size in zip(axes, out, strict=True)
    )


def _sizes(args: Any, kwargs: Any) -> Iterator[Size]:
    for each in flat((args, tuple(kwargs.values()))):
        if isinstance(each, Size):
            yield each
