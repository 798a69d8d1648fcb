"""Laws of splitting, standardising and naming data."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from boxwood._internal.core.seeds import generator_for
from boxwood._internal.data.splits import InMemory, Splits, fingerprint, from_tensors, hold_out

counts = st.integers(2, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1)))
seeds = st.integers(0, 2**32)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for(seed, "test"))


def labels(count: int) -> Tensor:
    return torch.arange(count) % 2


def make(inputs: Tensor, *, validation: int = 3, seed: int = 0) -> Splits:
    """Give the same tensors as training and test part; the training part is first in line."""
    xy = (inputs, labels(len(inputs)))
    return from_tensors("law", xy, xy, validation=validation, seed=seed)


def everything(splits: Splits) -> list[Tensor]:
    parts = (splits.train, splits.validation, splits.test)
    return [tensor for part in parts for tensor in part.take(torch.arange(len(part)))]


@given(counts, seeds)
def test_held_out_is_a_partition(counts: tuple[int, int], seed: int) -> None:
    """Every example is either kept or held out, never both, and as many as asked for are."""
    count, held = counts
    kept_indices, held_indices = hold_out(count, held, seed=seed)
    assert len(held_indices) == held
    assert torch.equal(torch.cat([kept_indices, held_indices]).sort().values, torch.arange(count))


@given(counts, seeds)
def test_held_out_depends_on_its_arguments_alone(counts: tuple[int, int], seed: int) -> None:
    """The choice is the same whatever random numbers were drawn before it, and draws none."""
    count, held = counts
    first = hold_out(count, held, seed=seed)
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    again = hold_out(count, held, seed=seed)
    assert all(map(torch.equal, first, again))
    assert torch.equal(torch.get_rng_state(), before)


def test_purposes_and_seeds_choose_differently() -> None:
    """Another seed or another purpose holds out other examples."""
    chosen = [
        hold_out(1000, 500, seed=seed, purpose=purpose)[1].sort().values.tolist()
        for seed in (0, 1)
        for purpose in ("validation", "test")
    ]
    assert len({tuple(each) for each in chosen}) == 4


@given(st.lists(st.integers(0, 9), max_size=20))
def test_take_is_indexing(indices: list[int]) -> None:
    """A batch is what indexing both tensors gives, repeats and the empty batch included."""
    data = InMemory(draw(0, 10, 2, 3), torch.arange(10))
    wanted = torch.tensor(indices, dtype=torch.int64)
    inputs, targets = data.take(wanted)
    assert torch.equal(inputs, data.inputs[wanted])
    assert torch.equal(targets, wanted)
    assert len(data) == 10


@given(
    seeds,
    st.sampled_from([(40,), (40, 7), (40, 5, 3), (40, 3, 4, 4)]),
    st.floats(0.01, 100),
    st.floats(-100, 100),
)
def test_training_part_is_standardised(
    seed: int, shape: tuple[int, ...], scale: float, offset: float
) -> None:
    """The training part has mean 0 and sd 1: per channel if 4-D, over all values otherwise."""
    inputs, _ = everything(make(draw(seed, *shape) * scale + offset))[:2]
    groups = inputs.transpose(0, 1).flatten(1) if inputs.dim() == 4 else inputs.reshape(1, -1)
    # Rounding of the offset, in units of the scale, is what float32 inputs leave undecided.
    slack = 1e-6 * (2 + abs(offset) / scale)
    assert groups.double().mean(1).abs().max() < slack
    assert (groups.double().std(1, correction=0) - 1).abs().max() < slack


@given(seeds, st.integers(1, 29))
def test_nothing_leaks_into_the_training_part(seed: int, validation: int) -> None:
    """Other values in validation and test leave the training part bit for bit as it was."""
    inputs = draw(seed, 30, 2, 3, 3)
    _, held = hold_out(30, validation, seed=seed)
    changed = inputs.clone()
    changed[held] = changed[held] * 50 + 7
    y = labels(30)
    before, after = (
        from_tensors("law", (x, y), (x, y), validation=validation, seed=seed)
        for x in (inputs, changed)
    )
    assert torch.equal(everything(before)[0], everything(after)[0])
    assert not torch.equal(everything(before)[2], everything(after)[2])


@given(seeds)
def test_every_part_is_transformed_alike(seed: int) -> None:
    """Training and validation hold exactly the rows that the test part has for those examples."""
    inputs = draw(seed, 30, 2, 3, 3)
    kept, held = hold_out(30, 3, seed=seed)
    train_x, train_y, validation_x, validation_y, test_x, test_y = everything(
        make(inputs, seed=seed)
    )
    assert torch.equal(train_x, test_x[kept])
    assert torch.equal(train_y, test_y[kept])
    assert torch.equal(validation_x, test_x[held])
    assert torch.equal(validation_y, test_y[held])


@given(seeds)
def test_given_tensors_are_left_alone(seed: int) -> None:
    """Splitting writes into none of the tensors that it was given."""
    inputs = draw(seed, 10, 4)
    before = inputs.clone()
    make(inputs)
    assert torch.equal(inputs, before)


@given(seeds)
def test_pixels_are_what_scaled_floats_are(seed: int) -> None:
    """Pixels 0..255 give the same splits as the same numbers divided by 255."""
    pixels = torch.randint(
        256, (20, 3, 4, 4), dtype=torch.uint8, generator=generator_for(seed, "p")
    )
    assert all(map(torch.equal, everything(make(pixels)), everything(make(pixels.float() / 255))))


@settings(max_examples=50)
@given(seeds, st.sampled_from([torch.uint8, torch.float32, torch.float64, torch.bool]))
def test_fingerprint_sees_every_byte(seed: int, dtype: torch.dtype) -> None:
    """Changing one value, the dtype, the shape or the order changes the name; a copy keeps it."""
    tensor = torch.randint(2, (3, 4), generator=generator_for(seed, "f")).to(dtype)
    changed = tensor.clone()
    row, column = seed % 3, seed % 4
    changed[row, column] = 1 - int(tensor[row, column])
    other = torch.int8 if dtype != torch.int8 else torch.uint8
    names = [
        fingerprint(tensor),
        fingerprint(changed),
        fingerprint(tensor.to(other)),
        fingerprint(tensor.reshape(4, 3)),
        fingerprint(tensor, changed),
        fingerprint(changed, tensor),
        fingerprint(tensor[:1], tensor[1:]),
    ]
    assert len(set(names)) == len(names)
    strided = torch.stack([tensor, tensor], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    assert fingerprint(strided) == names[0]
    assert fingerprint(strided[0, ::2]) == fingerprint(tensor[0, ::2].clone())


@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_fingerprint_keeps_texts_apart(one: list[str], other: list[str]) -> None:
    """Different lists of texts have different names, however they concatenate."""
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


def test_fingerprint_of_small_tensors() -> None:
    """Scalars and empty tensors have names too, each its own."""
    names = [
        fingerprint(tensor)
        for tensor in (torch.tensor(1.0), torch.ones(1), torch.ones(0), torch.ones(2, 0))
    ]
    assert len(set(names)) == 4


@given(seeds)
def test_identity_names_contents_and_parts(seed: int) -> None:
    """Same tensors, same seed and same sizes have one identity; anything else has another."""
    inputs = draw(seed, 30, 4)
    changed = inputs.clone()
    changed[seed % 30, seed % 4] += 1
    same = make(inputs).identity
    assert make(inputs.clone()).identity == same
    others = {
        make(changed).identity,
        make(inputs, seed=1).identity,
        make(inputs, validation=4).identity,
        make(inputs.double()).identity,
    }
    assert len(others) == 4
    assert same not in others


def test_shape_and_classes() -> None:
    """The shape is that of one input, and the classes are counted over training and test."""
    inputs = draw(0, 12, 3, 5, 4)
    data = from_tensors(
        "law",
        (inputs, torch.arange(12, dtype=torch.int32) % 2),
        (inputs[:3], torch.tensor([0, 1, 2])),
        validation=2,
    )
    assert data.shape == (3, 5, 4)
    assert data.classes == 3
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 2, 3)
    assert {tensor.dtype for tensor in everything(data)} == {torch.float32, torch.int64}
