"""Record the operations of one forward pass, without computing anything."""

from contextlib import ExitStack
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from boxwood._internal.core.generators import devices_of, own_random_numbers
from boxwood._internal.graph.caches import without_caches
from boxwood._internal.graph.concrete_values import ConcreteValues
from boxwood._internal.graph.examples import called, mapped, moved_to, tensors_of
from boxwood._internal.graph.leftovers import without_leftovers
from boxwood._internal.graph.modes import Functions, Operations
from boxwood._internal.graph.rebuild import check_materialised, rebuilt, twin_of
from boxwood._internal.graph.recording import Recorder, Trace, place_of, refs
from boxwood._internal.graph.sizes import Listener, OfAttribute, Size
from boxwood.errors import BoxwoodError, UnsupportedModel


def trace(model: nn.Module, example: Any, *, until_data: bool = False) -> Trace:
    """Run a copy of a model on fake tensors and record what it does in evaluation.

    Nothing is computed and the model is not touched: parameters are replaced by tensors without
    data, and the ints that its modules hold by ints that remember where they came from.

    Args:
        model: any module.
        example: an input, a tuple of inputs, a dict of inputs by name, or `Calls` of these.
        until_data: stop where the control flow depends on data, instead of refusing; every tensor
            that is still held there counts as a result.

    Raises:
        UnsupportedModel: a parameter has no data or shape yet, the control flow depends on data, or
            the model does not take the example.
    """
    check_materialised(model)
    try:
        return _attempted(model, example, until_data=until_data)
    except _FailsError as failed:
        raise _failure(model, example, failed) from failed.__cause__


def _attempted(model: nn.Module, example: Any, *, until_data: bool) -> Trace:
    with own_random_numbers(devices_of((*model.parameters(), *model.buffers()))):
        return _trace(model, example, until_data=until_data)


def _trace(model: nn.Module, example: Any, *, until_data: bool) -> Trace:
    try:
        return _traced(model, example, with_values=False, until_data=False)
    except _DependsOnDataError as error:
        reads_values = error
    try:
        found = _traced(model, example, with_values=True, until_data=until_data)
        # Where values of the inputs chose the path, another path may read what this one does not.
        cut = [each for each in unread(found) if max(found.shapes[each], default=1) > 1]
        if not (found.assumed and cut):
            return found
        reads_values = _DependsOnDataError(
            f"{reads_values} On the path of this example nothing reads "
            f"{found.named[cut[0]][0]!r}, which another path may need."
        )
    except _DependsOnDataError as error:
        reads_values = error
    if not until_data:
        raise reads_values
    return _traced(model, example, with_values=False, until_data=True)


class _DependsOnDataError(UnsupportedModel):
    pass


class _FailsError(Exception):
    """The code of the model fails in the trace, at this line."""


def _failure(model: nn.Module, example: Any, failed: _FailsError) -> UnsupportedModel:
    """Say whose the failure is: the example's, if the model does not take it either."""
    name, error = type(model).__name__, failed.__cause__
    what = f"at {failed} ({type(error).__name__}: {_first_line(error)})"
    if _takes(model, example):
        return UnsupportedModel(
            f"Expected code that runs on tensors without data, got {name}, which takes the example "
            f"but fails in a trace {what}; give find_units() the part of it without that line, or "
            "report it as a mistake in Boxwood if the line does not look at data."
        )
    return UnsupportedModel(
        f"Expected an example that {name} takes, got one of shape {_shapes(example)}, on which it "
        f"fails {what}; give the inputs of its forward: a tensor, a tuple, or a dict by name."
    )


def _takes(model: nn.Module, example: Any) -> bool:
    copied = rebuilt(model, lambda _, tensor: tensor.clone(), isolated=True).eval()
    given = mapped(lambda tensor: tensor.detach().clone(), moved_to(model, example))
    devices = devices_of((*model.parameters(), *model.buffers()))
    try:
        with torch.no_grad(), own_random_numbers(devices, seed=0):
            called(copied, given)
    except Exception:  # noqa: BLE001 - any error of the user's code
        return False
    return True


def _traced(model: nn.Module, example: Any, *, with_values: bool, until_data: bool) -> Trace:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    concrete = ConcreteValues(lambda tensor: _faked(fake, tensor)) if with_values else None

    def faked(tensor: Tensor) -> Tensor:
        made = _faked(fake, tensor)
        if concrete is not None:
            concrete.note(made, tensor)
        return made

    recorder = Recorder(Trace(), concrete)
    twin, names = twin_of(model, lambda _, tensor: faked(tensor), isolated=True)
    recorder.modules = {id(module): name for name, module in twin.named_modules()}
    for names_of, tensor in names:
        recorder.trace.named[recorder.value(tensor)] = names_of
    twin.eval()
    _remember_ints_(twin, recorder.trace, recorder)
    given = mapped(faked, moved_to(model, example))
    recorder.trace.inputs = {recorder.value(each) for each in tensors_of(given)}
    with ExitStack() as stack:
        for context in (
            torch.no_grad(),
            without_caches(),
            without_leftovers(model),
            fake,
            Operations(recorder),
            Functions(recorder),
        ):
            stack.enter_context(context)
        stack.callback(recorder.stop)
        try:
            returned = called(twin, given)
        except BoxwoodError:
            raise
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            if not until_data:
                raise _DependsOnDataError(
                    f"Expected a model whose control flow does not depend on data, got "
                    f"{type(model).__name__}, which reads values of tensors at {recorder.where()} "
                    f"({error}); give find_units() the part of it that computes the features, or "
                    f"find_units(…, freeze_unknown=True) to keep whole what is read from there on."
                ) from error
            # The frames of the error hold what the code after it would read.
            returned = recorder.held()
            recorder.trace.beyond = recorder.where()
        except Exception as error:
            raise _FailsError(place_of(error)) from error
        recorder.trace.evaluated = len(recorder.trace.calls)
        # Counters of batches have no axis that could lose anything.
        left = [each for each in unread(recorder.trace) if recorder.trace.shapes[each]]
        if left and not recorder.trace.beyond:
            returned += _in_training(recorder, twin, given)
    _check_own(model, recorder)
    recorder.trace.results = {
        recorder.value(each) for each in tensors_of(returned) if recorder.knows(each)
    }
    return recorder.trace


def _check_own(model: nn.Module, recorder: Recorder) -> None:
    """Refuse a copy that has computed with the original: its weights would be those of both."""
    held = (model.named_parameters, model.named_buffers)
    for name, tensor in (each for list_of in held for each in list_of(remove_duplicate=False)):
        if recorder.knows(tensor):
            raise UnsupportedModel(
                f"Expected a network whose copy computes with its own weights, got a copy of "
                f"{type(model).__name__} that reads {name!r} of the original, which a global "
                "variable or a weak reference in a container may lead to; let the code find its "
                "parts through self."
            )


def unread(trace: Trace) -> list[int]:
    """List the parameters and buffers that no call reads.

    Example:
        >>> net = nn.Linear(1, 1)
        >>> net.spare = nn.Parameter(torch.zeros(3))
        >>> found = trace(net, torch.ones(1, 1))
        >>> [found.named[value] for value in unread(found)]
        [('spare',)]
    """
    read = {ref.value for call in trace.calls for ref in refs(tuple(call.args.values()))}
    return [value for value in trace.named if value not in read]


def _in_training(recorder: "Recorder", twin: nn.Module, given: Any) -> list[Any]:
    """Run a second pass in training mode, for what evaluation does not read: auxiliary heads."""
    calls, numbers = len(recorder.trace.calls), len(recorder.trace.numbers)
    twin.train()
    try:
        return called(twin, given)
    except Exception:  # noqa: BLE001 - the pass is extra; what it does not reach stays unread
        del recorder.trace.calls[calls:], recorder.trace.numbers[numbers:]
        return []


def _faked(fake: FakeTensorMode, tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        with fake:
            return fake.from_tensor(tensor)
    bare = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(fake, bare, tensor.device)


def _remember_ints_(model: nn.Module, trace: Trace, listener: Listener) -> None:
    seen: set[int] = set()

    def remember(holder: Any, path: tuple[str | int, ...], depth: int) -> None:
        if id(holder) in seen:
            return
        seen.add(id(holder))
        for name, value in list(vars(holder).items()):
            where = (*path, name)
            if type(value) is int:
                vars(holder)[name] = made(value, where)
            elif type(value) in (tuple, list) and value and all(type(v) is int for v in value):
                sizes = [made(v, (*where, place)) for place, v in enumerate(value)]
                vars(holder)[name] = type(value)(sizes)
            elif depth and _holds_settings(value):
                remember(value, where, depth - 1)

    def made(value: int, where: tuple[str | int, ...]) -> Size:
        trace.attributes[OfAttribute(where)] = value
        return Size(value, OfAttribute(where), listener)

    for name, module in model.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            remember(module, tuple(name.split(".")) if name else (), 2)


def _holds_settings(value: Any) -> bool:
    """Distinguish a configuration object from modules, tensors, functions and containers."""
    return (
        hasattr(value, "__dict__")
        and not isinstance(value, nn.Module | Tensor | type | FunctionType)
        and not callable(value)
        and not type(value).__module__.startswith(("torch", "builtins", "collections"))
    )


def _shapes(example: Any) -> str:
    said = [str(tuple(t.shape)) for t in tensors_of(example)]
    return ", ".join(said) or "none"


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
