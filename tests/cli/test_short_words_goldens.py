"""What a prompt shows of a network's units, a choice of them, and a compiled network."""

import torch
from torch import nn

import boxwood


def test_units_and_choices_are_short_tables() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    found = boxwood.find_units(net, torch.ones(1, 4))
    assert repr(found).splitlines() == [
        "14 units of Sequential in 2 groups",
        "  0.weight  8",
        "  2.weight  6",
    ]
    assert repr(boxwood.select_units(found, 0.5)).splitlines() == [
        "7 of 14 units kept, 43 of 108 parameters",
        "  0.weight  4 of 8",
        "  2.weight  3 of 6",
    ]


def test_a_deep_network_is_no_longer_than_a_screen() -> None:
    layers = [nn.Linear(4, 4) for _ in range(60)]
    net = nn.Sequential(*(each for layer in layers for each in (layer, nn.ReLU())))
    found = boxwood.find_units(net, torch.ones(1, 4))
    for thing in (found, boxwood.select_units(found, 0.5)):
        assert len(repr(thing).splitlines()) == 14
        assert repr(thing).endswith("  … 47 more")
        assert len(repr(thing)) < 1000


def test_a_compiled_network() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    session = boxwood.compile(net, torch.ones(1, 64))
    assert repr(session).startswith("<compiled network: kernels do ")
    assert len(repr(session)) < 120
