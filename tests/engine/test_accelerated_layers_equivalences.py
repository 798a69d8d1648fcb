"""Accelerated layers give what torch's give, whatever happens around them."""

import copy
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("llvmlite")

import boxwood
from boxwood._internal.engine import layer_ops, linear_plans, native_calls
from boxwood._internal.engine.accelerated_layers import AcceleratedLinear
from boxwood._internal.engine.layer_plans import LinearPlan
from boxwood._internal.engine.product_choice import Way, measure, ways_by_positions
from boxwood._internal.engine.sparse_products import FewPositions, ManyPositions
from boxwood._internal.engine.targets import host
from boxwood._internal.engine.thread_team import ThreadTeam

WAYS = {Way.FEW: FewPositions, Way.MANY: ManyPositions}
CHANGED = "Expected the weights that accelerate_ has packed"


@pytest.fixture
def in_kernels(monkeypatch) -> None:
    """Up to two positions go one way, more the other, whatever is fastest."""
    monkeypatch.setattr(linear_plans, "measure", lambda *_: {1: {Way.DENSE: 1.0}})
    ways = (Way.DENSE, Way.FEW, Way.FEW, Way.MANY)
    monkeypatch.setattr(linear_plans, "ways_by_positions", lambda _: ways)


def pruned(net: nn.Module, sparsity: float = 0.7) -> nn.Module:
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter *= torch.rand_like(parameter) >= sparsity
    return net.eval()


def network() -> nn.Module:
    torch.manual_seed(0)
    return pruned(
        nn.Sequential(
            nn.Linear(80, 96), nn.ReLU(), nn.Linear(96, 64, bias=False), nn.Linear(64, 80)
        )
    )


def near(got: Tensor, wanted: Tensor) -> None:
    assert got.dtype == wanted.dtype
    tolerance = 2e-5 if got.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    way=st.sampled_from(list(WAYS)),
    sizes=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    shape=st.sampled_from([(), (1,), (2, 1), (5,), (3, 7), (64,), (2, 65), (0,)]),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    sparsity=st.sampled_from([0.0, 0.6, 1.0]),
    threads=st.sampled_from([1, 2]),
    strided=st.booleans(),
)
def test_any_product(way, sizes, shape, bias, dtype, sparsity, threads, strided) -> None:
    """Of any sizes and types, with any number of positions, next to each other or not."""
    outputs, inputs = sizes
    if not FewPositions.is_supported(sizes, host()):
        return
    torch.manual_seed(0)
    weight = (torch.randn(sizes) * (torch.rand(sizes) >= sparsity)).to(dtype)
    added = torch.randn(outputs).to(dtype) if bias else None
    x = torch.randn(*shape, inputs, 2)[..., 0] if strided else torch.randn(*shape, inputs)
    product = WAYS[way](
        weight.float().numpy(), None if added is None else added.float().numpy(), host(),
        ThreadTeam(threads),
    )  # fmt: skip
    plan = LinearPlan(weight, added, (way,) * 2, {way: product})
    got = plan(x.to(dtype), weight, added)
    wanted = nn.functional.linear(
        x.to(dtype).double(), weight.double(), None if added is None else added.double()
    )
    assert got.dtype == dtype
    error = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    torch.testing.assert_close(got.double(), wanted, rtol=error, atol=error * inputs)


def test_layers_are_replaced_and_come_back(in_kernels) -> None:
    """Names, parameters, hooks and state stay; restoring leaves no trace."""
    net = network()
    before, modules, kept = dict(net.__dict__), list(net.modules()), set(net[0].__dict__)
    state, seen = net.state_dict(), []
    handle = net[0].register_forward_hook(lambda *_: seen.append(1))
    x = torch.randn(1, 80)
    with torch.no_grad():
        wanted = net(x)
        report = boxwood.accelerate_(net)
        assert report.replaced == 3
        assert isinstance(net[0], nn.Linear)
        assert type(net[0]) is AcceleratedLinear
        near(net(x), wanted)
        again = boxwood.accelerate_(net)
        assert again.replaced == 3
        near(net(x), wanted)
    assert seen == [1, 1, 1]
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(net.state_dict()[name], state[name]) for name in state)
    boxwood.restore_(net)
    handle.remove()
    assert dict(net.__dict__) == before
    assert list(net.modules()) == modules
    assert {type(module) for module in net} == {nn.Linear, nn.ReLU}
    assert set(net[0].__dict__) == kept
    with torch.no_grad():
        assert torch.equal(net(x), wanted)
    boxwood.restore_(net)


def test_copies_share_packed_weights_and_files_have_none(in_kernels) -> None:
    """A copy is as fast; a pickled network is dense, and right."""
    net, x = network(), torch.randn(4, 80)
    with torch.no_grad():
        wanted = net(x)
        boxwood.accelerate_(net)
        twin = copy.deepcopy(net)
        assert torch.equal(twin(x), net(x))
        assert twin[0].plan is not net[0].plan
        assert twin[0].plan._products is net[0].plan._products
        assert twin[0].weight is not net[0].weight
        twin[0].weight.zero_()
        with pytest.warns(RuntimeWarning, match=CHANGED):
            twin(x)
        near(net(x), wanted)
        again = pickle.loads(pickle.dumps(net))  # noqa: S301
        assert torch.equal(again(x), wanted)
        assert again[0].plan is None
        assert boxwood.accelerate_(again).replaced == 3
        near(again(x), wanted)


@pytest.mark.filterwarnings(f"ignore:{CHANGED}:RuntimeWarning")  # the check clones them
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of the check's own
def test_the_operator_is_one_of_torchs(in_kernels) -> None:
    """Its schema, shapes, gradients and tracing hold, for its own weights and for others."""
    net = network()
    boxwood.accelerate_(net)
    layer = net[0]
    for shape in ((2, 3, 80), (80,)):
        for gradients in (False, True):
            x = torch.randn(shape, requires_grad=gradients)
            weight = layer.weight.detach().requires_grad_(gradients)
            bias = layer.bias.detach().requires_grad_(gradients)
            torch.library.opcheck(layer_ops.linear, (x, weight, bias, layer.plan_number))
    torch.library.opcheck(layer_ops.linear, (torch.randn(3, 8), torch.randn(4, 8), None, 0))


def test_compiled_without_a_break(in_kernels) -> None:
    """Torch's compiler takes the operator into its graph, at any number of positions."""
    net = network()
    boxwood.accelerate_(net)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)
    for positions in (1, 2, 9, 70):
        x = torch.randn(positions, 80)
        with torch.no_grad():
            near(compiled(x), net(x))


def test_gradients_are_torchs(in_kernels) -> None:
    """Of the inputs, weights and biases, before anything has changed and after a step."""
    net, reference = network(), network()
    boxwood.accelerate_(net)
    x = torch.randn(5, 80)
    optimizers = [torch.optim.SGD(each.parameters(), 0.1) for each in (net, reference)]
    for step in range(2):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        for each, optimizer, own in zip((net, reference), optimizers, inputs, strict=True):
            optimizer.zero_grad()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                each(own).square().sum().backward()
            assert len(caught) == (3 if each is net and step else 0)
            optimizer.step()
        near(inputs[0].grad, inputs[1].grad)
        for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
            near(ours.grad, theirs.grad)
    assert torch.autograd.gradcheck(
        lambda each, w: layer_ops.linear(each, w, None, 0),
        (torch.randn(2, 3).double().requires_grad_(), torch.randn(4, 3).double().requires_grad_()),
    )


def written(net: nn.Module) -> None:
    with torch.no_grad():
        net[0].weight.mul_(2)


def biased(net: nn.Module) -> None:
    with torch.no_grad():
        net[0].bias.add_(1)


def loaded(net: nn.Module) -> None:
    net.load_state_dict({name: 2 * each for name, each in net.state_dict().items()})


def replaced(net: nn.Module) -> None:
    net[0].weight.data = 2 * net[0].weight.data


@pytest.mark.parametrize("change", [written, biased, loaded, replaced])
def test_changed_weights_are_seen(in_kernels, change) -> None:
    """The layer says so once and gives torch's result, until it is packed again."""
    net, x = network(), torch.randn(1, 80)
    boxwood.accelerate_(net)
    change(net)
    twin = copy.deepcopy(net)
    boxwood.restore_(twin)
    with torch.no_grad(), pytest.warns(RuntimeWarning, match=CHANGED):
        near(net(x), twin(x))
    with torch.no_grad():
        near(net(x), twin(x))
        boxwood.accelerate_(net)
        near(net(x), twin(x))
    assert net[0].plan._holding.holds(net[0].weight, net[0].bias)


def test_other_types_and_places(in_kernels) -> None:
    """Inputs of another type are torch's error; a converted network and autocast are torch's."""
    net, x = network(), torch.randn(3, 80)
    wanted = net(x)
    boxwood.accelerate_(net)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="dtype"):
            net(x.double())
        with pytest.raises(RuntimeError, match="shape"):
            net(torch.randn(3, 81))
        with torch.autocast("cpu", torch.bfloat16):
            assert net(x).dtype == torch.bfloat16
        assert net.to("meta")(x.to("meta")).shape == wanted.shape
    half = network()
    boxwood.accelerate_(half)
    half.to(torch.bfloat16)
    with torch.no_grad():
        with pytest.warns(RuntimeWarning, match=CHANGED):
            near(half(x.bfloat16()), wanted.detach().bfloat16())
        boxwood.accelerate_(half)
        near(half(x.bfloat16()), wanted.detach().bfloat16())
    assert type(half[0]) is AcceleratedLinear


def test_the_default_type_is_not_asked(in_kernels) -> None:
    """Results are of the input's type, whatever tensors are made of by default."""
    net, x = network(), torch.randn(5, 80)
    with torch.no_grad():
        wanted = net(x)
        boxwood.accelerate_(net)
        torch.set_default_dtype(torch.float64)
        try:
            near(net(x), wanted)
        finally:
            torch.set_default_dtype(torch.float32)


def test_layers_share_what_lies_between(in_kernels, monkeypatch) -> None:
    """Memory is that of the largest layer, however many there are and lengths they see."""
    monkeypatch.setattr(native_calls, "_idle", [])
    net = nn.Sequential(*(pruned(nn.Linear(80, 80)) for _ in range(6)))
    boxwood.accelerate_(net)
    with torch.no_grad():
        for positions in range(3, 90, 7):
            net(torch.randn(positions, 80))
    assert len(native_calls._idle) == 1
    assert all(len(layer.plan._products[Way.MANY]._chains) <= 8 for layer in net)


def test_shared_weights_are_packed_once(in_kernels) -> None:
    """A head that is an embedding's table, and a layer that occurs twice."""
    torch.manual_seed(0)
    head, table = pruned(nn.Linear(64, 100, bias=False)), nn.Embedding(100, 64)
    table.weight = head.weight
    other = nn.Linear(64, 100, bias=False)
    other.weight = head.weight
    net = nn.ModuleDict({"table": table, "head": head, "again": head, "other": other})
    x = torch.randn(1, 64)
    wanted = head(x)
    assert boxwood.accelerate_(net).replaced == 2
    assert head.plan is other.plan
    assert table.weight is head.weight
    with torch.no_grad():
        near(net["again"](x), wanted)


def test_other_tools_see_torchs_layers(in_kernels) -> None:
    """Compiling takes them as they were; what would change them says what to do."""
    net, x = network(), torch.randn(2, 80)
    boxwood.accelerate_(net)
    with torch.no_grad():
        session = boxwood.compile(net, x)
        near(session(x), net(x))
    assert not any("boxwood" in getattr(op, "target", "") for op in session.program.ops)
    assert type(net[0]) is AcceleratedLinear
    assert set(boxwood.find_masks(net, 0.5)) == set(boxwood.find_masks(network(), 0.5))
    with pytest.raises(boxwood.BoxwoodError, match=r"call boxwood.restore_\(model\) first"):
        boxwood.shrink(net, x, keep=0.5)


def test_layers_that_stay_as_they_are() -> None:
    """Small ones, those whose weight is worked out, and those of other classes; the table says why."""

    class Own(nn.Linear):
        """Somebody else's."""

    net = nn.ModuleDict(
        {
            "small": nn.Linear(4, 4),
            "own": Own(128, 128),
            "float64": nn.Linear(128, 128).double(),
            "hooked": nn.utils.parametrizations.weight_norm(nn.Linear(128, 128)),
        }
    )
    before = {name: type(module) for name, module in net.items()}
    report = boxwood.accelerate_(net)
    assert {name: type(module) for name, module in net.items()} == before
    assert [(each.name, each.why) for each in report.layers] == [
        ("small", "small"),
        ("float64", "float64 on cpu"),
    ]
    assert str(report).splitlines()[-1] == "0 of 2 layers replaced."


def test_the_faster_way_is_taken_by_hand() -> None:
    """A way has to win at both measured ends, by three per cent; what lasts is not measured on."""
    dense, equal = {Way.DENSE: 1.0, Way.FEW: 2.0, Way.MANY: 3.0}, {Way.DENSE: 1.0, Way.FEW: 0.98}
    few, many = dense | {Way.FEW: 0.5}, dense | {Way.MANY: 0.4}
    assert ways_by_positions({1: equal}) == (Way.DENSE, Way.DENSE)
    found = ways_by_positions({1: few, 2: few, 4: few | {Way.MANY: 0.4}, 7: many})
    assert [way.name for way in found[1:]] == ["FEW", "FEW", "FEW", "MANY", "MANY", "MANY", "MANY"]
    times = measure({Way.DENSE: [torch.relu], Way.FEW: [torch.neg]}, 8, torch.float32, 1)
    assert max(times) == 129
    assert all(seconds > 0 for each in times.values() for seconds in each.values())


def test_measured_for_real() -> None:
    """What is chosen by timing is right, whatever it is, and the report says what it is."""
    torch.manual_seed(0)
    net, x = (
        pruned(nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512)), 0.9),
        torch.randn(3, 512),
    )
    with torch.no_grad():
        wanted = net(x)
        report = boxwood.accelerate_(net)
        near(net(x), wanted)
    assert [round(each.sparsity, 1) for each in report.layers] == [0.9, 0.9]
    assert all(each.one >= 1 and each.many >= 1 for each in report.layers)


@pytest.mark.parametrize("threads", [1, 2])
def test_many_threads_and_forks(in_kernels, threads) -> None:
    """Calls at the same time and in a child get the bits that a call alone gets."""
    net = network()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        boxwood.accelerate_(net)
        xs = [torch.randn(1 + 40 * (number % 3), 80) for number in range(12)]

        def call(x: Tensor) -> Tensor:
            with torch.no_grad():
                return net(x)

        alone = [call(x) for x in xs]
        with ThreadPoolExecutor(6) as pool:
            for _ in range(5):
                assert all(map(torch.equal, pool.map(call, xs), alone))
        if hasattr(os, "fork"):
            child = os.fork()
            if child == 0:
                os._exit(0 if all(map(torch.equal, map(call, xs), alone)) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)


def test_a_decoder_writes_the_same(in_kernels) -> None:
    """64 tokens of a pruned Llama with its cache, shared table and grouped heads."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=96, intermediate_size=160, num_hidden_layers=2,
        num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    net = pruned(transformers.LlamaForCausalLM(config), 0.5)
    ids = torch.randint(256, (1, 12))
    settings_ = {"max_new_tokens": 64, "do_sample": False}
    wanted = net.generate(ids, **settings_)
    assert boxwood.accelerate_(net).replaced == 11  # two of each layer are too small
    assert torch.equal(net.generate(ids, **settings_), wanted)
    assert wanted.unique().numel() > 3
