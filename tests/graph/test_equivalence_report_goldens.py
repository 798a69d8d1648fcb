"""What a report says of itself."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from boxwood._internal.graph.equivalence import check_equivalence, shrink
from boxwood._internal.graph.ranking import best_units
from boxwood._internal.graph.units import find_units


def test_a_certificate_marks_the_line_that_failed() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    selection = best_units(find_units(net, torch.ones(1, 4)), np.arange(3.0), 0.5)
    told = check_equivalence(net, shrink(net, selection), selection)
    assert "DIFFERS" not in str(told)
    worse = replace(told, gradient_difference=2e-7)
    assert not worse.equivalent
    assert [line for line in str(worse).splitlines() if "DIFFERS" in line] == [
        "gradients of kept parameters: 2e-07, DIFFERS: at most 1e-07 of the largest is allowed"
    ]
    first = replace(told.trials[0], difference=1.0)
    failed = str(replace(told, trials=(first, *told.trials[1:])))
    assert failed.count("DIFFERS: at most 1e-09 of the largest is allowed") == 1
