"""Sequence-to-sequence nets: what padding, time and the attention may and may not change."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from boxwood._internal.core.policies import Gradual
from boxwood._internal.core.schedules import Cubic
from boxwood._internal.model.sparse_training import SparseTraining
from boxwood._internal.train.losses import cross_entropy
from boxwood.errors import BoxwoodError
from boxwood_studies.pairs import paired
from boxwood_studies.seq2seq import AdditiveAttention, Seq2Seq, outside_attention

SOURCES, CLASSES = 6, 5

sequences = st.lists(
    st.tuples(
        st.lists(st.integers(1, SOURCES - 1), min_size=1, max_size=7),
        st.lists(st.integers(1, CLASSES - 1), min_size=1, max_size=7),
    ),
    min_size=1,
    max_size=5,
)


def net(layers: int = 3, seed: int = 0) -> Seq2Seq:
    torch.manual_seed(seed)
    return Seq2Seq(sources=SOURCES, classes=CLASSES, hidden=6, layers=layers, reach=0.8)


def rows(pairs: list) -> tuple[torch.Tensor, torch.Tensor]:
    data = paired(*zip(*pairs, strict=True), "test")
    return data.inputs, data.targets


@settings(max_examples=12, deadline=None)
@given(sequences, st.integers(1, 9))
def test_padding_more_changes_nothing(pairs, more):
    """Filled up further, a batch has the same outputs, bit for bit, and the same gradients."""
    network, (inputs, targets) = net(), rows(pairs)
    wider = nn.functional.pad(inputs, (0, more))
    longer = nn.functional.pad(targets, (0, more), value=-100)
    outputs, gradients = [], []
    for x, y in ((inputs, targets), (wider, longer)):
        network.zero_grad()
        outputs.append(network(x))
        cross_entropy(outputs[-1], y).backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert torch.equal(outputs[0], outputs[1][:, :, : inputs.shape[2]])
    # The loss adds up as many terms in another order.
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


@settings(max_examples=12, deadline=None)
@given(sequences)
def test_an_example_does_not_see_its_neighbours(pairs):
    """What is scored for an example is what is scored when it is alone, whatever fills it up."""
    network, (inputs, _) = net(), rows(pairs)
    together = network(inputs)
    for index, (_, target) in enumerate(pairs):
        alone = network(rows([pairs[index]])[0])
        asked = len(target) + 1
        torch.testing.assert_close(together[index, :, :asked], alone[0, :, :asked])


def test_the_encoder_reads_both_ways_and_the_decoder_one():
    """The last letter tells on the first phoneme; a phoneme fed later does not."""
    network = net()
    base = torch.tensor([[[1, 2, 3, 4], [0, 1, 2, 3]]])
    letter, phoneme = base.clone(), base.clone()
    letter[0, 0, 3], phoneme[0, 1, 3] = 5, 4
    before = network(base)[0]
    assert not torch.allclose(network(letter)[0, :, 0], before[:, 0])
    after = network(phoneme)[0]
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert not torch.allclose(after[:, 3], before[:, 3])


def test_step_by_step_is_all_at_once():
    """Begin and next score what one pass over the whole target scores."""
    network, (inputs, _) = net(layers=4), rows([([1, 2, 3], [4, 1, 2]), ([5], [1, 1, 3])])
    whole, carry = network(inputs), network.begin(inputs[:, 0])
    for place in range(inputs.shape[2]):
        scores, carry = network.next(inputs[:, 1, place], carry)
        torch.testing.assert_close(scores, whole[:, :, place])


def test_attention_is_its_formula():
    """The context is softmax(v · tanh(W q + U k + b)) over the valid places, times their values."""
    torch.manual_seed(1)
    look = AdditiveAttention(hidden=3, units=2)
    values, queries = torch.randn(1, 4, 3), torch.randn(1, 2, 3)
    valid = torch.tensor([[True, True, True, False]])
    context = look(queries, look.remember(values, valid))
    for at in range(2):
        keys = values[0, :3] @ look.key.weight.T + look.key.bias
        energies = torch.tanh(queries[0, at] @ look.query.weight.T + keys) @ look.energy.weight[0]
        torch.testing.assert_close(context[0, at], energies.softmax(0) @ values[0, :3])


def test_residuals_begin_at_the_third_layer():
    """With silent LSTMs from the third layer on, a deeper net computes what a shallower one does."""
    shallow, deep = net(layers=2), net(layers=4)
    weights = deep.state_dict()
    weights |= shallow.state_dict()
    for name, weight in weights.items():
        if name.startswith(("encoder.1", "encoder.2", "decoder.2", "decoder.3")):
            weights[name] = torch.zeros_like(weight)
    deep.load_state_dict(weights)
    inputs, _ = rows([([1, 2, 3], [4, 1, 2]), ([5, 1], [1])])
    torch.testing.assert_close(deep(inputs)[:, :, :2], shallow(inputs)[:, :, :2])


def test_one_layer_is_too_few():
    """Below and above the context there is a layer each."""
    with pytest.raises(BoxwoodError, match=r"Expected layers >= 2, .* got 1; give 2 or more"):
        Seq2Seq(sources=3, classes=3, hidden=4, layers=1)


def test_gradual_pruning_leaves_the_attention_dense():
    """Counts outside the attention are exact at every update, and inside it nothing is masked."""
    network, (inputs, targets) = net(), rows([([1, 2, 3], [4, 1, 2]), ([5], [1, 1, 3])])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05, weight_decay=0.01)
    schedule = Cubic(final=0.8, end=8)
    training = SparseTraining(
        network, optimizer, Gradual(schedule=schedule, every=2), layers=outside_attention
    )
    prunable = outside_attention(network)
    assert set(training.masks) == set(prunable)
    for step in range(1, 13):
        optimizer.zero_grad()
        cross_entropy(network(inputs), targets).backward()
        optimizer.step()
        reached = schedule(min(step // 2 * 2, 8))
        for name, mask in training.masks.items():
            assert int(mask.sum()) == round((1 - reached) * mask.numel())
            assert not prunable[name][~mask].any()
    dense = {name for name, _ in network.named_parameters()} - set(prunable)
    assert {name for name in dense if not name.rpartition(".")[2].startswith("bias")} == {
        "attention.query.weight",
        "attention.key.weight",
        "attention.energy.weight",
    }
