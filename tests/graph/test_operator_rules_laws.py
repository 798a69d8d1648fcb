"""Rules that users write: the operator runs in the smaller network, and a wrong rule is found out."""

import importlib.util
import pickle
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from boxwood import check_equivalence, compensate, find_units, select_units, shrink
from boxwood.errors import BoxwoodError, EquivalenceError
from boxwood.structure import OperatorCall, elementwise

SPEC = importlib.util.spec_from_file_location(
    "structure_checks", Path(__file__).parent / "structure_checks.py"
)
checks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(checks)
RAN: list[tuple[int, ...]] = []


@torch.library.custom_op("boxwood_tests::scaled", mutates_args=())
def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """Multiply each channel, which lies in axis 1, by a number."""
    RAN.append(tuple(x.shape))
    return x * scale.view(-1, *[1] * (x.dim() - 2))


@torch.library.custom_op("boxwood_tests::product", mutates_args=())
def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Be a linear layer."""
    return F.linear(x, weight, bias)


@torch.library.custom_op("boxwood_tests::rms_normed", mutates_args=())
def rms_normed(x: Tensor, weight: Tensor) -> Tensor:
    """Divide by a mean over the channels."""
    return F.rms_norm(x, weight.shape, weight)


@torch.library.custom_op("boxwood_tests::shifted_", mutates_args={"x"})
def shifted_(x: Tensor, shift: Tensor) -> None:
    """Add to each channel, in place."""
    x += shift


@torch.library.custom_op("boxwood_tests::both", mutates_args=())
def both(parts: list[Tensor], axis: int) -> tuple[Tensor, Tensor]:
    """Return the sum of two tensors and their scalar products along an axis."""
    return parts[0] + parts[1], (parts[0] * parts[1]).sum(axis)


scaled.register_fake(lambda x, scale: torch.empty_like(x))
product.register_fake(lambda x, weight, bias=None: x.new_empty(*x.shape[:-1], len(weight)))
rms_normed.register_fake(lambda x, weight: torch.empty_like(x))
shifted_.register_fake(lambda x, shift: None)
both.register_fake(
    lambda parts, axis: (torch.empty_like(parts[0]), parts[0].new_empty(parts[0].shape[:-1]))
)
scaled.register_autograd(
    lambda ctx, g: (g * ctx.scale.view(-1, *[1] * (g.dim() - 2)), (g * ctx.x).flatten(2).sum((0, 2))),
    setup_context=lambda ctx, inputs, output: vars(ctx).update(x=inputs[0], scale=inputs[1]),
)  # fmt: skip

OPS = torch.ops.boxwood_tests
SCALED = [{"x": 1, "scale": 0, "output": 1}]
PRODUCT = [{"x": -1, "weight": 1}, {"weight": 0, "bias": 0, "output": -1}]
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Operator(nn.Module):
    """A layer that is one operator, with parameters of these shapes."""

    def __init__(self, operator, *shapes):
        super().__init__()
        self.operator = operator
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(shape)) for shape in shapes])

    def forward(self, x):
        return self.operator(x, *self.weights)


def images(operator=OPS.scaled):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), Operator(operator, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5)
    )  # fmt: skip


def rows(operator, *shapes):
    return nn.Sequential(nn.Linear(4, 8), Operator(operator, *shapes), nn.Linear(8, 2))


def holds(net, example, rules):
    """Hold a network to the law for three removals; return what can go."""
    found = find_units(net, example, rules=rules)
    for seed in range(3):
        selection = checks.some_selection(found, seed)
        report = check_equivalence(net, shrink(net, selection), selection, gradients=False)
        assert report.equivalent, str(report)
    return found


@pytest.mark.parametrize("operator", [scaled, OPS.scaled, OPS.scaled.default])
def test_an_operator_may_be_named_as_pytorch_hands_it_out(operator):
    """What `custom_op` returned, the operator, or one overload of it."""
    assert len(holds(images(), IMAGES, {operator: SCALED})) == 8


def test_the_smaller_network_runs_the_operator():
    """With fewer channels, and with gradients that are compared too."""
    net = images()
    found = find_units(net, IMAGES, rules={OPS.scaled: SCALED})
    selection = select_units(found, 0.5)
    small = shrink(net, selection)
    RAN.clear()
    assert small(IMAGES).shape == (2, 5)
    assert RAN == [(2, 4, 4, 4)]
    assert small[1].weights[0].shape == (4,)
    assert check_equivalence(net, small, selection).equivalent


def test_a_rule_for_a_product_finds_what_a_linear_layer_has():
    """The same units as with PyTorch's own, with and without the optional bias."""
    for shapes in [((8, 8), (8,)), ((8, 8),)]:
        found = holds(rows(OPS.product, *shapes), X, {product: PRODUCT})
        plain = find_units(rows(F.linear, *shapes), X)
        assert [(g.name, g.axes) for g in found.groups] == [(g.name, g.axes) for g in plain.groups]


def test_axes_that_no_rule_names_stay_whole():
    """An empty rule freezes one operator, and nothing else."""
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8),
                        Operator(OPS.scaled, 8), nn.Linear(8, 2))  # fmt: skip
    found = holds(net, X, {scaled: []})
    assert [group.name for group in found.groups] == ["0.weight"]
    assert "keeps it whole" in found.reasons()["2.weight", 0]
    assert "test_operator_rules_laws.py" in found.reasons()["2.weight", 0]


def test_an_operator_may_change_what_it_is_given():
    """It returns nothing; without a rule it is refused, rather than overlooked."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.shift = (
                nn.Linear(4, 8),
                nn.Linear(8, 2),
                nn.Parameter(torch.randn(8)),
            )

        def forward(self, x):
            h = self.a(x).relu()
            shifted_(h, self.shift)
            return self.b(h)

    with pytest.raises(
        BoxwoodError, match=r"boxwood_tests::shifted_.*rules={boxwood_tests.shifted_"
    ):
        find_units(Shifted(), X)
    found = holds(Shifted(), X, {shifted_: elementwise})
    assert found.groups[0].axes == (("shift", 0), ("a.weight", 0), ("a.bias", 0), ("b.weight", 1))


class Both(nn.Module):
    """A list of tensors, two results, and a sum over channels."""

    def __init__(self, *, squashed):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8, bias=False), nn.Linear(4, 8, bias=False)
        self.squashed = squashed

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        return OPS.both([a.sigmoid(), b.sigmoid()] if self.squashed else [a, b], -1)[1]


def shared(call: OperatorCall):
    assert call.settings == {"axis": -1}
    assert list(call.outputs) == ["output.0", "output.1"]
    return [{"parts.0": -1, "parts.1": -1}]


def test_a_sum_may_lose_what_is_zero():
    """A function sees lists, results and settings; sigmoid(0) is not 0, so channels stay."""
    found = holds(Both(squashed=False), X, {both: shared})
    assert [axis.names[0] for axis in found.axes] == ["a.weight", "b.weight"]
    found = find_units(Both(squashed=True), X, rules={both: shared})
    assert len(found) == 0
    assert "keeps it whole" in found.reasons()["a.weight", 0]


def test_heads_decide_where_channels_are_viewed_as_heads():
    """An operator on single elements leaves heads to go whole, as PyTorch's own do."""

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.heads = nn.Linear(4, 12), nn.Linear(12, 2), 3
            self.scale = nn.Parameter(torch.randn(3, 1))

        def forward(self, x):
            x = self.a(x).view(len(x), self.heads, -1)
            return self.b(OPS.shares(x, self.scale).flatten(1))

    found = holds(Heads(), X, {OPS.shares: elementwise})
    assert [len(group.units) for group in found.groups] == [3]


@torch.library.custom_op("boxwood_tests::shares", mutates_args=())
def shares(x: Tensor, scale: Tensor) -> Tensor:
    """Multiply single elements, with broadcasting."""
    return x * scale


shares.register_fake(lambda x, scale: torch.empty_like(x))


def test_networks_are_repaired_around_an_operator():
    """Least squares refits what reads the channels that the operator hands on."""
    net = images()
    selection = select_units(find_units(net, IMAGES, rules={scaled: SCALED}), 0.5)
    small = shrink(net, selection)
    batch = torch.randn(200, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    better = compensate(net, small, selection, [batch])
    errors = [
        float((each(batch) - net(batch)).square().mean().detach()) for each in (small, better)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_units_found_by_a_rule_can_be_sent_to_another_process():
    """Operators cannot be pickled, so a trace keeps their names."""
    found = find_units(images(plain), IMAGES, rules={scaled: SCALED})
    again = pickle.loads(pickle.dumps(found))  # noqa: S301 - written right here
    assert len(again) == len(found)
    assert again.flow.trace.calls[1].operator == "boxwood_tests.scaled.default"


def plain(x: Tensor, scale: Tensor) -> Tensor:
    """Run the operator; unlike the operator itself a function can be pickled."""
    return OPS.scaled(x, scale)


def test_one_call_takes_rules_too():
    """`shrink` finds units with them; a selection has followed the operators already."""
    assert shrink(images(), IMAGES, 0.5, rules={scaled: SCALED})[0].out_channels == 4
    selection = select_units(find_units(images(), IMAGES, rules={scaled: SCALED}), 0.5)
    with pytest.raises(BoxwoodError, match="a selection alone, got rules= as well"):
        shrink(images(), selection, rules={scaled: SCALED})


def test_a_wrong_rule_is_found_out():
    """A mean over channels is another one over fewer, and channels in another order are others."""
    rule = [{"x": -1, "weight": 0, "output": -1}]
    with pytest.raises(EquivalenceError, match="compute what the masked one does"):
        shrink(rows(OPS.rms_normed, 8), X, 0.5, rules={rms_normed: rule})
    assert len(find_units(rows(OPS.rms_normed, 8), X, rules={rms_normed: []})) == 0
    wrong = [{"x": -1, "weight": 0, "output": -1}, {"weight": 1}]
    with pytest.raises(EquivalenceError, match="compute what the masked one does"):
        shrink(rows(OPS.product, (8, 8)), X, 0.5, rules={product: wrong})


def test_an_operator_of_the_same_name_as_pytorchs_is_another():
    """Namespaces count: a rule of ours is not taken for somebody else's `relu`."""

    @torch.library.custom_op("boxwood_tests::relu", mutates_args=())
    def relu(x: Tensor) -> Tensor:
        return x.flip(-1).relu()

    relu.register_fake(lambda x: torch.empty_like(x))
    with pytest.raises(
        BoxwoodError, match="Expected operations with a rule, got 'boxwood_tests::relu'"
    ):
        find_units(rows(OPS.relu), X)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([], "rules by operator, got a value of type list"),
        ({"scaled": SCALED}, "an operator such as torch.ops.mylib.scale, got 'scaled'"),
        ({F.relu: SCALED}, "an operator such as torch.ops.mylib.scale, got a value of type function"),
        ({torch.ops.aten.relu: SCALED}, "operators that Boxwood does not know, got one for aten.relu"),
        ({scaled: "x"}, "a rule for boxwood_tests.scaled.default that lists axes, got 'x'"),
        ({scaled: {"x": 1}}, "that lists axes, got a value of type dict"),
        ({scaled: [{"x": 1.0}]}, "that lists axes, got a value of type list"),
        ({scaled: lambda call: None}, "a rule for boxwood_tests::scaled that lists axes, got None"),
        ({scaled: lambda call: call.inputs["y"]}, r"got KeyError \('y'\) from it; correct the rule"),
        ({scaled: [{"x": 4, "output": 1}]}, r"axis 4 of 'x'; it has x \(2, 8, 4, 4\), scale \(8,\)"),
        ({scaled: [{"y": 1, "output": 1}]}, "got axis 1 of 'y'; it has x"),
        ({scaled: [{"x": 2, "scale": 0}]}, "one size in .*got 4 in axis 2 of 'x' and 8 in axis 0 of 'scale'"),
        ({scaled: [{"x": 1, "output": 1}, {"x": -3, "scale": 0}]}, "every axis once.*axis -3 of 'x'"),
        ({scaled: elementwise}, r"that broadcast to its output, got x \(2, 8, 4, 4\), scale \(8,\)"),
    ],
)  # fmt: skip
def test_bad_rules_are_refused(rules, said):
    """One sentence says what is wrong and what to give."""
    with pytest.raises(BoxwoodError, match=said) as caught:
        find_units(images(), IMAGES, rules=rules)
    assert re.match(r"Expected .*, got .*; .*\.$", str(caught.value), re.DOTALL)


def test_an_operator_without_a_rule_is_refused_with_its_name():
    """The message is one to copy from."""
    with pytest.raises(
        BoxwoodError,
        match=r"got 'boxwood_tests::scaled' in '1' .*rules=\{boxwood_tests.scaled.default: …\}",
    ):
        find_units(images(), IMAGES)
    assert len(find_units(images(), IMAGES, freeze_unknown=True)) == 0
    assert len(find_units(images(), IMAGES, rules={OPS.product: PRODUCT}, freeze_unknown=True)) == 0
