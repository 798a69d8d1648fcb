"""Every public function and method, and why some never meet a tensor of a device.

The list is read off the public modules, so that a new function is on it as soon as it is public.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from types import CodeType
from typing import Any

import boxwood
import boxwood.integrations

NO_TENSORS = "numbers, names or files; no tensors"
DATA = "makes or describes frozen data; the phases that run it are here"
STATE = "works on a state, which is on the CPU between phases; its random numbers are the CPU's"
SAME = "hands back what it is given, or sets it aside"
FILES = "reads, prunes or writes files, on the CPU"
KERNELS = "for the CPU and its kernels; the scenario `left to the CPU` gives it a device"
AGENT = "the agent is a network of its own, on the CPU"
READS = "reads files, or draws, on the CPU; the loop moves each batch"
BUILDS = "builds a network on the CPU; the scenario `networks` moves and runs it"
NAMES = "chooses parameters by module and name, and looks at none"

REASONS = {
    "boxwood.Experiment.*": DATA,
    "boxwood.SparseTraining.next_update": NO_TENSORS,
    "boxwood.compress": KERNELS,
    "boxwood.restore_": KERNELS,
    "boxwood.load": FILES,
    "boxwood.agent.Agent.[!_s]*": AGENT,
    "boxwood.agent.FilterPolicy.*": AGENT,
    "boxwood.agent.best_rewarded": AGENT,
    "boxwood.agent.thresholded": AGENT,
    "boxwood.agent.reward": NO_TENSORS,
    "boxwood.allocation.HeavyTailed.__call__": "counts from sizes and the exponents, which are numbers",
    "boxwood.allocation.HeavyTailed.densities": NO_TENSORS,
    "boxwood.allocation.OutlierWeighed.densities": NO_TENSORS,
    "boxwood.allocation.erdos_renyi_kernel": "counts from shapes",
    "boxwood.allocation.uniform": "counts from shapes",
    "boxwood.budgets.latency": "returns what measures, which the scenario `whole units` calls",
    "boxwood.budgets.multiply_adds": NO_TENSORS,
    "boxwood.budgets.parameters": NO_TENSORS,
    "boxwood.comparison.[!c]*": DATA,
    "boxwood.compression.[A-Z]*": KERNELS,
    "boxwood.counting.count_parameters": "counts from shapes",
    "boxwood.counting.energy": NO_TENSORS,
    "boxwood.criteria.TrackMovement.detach": SAME,
    "boxwood.criteria.cap": SAME,
    "boxwood.criteria.movement": SAME,
    "boxwood.data.Corpus.*": READS,
    "boxwood.data.ImageAugmentation.__call__": READS,
    "boxwood.data.cifar10": READS,
    "boxwood.data.digits": READS,
    "boxwood.data.fashion_mnist": READS,
    "boxwood.data.from_datasets": READS,
    "boxwood.data.imagenet_folder": READS,
    "boxwood.data.mnist": READS,
    "boxwood.data.ptb": READS,
    "boxwood.distill.*.needs": DATA,
    "boxwood.distill.Float32.*": SAME,
    "boxwood.distill.with_teacher": DATA,
    "boxwood.downloads.*": NO_TENSORS,
    "boxwood.files.*": FILES,
    "boxwood.granularity.Elements.*": SAME,
    "boxwood.granularity.*.may_cut": NO_TENSORS,
    "boxwood.granularity.Blocks.rank": SAME,
    "boxwood.granularity.NofM.alive": SAME,
    "boxwood.granularity.PerRow.pool": SAME,
    "boxwood.granularity.PerRow.alive": SAME,
    "boxwood.granularity.Slices.rank": SAME,
    "boxwood.layers.*": NAMES,
    "boxwood.networks.*": BUILDS,
    "boxwood.oneshot.prune_checkpoint": FILES,
    "boxwood.optim.*": "builds an optimizer of torch, or computes a number",
    "boxwood.phases.*.needs": DATA,
    "boxwood.phases.AddNoise.run": STATE,
    "boxwood.phases.MasksFrom.run": STATE,
    "boxwood.phases.Reinitialise.run": STATE,
    "boxwood.phases.RemoveDead.run": STATE,
    "boxwood.phases.Resample.run": STATE,
    "boxwood.phases.Rewind.run": STATE,
    "boxwood.phases.ShuffleMasks.run": STATE,
    "boxwood.policies.*.due": NO_TENSORS,
    "boxwood.policies.*.annealed": NO_TENSORS,
    "boxwood.policies.gmp_star": DATA,
    "boxwood.policies.ACDC.compressed": NO_TENSORS,
    "boxwood.policies.StraightThrough.backward": "of a base class; the scenarios run what is made of it",
    "boxwood.policies.FixedMasks.[!d]*": SAME,
    "boxwood.policies.Static.update": SAME,
    "boxwood.published.*": DATA,
    "boxwood.recipes.[!W]*": DATA,
    "boxwood.runs.[!r]*": "writes and reads a store; what phases leave is on the CPU",
    "boxwood.schedules.*": NO_TENSORS,
    "boxwood.statistics.*": NO_TENSORS,
    "boxwood.structure.EquivalenceReport.*": NO_TENSORS,
    "boxwood.structure.Units.*": "counts from shapes",
    "boxwood.structure.elementwise": "looks at shapes",
    "boxwood.training.Training.*": NO_TENSORS,
    "boxwood.training.EMA.*": NO_TENSORS,
    "boxwood.training.SWA.*": NO_TENSORS,
    "boxwood.training.Computation.*": "hands back what it is given, or a context",
    "boxwood.integrations.*Callback.__init__": SAME,
    "boxwood.integrations.*.on_load_checkpoint": SAME,
    "boxwood.integrations.transformers.batches_for": READS,
    "boxwood.integrations.transformers.evaluate_pretrained": READS,
    "boxwood.integrations.transformers.heavy_tail_sparsities": FILES,
    "boxwood.integrations.transformers.drop_blocks_pretrained": FILES,
    "boxwood.integrations.transformers.drop_experts_pretrained": FILES,
    "boxwood.integrations.transformers.least_experts": NO_TENSORS,
    "boxwood.integrations.transformers.*heal*": "the trainer moves the model and each batch",
    "boxwood.integrations.transformers.outlier_sparsities": FILES,
    "boxwood.integrations.transformers.prune_pretrained": FILES,
    "boxwood.integrations.transformers.save_pretrained": FILES,
}
"""Patterns of names, with the reason why what they match does not run with a device's tensors."""


def public_functions() -> dict[str, CodeType]:
    """List the code of every public function and method, by its dotted name."""
    return {name: inspect.unwrap(each).__code__ for name, each in _named()}


def unseen(ran: set[CodeType]) -> list[str]:
    """Name the public functions that have neither run nor a reason not to."""
    return [n for n, code in public_functions().items() if code not in ran and not _reasons(n)]


def outdated(ran: set[CodeType]) -> list[str]:
    """Name the reasons that no public function needs, and those that a running one contradicts."""
    names = public_functions()
    needed = {
        pattern for name, code in names.items() if code not in ran for pattern in _reasons(name)
    }
    contradicted = [
        f"{name} ({pattern})"
        for name, code in names.items()
        if code in ran
        for pattern in _reasons(name)
    ]
    return [*contradicted, *(REASONS.keys() - needed)]


def _reasons(name: str) -> list[str]:
    return [pattern for pattern in REASONS if fnmatchcase(name, pattern)]


def _named() -> Iterator[tuple[str, Callable[..., Any]]]:
    listed = [boxwood, *_modules("boxwood"), *_modules("boxwood.integrations")]
    for module in listed:
        for name in getattr(module, "__all__", ()):
            each, dotted = getattr(module, name), f"{module.__name__}.{name}"
            if inspect.isfunction(each):
                yield dotted, each
            elif inspect.isclass(each):
                yield from _methods(dotted, each)


def _modules(package: str) -> list[Any]:
    """Import the public modules of a package; those of missing extras are left out."""
    found = []
    for each in pkgutil.iter_modules(importlib.import_module(package).__path__):
        name = f"{package}.{each.name}"
        if not each.name.startswith("_") and (
            package == "boxwood" or importlib.util.find_spec(each.name) is not None
        ):
            found.append(importlib.import_module(name))
    return found


def _methods(dotted: str, kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """List the methods that a class or its parents here define; those of protocols do nothing."""
    known: set[str] = set()
    for parent in kind.__mro__:
        if not parent.__module__.startswith("boxwood") or getattr(parent, "_is_protocol", False):
            continue
        for name, value in vars(parent).items():
            method = getattr(value, "__func__", value)
            public = not name.startswith("_") or name in ("__init__", "__call__")
            if name in known or not (public and inspect.isfunction(method)):
                continue
            known.add(name)
            own = method.__qualname__.startswith(f"{parent.__name__}.")  # and no default of a field
            if own and not method.__code__.co_filename.startswith("<"):  # as dataclasses make them
                yield f"{dotted}.{name}", method
