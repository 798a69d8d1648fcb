"""Small pieces one by one, with what they are given on the device: see `devices_at_work.py`."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from devices_at_work import CPU, POLICIES, Device, Numbers, chain, convolutions, images, rows
from safetensors.torch import load_file
from torch import Tensor, nn

import boxwood
from boxwood import agent, allocation, data, distill, networks, oneshot, structure, training
from boxwood.budgets import latency, multiply_adds, parameters
from boxwood.counting import count_nonzero, count_parameters, network_bytes
from boxwood.criteria import TrackMovement, magnitude
from boxwood.files import load_masks, pack_file, unpack_file
from boxwood.granularity import Blocks, NofM, PerRow, Slices, largest, total
from boxwood.optim import SGD, Adam, AdamW
from boxwood.policies import FixedMasks

ALLOCATIONS: dict[str, Any] = {
    "erdos_renyi_kernel": allocation.erdos_renyi_kernel,
    "lamp": allocation.lamp,
    "OutlierWeighed": allocation.OutlierWeighed(),
    "AtLeast": allocation.AtLeast((("*", 0.1),)),
    "ByName": allocation.ByName((("*", 0.4),)),
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet_300_100": (networks.lenet_300_100, (2, 1, 28, 28)),
    "lenet_5": (partial(networks.lenet_5, size=16), (2, 1, 16, 16)),
    "conv_2": (partial(networks.conv_2, size=8, width=4), (2, 3, 8, 8)),
    "conv_4": (partial(networks.conv_4, size=8, width=4), (2, 3, 8, 8)),
    "conv_6": (partial(networks.conv_6, size=8, width=4), (2, 3, 8, 8)),
    "resnet_20": (networks.resnet_20, (2, 3, 8, 8)),
    "small_resnet": (partial(networks.small_resnet, widths=(4, 8)), (2, 1, 8, 8)),
    "small_vgg": (partial(networks.small_vgg, widths=(4, 8)), (2, 1, 8, 8)),
    "mobilenet_v1": (partial(networks.mobilenet_v1, width=0.25), (2, 3, 32, 32)),
    "wide_net": (partial(networks.wide_net, hidden=(8, 8), inputs=16), (2, 16)),
    "glorot": (partial(networks.glorot, net=partial(networks.lenet_5, size=16)), (2, 1, 16, 16)),
}


def drawn(*shape: int, device: Device = CPU) -> Tensor:
    """Draw the same numbers on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(device)


def allocated(device: Device) -> Numbers:
    found: dict[str, Any] = {}
    for name, how in ALLOCATIONS.items():
        sparsity = None if name in ("AtLeast", "ByName") else 0.5
        masks = boxwood.find_masks(convolutions().to(device), sparsity, allocation=how)
        found |= {f"{name} {key}": mask for key, mask in masks.items()}
    weights = {name: p.detach() for name, p in chain().to(device).named_parameters()}
    counts = allocation.std_quality(weights, (("*weight", 0.5),))
    heavy = allocation.HeavyTailed.of({n: each for n, each in weights.items() if each.dim() > 1})
    spread = boxwood.find_masks(chain().to(device), 0.5, allocation=heavy)
    exponents = [allocation.tail_exponent(each) for each in weights.values() if each.dim() > 1]
    found |= {f"heavy {key}": mask for key, mask in spread.items()}
    return found | {"counts": repr(counts), "exponents": torch.tensor(exponents)}


def grouped(device: Device) -> Numbers:
    found: dict[str, Any] = {}
    kinds = (Blocks(2, 2), PerRow(), NofM(2, 4), Slices(pooling=largest), Slices(pooling=total))
    for number, granularity in enumerate(kinds):
        torch.manual_seed(0)
        net = nn.Linear(8, 6).to(device)
        find = partial(boxwood.find_masks, net, granularity=granularity)
        first = find(0.5)
        found |= {f"{number} 0.5": first["weight"]}
        if not isinstance(granularity, NofM):
            found |= {f"{number} 0.75": find(0.75, masks=first)["weight"]}
    return found


def selected_on_the_device(device: Device) -> Numbers:
    """Global selection among many weights; what it copies to the host is asserted elsewhere."""
    net = nn.Linear(300, 400)
    net.weight.data = drawn(400, 300)
    net.to(device)
    masks = boxwood.find_masks(net, 0.9)
    return {"once": masks["weight"], "twice": boxwood.find_masks(net, 0.95, masks=masks)["weight"]}


def begun(device: Device) -> Numbers:
    """Policies make their first masks where the weights are."""
    found: dict[str, Any] = {}
    for name, policy in POLICIES.items():
        net = chain().to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        masks = boxwood.SparseTraining(net, optimizer, policy).masks
        found |= {f"{name} {key}": mask for key, mask in masks.items()}
    return found


def held(device: Device) -> Numbers:
    net = chain().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    policy = FixedMasks(boxwood.find_masks(chain(), 0.5))
    sparse = boxwood.SparseTraining(net, optimizer, policy)
    track = TrackMovement(optimizer, {"0.weight": net[0].weight})
    net(drawn(2, 12, device=device)).sum().backward()
    optimizer.step()
    track.detach()
    sparse.detach()
    pruned = boxwood.prune_(net, 0.8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        boxwood.save(net, path, masks=pruned)
        written = load_file(path)
        pack_file(path, path.with_name("packed.safetensors"))
        unpack_file(path.with_name("packed.safetensors"), path.with_name("unpacked.safetensors"))
        read = load_masks(Path(folder) / "masks" / path.name)
    return {
        "sparsity": sparse.sparsity,
        "kept": count_nonzero(net, pruned) + count_parameters(net),
        "bytes": repr(network_bytes(dict(net.named_parameters()), pruned)),
        **{f"pruned {name}": mask for name, mask in pruned.items()},
        **{f"read {name}": mask for name, mask in read.items()},
        **{f"written {name}": weight for name, weight in written.items()},
    }


def whole_units(device: Device) -> Numbers:
    net = convolutions().to(device)
    example = images()[0][0].to(device)
    units = boxwood.find_units(net, example)
    chosen = boxwood.select_units(units, 0.5)
    small = boxwood.shrink(net, chosen)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(example).sum().backward()
    optimizer.step()
    carried = structure.carry_optimizer(optimizer, net, small, chosen)
    structure.reestimate_batch_norm_(small, [x for x, _ in images()])
    plain = structure.baked(nn.utils.parametrizations.weight_norm(chain()[0]).to(device))
    memory = [state["momentum_buffer"] for state in carried.state.values()]
    assert latency(net, repeats=1)(chosen) > 0
    boxwood.compile(small, example)(example)  # on the CPU kernels, which add up in another order
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        boxwood.save(small, path, selection=chosen)
        again = boxwood.load(path, convolutions)
    return {
        "scores": torch.from_numpy(structure.score_units(units, magnitude)),
        "costs": multiply_adds(chosen) + parameters(chosen),
        **{f"again {name}": p for name, p in again.named_parameters()},
        "baked": plain.weight,
        **{f"memory {number}": each for number, each in enumerate(memory)},
        **{name: buffer for name, buffer in small.named_buffers() if buffer.dim()},
    }


def one_layer(device: Device) -> Numbers:
    net = chain().to(device)
    batches = [drawn(20, 12)]
    wanda, gpt = (
        how(chain()[0].to(device), batches, sparsity=0.5)
        for how in (oneshot.by_criterion, oneshot.by_sparse_gpt)
    )
    alps, dsnot, fitted, tuned = (
        how(chain()[0].to(device), batches, sparsity=0.5)
        for how in (
            oneshot.by_alps,
            oneshot.by_dsnot,
            oneshot.with_least_squares,
            oneshot.with_tuning,
        )
    )
    inverse = torch.eye(6) + 0.1
    surgery = oneshot.remove_weights(drawn(6, device=device), inverse.to(device), 3)
    dead = oneshot.remove_dead(net, {"0.weight": torch.zeros(8, 12, dtype=torch.bool)}, (12,))
    return {
        **{f"wanda {name}": weight for name, weight in wanda.weights.items()},
        **{f"gpt {name}": weight for name, weight in gpt.weights.items()},
        **{f"alps {name}": weight for name, weight in alps.weights.items()},
        **{f"dsnot {name}": mask for name, mask in dsnot.masks.items()},
        **{f"fitted {name}": weight for name, weight in fitted.weights.items()},
        **{f"tuned {name}": weight for name, weight in tuned.weights.items()},
        "surgery": surgery.weight,
        "rise": surgery.rise,
        **{f"dead {name}": mask for name, mask in dead.masks.items()},
    }


def taught(device: Device) -> Numbers:
    logits, labels = drawn(4, 6, device=device), torch.tensor([0, 1, 2, 0]).to(device)
    found: dict[str, Any] = {
        "matched": distill.logit_matching(logits, logits.flip(0)),
        "features": distill.feature_matching(logits, logits.flip(1)),
        "arithmetic": distill.arithmetic_mean(torch.stack([logits, -logits])),
        "geometric": distill.geometric_mean(torch.stack([logits, -logits])),
    }
    loss = distill.FeatureDistillation(layers=("0",))
    lesson = distill.TeacherTargets(labels.cpu(), torch.cat([logits, logits], 1).cpu()).to(device)
    found["hinted"] = loss((logits, logits + 1), lesson)
    for form in (distill.Float32(), distill.Float16(), distill.TopK(2, classes=6)):
        found[type(form).__name__] = form.decode(form.encode(logits))
    return found


def measured(device: Device) -> Numbers:
    net = chain().to(device)
    examples = data.InMemory(drawn(9, 12, device=device), torch.arange(9).to(device) % 3)
    pixels = data.InMemory(drawn(2, 3, 4, 4), torch.arange(32).view(2, 4, 4) % 3)
    scored = nn.Conv2d(3, 3, 1)
    nn.init.dirac_(scored.weight)
    return {
        "accuracy": repr(training.accuracy(net, examples)),
        "by class": repr(training.accuracy_by_class(net, examples, 3)),
        "top": repr(training.top_accuracy(net, examples, 2)),
        "squares": repr(training.evaluate(net, examples, training.squared_error)),
        "overlap": repr(training.mean_iou(scored.to(device), pixels, 3)),
    }


def augmented(device: Device) -> Numbers:
    batch = drawn(3, 2, 6, 6, device=device)
    moved = data.FlipAndCrop(pad=1)(batch, torch.Generator().manual_seed(0))
    pair = drawn(12, 4, device=device), torch.arange(12).to(device) % 3
    splits = data.from_tensors("toy", pair, pair, validation=3)
    first = data.first_examples(lambda: splits, 5)
    without = data.without_classes(lambda: splits, (1,))
    return {
        "moved": moved,
        **{f"first {n}": each for n, each in enumerate(first.train.take(torch.arange(5)))},
        "without": without.train.take(torch.arange(len(without.train)))[1],
    }


def mixed(device: Device) -> Numbers:
    """Inputs are mixed where they are, in parts of a batch, and weights averaged where they are."""
    inputs, targets = drawn(12, 2, 4, 4, device=device), torch.arange(12).to(device) % 3
    how = training.Training(
        steps=6,
        batch=6,
        optimizer=SGD(lr=0.1),
        mixing=(training.MixUp(), training.CutMix()),
        computation=training.Computation(microbatches=2),
    )
    found: dict[str, Any] = {}
    for averaging in (training.EMA(decay=0.5), training.SWA(start=0.5)):
        net = convolutions()
        net[5] = nn.Identity()  # dropout, whose numbers are the device's own
        net.to(device)
        part = replace(how, averaging=averaging)
        training.train_(net, data.InMemory(inputs, targets), part, seed=0)
        found |= {f"{type(averaging).__name__} {n}": p for n, p in net.named_parameters()}
    return found


def agents(device: Device) -> Numbers:
    net = chain().to(device)
    accuracy = agent.FirstExamples(
        data.InMemory(drawn(9, 12, device=device), torch.arange(9) % 3), 6
    )
    tune = agent.Recovery(rows(), training.Training(steps=2, batch=6, optimizer=SGD(lr=0.1)), 0, 0)
    tune(net)
    return {"accuracy": accuracy(net), **dict(net.named_parameters())}


def optimized(device: Device) -> Numbers:
    found: dict[str, Any] = {}
    for kind in (SGD(lr=0.1, momentum=0.9), Adam(lr=0.1), AdamW(lr=0.1)):
        net = chain().to(device)
        optimizer = kind.build(list(net.parameters()))
        net(drawn(2, 12, device=device)).sum().backward()
        optimizer.step()
        found |= {f"{type(kind).__name__} {name}": p for name, p in net.named_parameters()}
    return found


def networks_forward(device: Device) -> Numbers:
    """All of the papers' networks run where they are moved to."""
    found = {}
    for name, (made, shape) in NETWORKS.items():
        torch.manual_seed(0)
        net = made().eval().to(device)
        with torch.no_grad():
            found[name] = net(drawn(*shape, device=device))
    return found


SCENARIOS: dict[str, Callable[[Device], Numbers]] = {
    "allocated": allocated,
    "grouped": grouped,
    "selected on the device": selected_on_the_device,
    "begun": begun,
    "held": held,
    "whole units": whole_units,
    "one layer": one_layer,
    "taught in parts": taught,
    "measured": measured,
    "augmented": augmented,
    "mixed": mixed,
    "agents": agents,
    "optimized": optimized,
    "networks": networks_forward,
}
