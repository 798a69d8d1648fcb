"""Which networks are plain chains, and what is found between their weight layers."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from boxwood._internal.model.feedforward import chain
from boxwood._internal.model.steps import Dropout, Flatten, Pointwise, Pool
from boxwood.errors import BoxwoodError


def kinds(model: nn.Module) -> list[tuple[str, list[type]]]:
    return [(link.name, [type(step) for step in link.before]) for link in chain(model)]


class Written(nn.Module):
    """A convolution, a linear layer, and what is written between them."""

    def __init__(self, between, *, after=lambda x: x, before=lambda x: x):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.fc = nn.Linear(8, 3)
        self.between, self.before, self.after = between, before, after

    def forward(self, x):
        return self.after(self.fc(self.between(self.conv(self.before(x)))))


def test_a_sequential_network():
    """Modules come under their dotted names, in the order in which they run."""
    net = nn.Sequential(
        *(nn.Dropout(0.1), nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 4)),
        *(nn.Sigmoid(), nn.Linear(4, 2), nn.Softmax(dim=1)),
    )
    assert kinds(net) == [
        ("1", [Dropout]),
        ("4.2", [Pointwise, Pool, Flatten, Dropout]),
        ("6", [Pointwise]),
    ]
    assert [step.name for step in chain(net)[1].before] == ["2", "3", "4.0", "4.1"]
    assert chain(net)[1].layer is net[4][2]
    assert [step.rate for step in chain(net)[1].before if isinstance(step, Dropout)] == [0.5]


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: torch.flatten(x, 1),
        lambda x: torch.flatten(x, start_dim=1, end_dim=-1),
        lambda x: x.flatten(1),
        lambda x: x.flatten(start_dim=1),
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(x.size()[0], 8),
        lambda x: x.reshape(x.shape[0], -1),
        lambda x: x.view((x.shape[0], -1)),
        lambda x: x.view(-1, 8),
    ],
)
def test_every_way_to_flatten(flatten):
    """Flattening is found however it is written, and asking for a size is no branch."""
    net = Written(lambda x: flatten(F.max_pool2d(F.relu(x), 2)))
    assert kinds(net) == [("conv", []), ("fc", [Pointwise, Pool, Flatten])]


@pytest.mark.parametrize(
    ("function", "module"),
    [
        (F.relu, nn.ReLU()),
        (lambda x: F.relu(x, inplace=True), nn.ReLU(inplace=True)),
        (lambda x: x.relu(), nn.ReLU()),
        (torch.tanh, nn.Tanh()),
        (F.tanh, nn.Tanh()),
        (torch.sigmoid, nn.Sigmoid()),
        (lambda x: x.sigmoid(), nn.Sigmoid()),
        (F.gelu, nn.GELU()),
        (lambda x: F.gelu(x, approximate="tanh"), nn.GELU(approximate="tanh")),
        (lambda x: F.leaky_relu(x, 0.3), nn.LeakyReLU(0.3)),
        (lambda x: F.hardtanh(x, -0.5, 0.25), nn.Hardtanh(-0.5, 0.25)),
        (F.silu, nn.SiLU()),
        (F.elu, nn.ELU()),
        (lambda x: F.softplus(x, beta=2), nn.Softplus(beta=2)),
    ],
)
def test_functions_and_modules_are_the_same_step(function, module):
    """A step applies what was written, settings included, to tensors of any shape."""
    values = torch.linspace(-3, 3, 13, dtype=torch.float64)
    for between in (lambda x: function(x).flatten(1), nn.Sequential(module, nn.Flatten())):
        _, fc = chain(Written(between))
        assert isinstance(fc.before[0], Pointwise)
        assert torch.equal(fc.before[0].apply(values.clone()), module(values.clone()))


@pytest.mark.parametrize(
    ("between", "size", "keeps"),
    [
        (lambda x: F.max_pool2d(x, 3, 1, padding=1).flatten(1), 4, True),
        (lambda x: F.max_pool2d(x, 2, dilation=3, padding=1).flatten(1), 2, False),
        (lambda x: F.avg_pool2d(x, 3, 1, 1).flatten(1), 4, False),
        (lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False).flatten(1), 4, True),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=1).flatten(1), 4, False),
        (lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True).flatten(1), 4, True),
        (lambda x: F.adaptive_avg_pool2d(x, (2, 3)).flatten(1), 4, True),
        (lambda x: F.adaptive_max_pool2d(x, 2).flatten(1), 4, True),
        (nn.Sequential(nn.AvgPool2d(2, padding=(0, 1)), nn.Flatten()), 4, False),
        (nn.Sequential(nn.MaxPool2d(2, padding=1, ceil_mode=True), nn.Flatten()), 4, True),
    ],
)
def test_pooling_says_whether_it_keeps_a_constant(between, size, keeps):
    """keeps_constant is what pooling a constant image shows."""
    _, fc = chain(Written(between))
    assert [type(step) for step in fc.before] == [Pool, Flatten]
    assert fc.before[0].keeps_constant is keeps
    pooled = between(torch.full((1, 1, size, size), 3.0, dtype=torch.float64))
    assert torch.equal(pooled, torch.full_like(pooled, 3.0)) is keeps


def test_dropout_as_a_function_is_a_step_when_evaluation_turns_it_off():
    """F.dropout that follows self.training is a step without a rate to set, in either mode."""
    net = Written(lambda x: F.dropout(x.flatten(1), 0.3, net.training))
    for mode in (net.train(), net.eval()):
        _, fc = chain(mode)
        assert fc.before[1] == Dropout(fc.before[1].name, None)
    net = Written(lambda x: F.dropout(x.flatten(1)))
    with pytest.raises(BoxwoodError, match="got 'dropout'"):
        chain(net)


def test_what_comes_before_and_after_the_weight_layers_is_free():
    """Scaling, reshaping and a softmax at the ends are not steps, and no obstacle."""
    net = Written(
        lambda x: x.flatten(1),
        before=lambda x: ((x - 0.5) / 0.25).view(-1, 1, 4, 4),
        after=lambda x: F.log_softmax(x, dim=1) + x.mean(),
    )
    assert kinds(net) == [("conv", []), ("fc", [Flatten])]


def test_modes_are_given_back():
    """Tracing leaves every module in the mode that it had."""
    net = nn.Sequential(nn.Dropout().eval(), nn.Linear(2, 2), nn.Dropout())
    chain(net)
    assert [module.training for module in net.modules()] == [True, False, True, True]


def test_alexnet_and_vgg():
    """AlexNet has 8 weight layers and VGG-16 has 16, also without any storage."""
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        alexnet, vgg = models.alexnet(), models.vgg16()
    names = ["features.0", "features.3", "features.6", "features.8", "features.10"]
    classifier = ["classifier.1", "classifier.4", "classifier.6"]
    assert [link.name for link in chain(alexnet)] == names + classifier
    assert [type(step) for step in chain(alexnet)[5].before] == [
        Pointwise, Pool, Pool, Flatten, Dropout,
    ]  # fmt: skip
    assert [isinstance(link.layer, nn.Conv2d) for link in chain(vgg)] == [True] * 13 + [False] * 3


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.c(x + self.b(x))


class Parallel(Residual):
    def forward(self, x):
        return self.c(torch.cat([self.a(x), self.b(x)]))


class Twice(Residual):
    def forward(self, x):
        return self.c(self.a(self.a(x)))


class Peeking(Residual):
    def forward(self, x):
        hidden = self.a(x)
        return self.b(hidden), hidden


class Deciding(Residual):
    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.b(x)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    return net


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Residual(), "got 'relu', whose result goes to 2 places"),
        (Parallel(), "got 'b', which does not follow on 'a' alone"),
        (Twice(), "got 'a', which is used twice"),
        (Peeking(), "got 'a', whose result goes to 2 places"),
        (Deciding(), "torch.fx can trace, got Deciding"),
        (tied(), "got '0', which shares a parameter"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)), "got '1', which is n"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softmax(1), nn.Linear(2, 2)), "got '1', which is none"),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.Linear(4, 2)), "got '1', which reads the channels"),
        (nn.Sequential(nn.Linear(4, 4), nn.Conv2d(1, 2, 1)), "got '1', which does not read one"),
        (
            nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.Linear(8, 2)),
            "got '2', which does not read one feature per unit of '0'",
        ),
        (
            nn.Sequential(nn.Linear(4, 4), nn.MaxPool2d(1), nn.Linear(4, 2)),
            "got '1', which pools over different units",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.AvgPool2d(1), nn.Linear(8, 2)),
            "got '2', which pools over different units",
        ),
        (Written(lambda x: x.flatten(2)), "got 'flatten', which is none"),
        (Written(lambda x: x.flatten()), "got 'flatten', which is none"),
        (Written(lambda x: x.view(x.size(1), -1)), "got 'view', which is none"),
        (Written(lambda x: x.view(x.size(0), -1, 1)), "got 'view', which is none"),
        (Written(lambda x: (2 * x).flatten(1)), "got 'mul', which is none"),
        (
            Written(lambda x: F.max_pool2d(x, 2, return_indices=True)[0].flatten(1)),
            "got 'max_pool2d_with_indices', which is none",
        ),
    ],
)
def test_other_networks_are_refused_by_the_name_of_what_is_in_the_way(net, words):
    """The message names the node, and says where general structure is dealt with."""
    with pytest.raises(BoxwoodError, match=words) as refusal:
        chain(net)
    assert "general structure comes from surgery on the graph" in str(refusal.value)


def test_a_network_without_weight_layers_is_refused():
    """There is no chain without links."""
    with pytest.raises(BoxwoodError, match="got ReLU with none that its trace calls"):
        chain(nn.ReLU())
