"""A recorded program gives what the function gives, for the recorded batch and for others."""

import pytest
import torch
from torch import Tensor, nn

from boxwood._internal.engine import aten_ops
from boxwood._internal.engine.capture import capture
from boxwood._internal.engine.passes.fold_constants import fold_constants
from boxwood._internal.engine.passes.simplify import simplify
from boxwood._internal.engine.program import Program, TorchOp, check_program
from boxwood._internal.engine.recording import UncapturableError
from boxwood._internal.engine.zero_results import zeros_of


def replay(program: Program, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    batch = len(inputs[0])
    tensors = dict(program.constants) | dict(zip(program.inputs, inputs, strict=True))
    for op in program.ops:
        assert isinstance(op, TorchOp)
        tensors.update(
            zip(
                op.writes, aten_ops.run_operator(aten_ops.at_batch(op, batch), tensors), strict=True
            )
        )
    return [tensors[value] for value in program.outputs]


def assert_same(function, example: Tensor, batches=(1, 2, 5), dynamic=True) -> None:
    program = check_program(capture(function, (example,)).program)
    assert (program.batch is not None) is dynamic
    short = check_program(fold_constants(check_program(simplify(program))))
    assert len(short.ops) <= len(program.ops)
    for batch in batches if dynamic else (len(example),):
        x = torch.randn(batch, *example.shape[1:])
        kept = x.clone()
        wanted = function(x.clone())
        for form in (program, short):
            for ours, theirs in zip(replay(form, (x,)), wanted, strict=True):
                torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(x, kept)


def writes_into_views(x):
    y = x.clone()
    y[:, 1] = x[:, 0]
    y[:, 2:].mul_(3)
    halves = y.chunk(2, 1)
    halves[1].add_(halves[0])
    y.t().relu_()
    return [y, halves[0]]


def writes_into_a_turned_tensor(x):
    y = x.unsqueeze(0).expand(3, -1, -1).contiguous().permute(1, 2, 0)
    first = y[:, 0]
    y[:, 1:] *= 2
    y[0].add_(5)
    return [y, first]


def reads_an_older_view(x):
    y = x * 2
    view = y[:, 1:]
    y += 1
    view -= 3
    return [view, y]


def makes_a_mask(x):
    mask = torch.zeros(x.shape[1], x.shape[1])
    mask[0] = 1
    mask[:, 1] += 2
    literal = torch.tensor([1.0, 2.0])
    literal[0] = 5
    return [x @ mask + literal.sum(), x.new_ones(x.shape[0], 2) * literal]


def uses_the_batch(x):
    places = torch.arange(len(x)).unsqueeze(1)
    return [x.reshape(-1, 2).sum(1).view(len(x), -1) + places, x.expand(len(x), -1) / len(x[0])]


@pytest.mark.parametrize(
    "function",
    [
        writes_into_views,
        writes_into_a_turned_tensor,
        reads_an_older_view,
        makes_a_mask,
        uses_the_batch,
    ],
)
def test_writes_and_sizes_are_recorded_as_values(function) -> None:
    """Writes in place, views of written memory, literals and sizes of the batch replay exactly."""
    assert_same(function, torch.randn(2, 4))


def test_a_size_that_is_no_linear_function_of_the_batch_fixes_the_batch() -> None:
    """A third pass shows it."""
    assert_same(lambda x: [x.view(-1)[::3] * 2], torch.randn(2, 4), dynamic=False)
    assert_same(lambda x: [x * (len(x) ** 2)], torch.randn(2, 4), dynamic=False)


def test_chance_is_not_folded() -> None:
    """What draws random numbers stays an operation, though no input reaches it."""
    program = capture(lambda x: [x + torch.rand(3)], (torch.zeros(2, 3),)).program
    assert any(op.target.startswith("aten.rand") for op in fold_constants(program).ops)


class Counting(nn.Module):
    """Changes a buffer in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return [x + self.calls]


COUNTING = Counting()


def writes_its_input(x):
    x += 1
    return [x]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: [x + 1 if x.sum() > 0 else x], "reads the result of"),
        (lambda x: [x * x.max().item()], "values of the input decide"),
        (lambda x: [torch.tensor(x.tolist())], "reads values that tolist gives"),
        (lambda x: [torch.from_numpy(x.numpy())], "reads values that numpy gives"),
        (lambda x: [x[x > 0]], "values of the input decide"),
        (lambda x: [x.nonzero()], "values of the input decide"),
        (COUNTING, "outlives the forward pass"),
        (writes_its_input, "outlives the forward pass"),
    ],
)
def test_what_is_not_one_list_of_operations_is_refused(function, reason) -> None:
    """A pass that depends on values, or changes what outlives it, is no program."""
    with pytest.raises(UncapturableError, match=reason):
        capture(function, (torch.ones(2, 3),))


def test_a_masked_index_of_constants_is_a_constant() -> None:
    """Shapes that depend on the values of constants alone are known."""
    table = torch.randn(6)
    program = capture(lambda x: [x + table[table > 0].sum()], (torch.zeros(2, 3),)).program
    assert len(fold_constants(program).ops) == 1


def test_linear_layers_are_computed_twice_however_often_a_function_is_recorded() -> None:
    """Recordings get zeros instead, lying as the products would, and the program is the same."""
    layer, seen = nn.Linear(4, 6), []

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.name() in ("aten::linear", "aten::addmm"):
                seen.append(func.name())
            return func(*args, **(kwargs or {}))

    with Watching():
        program = capture(lambda x: [layer(x).relu().t()], (torch.randn(3, 4),)).program
    assert len(seen) == 2
    x = torch.randn(5, 4)
    torch.testing.assert_close(replay(program, (x,)), [layer(x).relu().t()])


def test_a_function_that_accepts_no_zeros_is_recorded_with_values() -> None:
    """A matrix of zeros has no Cholesky factor; that of the layer's results is found."""
    layer = nn.Linear(3, 3)

    def factor(x):
        y = layer(x)
        return [torch.linalg.cholesky(y.t() @ y)]

    x = torch.randn(5, 3)
    program = capture(factor, (x,)).program
    torch.testing.assert_close(replay(program, (x,)), factor(x))


def test_what_a_module_keeps_from_call_to_call_is_seen_without_values() -> None:
    """Results of linear layers that the next call uses are other constants in each recording."""

    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(3, 3), torch.zeros(1, 3)

        def forward(self, x):
            y = self.layer(x)
            before, self.last = self.last, y.detach()
            return [y + before]

    with pytest.raises(UncapturableError, match="from call to call"):
        capture(Remembering(), (torch.randn(1, 3),))


LAID = {
    "contiguous": lambda: (torch.randn(3, 4, 5), torch.randn(3, 4, 5)),
    "one token": lambda: (torch.randn(1, 4, 5), torch.randn(1, 1, 5)),
    "turned": lambda: (torch.randn(5, 4, 3).permute(2, 1, 0), torch.randn(3, 4, 5)),
    "both turned": lambda: tuple(torch.randn(5, 4, 3).permute(2, 1, 0) for _ in range(2)),
    "repeated": lambda: (torch.randn(3, 1, 5), torch.randn(4, 5)),
    "expanded": lambda: (torch.randn(3, 1, 1).expand(3, 4, 5), torch.randn(1).expand(4, 5)),
    "a part": lambda: (torch.randn(3, 4, 9)[..., 2:7], torch.randn(3, 8, 5)[:, ::2]),
}


@pytest.mark.parametrize("laid", LAID)
def test_zeros_lie_in_memory_as_the_results_would(laid: str) -> None:
    """Shape, strides and type are those that the operator itself gives, whatever it reads."""
    aten, (one, two) = torch.ops.aten, LAID[laid]()
    calls = [(each, (one, two), {}) for each in (aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor)]
    calls += [
        (each, (one,), {}) for each in (aten.neg.default, aten.silu.default, aten.rsqrt.default)
    ]
    calls += [
        (aten.sub.Tensor, (one, two), {"alpha": 2}), (aten.mul.Tensor, (one, 0.5), {}),
        (aten.pow.Tensor_Scalar, (one, 2), {}),         (aten.gelu.default, (one,), {"approximate": "tanh"}),
        (aten.linear.default, (one, torch.randn(7, 5)), {}),
        (aten.mm.default, (one[0], torch.randn(7, 5).t()), {}),
        (aten.addmm.default, (torch.randn(7), one[0], torch.randn(5, 7)), {}),
    ]  # fmt: skip
    found = 0
    for operator, args, kwargs in calls:
        zeros, wanted = zeros_of(operator, args), operator(*args, **kwargs)
        if zeros is not None:
            found += 1
            assert (zeros.shape, zeros.stride(), zeros.dtype) == (
                wanted.shape, wanted.stride(), wanted.dtype,
            )  # fmt: skip
            assert not zeros.any()
    assert found >= 12 or laid not in ("contiguous", "one token")
    whole = torch.ones(3, dtype=torch.long)
    assert zeros_of(aten.add.Tensor, (whole, whole)) is None
    assert zeros_of(aten.mul.Tensor, (whole, 0.5)) is None
