"""Backends that can run a network on this machine, and a comparison of their times."""

import importlib.util
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from boxwood._internal.core.timing import Clock, Run, median_interval, timed_turns
from boxwood._internal.engine import compiling
from boxwood._internal.engine.model_copy import copy_model
from boxwood._internal.engine.recording import whole_operators
from boxwood._internal.engine.session import Uncompiled, torch_threads
from boxwood.errors import BoxwoodError, InvalidInput

Forward = Callable[[Sequence[Tensor]], list[Tensor]]
"""Inputs to outputs, in the order in which the network returns them."""

Calibration = Sequence[Sequence[Tensor]]
"""Inputs of some calls."""


@dataclass(frozen=True)
class Backend:
    """A way to run a network once on its example.

    Args:
        name: for people.
        run: runs it on its example; None where that is not possible here.
        why_not: the reason, if it is not.
        forward: runs it on other inputs of the example's shapes.
    """

    name: str
    run: Run | None
    why_not: str = ""
    forward: Forward | None = None


@dataclass(frozen=True)
class BackendTimes:
    """Seconds per run.

    Args:
        name: of the backend.
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


def torch_eager(name: str, model: nn.Module, example: Sequence[Tensor], threads: int) -> Backend:
    """The network as torch runs it."""
    model = copy_model(model)  # what it keeps from a call in inference mode is not the user's

    def forward(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.inference_mode(), torch_threads(threads):
            return _tensors(model(*inputs))

    def run() -> object:
        with torch.inference_mode(), torch_threads(threads):
            return model(*example)

    return Backend(name, run, forward=forward)


def torch_compiled(model: nn.Module, example: Sequence[Tensor], threads: int) -> Backend:
    """The network through ``torch.compile``; it takes a C++ compiler and up to a minute."""
    compiled = torch.compile(copy_model(model))

    def forward(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), torch_threads(threads):
            return _tensors(compiled(*inputs))

    def run() -> object:
        with torch.no_grad(), torch_threads(threads):
            return compiled(*example)

    return _tried("torch.compile", lambda: (run, forward))


def boxwood_engine(
    model: nn.Module,
    example: Sequence[Tensor],
    threads: int,
    *,
    int8: bool = False,
    calibration: Calibration = (),
) -> Backend:
    """The network in our engine; absent where the engine leaves the whole network to torch.

    Args:
        model: the network.
        example: its input.
        threads: to run on.
        int8: in 8 bits, layer by layer where that is faster and near enough.
        calibration: as for `onnx_runtime`.
    """
    name = "Boxwood's engine int8" if int8 else "Boxwood's engine"
    shown = [tuple(each) for each in calibration or [example]] if int8 else None
    precision: compiling.Precision = "int8" if int8 else "float32"
    try:
        session = compiling.compile(
            model, tuple(example), threads=threads, precision=precision, calibration=shown
        )
    except BoxwoodError as error:
        return Backend(name, None, f"it refuses this network: {_first_line(error)}")
    if isinstance(session, Uncompiled):
        return Backend(name, None, f"it leaves this network to torch, because {session.why}")
    return Backend(
        name, lambda: session(*example), forward=lambda inputs: _tensors(session(*inputs))
    )


def onnx_runtime(
    model: nn.Module,
    example: Sequence[Tensor],
    threads: int,
    *,
    int8: bool = False,
    calibration: Calibration = (),
) -> Backend:
    """The network exported to ONNX, in ONNX Runtime.

    Args:
        model: the network.
        example: its input.
        threads: to run on.
        int8: quantise weights by channel and activations, statically, in QDQ format.
        calibration: what int8 is calibrated by; the example if empty, which is enough to measure
            times.
    """
    name = "ONNX Runtime int8" if int8 else "ONNX Runtime"
    missing = _missing("onnxruntime", *(["onnx"] if int8 else []))
    if missing:
        return Backend(name, None, missing)

    def prepare() -> tuple[Run, Forward]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        content = to_onnx(model, example)
        if int8:
            content = _onnx_int8(content, calibration or [example])
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feed = _feed(session, example)

        def forward(inputs: Sequence[Tensor]) -> list[Tensor]:
            return [torch.from_numpy(each) for each in session.run(None, _feed(session, inputs))]

        return lambda: session.run(None, feed), forward

    return _tried(name, prepare)


def openvino(
    model: nn.Module,
    example: Sequence[Tensor],
    threads: int,
    *,
    int8: bool = False,
    calibration: Calibration = (),
) -> Backend:
    """The network in OpenVINO, in float32 as the others (its own choice may be bfloat16).

    Args:
        model: the network.
        example: its input.
        threads: to run on.
        int8: quantise it by nncf, after training.
        calibration: as for `onnx_runtime`.
    """
    name = "OpenVINO int8" if int8 else "OpenVINO"
    missing = _missing("openvino", *(["nncf"] if int8 else []))
    if missing:
        return Backend(name, None, missing)

    def prepare() -> tuple[Run, Forward]:
        import openvino as runtime

        arrays = _arrays(example)
        with torch.no_grad(), whole_operators():
            converted = runtime.convert_model(copy_model(model), example_input=tuple(example))
        shapes = [list(tensor.shape) for tensor in example]
        converted.reshape(dict(zip(converted.inputs, shapes, strict=True)))
        if int8:
            import nncf

            shown = [_arrays(each) for each in calibration or [example]]
            norms = any(isinstance(module, nn.LayerNorm) for module in model.modules())
            converted = nncf.quantize(
                converted, nncf.Dataset(shown), subset_size=len(shown),
                # Without it the rank correlation of a sentence encoder falls from 0.996 to 0.71.
                model_type=nncf.ModelType.TRANSFORMER if norms else None,
            )  # fmt: skip
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        request = runtime.Core().compile_model(converted, "CPU", settings).create_infer_request()

        def forward(inputs: Sequence[Tensor]) -> list[Tensor]:
            found = request.infer(_arrays(inputs))
            return [torch.tensor(each) for each in found.values()]  # its buffers are used again

        return lambda: request.infer(arrays), forward

    return _tried(name, prepare)


def time_backends(
    backends: Mapping[str, Run],
    *,
    turns: int,
    clock: Clock = time.perf_counter,
    warm_up: int = 2,
    calls: int = 1,
    progress: Callable[[int, int], None] = lambda done, turns: None,  # noqa: ARG005
) -> list[BackendTimes]:
    """Run all in turn, as in `timed_turns`.

    In its turn each runs twice, and the second run counts: at the first one threads of the one
    before are still awake, and the caches hold what it left.

    Args:
        backends: by name.
        turns: how often each runs, at least 1.
        clock: wall time, or ``time.process_time`` for one thread on a busy machine.
        warm_up: runs of each that do not count.
        calls: how many calls are one run.
        progress: called after each turn with the turns done and all of them.

    Raises:
        InvalidInput: no backend, or no turn.

    Example:
        >>> [result.name for result in time_backends({"nothing": lambda: None}, turns=3)]
        ['nothing']
    """
    if not backends or turns < 1:
        raise InvalidInput(
            f"Expected backends and at least one turn, got {len(backends)} and {turns}; give both."
        )
    seconds: dict[str, list[float]] = {name: [] for name in backends}
    measured = timed_turns(
        backends, turns, calls=calls, clock=clock, warm_up=warm_up, before=lambda run: run()
    )
    for turn, taken in enumerate(measured, 1):
        for name, each in taken.items():
            seconds[name].append(each)
        progress(turn, turns)
    return [_result(name, taken) for name, taken in seconds.items()]


def _result(name: str, seconds: Sequence[float]) -> BackendTimes:
    median, low, high = median_interval(seconds)
    return BackendTimes(name, median, low, high, min(seconds), tuple(seconds))


def to_onnx(model: nn.Module, example: Sequence[Tensor]) -> bytes:
    """Export a network as an ONNX file, whatever of its outputs are tensors."""
    buffer, model = io.BytesIO(), _Plain(copy_model(model))
    names = [f"input_{index}" for index in range(len(example))]
    with torch.no_grad(), whole_operators():
        torch.onnx.export(model, tuple(example), buffer, input_names=names, dynamo=False)  # type: ignore[arg-type]
    return buffer.getvalue()


class _Plain(nn.Module):
    """A network as a function of tensors only: the exporter would fill in all other arguments."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(_tensors(self.network(*inputs)))


def _onnx_int8(content: bytes, calibration: Calibration) -> bytes:
    import onnx
    import onnxruntime
    from onnxruntime import quantization

    class Example(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            self._left = [_feed(session, each) for each in calibration]

        def get_next(self) -> dict[str, Any] | None:
            return self._left.pop() if self._left else None

    with tempfile.TemporaryDirectory() as folder:
        ready, small = Path(folder) / "ready.onnx", Path(folder) / "int8.onnx"
        quantization.shape_inference.quant_pre_process(
            onnx.load_from_string(content), ready, skip_symbolic_shape=True
        )
        # Unsigned activations and signed weights are what ONNX Runtime is fastest with on x86.
        quantization.quantize_static(
            ready, small, Example(), per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
        return small.read_bytes()


def _feed(session: Any, example: Sequence[Tensor]) -> dict[str, Any]:
    taken = {each.name for each in session.get_inputs()}
    given = {f"input_{index}": array for index, array in enumerate(_arrays(example))}
    return {name: array for name, array in given.items() if name in taken}


def _tensors(outputs: Any) -> list[Tensor]:
    leaves, _ = tree_flatten(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _arrays(inputs: Sequence[Tensor]) -> list[Any]:
    return [tensor.numpy() for tensor in inputs]


def _missing(*packages: str) -> str:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"{' and '.join(absent)} is not installed" if absent else ""


def _tried(name: str, prepare: Callable[[], tuple[Run, Forward]]) -> Backend:
    """Prepare a backend and run it once; if that fails, the reason is the result.

    What others print meanwhile is dropped, because standard output belongs to the caller.
    """
    dropped = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(dropped), redirect_stderr(dropped):
            warnings.simplefilter("ignore")
            run, forward = prepare()
            run()
    except Exception as error:  # noqa: BLE001 - whatever goes wrong there is a result
        return Backend(name, None, f"it cannot run this network: {_first_line(error)}")
    return Backend(name, run, forward=forward)


def _first_line(error: Any) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
