"""Message passing and routing: features go, nodes and tokens stay."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

_SPEC = importlib.util.spec_from_file_location(
    "structure_checks", Path(__file__).parent / "structure_checks.py"
)
checks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(checks)

NODES = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 2, 4]])
PLACES = torch.tensor([[0, 1, 2, 3, 4, 5], [4, 0, 3, 5, 1, 2]])  # each is written to once


class Messages(nn.Module):
    """Features of nodes, what is sent along edges, and features of what arrives."""

    def __init__(self, send):
        super().__init__()
        self.a, self.b, self.c, self.send = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 2), send

    def forward(self, x, edges):
        x = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(self.send(x, x[edges[0]], edges[1]))))


def assigned(x, index, value):
    x = x.clone()
    x[index] = value
    return x


SENDING = {
    "index_add": lambda x, m, to: torch.zeros_like(x).index_add(0, to, m),
    "index_add_": lambda x, m, to: x.new_zeros(x.shape[0], m.shape[1]).index_add_(0, to, m),
    "index_copy": lambda x, m, to: x.index_copy(0, to, m),
    "index_fill": lambda x, m, to: x.index_fill(0, to[:2], 0.5),
    "index_put": lambda x, m, to: x.index_put((to,), m, accumulate=True),
    "scatter": lambda x, m, to: x.scatter(0, to[:, None].expand(-1, m.size(1)), m),
    "scatter a number": lambda x, m, to: x.scatter(0, to[:2, None].expand(-1, m.size(1)), 0.5),
    "scatter_add": lambda x, m, to: x.scatter_add(0, to.view(-1, 1).expand_as(m), m),
    "scatter_reduce": lambda x, m, to: x.scatter_reduce(
        0, to.view(-1, 1).expand_as(m), m, "amax", include_self=False
    ),
    "gather": lambda x, m, to: x.gather(0, to[:, None].broadcast_to(m.shape)),
    "take_along_dim": lambda x, m, to: x.take_along_dim(to[:, None], 0),
    "assigned": lambda x, m, to: assigned(x, to, m),
    "assigned, one row": lambda x, m, to: assigned(x, (to[:2], slice(None)), m[0]),
    "assigned to a mask": lambda x, m, to: assigned(x, to > 2, m[1]),
    "slice_scatter": lambda x, m, to: x.slice_scatter(m[:3], 0, 1, 4),
    "select_scatter": lambda x, m, to: x.select_scatter(m[0], 0, 2),
    "segment_reduce": lambda x, m, to: torch.segment_reduce(
        x, "max", lengths=torch.tensor([1, 2, 3])
    ),
    "broadcast_tensors": lambda x, m, to: sum(torch.broadcast_tensors(x[:1], x)),
    "view_as": lambda x, m, to: x.flatten().view_as(x) + x.T.reshape_as(x.T).T,
}


@pytest.mark.parametrize("name", SENDING)
def test_features_of_messages_can_go(name):
    """All features can go, whatever names the places that are written to or read from."""
    torch.manual_seed(0)
    found = checks.check_law(Messages(SENDING[name]).eval(), (NODES, PLACES))
    assert [len(group.units) for group in found.groups] == [6, 7]


@pytest.mark.parametrize(
    "send",
    [
        lambda x, m, to: x.T.index_add(0, to, m.T).T,  # features are what is indexed
        lambda x, m, to: x.scatter_add(1, to[:, None].expand(-1, 6), m),
        lambda x, m, to: x.gather(1, to.expand(6, 6)),
        lambda x, m, to: assigned(x, (slice(None), to[:3]), m[:, :3]),
        lambda x, m, to: x.take(to[:, None].expand(6, 6)),
        lambda x, m, to: x.put(to[:, None].expand(6, 6), m),
        lambda x, m, to: x.masked_scatter(to[:, None] > 2, m),
    ],
)
def test_features_that_are_indexed_stay(send):
    """Where an index counts features, they are not offered."""
    torch.manual_seed(0)
    found = checks.check_law(Messages(send).eval(), (NODES, PLACES))
    assert [group.name for group in found.groups] == ["b.weight"]


class DenseAttention(nn.Module):
    """Graph attention over a matrix of neighbours, as papers' code writes it."""

    def __init__(self):
        super().__init__()
        self.w, self.out = nn.Linear(5, 8, bias=False), nn.Linear(8, 2)
        self.a = nn.Parameter(torch.randn(16, 1))

    def forward(self, x, edges):
        near = torch.zeros(len(x), len(x))
        near[edges[0], edges[1]] = 1.0
        h = self.w(x)
        width = h.shape[1]
        scores = F.leaky_relu(h @ self.a[:width] + (h @ self.a[width:]).T, 0.2)
        weights = torch.where(near > 0, scores, torch.full_like(scores, -9e15)).softmax(1)
        return self.out(F.elu(weights @ h))


def test_graph_attention_written_densely():
    """A vector for both ends of an edge loses what its features lose, twice."""
    torch.manual_seed(0)
    found = checks.check_law(DenseAttention().eval(), (NODES, EDGES))
    assert [len(group.units) for group in found.groups] == [8]
    assert ("a", 0) in found.groups[0].axes


@pytest.mark.parametrize("kind", ["GCNConv", "SAGEConv", "GATConv", "GATv2Conv", "GraphConv"])
def test_layers_of_pytorch_geometric(kind):
    """Features of its convolutions can go, and whole heads of its attention."""
    layers = pytest.importorskip("torch_geometric.nn")
    layer = getattr(layers, kind)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            heads = {"heads": 3} if kind.startswith("GAT") else {}
            self.a, self.b = layer(5, 12 // heads.get("heads", 1), **heads), layer(12, 2)

        def forward(self, x, edges):
            return self.b(self.a(x, edges).relu(), edges)

    torch.manual_seed(0)
    found = checks.check_law(Net().eval(), (NODES, EDGES))
    assert [len(group.units) for group in found.groups] == [3 if kind.startswith("GAT") else 12]
