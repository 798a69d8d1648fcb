"""Other ways to run a network on this machine, and a race among them."""

import io
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from boxwood.core.errors import BoxwoodError
from boxwood.engine.copying import copied
from boxwood.engine.recording import whole_operators
from boxwood.engine.session import torch_threads

Run = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """One way to run a network once on its example.

    Args:
        name: for people.
        run: runs it; None where that is not possible here.
        why_not: the reason, if it is not.
    """

    name: str
    run: Run | None
    why_not: str = ""


@dataclass(frozen=True)
class Result:
    """Seconds per run.

    Args:
        name: of the contender.
        median: of all turns.
        low: lower end of the median's interval, by order statistics.
        high: its upper end.
        best: the least.
        seconds: of each turn, in order.
    """

    name: str
    median: float
    low: float
    high: float
    best: float
    seconds: tuple[float, ...]


def torch_eager(name: str, model: nn.Module, example: Sequence[Tensor], threads: int) -> Contender:
    """The network as torch runs it."""
    model = copied(model)  # what it keeps from a call in inference mode is not the user's

    def run() -> object:
        with torch.inference_mode(), torch_threads(threads):
            return model(*example)

    return Contender(name, run)


def torch_compiled(model: nn.Module, example: Sequence[Tensor], threads: int) -> Contender:
    """The network through ``torch.compile``; it takes a C++ compiler and up to a minute."""
    compiled = torch.compile(copied(model))

    def run() -> object:
        with torch.no_grad(), torch_threads(threads):
            return compiled(*example)

    return _tried("torch.compile", run)


def onnx_runtime(model: nn.Module, example: Sequence[Tensor], threads: int) -> Contender:
    """The network exported to ONNX, in ONNX Runtime."""
    name = "ONNX Runtime"
    try:
        import onnxruntime
    except ImportError:
        return Contender(name, None, "onnxruntime is not installed")
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            _onnx(model, example), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001 - whatever goes wrong there is a result
        return Contender(name, None, f"it cannot run this model: {_first_line(error)}")
    names = [each.name for each in session.get_inputs()]
    feed = {key: tensor.numpy() for key, tensor in zip(names, example, strict=False)}
    return _tried(name, lambda: session.run(None, feed))


def openvino(model: nn.Module, example: Sequence[Tensor], threads: int) -> Contender:
    """The network in OpenVINO, in float32 as the others (its own choice may be bfloat16)."""
    name = "OpenVINO"
    try:
        import openvino as runtime
    except ImportError:
        return Contender(name, None, "openvino is not installed")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with whole_operators():
                converted = runtime.convert_model(copied(model), example_input=tuple(example))
            shapes = [list(tensor.shape) for tensor in example]
            converted.reshape(dict(zip(converted.inputs, shapes, strict=True)))
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        request = runtime.Core().compile_model(converted, "CPU", settings).create_infer_request()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong there is a result
        return Contender(name, None, f"it cannot run this model: {_first_line(error)}")
    arrays = [tensor.numpy() for tensor in example]
    return _tried(name, lambda: request.infer(arrays))


def race(
    contenders: Mapping[str, Run],
    *,
    turns: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 2,
) -> list[Result]:
    """Run all by turns, every other turn backwards, so that a busy machine slows all alike.

    In its turn each runs twice, and the second run counts: at the first one threads of the one
    before are still awake, and the caches hold what it left.

    Args:
        contenders: by name.
        turns: how often each runs, at least 1.
        clock: wall time, or ``time.process_time`` for one thread on a busy machine.
        warm_up: runs of each that do not count.

    Raises:
        BoxwoodError: no contender, or no turn.

    Example:
        >>> [result.name for result in race({"nothing": lambda: None}, turns=3)]
        ['nothing']
    """
    if not contenders or turns < 1:
        raise BoxwoodError(
            f"Expected contenders and at least one turn, got {len(contenders)} and {turns}; give "
            "both."
        )
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        for _ in range(warm_up):
            run()
    for turn in range(turns):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            contenders[name]()
            begin = clock()
            contenders[name]()
            seconds[name].append(clock() - begin)
    return [_result(name, taken) for name, taken in seconds.items()]


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, and the order statistics that enclose it in 95 % of samples.

    With fewer than six values there are none; the ends are then the least and the greatest.

    Args:
        values: at least one.

    Example:
        >>> median_interval([3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0])
        (4.0, 1.0, 7.0)

    Reference: H. A. David and H. N. Nagaraja, Order Statistics, 2003, section 7.1.
    """
    ordered, count = sorted(values), len(values)
    rank, below = 0, 0.5**count  # chance that fewer than rank + 1 values lie below the median
    while rank + 1 < count / 2 and below + math.comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        below += math.comb(count, rank) * 0.5**count
    return statistics.median(ordered), ordered[rank], ordered[count - 1 - rank]


def _result(name: str, seconds: Sequence[float]) -> Result:
    median, low, high = median_interval(seconds)
    return Result(name, median, low, high, min(seconds), tuple(seconds))


def _onnx(model: nn.Module, example: Sequence[Tensor]) -> bytes:
    buffer, model = io.BytesIO(), copied(model)
    with torch.no_grad(), warnings.catch_warnings(), whole_operators():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, tuple(example), buffer, dynamo=False)  # type: ignore[arg-type]
    return buffer.getvalue()


def _tried(name: str, run: Run) -> Contender:
    try:
        run()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong there is a result
        return Contender(name, None, f"it cannot run this model: {_first_line(error)}")
    return Contender(name, run)


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
