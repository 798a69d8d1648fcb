"""LSTM and GRU stacks, unrolled into kernels, against torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("llvmlite")

from boxwood._internal.engine.capture import capture
from boxwood._internal.engine.compiling import optimised
from boxwood._internal.engine.interface import learn_interface
from boxwood._internal.engine.kernel_cache import KernelCache
from boxwood._internal.engine.ops import Recurrent
from boxwood._internal.engine.session import Session
from boxwood._internal.engine.supported import supported_problems
from boxwood._internal.engine.targets import host
from boxwood._internal.engine.thread_team import ThreadTeam


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from((nn.LSTM, nn.GRU)),
    inputs=st.sampled_from((1, 5, 16, 40)),
    hidden=st.sampled_from((3, 16, 32, 48)),
    layers=st.integers(1, 3),
    steps=st.sampled_from((1, 2, 3, 4, 9, 20)),
    batch=st.sampled_from((1, 1, 2, 3, 17)),
    both=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    with_state=st.booleans(),
    sparsity=st.sampled_from((0.0, 0.8)),
    threads=st.sampled_from((1, 2)),
)
def test_a_recurrent_stack_computes_what_torch_computes(
    kind,
    inputs,
    hidden,
    layers,
    steps,
    batch,
    both,
    batch_first,
    bias,
    with_state,
    sparsity,
    threads,
) -> None:
    """Any stack in one direction or two, from any state, for any number of steps."""
    torch.manual_seed(0)
    how = {"batch_first": batch_first, "bias": bias, "bidirectional": both}
    net = kind(inputs, hidden, layers, **how).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(torch.rand_like(weight) >= sparsity)
    x = torch.randn((batch, steps, inputs) if batch_first else (steps, batch, inputs))
    state = torch.randn(2 * layers if both else layers, batch, hidden)
    given_state = (state, torch.randn_like(state)) if kind is nn.LSTM else state
    example = (x, given_state) if with_state else (x,)
    tensors, function, interface = learn_interface(net, example)
    program = optimised(capture(function, tensors).program)
    assert any(isinstance(op, Recurrent) for op in program.ops)
    able = frozenset(supported_problems(program, program.batch or 0))
    alone = not (kind is nn.GRU and hidden % 16) and (not both or steps > 3)
    assert bool(able) == (batch > 1 or alone)
    kernels = KernelCache(program, host(), threads)
    session = Session(program, interface(), able, kernels, ThreadTeam(threads))
    with torch.no_grad():
        wanted = net(*example)
    got = session(*example)
    flat = [torch.utils._pytree.tree_leaves(each) for each in (got, wanted)]
    for ours, theirs in zip(*flat, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)
