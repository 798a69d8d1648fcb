"""Removal acts on the weights that layers compute with, however these come about."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as torch_prune
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from boxwood._internal.graph.carrying import carry_optimizer
from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.record import load_shrunken, record_of, save_shrunken
from boxwood._internal.graph.reparametrised import baked, reparametrised
from boxwood._internal.graph.scoring import score_units
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.surgery import cuts_of
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood.errors import BoxwoodError

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
BAKED = "Expected weights that are the same function of fewer numbers"


class LowRank(nn.Module):
    """``W + B A``, as adapters have it."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.up, self.down = (
            nn.Parameter(torch.randn(rows, 2)),
            nn.Parameter(torch.randn(2, columns)),
        )

    def forward(self, weight):
        return weight + self.up @ self.down


class Positive(nn.Module):
    def forward(self, weight):
        return nn.functional.softplus(weight)


class ZeroMean(nn.Module):
    """Centres each row, which no slice along columns does."""

    def forward(self, weight):
        return weight - weight.mean(1, keepdim=True)


def masked(layer):
    """Mask half of the weights and one bias."""
    torch_prune.random_unstructured(layer, "weight", 0.5)
    return torch_prune.l1_unstructured(layer, "bias", 1)


def masked_within(layer):
    parametrize.register_parametrization(layer, "weight", Positive())
    torch_prune.random_unstructured(layer.parametrizations.weight, "original", 0.5)
    return layer


def weight_and_bias(layer):
    parametrize.register_parametrization(layer, "weight", ZeroMean())
    parametrize.register_parametrization(layer, "bias", Positive())
    return layer


def low_rank(layer):
    return parametrize.register_parametrization(layer, "weight", LowRank(*layer.weight.shape))


def positive(layer):
    return parametrize.register_parametrization(layer, "weight", Positive())


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def old_weight_norm(layer, dim=0):
    return nn.utils.weight_norm(layer, dim=dim)


STAYS = {
    "mask": masked,
    "mask within": masked_within,
    "weight norm": parametrizations.weight_norm,
    "weight norm of columns": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "old weight norm": old_weight_norm,
    "old weight norm of all": lambda layer: old_weight_norm(layer, None),
    "low rank": low_rank,
    "positive": positive,
}
GOES = {
    "spectral norm": parametrizations.spectral_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight and bias": weight_and_bias,
}
KINDS = STAYS | GOES
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated"),
    pytest.mark.filterwarnings(f"ignore:{BAKED}"),
]


def chain(kind: str) -> nn.Sequential:
    """Three layers of which the middle one, or all where it must be one of one width, are special."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), KINDS[kind](nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):  # spectral norms move their vectors, weight norms part from their weights
        optimizer.zero_grad()
        net(X).square().sum().backward()
        optimizer.step()
    return net.eval()


def some(net: nn.Module, example=X, seed: int = 0) -> UnitSelection:
    found = find_units(net, example)
    kept = np.random.default_rng(seed).random(len(found)) < 0.6
    for group in found.groups:
        kept[group.units[0]] = True
        kept[group.units[1]] = False
    return UnitSelection(found, kept)


def by_hand(net: nn.Module, selection: UnitSelection) -> nn.Module:
    """Zero removed rows and columns of effective weights in a copy that holds them plainly."""
    plain = copy.deepcopy(baked(net))
    tensors = dict(plain.named_parameters())
    with torch.no_grad():
        for name, cuts in cuts_of(selection).items():
            for dim, stays in cuts:
                gone = [i for i in range(tensors[name].shape[dim]) if i not in stays.tolist()]
                tensors[name].index_fill_(dim, torch.tensor(gone), 0)
    return plain


@pytest.mark.parametrize("kind", KINDS)
def test_the_small_network_computes_with_slices_of_effective_weights(kind):
    """Outputs equal the original's with removed effective weights at zero, in sizes that say so."""
    net = chain(kind)
    selection = some(net)
    small = shrink(net, selection)
    with torch.no_grad():
        assert torch.allclose(small(X), by_hand(net, selection)(X), rtol=1e-5, atol=1e-6)
    report = check_equivalence(net, small, selection)
    assert report.equivalent, str(report)
    for layer in (small[0], small[2], small[4]):
        assert (layer.out_features, layer.in_features) == tuple(layer.weight.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_what_computes_a_weight_stays_where_it_can(kind):
    """Masks, weight norms and elementwise maps go on; what gives other values is baked in, and said."""
    net = chain(kind)
    selection = some(net)
    assert (check_equivalence(net, shrink(net, selection), selection).baked == ()) == (
        kind in STAYS
    )
    if kind in STAYS:
        small = shrink(net, selection)
        assert reparametrised(small) == reparametrised(net)
    else:
        with pytest.warns(UserWarning, match=f"{BAKED}, got '2.weight'"):
            small = shrink(net, selection)
        assert "2.weight" not in map(str, reparametrised(small))
    small.train()(X).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_stays(kind):
    """Parameters, classes and what computes the weights are as before, bit for bit."""
    net = chain(kind).train()
    before = copy.deepcopy(net.state_dict())
    shrink(net, some(net))
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert {m.training for m in net.modules()} == {True}
    assert "2.weight" in map(str, reparametrised(net))
    net(X).sum().backward()


@pytest.mark.parametrize("kind", ["weight norm", "low rank", "weight and bias"])
def test_what_is_done_to_the_small_network_leaves_the_original(kind):
    """Taking parametrisations off one network does not take them off the other."""
    net = chain(kind)
    found = find_units(net, X)
    small = shrink(net, UnitSelection(found, np.ones(len(found), dtype=bool)))
    wanted = net(X)
    for name in list(small[2].parametrizations):
        parametrize.remove_parametrizations(small[2], name)
    assert torch.equal(net(X), wanted)
    assert torch.allclose(small(X), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_files_bring_it_back(kind, tmp_path):
    """A file and a new network of the original's kind give the same small network."""
    net = chain(kind)
    selection = some(net)
    small = shrink(net, selection)
    save_shrunken(small, record_of(net, selection), tmp_path / "small.safetensors")
    again = load_shrunken(tmp_path / "small.safetensors", lambda: chain(kind)).eval()
    assert reparametrised(again) == reparametrised(small)
    assert str(again) == str(small)
    with torch.no_grad():
        assert torch.equal(again(X), small(X))


def test_files_of_another_network_are_refused(tmp_path):
    """What was baked in must be there to bake."""
    net = chain("orthogonal")
    selection = some(net)
    path = tmp_path / "small.safetensors"
    save_shrunken(shrink(net, selection), record_of(net, selection), path)
    with pytest.raises(BoxwoodError, match=r"one in which 2\.weight is not computed from other"):
        load_shrunken(path, lambda: baked(chain("mask")))


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimizer_follows(kind):
    """State is carried for the tensors that weights are computed from, or refused by name."""
    net = chain(kind)
    optimizer = torch.optim.Adam(net.parameters())
    net(X).square().sum().backward()
    optimizer.step()
    selection = some(net)
    small = shrink(net, selection)
    if kind in GOES:
        with pytest.raises(BoxwoodError, match=r"smaller network has as well, got '2\..*weight"):
            carry_optimizer(optimizer, net, small, selection)
        return
    carried = carry_optimizer(optimizer, net, small, selection)
    for parameter, state in carried.state.items():
        assert state["exp_avg"].shape == parameter.shape
    small(X).square().sum().backward()
    carried.step()


@pytest.mark.parametrize("large_readers", [False, True])
@pytest.mark.parametrize("build", ["linear", "convolution"])
def test_a_masked_network_shrinks_to_itself(build, large_readers):
    """Masked filters go first, however large they and their readers are, and nothing changes."""
    torch.manual_seed(1)
    if build == "linear":
        net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), X
    else:
        x = torch.randn(2, 3, 6, 6)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
        net[1].register_parameter("bias", None)  # or a masked channel is a constant
        net[1].register_buffer("running_mean", torch.zeros(8))
    net.eval()
    mask = torch.ones(8)
    mask[::2] = 0
    with torch.no_grad():
        net[0].weight[::2] *= 9
        if large_readers:
            net[-1].weight[:, ::2] *= 100
    wide = mask.view(8, *[1] * (net[0].weight.dim() - 1)).expand_as(net[0].weight)
    torch_prune.custom_from_mask(net[0], "weight", wide)
    torch_prune.custom_from_mask(net[0], "bias", mask)
    selection = select_units(find_units(net, x), 0.5)
    small = shrink(net, selection)
    assert selection.kept.tolist() == mask.bool().tolist()
    with torch.no_grad():
        assert torch.allclose(small(x), net(x), rtol=1e-5, atol=1e-6)
    assert small[0].weight.shape[0] == 4
    torch_prune.remove(small[0], "weight")
    assert small[0].weight.shape[0] == 4


class Transposed(nn.Module):
    """Holds its matrix as inputs times outputs."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
WRITERS = {
    "depthwise": ((nn.Conv2d, 3, 8, 1), (nn.Conv2d, 8, 8, 3, 1, 1, 1, 8), (nn.Conv2d, 8, 2, 1), 0),
    "transposed": ((nn.ConvTranspose2d, 3, 8, 2), None, (nn.ConvTranspose2d, 8, 2, 1), 1),
    "to transposed": ((nn.Conv2d, 3, 8, 2), None, (nn.ConvTranspose2d, 8, 2, 1), 0),
    "from transposed": ((nn.ConvTranspose2d, 3, 8, 2), None, (nn.Conv2d, 8, 2, 1), 1),
    "embedding": ((nn.Embedding, 9, 8), None, (nn.Linear, 8, 2), 1),
    "inputs first": ((Transposed, 6, 8), None, (Transposed, 8, 2), 1),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_masked_units_go_first_whatever_the_layers_are(kind):
    """What a layer writes, and what it reads, is told apart for layers of every form."""
    torch.manual_seed(0)
    first, between, last, dim = WRITERS[kind]
    layers = [each[0](*each[1:]) for each in (first, between, last) if each]
    net = nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1]).eval()
    example = {6: X, 9: torch.arange(6).view(2, 3)}.get(first[1], IMAGE)
    mask = torch.tensor([0.0, 1, 0, 1, 0, 1, 1, 0])
    shape = [-1 if axis == dim else 1 for axis in range(layers[0].weight.dim())]
    torch_prune.custom_from_mask(
        layers[0], "weight", mask.view(shape).expand_as(layers[0].weight).clone()
    )
    with torch.no_grad():
        for each in layers[:-1]:
            if isinstance(getattr(each, "bias", None), nn.Parameter):
                each.bias.zero_()
        for each in layers[1:]:
            each.weight.mul_(50)
    selection = select_units(find_units(net, example), 0.5)
    small = shrink(net, selection)
    assert selection.kept.tolist() == mask.bool().tolist()
    with torch.no_grad():
        assert torch.allclose(small(example), net(example), rtol=1e-4, atol=1e-5)


def test_scores_are_of_effective_weights():
    """A weight norm's lengths say how large filters are, whatever its directions are."""
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4, bias=False)), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].parametrizations.weight.original1.mul_(torch.tensor([[1.0], [50], [0.01], [7]]))
        net[0].parametrizations.weight.original0.copy_(torch.tensor([[2.0], [0.1], [5], [0.3]]))
        net[1].weight.fill_(0.01)
    scores = score_units(find_units(net, X), normalise=False)
    wanted = net[0].weight.abs().sum(1) + 0.02
    assert np.allclose(scores, wanted.detach().numpy(), rtol=1e-5)


def test_evidence_about_computed_weights_is_asked_for():
    """Gradients of directions say nothing about the weight; the way out that is named works."""
    net = chain("weight norm")
    plain = {n: torch.ones_like(p) for n, p in net.named_parameters()}

    def criterion(weight, gradient):
        return (weight * gradient).abs()

    with pytest.raises(BoxwoodError, match=r"gradient of '2\.weight', got none, for the layer"):
        score_units(find_units(net, X), criterion, evidence={"gradient": plain})
    whole = baked(net)
    ones = {n: torch.ones_like(p) for n, p in whole.named_parameters()}
    got = score_units(find_units(whole, X), criterion, evidence={"gradient": ones})
    assert np.allclose(got, score_units(find_units(net, X)))


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(6, 8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        torch_prune.random_unstructured(self.attention, "in_proj_weight", 0.3)
        torch_prune.random_unstructured(self.attention.out_proj, "weight", 0.3)

    def forward(self, x):
        h = self.into(x)
        return self.out(self.attention(h, h, h, need_weights=False)[0])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)
        self.rnn = nn.utils.weight_norm(self.rnn, "weight_hh_l0")

    def forward(self, x):
        return self.out(self.rnn(x)[0])


@pytest.mark.parametrize("build", [Attentive, Recurrent])
def test_modules_that_hold_several_weights(build):
    """Attention and recurrent layers hold their weights under other names, and in lists."""
    torch.manual_seed(0)
    net, x = build().eval(), torch.randn(2, 5, 6)
    selection = some(net, x)
    small = shrink(net, selection)
    with torch.no_grad():
        assert torch.allclose(small(x), by_hand(net, selection)(x), rtol=1e-4, atol=1e-5)
    assert check_equivalence(net, small, selection).equivalent
    assert reparametrised(small) == reparametrised(net)


def test_a_tensor_that_another_layer_reads_is_not_cut():
    """Where what a weight is computed from is shared, the weight is baked in and the other stays."""
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8))
    net[4].weight = net[0].weight
    torch_prune.identity(net[0], "weight")
    selection = some(net.eval())
    with pytest.warns(UserWarning, match=BAKED):
        small = shrink(net, selection)
    with torch.no_grad():
        assert torch.allclose(small(X), by_hand(net, selection)(X), rtol=1e-5, atol=1e-6)


class MaskedByItself(nn.Linear):
    """Multiplies with a mask in its own forward, as many implementations of pruning do."""

    def __init__(self, inputs, outputs, *, constant=False):
        super().__init__(inputs, outputs)
        mask = torch.ones(outputs, inputs)
        mask[::2] = 0
        if constant:
            self.mask = mask
        else:
            self.register_buffer("mask", mask)

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.mask, self.bias * self.mask[:, 0])


class Standardised(nn.Conv2d):
    """Weight standardisation: each filter loses its mean, and gets a size of its own."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = (
            self.size[:, None, None, None]
            * weight
            / weight.flatten(1).norm(dim=1)[:, None, None, None]
        )
        return nn.functional.conv2d(x, weight, self.bias)


@pytest.mark.parametrize("constant", [False, True])
def test_a_network_that_masks_itself_shrinks_to_itself(constant):
    """Masks in the code go by what they leave, be they buffers or constants."""
    torch.manual_seed(0)
    net = nn.Sequential(MaskedByItself(6, 8, constant=constant), nn.ReLU(), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        net[0].weight[::2] *= 9
        net[2].weight[:, ::2] *= 9
    if constant:  # whose rows cannot go: the code would multiply by all of it
        found = find_units(net, X)
        assert len(found) == 0
        return
    selection = select_units(find_units(net, X), 0.5)
    small = shrink(net, selection)
    assert selection.kept.tolist() == [False, True] * 4
    with torch.no_grad():
        assert torch.allclose(small(X), net(X), rtol=1e-5, atol=1e-6)


def test_scores_are_of_what_the_code_computes():
    """Standardised filters count by their sizes after standardisation, exactly."""
    torch.manual_seed(0)
    conv = Standardised(3, 4, 3)
    conv.size = nn.Parameter(torch.tensor([1.0, 4.0, 0.5, 2.0]))
    net = nn.Sequential(conv, nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        conv.weight.mul_(torch.tensor([9.0, 0.1, 30, 1])[:, None, None, None])
    scores = score_units(find_units(net, torch.randn(1, 3, 6, 6)), normalise=False)
    with torch.no_grad():
        weight = conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)
        sums = (weight / weight.flatten(1).norm(dim=1)[:, None, None, None]).abs().sum((1, 2, 3))
        wanted = sums * conv.size + conv.bias.abs() + net[2].weight.abs().sum((0, 2, 3))
    assert np.allclose(scores, wanted.numpy(), rtol=1e-5)


def test_hooks_of_other_libraries_count():
    """A hook that is none of PyTorch's computes the weight, and the score is of its result."""
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 2))
    kept = net[0].weight
    del net[0].weight
    net[0].raw, net[0].gain = kept, nn.Parameter(torch.tensor([1.0, 0.0, 3.0, 0.1]))
    net[0].register_forward_pre_hook(
        lambda layer, _: setattr(layer, "weight", layer.raw * layer.gain[:, None])
    )
    scores = score_units(find_units(net, X), normalise=False)
    with torch.no_grad():
        wanted = (kept * net[0].gain[:, None]).abs().sum(1) + net[1].weight.abs().sum(0)
    wanted[1] = 0  # nothing is written into it
    assert np.allclose(scores, wanted.numpy(), rtol=1e-5)
