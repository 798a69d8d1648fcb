"""Structure: the units of a network, selections of them, and the check of a smaller network."""

from boxwood._internal.graph.batch_norm import reestimate_batch_norm_
from boxwood._internal.graph.carrying import carry_optimizer
from boxwood._internal.graph.equivalence_report import EquivalenceReport
from boxwood._internal.graph.examples import Calls
from boxwood._internal.graph.operator_rules import OperatorCall, OperatorRule, elementwise
from boxwood._internal.graph.reparametrised import baked
from boxwood._internal.graph.scoring import score_units
from boxwood._internal.graph.selection import UnitSelection
from boxwood._internal.graph.units import Axis, Group, Units

__all__ = [
    "Axis",
    "Calls",
    "EquivalenceReport",
    "Group",
    "OperatorCall",
    "OperatorRule",
    "UnitSelection",
    "Units",
    "baked",
    "carry_optimizer",
    "elementwise",
    "reestimate_batch_norm_",
    "score_units",
]
