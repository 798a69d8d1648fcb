"""From a module to a session."""

from typing import Any

from torch import nn

from boxwood.engine.capture import Captured, capture
from boxwood.engine.choosing import choose
from boxwood.engine.interface import learn
from boxwood.engine.lower import lower
from boxwood.engine.passes.fold_batch_norm import fold_batch_norm
from boxwood.engine.passes.fold_constants import fold_constants
from boxwood.engine.passes.fuse_epilogues import fuse_epilogues
from boxwood.engine.passes.simplify import simplify
from boxwood.engine.program import Program, check
from boxwood.engine.session import Session, Workshop
from boxwood.engine.targets import Target, host
from boxwood.engine.teams import Team

PASSES = (simplify, fold_constants, fold_batch_norm, lower, fuse_epilogues)


def optimise(program: Program) -> Program:
    """Return a captured program with everything folded, lowered and fused."""
    for rewrite in PASSES:
        program = check(rewrite(program))
    return program


def compile(  # noqa: A001
    model: nn.Module, example: Any, *, target: Target | None = None, threads: int = 1
) -> Session:
    """Compile."""
    target = target or host()
    tensors, function, interface = learn(model, example)
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        captured: Captured = capture(function, tensors)
    finally:
        for module in was_training:
            module.training = True
    program = optimise(check(captured.program))
    workshop = Workshop(program, target, threads)
    session = Session(program, interface(), frozenset(), workshop, Team(threads))
    native, times = choose(session, tensors)
    return session.assigned(native)
