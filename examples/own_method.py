"""A method of your own against others: `boxwood compare examples/own_method.py:comparison --seeds 3`."""

from boxwood.allocation import uniform
from boxwood.comparison import METHODS, Comparison, ComparisonTask
from boxwood.data import digits
from boxwood.networks import lenet_300_100, wide_net
from boxwood.optim import SGD, CosineLR
from boxwood.phases import Prune, Train
from boxwood.recipes import Call
from boxwood.training import Training


def early(task, sparsity):
    """Prune after a tenth of the steps, by magnitude in each layer, and train on for the rest."""
    first = task.steps // 10
    return (
        Train(training=task.part(first)),
        Prune(sparsity=sparsity, allocation=uniform, layers=task.layers),
        Train(training=task.part(task.steps - first, shuffle_index=1)),
        task.measure,
    )


def small(width):
    """Return a narrower network: the control that is dense and small from the start."""
    hidden = (max(1, round(300 * width)), max(1, round(100 * width)))
    return wide_net(hidden=hidden, inputs=64)


def comparison() -> Comparison:
    """Compare it on handwritten digits with two methods of Boxwood, at two sparsities."""
    task = ComparisonTask(
        name="LeNet-300-100 on digits",
        model=Call.of(lenet_300_100, inputs=64),
        data=digits,
        train=Training(
            steps=100, batch=60, optimizer=SGD(lr=0.1, momentum=0.9, lr_schedule=CosineLR())
        ),
        rates=(0.03, 0.1, 0.3),
        small=small,
    )
    methods = {"early": early, "RigL": METHODS["RigL"], "SNIP": METHODS["SNIP"]}
    return Comparison(tasks=(task,), methods=methods, sparsities=(0.9, 0.95))
