"""Operators that compiled networks leave to torch, by the time they take, over the networks of `architectures.py`.

Kernels do all that they can; times are of torch's operators as they run between them. Networks are
small, so that what a call of an operator costs counts most. BOXWOOD_NETWORKS=transformers/,recurrent/
takes those whose names begin so; these are the default.
"""

import os
import statistics
import time
import warnings
from collections import defaultdict
from typing import Any

import torch
from architectures import corpus
from measuring import Row, main

from boxwood._internal.engine.capture import capture
from boxwood._internal.engine.compiling import optimised
from boxwood._internal.engine.interface import learn_interface
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.recording import UncapturableError
from boxwood._internal.engine.session import Session
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.engine.targets import host
from boxwood._internal.engine.thread_team import ThreadTeam


def in_kernels(net: torch.nn.Module, example: Any) -> tuple[Session, list[torch.Tensor]]:
    """Return a session whose kernels do all that they can, and its inputs."""
    tensors, function, interface = learn_interface(net.eval(), example)
    program = optimised(capture(function, tensors, interface).program)
    able = frozenset(supported_problems(program, program.batch or 0))
    session = Session(program, interface(), able, KernelCache(program, host(), 1), ThreadTeam(1))
    return session, tensors


def measure(quick: bool) -> list[Row]:
    """Sum the seconds of torch's operators over all networks."""
    starts = tuple(os.environ.get("BOXWOOD_NETWORKS", "transformers/,recurrent/").split(","))
    names = [name for name in corpus() if name.startswith(starts)]
    seconds: dict[str, float] = defaultdict(float)
    networks: dict[str, set[str]] = defaultdict(set)
    total = whole = 0.0
    for name in names[:: 8 if quick else 1]:
        torch.manual_seed(0)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                session, tensors = in_kernels(*corpus()[name]())
            except (UncapturableError, TypeError, ValueError):  # torch's as a whole
                whole += 1
                continue
            runner = session.runner(session.program.batch or 0)
            runner(tensors)
            times = runner.time_steps(tensors, 9, time.thread_time)
        for step, each in zip(runner.single_steps, times, strict=True):
            taken = statistics.median(each)
            total += taken
            for position in step.positions:
                op = session.program.ops[position]
                if position not in session.native:
                    kind = getattr(op, "name", type(getattr(op, "kind", op)).__name__.lower())
                    seconds[kind] += taken
                    networks[kind].add(name)
    listed = sorted(seconds, key=seconds.__getitem__, reverse=True)
    summed = sum(seconds.values())
    rows = [Row(f"all of torch's, {whole:.0f} networks as a whole besides", 1e3 * summed, 1e3 * total,
                "all operations", summed / total, "ms")]  # fmt: skip
    for kind in listed[:25]:
        name = f"{kind}, in {len(networks[kind])} networks"
        share = seconds[kind] / total
        rows.append(Row(name, 1e3 * seconds[kind], 1e3 * total, "all operations", share, "ms"))
    return rows


if __name__ == "__main__":
    main(measure, __doc__ or "")
