"""Bad input to structural pruning: one sentence, the thing at fault, the way out."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from boxwood._internal.graph.budgets import Budget, multiply_adds
from boxwood._internal.graph.carrying import carry_optimizer
from boxwood._internal.graph.compensate import compensate
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.layout import Layout
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.record import load_shrunken, record_of, save_shrunken
from boxwood._internal.graph.rules import RULES
from boxwood._internal.graph.scoring import score_units
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.errors import BoxwoodError, NoEffect

X = torch.ones(2, 4)


def net(hidden: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 2))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x)
        return self.b(x) if x.sum() > 0 else self.b(-x)


class Masking(nn.Module):
    """Looks at its mask, at the longest length, and writes into what it was given."""

    def __init__(self, *, other: bool = False):
        super().__init__()
        self.embedding, self.a, self.b = nn.Embedding(9, 6), nn.Linear(6, 4), nn.Linear(4, 2)
        self.other = nn.Linear(6, 4) if other else None

    def forward(self, tokens, mask):
        longest = int(mask.sum(1).max())
        tokens, mask = tokens[:, :longest], mask[:, :longest]
        tokens[mask == 0] = 0
        x = self.embedding(tokens)
        if self.other is not None and (mask == 0).any():
            return self.b(self.other(x))
        x = self.a(x)
        if (mask == 0).any():
            x = x * mask[..., None]
        return self.b(x)[mask.nonzero(as_tuple=True)]


MASKED = torch.tensor([[3, 1, 4, 1], [5, 2, 6, 2]]), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def test_values_of_whole_number_inputs_may_be_looked_at():
    """The path is the example's, which is said; the example itself is not written into."""
    model, given = Masking(), tuple(each.clone() for each in MASKED)
    found = find_units(model, given)
    assert all(torch.equal(a, b) for a, b in zip(given, MASKED, strict=True))
    selection = select_units(found, 0.5)
    assert {axis.names[0] for axis in found.axes} == {
        "embedding.weight", "a.weight", "a.bias", "b.weight"
    }  # fmt: skip
    report = check_equivalence(model, shrink(model, selection), selection)
    assert report.equivalent
    assert re.search(r"the path is the example's: .*goldens\.py:\d+", str(report))


def test_a_path_that_leaves_parameters_unread_is_refused():
    """Another input may read them, and nobody would know what they must be cut to."""
    whole = MASKED[0], torch.ones_like(MASKED[1])
    with pytest.raises(BoxwoodError, match=r"does not depend on data, got Masking"):
        find_units(Masking(other=True), whole)


class Numpy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return self.a(torch.from_numpy(x.numpy() + 1))


def test_an_example_is_not_blamed_for_what_a_trace_cannot_run():
    """The model takes it; with another shape it does not, and the example is named."""
    with pytest.raises(
        BoxwoodError, match=r"got Numpy, which takes the example but fails in a trace at .*py:\d+"
    ):
        find_units(Numpy(), X)
    with pytest.raises(
        BoxwoodError, match=r"an example that Numpy takes, got one of shape \(2, 5\)"
    ):
        find_units(Numpy(), torch.ones(2, 5))


class Special(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(torch.special.bessel_j0(self.a(x)))


class Written(nn.Module):
    """The hidden size is a number in the code."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x).view(-1, 6))


def test_control_flow_that_depends_on_data_is_named_by_its_line():
    """A network that looks at values is refused with file and line."""
    with pytest.raises(
        BoxwoodError, match=r"does not depend on data, got Branching.*goldens\.py:\d+"
    ):
        find_units(Branching(), X)


class Detector(nn.Module):
    """Channels, then scores that decide where a second stage looks."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.scores, self.classes = nn.Conv2d(6, 1, 1), nn.Linear(6, 5)

    def forward(self, x):
        features = self.b(torch.relu(self.a(x)))
        places = (self.scores(features)[:, 0] > 0.0).nonzero()
        return self.classes(features[places[:, 0], :, places[:, 1], places[:, 2]])


@pytest.mark.parametrize("bias", [0.0, -100.0])  # nothing is detected at all
def test_what_depends_on_data_can_be_kept_whole(bias):
    """What comes before it is removed and checked, even where the model returns nothing."""
    torch.manual_seed(0)
    model, images = Detector().eval(), torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        model.scores.bias.fill_(bias)
    with pytest.raises(BoxwoodError, match=r"got Detector.*goldens\.py:\d+.*freeze_unknown=True"):
        find_units(model, images)
    found = find_units(model, images, freeze_unknown=True)
    assert {axis.names[0] for axis in found.axes} == {"a.weight", "a.bias", "b.weight"}
    selection = select_units(found, 0.5)
    small = shrink(model, selection)
    report = check_equivalence(model, small, selection)
    assert report.equivalent
    assert re.search(r"depends on data from .*goldens\.py:\d+ on; what is read", str(report))
    assert report.unread == ("classes.weight", "classes.bias")


class Late(Detector):
    """What was cut is read once more where nobody follows."""

    def __init__(self):
        super().__init__()
        self.late = nn.Linear(8, 5)

    def forward(self, x):
        return super().forward(x).sum() + self.late(self.a(x).mean((2, 3)))


def test_a_layer_used_again_behind_the_data_is_found_out():
    """The small network is run to its end, so nothing wrong is returned."""
    model, images = Late().eval(), torch.randn(2, 3, 5, 5)
    selection = select_units(find_units(model, images, freeze_unknown=True), 0.5)
    with pytest.raises(BoxwoodError, match="Expected the smaller Late to run"):
        shrink(model, selection)


def test_an_example_of_wrong_shape_is_refused():
    """The error says the shape and where it failed."""
    with pytest.raises(BoxwoodError, match=r"an example that Sequential takes.*\(2, 5\)"):
        find_units(net(), torch.ones(2, 5))


def test_an_unknown_operation_is_named():
    """The refusal names the operation, the line and the tensor; freezing is the way out."""
    with pytest.raises(
        BoxwoodError, match=r"special_bessel_j0.*goldens\.py:\d+.*shape \(2, 6\).*freeze_unknown"
    ):
        find_units(Special(), X)
    assert len(find_units(Special(), X, freeze_unknown=True)) == 0


def test_a_rule_that_fails_is_refused(monkeypatch):
    """A mistake in a rule is said with the operation; freezing is the way out."""
    monkeypatch.setitem(RULES, "relu", lambda flow, call: Layout((7,)))
    with pytest.raises(
        BoxwoodError, match=r"a rule that follows 'relu' in '1'.*mistake in Boxwood"
    ):
        find_units(net(), X)
    assert len(find_units(net(), X, freeze_unknown=True)) == 0


class Cache:
    """What a model returns, that refers to itself and to sizes."""

    def __init__(self, kept, sizes):
        self.kept, self.sizes, self.me = kept, sizes, self


class Caching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.width = net(), 8

    def forward(self, x):
        hidden = torch.vmap(lambda row: row.sin())(self.layers[:2](x))
        y = self.layers[2](hidden)
        return y, Cache(x, [self.width, x.shape])


def test_what_is_returned_may_refer_to_itself():
    """Only tensors that are in it count as results, not what a size remembers."""
    model = Caching()
    selection = select_units(find_units(model, X), 0.5)
    assert selection.removed == 4
    assert check_equivalence(model, shrink(model, selection), selection).equivalent


def test_a_size_in_the_code_is_kept():
    """What a number in the code fixes is not offered."""
    assert len(find_units(Written(), X)) == 0
    with pytest.raises(
        BoxwoodError,
        match=r"got one with none: axis 0 of 'a.weight' stays, for a size that 'view' .*goldens\.py:\d+",
    ):
        select_units(find_units(Written(), X), 0.5)


def test_lazy_and_meta_parameters_are_refused():
    """Parameters without shape or data say so."""
    with pytest.raises(BoxwoodError, match=r"parameters that have a shape, got '0\.weight'"):
        find_units(nn.Sequential(nn.LazyLinear(4)), X)
    with pytest.raises(BoxwoodError, match=r"'0\.weight' on the meta device"):
        find_units(nn.Sequential(nn.Linear(4, 4, device="meta")), X)


def test_removing_everything_is_refused():
    """An axis keeps at least one index."""
    found = find_units(net(), X)
    with pytest.raises(BoxwoodError, match=r"nothing of '0\.weight' along axis 0"):
        UnitSelection(found, np.zeros(8, dtype=bool))


def test_a_selection_of_the_wrong_size_is_refused():
    """One bool for each unit."""
    with pytest.raises(BoxwoodError, match="a bool for each of 8 units"):
        UnitSelection(find_units(net(), X), np.ones(7, dtype=bool))


@pytest.mark.parametrize("keep", [0.0, 1.5, -1.0])
def test_fractions_out_of_range_are_refused(keep):
    """A fraction lies in (0, 1], and so do budgets."""
    with pytest.raises(BoxwoodError, match=r"keep in \(0, 1\]"):
        select_units(find_units(net(), X), keep)
    with pytest.raises(BoxwoodError, match=r"a budget in \(0, 1\]"):
        Budget(keep, multiply_adds)


def test_one_of_fraction_and_budget():
    """Neither and both are refused."""
    found = find_units(net(), X)
    with pytest.raises(BoxwoodError, match="got neither"):
        best_units(found, score_units(found))
    with pytest.raises(BoxwoodError, match="got both"):
        select_units(found, 0.5, budget=Budget(0.5, multiply_adds))


def test_a_budget_that_cannot_be_met_says_what_is_left():
    """The floor decides how far one can go."""
    with pytest.raises(BoxwoodError, match=r"can be met, got 0\.1.*leaves 0\.500"):
        select_units(find_units(net(), X), budget=Budget(0.1, multiply_adds), floor=4)


def test_a_floor_above_every_group_is_refused():
    """A floor that no group reaches is a mistake; floors and multiples start at 1."""
    with pytest.raises(BoxwoodError, match="floor=9, where the largest has 8"):
        select_units(find_units(net(), X), 0.5, floor=9)
    with pytest.raises(BoxwoodError, match="floor and multiple of at least 1"):
        select_units(find_units(net(), X), 0.5, multiple=0)


def test_a_pattern_that_protects_nothing_is_refused():
    """Protected names must exist."""
    with pytest.raises(BoxwoodError, match=r"got 'conv\*', which matches none of 0\.bias"):
        select_units(find_units(net(), X), 0.5, protect=("conv*",))


def test_a_choice_that_removes_nothing_warns():
    """Valid, and without effect."""
    with pytest.warns(NoEffect, match="keeps all of them"):
        select_units(find_units(net(), X), 1.0)


def test_a_criterion_that_needs_more_is_refused():
    """Gradients must be given to a criterion that names them."""
    with pytest.raises(BoxwoodError, match=r"got 'gradient'; give evidence={'gradient': …}"):
        score_units(find_units(net(), X), lambda weight, gradient: weight * gradient)


def test_weights_that_are_not_finite_are_refused():
    """A diverged network has no best units."""
    broken = net()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(BoxwoodError, match="finite scores"):
        select_units(find_units(broken, X), 0.5)


def test_another_model_is_refused():
    """Units belong to one network."""
    selection = select_units(find_units(net(), X), 0.5)
    with pytest.raises(BoxwoodError, match=r"'0\.weight' is of shape \(6, 4\) rather than"):
        shrink(net(6), selection)


def test_another_models_optimizer_is_refused():
    """Carried state belongs to the network."""
    first = net()
    selection = select_units(find_units(first, X), 0.5)
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(BoxwoodError, match="an optimizer of this model's parameters"):
        carry_optimizer(stranger, first, shrink(first, selection), selection)


def test_compensation_needs_data():
    """No batches, no refit; a negative penalty is none."""
    first = net()
    selection = select_units(find_units(first, X), 0.5)
    small = shrink(first, selection)
    with pytest.raises(BoxwoodError, match="batches of inputs, got none"):
        compensate(first, small, selection, [])
    with pytest.raises(BoxwoodError, match="ridge of at least 0, got -1"):
        compensate(first, small, selection, [X], ridge=-1)


@pytest.fixture
def saved(tmp_path):
    first = net()
    selection = select_units(find_units(first, X), 0.5)
    small = shrink(first, selection)
    path = tmp_path / "small.safetensors"
    save_shrunken(small, record_of(first, selection), path)
    return path, small


def test_a_file_gives_the_network_back(saved):
    """Saved and loaded, the network computes the same and has the same sizes."""
    path, small = saved
    again = load_shrunken(path, build=net)
    assert torch.equal(again(X), small(X))
    assert str(again) == str(small)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_another_factory_is_refused(saved):
    """Build must make the original, no more and no less."""
    path, _ = saved
    with pytest.raises(BoxwoodError, match=r"'0\.weight' has shape \(6, 4\) and not \(8, 4\)"):
        load_shrunken(path, build=lambda: net(6))
    with pytest.raises(BoxwoodError, match=r"also has '3\.bias'"):
        load_shrunken(path, build=lambda: nn.Sequential(*net(), nn.Linear(2, 2)))


def test_damaged_files_are_refused(saved, tmp_path):
    """No file, half a file, a file without a record, a record of the future or without a part."""
    path, small = saved
    with pytest.raises(BoxwoodError, match="got no file"):
        load_shrunken(tmp_path / "gone.safetensors", build=net)
    half = tmp_path / "half.safetensors"
    half.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BoxwoodError, match=r"an undamaged file at .*half\.safetensors"):
        load_shrunken(half, build=net)
    plain = tmp_path / "plain.safetensors"
    save_file(small.state_dict(), plain)
    with pytest.raises(BoxwoodError, match="without a record"):
        load_shrunken(plain, build=net)
    for record, said in (({"format": 99}, "got 99"), ({"format": 1}, "lacks a part")):
        save_file(small.state_dict(), plain, metadata={"boxwood.structure": json.dumps(record)})
        with pytest.raises(BoxwoodError, match=said):
            load_shrunken(plain, build=net)


def test_a_folder_that_does_not_exist_is_named(saved, tmp_path):
    """Writing nowhere says where."""
    _, small = saved
    first = net()
    selection = select_units(find_units(first, X), 0.5)
    with pytest.raises(BoxwoodError, match=r"to write .*gone"):
        save_shrunken(small, record_of(first, selection), tmp_path / "gone" / "small.safetensors")
