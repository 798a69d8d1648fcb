"""What a report says of itself."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from boxwood._internal.graph.equivalence import check_equivalence
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units


def test_a_report_marks_the_line_that_failed() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    selection = best_units(find_units(net, torch.ones(1, 4)), np.arange(3.0), 0.5)
    told = check_equivalence(net, shrink(net, selection), selection)
    assert told.gradients is not None
    assert str(told).splitlines()[0] == "equivalent"
    assert "DIFFERS" not in str(told)
    worse = replace(told, gradients=replace(told.gradients, difference=2e-9))
    assert not worse.equivalent
    assert str(worse).splitlines()[0] == "NOT EQUIVALENT"
    (failed,) = [line for line in str(worse).splitlines() if "DIFFERS" in line]
    assert failed.startswith("gradients of kept parameters, float64: largest difference 2e-09, ")
    assert failed.endswith("DIFFERS: at most 1e-09 of the largest is allowed")
    first = replace(told.trials[0], difference=1.0)
    failed = str(replace(told, trials=(first, *told.trials[1:])))
    assert failed.count("DIFFERS: at most 1e-09 of the largest is allowed") == 1


def test_a_report_states_what_is_allowed_and_in_which_type() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    selection = best_units(find_units(net, torch.ones(1, 4)), np.arange(3.0), 0.5)
    lines = str(check_equivalence(net, shrink(net, selection), selection)).splitlines()
    compared = [line for line in lines if "difference" in line]
    assert len(compared) == 4
    assert all("float64: largest difference" in line for line in compared)
    assert all(line.endswith("at most 1e-09 of the largest is allowed") for line in compared)
