"""Layers that store the same weights in another way are pruned alike, and all matrices are found."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

from boxwood import criteria
from boxwood._internal.core.allocation import global_, uniform
from boxwood._internal.core.allocation_by_layer import erdos_renyi_kernel, lamp
from boxwood._internal.core.blocks import Blocks
from boxwood._internal.core.granularity import Elements, Granularity, NofM, PerRow, Slices, total
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.model.binding import MaskBinding
from boxwood._internal.model.blockwise import by_criterion, by_sparse_gpt
from boxwood._internal.model.layer_kinds import Layout
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood._internal.model.prunable import Matrices, Named, linear_and_conv
from boxwood._internal.model.reconstruct import prune_and_reconstruct, reconstruct
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood.errors import BoxwoodError, SelectionWarning
from boxwood.policies import Gradual, RigL

LINEAR, STORED = ("0.weight", "2.weight"), ("2.weight",)
"""Matrices of the networks, and those that one of them stores with its inputs first."""


def short(granularity: Granularity) -> str:
    return f"{type(granularity).__name__}{getattr(granularity, 'dims', '')}"


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().flatten(1).sum(1).mean()


def two_linear() -> tuple[nn.Module, nn.Module]:
    """A network of linear layers, and the same with transformers' layer as the second."""
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 4))
    other = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), Conv1D(4, 12))
    other[0].load_state_dict(plain[0].state_dict())
    with torch.no_grad():
        other[2].weight.copy_(plain[2].weight.T)
        other[2].bias.copy_(plain[2].bias)
    return plain, other


def examples() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 8, generator=generator), torch.randn(n, 4, generator=generator)) for n in (5, 40)]  # fmt: skip


def the_same(plain: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert plain.keys() == other.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, other[name].T if name in STORED else other[name])


GRANULARITIES: tuple[Granularity, ...] = (
    Elements(), Slices(), Slices((1,)), PerRow(), NofM(2, 4), Blocks(3, 2),
)  # fmt: skip
CRITERIA = (
    criteria.magnitude, criteria.wanda, criteria.ria, criteria.obs, criteria.taylor,
    criteria.fisher, criteria.snip, criteria.grasp, criteria.synflow, criteria.geometric_median,
    criteria.taylor_gate,
)  # fmt: skip


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=short)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_matrix_with_its_inputs_first(
    criterion: Callable[..., Tensor], granularity: Granularity
) -> None:
    """Every criterion and granularity sees outputs as rows, in transformers' Conv1D too."""
    allocation = uniform if isinstance(granularity, NofM) else global_
    ask: dict[str, Any] = {
        "criterion": criterion, "granularity": granularity, "allocation": allocation, "loss": squared,
        "batches": examples(),
    }  # fmt: skip
    masks = [find_masks(net, 0.5, **ask) for net in two_linear()]
    the_same(*masks)
    if not isinstance(granularity, NofM):
        further = [
            find_masks(net, 0.75, masks=mask, **ask)
            for net, mask in zip(two_linear(), masks, strict=True)
        ]
        the_same(*further)


@pytest.mark.parametrize("allocation", [uniform, erdos_renyi_kernel, lamp])
def test_allocations(allocation: Any) -> None:
    """Fan-in and fan-out are those of the layer."""
    the_same(*(find_masks(net, 0.6, allocation=allocation) for net in two_linear()))


def test_adjusted_weights() -> None:
    """SparseGPT, n of m, reconstruction after any masks, and blocks, as for a linear layer."""
    batches, nets = examples(), two_linear()
    for grouped in (None, NofM(2, 4)):
        plain, other = (prune_and_reconstruct(net, 0.5, batches, grouped=grouped) for net in nets)
        the_same(plain.weights, other.weights)
        the_same(plain.masks, other.masks)
    masks = [find_masks(net, 0.5) for net in nets]
    the_same(*(reconstruct(net, m, batches) for net, m in zip(nets, masks, strict=True)))
    for decide in (by_criterion, by_sparse_gpt):
        plain, other = (decide(net, batches, sparsity=0.5) for net in nets)
        the_same(plain.weights, other.weights)
    # The masks of a stored matrix training what it stores.
    assert masks[1]["2.weight"].shape == nets[1][2].weight.shape


@pytest.mark.parametrize(
    "policy",
    [
        Gradual(schedule=Cubic(final=0.6, end=4), every=1, granularity=Slices(pooling=total)),
        Gradual(schedule=Cubic(final=0.6, end=4), every=1, granularity=PerRow()),
        RigL(sparsity=0.5, every=1, allocation=uniform, until=4),
    ],
)
def test_sparse_training(policy: Any) -> None:
    """A policy sees outputs as rows as well, and its gradients with them."""
    found = []
    for net in two_linear():
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        start = {"0.weight": torch.ones(12, 8, dtype=torch.bool), "2.weight": torch.ones_like(net[2].weight, dtype=torch.bool)}  # fmt: skip
        if policy.wants_gradients:
            start = find_masks(net, 0.5, allocation=uniform)
        training = SparseTraining(net, optimizer, policy, state=start)
        for _ in range(4):
            for inputs, targets in examples():
                optimizer.zero_grad()
                squared(net(inputs), targets).backward()
                optimizer.step()
        found.append(training.masks)
    the_same(*found)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("granularity", [Slices(), Slices((1,)), PerRow(), Elements()], ids=short)
@pytest.mark.parametrize(
    "criterion", [criteria.magnitude, criteria.geometric_median, criteria.wanda]
)
def test_transposed_convolutions(
    criterion: Callable[..., Tensor], granularity: Granularity, groups: int
) -> None:
    """A transposed convolution of stride 1 is a convolution of the flipped kernel."""
    torch.manual_seed(0)
    turned = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False))
    plain = nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups, bias=False, padding=2))

    def flipped(kernel: Tensor) -> Tensor:
        return torch.cat([part.transpose(0, 1) for part in kernel.chunk(groups)]).flip(2, 3)

    with torch.no_grad():
        plain[0].weight.copy_(flipped(turned[0].weight))
    images = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(plain(images), turned(images))
    ask: dict[str, Any] = {"criterion": criterion, "granularity": granularity, "batches": [images]}
    expected, found = (find_masks(net, 0.5, **ask)["0.weight"] for net in (plain, turned))
    assert torch.equal(expected, flipped(found))
    assert found.shape == turned[0].weight.shape


def test_layouts_turn_back() -> None:
    """Stored as outputs first, and back again, is the identity; each kernel stays whole."""
    for groups, shape in ((1, (4, 3)), (2, (4, 3, 2)), (4, (8, 2, 3, 3))):
        layout, stored = Layout(groups), torch.arange(float(torch.Size(shape).numel())).view(shape)
        turned = layout.outputs_first(stored)
        assert turned.shape == (shape[1] * groups, shape[0] // groups, *shape[2:])
        assert torch.equal(layout.as_stored(turned), stored)


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), ("weight",)),
    "bilinear": (lambda: nn.Bilinear(4, 3, 2), ("weight",)),
    "convolution": (lambda: nn.Conv3d(4, 3, 2), ("weight",)),
    "transposed": (lambda: nn.ConvTranspose1d(4, 3, 2), ("weight",)),
    "attention": (lambda: nn.MultiheadAttention(4, 2), ("in_proj_weight", "out_proj.weight")),
    "attention of other sizes": (
        lambda: nn.MultiheadAttention(4, 2, kdim=6, vdim=3, add_bias_kv=True),
        ("q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"),
    ),
    "LSTM": (
        lambda: nn.LSTM(4, 3, bidirectional=True, proj_size=2),
        ("weight_ih_l0", "weight_hh_l0", "weight_hr_l0", "weight_ih_l0_reverse",
         "weight_hh_l0_reverse", "weight_hr_l0_reverse"),
    ),
    "GRU": (lambda: nn.GRU(4, 3, 2), ("weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1")),
    "RNN": (lambda: nn.RNN(4, 3, bias=False), ("weight_ih_l0", "weight_hh_l0")),
    "cell": (lambda: nn.LSTMCell(4, 3), ("weight_ih", "weight_hh")),
    "embeddings, norms and biases": (
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm((3, 4)), nn.PReLU(4), nn.Linear(4, 4)),
        ("3.weight",),
    ),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(4, 2, 8),
        ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "multihead_attn.in_proj_weight",
         "multihead_attn.out_proj.weight", "linear1.weight", "linear2.weight"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_all_matrices_are_found(kind: str) -> None:
    """The default prunes these and no others, to the exact count, without a warning."""
    make, names = KINDS[kind]
    net = make()
    masks = find_masks(net, 0.5)
    assert tuple(masks) == names
    weights = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(weights / 2)
    assert all(masks[name].shape == net.get_parameter(name).shape for name in names)


class Everything(nn.Module):
    """One layer of every kind that is not linear or a convolution, in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.read, self.cell = nn.LSTM(4, 2, batch_first=True), nn.GRUCell(2, 3)
        self.pair, self.up = nn.Bilinear(3, 3, 4), nn.ConvTranspose1d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.cell(self.read(self.encode(x))[0][:, -1])
        return self.up(self.pair(hidden, hidden).unsqueeze(2))


def test_every_kind_is_held_while_it_is_trained() -> None:
    """Masks of all these matrices hold under an optimizer, and the kept weights move."""
    torch.manual_seed(0)
    net = Everything()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    masks = find_masks(net, 0.5, allocation=uniform)
    assert set(masks) == {n for n, p in net.named_parameters() if p.dim() > 1}
    apply_masks_(net, masks)
    before = {name: net.get_parameter(name).detach().clone() for name in masks}
    MaskBinding(net, optimizer, masks)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(5, 6, 4)).square().mean().backward()
        optimizer.step()
    for name, mask in masks.items():
        weight = net.get_parameter(name).detach()
        assert not weight[~mask].any(), name
        assert bool((weight != before[name])[mask].any()), name


def test_linear_layers_of_graph_packages() -> None:
    """PyTorch Geometric's linear layer is one, for criteria that look at inputs too."""
    pytest.importorskip("torch_geometric")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_geometric.nn import Linear

    plain, other = nn.Linear(6, 4), Linear(6, 4)
    other.load_state_dict(plain.state_dict())
    batches = [torch.randn(9, 6)]
    for criterion in (criteria.magnitude, criteria.wanda, criteria.obs):
        masks = [
            find_masks(net, 0.5, criterion=criterion, batches=batches) for net in (plain, other)
        ]
        assert torch.equal(masks[0]["weight"], masks[1]["weight"])


class Experts(nn.Module):
    """Layers that are parameters of their own, and a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 4)
        self.layers = nn.ModuleList(
            [nn.ParameterDict({"up": torch.rand(2, 4, 4)}) for _ in range(3)]
        )
        self.pos_embedding = nn.Parameter(torch.rand(1, 9, 4))
        self.relative_position_bias_table = nn.Parameter(torch.rand(9, 2))
        self.gain, self.start = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(1, 1, 4))


def test_what_is_left_out_is_named_with_the_way_out() -> None:
    """The warning's own text is what includes them, or says that they are left alone."""
    net = Experts()
    with pytest.warns(
        SelectionWarning, match=r"got 3 that are left out: 'layers\.0\.up' \(2 × 4 × 4\)"
    ) as said:
        assert list(find_masks(net, 0.5)) == ["enter.weight"]
    for text, names in (
        (
            "layers=Matrices(also=('layers.*.up',))",
            ["enter.weight", *(f"layers.{i}.up" for i in range(3))],
        ),
        ("layers=Matrices(without=('layers.*.up',))", ["enter.weight"]),
    ):
        assert text in str(said[0].message)
        layers = eval(text.removeprefix("layers="), {"Matrices": Matrices})  # noqa: S307 - its own text
        assert list(find_masks(net, 0.5, layers=layers)) == names
    with pytest.raises(BoxwoodError, match=r"'experts', which matches none of"):
        find_masks(net, 0.5, layers=Matrices(also=("experts",)))


def test_an_embedding_that_shares_its_table_with_the_head() -> None:
    """It is pruned as the head's matrix is, and the warning says what that does."""
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False))
    net[2].weight = net[0].weight
    with pytest.warns(SelectionWarning, match=r"got '0\.weight', which an embedding shares"):
        assert list(find_masks(net, 0.5)) == ["0.weight", "1.weight"]
    assert list(find_masks(net, 0.5, layers=Matrices(without=("0.weight",)))) == ["1.weight"]
    assert list(find_masks(net, 0.5, layers=Matrices(also=("0.weight",)))) == [
        "0.weight",
        "1.weight",
    ]


def weight_normed(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch: the old form is deprecated
        return nn.utils.weight_norm(layer)


COMPUTED: dict[str, tuple[Callable[[nn.Module], nn.Module], str, str]] = {
    "weight norm": (
        parametrizations.weight_norm, "remove_parametrizations(model.get_submodule('0'), 'weight')",
        "0.parametrizations.weight.original*",
    ),
    "old weight norm": (
        weight_normed, "remove_weight_norm(model.get_submodule('0'), 'weight')", "0.weight_*",
    ),
    "spectral norm": (
        parametrizations.spectral_norm,
        "remove_parametrizations(model.get_submodule('0'), 'weight')", "0.parametrizations.*",
    ),
    "old spectral norm": (
        nn.utils.spectral_norm, "remove_spectral_norm(model.get_submodule('0'), 'weight')", "0.weight_*",
    ),
    "torch's own pruning": (
        lambda layer: torch_prune.l1_unstructured(layer, "weight", 0.5),
        "prune.remove(model.get_submodule('0'), 'weight')", "0.weight_*",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", COMPUTED)
def test_computed_matrices_are_named(kind: str) -> None:
    """A matrix that is no parameter is left out with a warning, or refused where nothing else is."""
    wrap, way_out, mine = COMPUTED[kind]
    net = nn.Sequential(wrap(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.warns(
        SelectionWarning, match=r"got 1 that are computed .* left out: '0\.weight'"
    ) as said:
        assert list(find_masks(net, 0.5)) == ["1.weight"]
    assert way_out in str(said[0].message)
    assert list(find_masks(net, 0.5, layers=Matrices(without=(mine,)))) == ["1.weight"]
    with pytest.raises(
        BoxwoodError, match=r"got none: '0\.weight' is computed from other"
    ) as refused:
        find_masks(nn.Sequential(net[0]), 0.5)
    assert way_out in str(refused.value)
    # What the message says to do is what helps.
    place = "torch.nn.utils." + ("parametrize." * ("parametrizations" in way_out)) + way_out
    eval(place, {"torch": torch, "model": net})  # noqa: S307 - the message's own text
    assert list(find_masks(net, 0.5)) == ["0.weight", "1.weight"]


def test_a_recurrent_layer_with_weight_norm() -> None:
    """One of its matrices is computed; the others are pruned."""
    net = nn.Sequential(weight_normed_recurrent())
    with pytest.warns(SelectionWarning, match=r"computed .* left out: '0\.weight_hh_l0'"):
        assert list(find_masks(net, 0.5)) == ["0.weight_ih_l0"]


def weight_normed_recurrent() -> nn.Module:
    return parametrizations.weight_norm(nn.GRU(4, 3), "weight_hh_l0")


def test_quantised_layers_and_layers_without_a_shape_are_refused() -> None:
    """Integers, eight-bit floats, packed buffers and lazy layers, each by its name."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    for dtype in (torch.int8, torch.uint8, torch.float8_e4m3fn):
        net[0].weight = nn.Parameter(net[0].weight.detach().to(dtype), requires_grad=False)
        for layers in (linear_and_conv, Named(("0.weight",))):
            with pytest.raises(BoxwoodError, match=rf"got '0\.weight' of {dtype}"):
                find_masks(net, 0.5, layers=layers)
    packed = nn.Sequential(nn.Module(), nn.Linear(4, 2))
    packed[0].register_buffer("qweight", torch.ones(2, 4, dtype=torch.int32))
    with pytest.raises(BoxwoodError, match=r"got the buffer '0\.qweight' of torch.int32"):
        find_masks(packed, 0.5)
    with pytest.raises(BoxwoodError, match=r"got 'weight', which gets its shape when"):
        find_masks(nn.LazyLinear(3), 0.5)
