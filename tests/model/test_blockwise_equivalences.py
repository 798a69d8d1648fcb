"""Block by block is the same as the whole network layer by layer, with one block at a time."""

import copy
import weakref
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from boxwood import criteria
from boxwood._internal.core.allocation import uniform
from boxwood._internal.core.granularity import NofM, PerRow
from boxwood._internal.model.blockwise import (
    by_criterion,
    by_sparse_gpt,
    states_before,
    through_blocks,
)
from boxwood._internal.model.oneshot import apply_masks_, find_masks
from boxwood._internal.model.prunable import linear
from boxwood._internal.model.reconstruct import Reconstruction, load_, prune_and_reconstruct
from boxwood.errors import BoxwoodError


class Block(nn.Module):
    """Takes a setting, gives a tuple, as decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.drop = nn.Dropout(0.5)

    def forward(self, hidden_states: Tensor, scale: float = 1.0) -> tuple[Tensor, None]:
        return hidden_states + scale * self.drop(
            self.down(torch.relu(self.up(hidden_states)))
        ), None


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([Block(), Block(), Block()])
        self.head = nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(hidden_states=x, scale=0.5)[0]
        return self.head(x)


def decoder() -> tuple[Decoder, list[Tensor]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Decoder().double().train(), list(torch.randint(20, (12, 5)).split(5))


def blocks_only(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in linear(model).items() if name.startswith("layers.")}


def test_sparse_gpt_by_blocks_is_sparse_gpt_layer_by_layer() -> None:
    """Weights and masks are those of the whole model, which is run anew for every layer."""
    model, ids = decoder()
    whole = prune_and_reconstruct(model, 0.5, ids, layers=blocks_only)
    states = states_before(model, model.layers, ids)
    assert model.training
    decide = partial(by_sparse_gpt, sparsity=0.5)
    for place, (block, masks) in enumerate(through_blocks(model.layers, states, decide)):
        assert block is model.layers[place]
        assert block.training
        for name, mask in masks.items():
            full = f"layers.{place}.{name}"
            assert torch.equal(mask, whole.masks[full])
            torch.testing.assert_close(model.get_parameter(full).detach(), whole.weights[full])


def test_wanda_by_blocks() -> None:
    """Each block is pruned on what the pruned ones before it make."""
    model, ids = decoder()
    by_hand = copy.deepcopy(model).eval()
    hidden = [by_hand.embed(part).detach() for part in ids]
    wanted = []
    for block in by_hand.layers:
        masks = find_masks(
            block, 0.5, criterion=criteria.wanda, granularity=PerRow(), allocation=uniform,
            batches=[((x, torch.tensor(0.5)), None) for x in hidden],
        )  # fmt: skip
        apply_masks_(block, masks)
        with torch.no_grad():
            hidden = [block(x, 0.5)[0] for x in hidden]
        wanted.append(masks)
    states = states_before(model, model.layers, ids)
    assert states[0][1] == (((), {"scale": 0.5}),) * 3
    found = [masks for _, masks in through_blocks(model.layers, states, partial(by_criterion, sparsity=0.5))]  # fmt: skip
    for masks, expected in zip(found, wanted, strict=True):
        assert all(torch.equal(masks[name], mask) for name, mask in expected.items())
    grouped = partial(by_criterion, sparsity=0.5, granularity=NofM(2, 4))
    for block, masks in through_blocks(model.layers, states, grouped):
        assert (masks["up.weight"].view(12, 2, 4).sum(2) == 2).all()
        assert (block.up.weight[~masks["up.weight"]] == 0).all()


def test_one_block_is_resident() -> None:
    """A generator's blocks can be dropped one by one: nothing holds on to them."""
    alive: list[weakref.ref] = []

    def loading() -> Iterator[nn.Module]:
        for _ in range(4):
            assert sum(ref() is not None for ref in alive) == 0
            block = Block()
            alive.append(weakref.ref(block))
            yield block
            del block

    states = [(torch.randn(3, 8), (((), {}),) * 4)]
    count = 0
    for block, _ in through_blocks(loading(), states, partial(by_criterion, sparsity=0.5)):
        count += int((block.up.weight == 0).sum())
        del block
    assert count == 4 * 48


def test_a_block_that_is_not_called() -> None:
    """It is refused by name, once the model has run."""
    model, ids = decoder()
    with pytest.raises(
        BoxwoodError, match="blocks that the model calls one after the other, got a Block at 0"
    ):
        states_before(model, [Block()], ids)


def test_blocks_that_are_no_chain() -> None:
    """What happens between blocks would be lost, so it is refused; and so is another order."""
    model, _ = decoder()
    between = nn.Sequential(Block(), nn.ReLU(), Block())
    taken = nn.Sequential(*model.layers)

    class First(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: Tensor) -> Tensor:
            return self.inner(hidden)[0]

    hidden = [torch.randn(3, 8)]
    apart = nn.Sequential(First(between[0]), between[1], First(between[2]))
    with pytest.raises(BoxwoodError, match="read the output of the one before, got something else"):
        states_before(apart, [between[0], between[2]], hidden)
    joined = nn.Sequential(*(First(block) for block in taken)).double()
    with pytest.raises(BoxwoodError, match="one after the other, got a Block at 0"):
        states_before(joined, [taken[1], taken[0]], [hidden[0].double()])
    assert all("forward" not in vars(block) for block in (*between, *taken))


def test_settings_by_place_and_of_each_block_alone() -> None:
    """A model may call every block with other settings, by position; each gets its own."""

    class Scaled(Decoder):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            for place, layer in enumerate(self.layers):
                x = layer(x, 1.0 + place)[0]
            return x

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Scaled().eval()
    ids = [torch.arange(6)]
    masks = find_masks(
        model, 0.5, criterion=criteria.wanda, granularity=PerRow(), allocation=uniform,
        layers=lambda model: {"last": model.layers[2].down.weight}, batches=ids,
    )  # fmt: skip
    states = states_before(model, model.layers, ids)
    assert list(states[0][1]) == [((1.0,), {}), ((2.0,), {}), ((3.0,), {})]

    def only_last(block: nn.Module, batches: list) -> Reconstruction:
        done = by_criterion(block, batches, sparsity=0.5)
        return done if block.block is model.layers[2] else Reconstruction({}, {})

    found = [masks for _, masks in through_blocks(model.layers, states, only_last)]
    assert found[:2] == [{}, {}]
    assert torch.equal(found[2]["down.weight"], masks["last"])


def test_a_language_model() -> None:
    """A tiny Llama of transformers, with its masks and positions as settings."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, vocab_size=30,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval()
        ids = torch.randint(30, (4, 6))
    batches = [{"input_ids": part, "use_cache": False} for part in ids.split(2)]
    fresh = copy.deepcopy(model.state_dict())
    for decide in (by_criterion, by_sparse_gpt):
        model.load_state_dict(fresh)
        layers = model.model.layers
        states = states_before(model, layers, batches)
        with torch.no_grad():
            dense = model.model(ids, use_cache=False).last_hidden_state
        for block, masks in through_blocks(layers, states, partial(decide, sparsity=0.25)):
            assert len(masks) == 7
            for name, mask in masks.items():
                assert int(mask.sum()) == round(0.75 * mask.numel())
                assert (block.get_parameter(name)[~mask] == 0).all()
        with torch.no_grad():
            after = model.model(ids, use_cache=False).last_hidden_state
        assert after.isfinite().all()
        assert not torch.equal(dense, after)


def test_layers_that_share_an_input_are_solved_from_one_pass() -> None:
    """Weights and masks are those of a pass for every layer, one layer after the other."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down, self.gate = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.relu(self.gate(x)) * self.up(x))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, batches = Gated().double(), [torch.randn(20, 8).double() for _ in range(2)]
    together = prune_and_reconstruct(model, 0.5, batches)
    # The order in which they run, not the one in which they stand in the module.
    assert list(together.masks) == ["up.weight", "gate.weight", "down.weight"]
    for name, mask in together.masks.items():
        alone = prune_and_reconstruct(
            model, 0.5, batches, layers=lambda model, name=name: {name: model.get_parameter(name)}
        )
        assert torch.equal(alone.masks[name], mask)
        assert torch.equal(alone.weights[name], together.weights[name])
        load_(model, alone.weights)
