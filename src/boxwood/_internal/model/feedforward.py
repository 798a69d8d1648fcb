"""The weight layers of a plain feed-forward network, and the operations between them."""

from dataclasses import dataclass
from itertools import pairwise

from torch import fx, nn

from boxwood._internal.model.evaluation import evaluating
from boxwood._internal.model.steps import Flatten, Pool, Step, is_size, step_of
from boxwood.errors import UnsupportedModel


@dataclass(frozen=True)
class Link:
    """One weight layer of a chain.

    Args:
        name: dotted name of the module.
        layer: the module.
        before: the steps between the weight layer before it and this one, in order; for the first
            layer, those that feed it directly.

    Example:
        >>> first, second = chain(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)))
        >>> second.name, [step.name for step in second.before]
        ('2', ['1'])
    """

    name: str
    layer: nn.Linear | nn.Conv2d
    before: tuple[Step, ...]


def chain(model: nn.Module) -> tuple[Link, ...]:
    """Find the linear and 2-D convolution layers of a plain feed-forward network, in order.

    Between two of them there may be functions of single activations, dropout, pooling and
    flattening. What comes before the first and after the last is free, since no unit between
    weight layers depends on it.

    Args:
        model: any module that ``torch.fx`` can trace; on any device, ``meta`` included.

    Raises:
        UnsupportedModel: the network cannot be traced, is not such a chain, or has no weight layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> [link.name for link in chain(net)]
        ['0', '3']
    """
    nodes = [node for node in _trace(model).nodes if not is_size(node)]
    layers = {node: _weight_layer(node, model) for node in nodes}
    places = [place for place, node in enumerate(nodes) if layers[node] is not None]
    if not places:
        raise UnsupportedModel(
            f"Expected a network with linear or 2-D convolution layers, got {type(model).__name__} "
            "with none that its trace calls; wrap a single layer in nn.Sequential."
        )
    links: list[Link] = []
    steps = _leading_steps(nodes[: places[0] + 1], model)
    for place in range(places[0], places[-1] + 1):
        node = nodes[place]
        layer, step = layers[node], step_of(node, model)
        if layer is None and step is None:
            raise _refusal(_name(node), "which is none of the steps that a chain may take")
        if links:
            _check_follows(nodes[place - 1], node)
        if step is not None:
            steps.append(step)
        if layer is not None:
            links.append(Link(_name(node), layer, tuple(steps)))
            steps = []
    _check_unshared(model, links)
    for feeding, fed in pairwise(links):
        _check_layout(feeding, fed)
    return tuple(links)


def _trace(model: nn.Module) -> fx.Graph:
    try:
        with evaluating(model):
            return fx.Tracer().trace(model)
    except Exception as error:
        raise UnsupportedModel(
            f"Expected a network that torch.fx can trace, got {type(model).__name__}, which it "
            f"cannot ({error}); general structure comes from surgery on the graph."
        ) from error


def _weight_layer(node: fx.Node, model: nn.Module) -> nn.Linear | nn.Conv2d | None:
    if node.op != "call_module":
        return None
    module = model.get_submodule(str(node.target))
    if isinstance(module, nn.Linear | nn.Conv2d) and type(module) in (nn.Linear, nn.Conv2d):
        return module
    return None


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _leading_steps(nodes: list[fx.Node], model: nn.Module) -> list[Step]:
    """Return the steps that end at the last of the nodes, as far back as there are only steps."""
    steps: list[Step] = []
    for before, node in reversed(list(pairwise(nodes))):
        step = step_of(before, model)
        if step is None or node.args[:1] != (before,):
            break
        steps.insert(0, step)
    return steps


def _check_follows(previous: fx.Node, node: fx.Node) -> None:
    users = [user for user in previous.users if not is_size(user)]
    if len(users) != 1:
        names = ", ".join(_name(user) for user in users)
        raise _refusal(_name(previous), f"whose result goes to {len(users)} places ({names})")
    if users != [node] or node.args[:1] != (previous,):
        raise _refusal(_name(node), f"which does not follow on {_name(previous)!r} alone")


def _check_unshared(model: nn.Module, links: list[Link]) -> None:
    named = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
    for place, link in enumerate(links):
        if any(link.layer is other.layer for other in links[:place]):
            raise _refusal(link.name, "which is used twice")
        for parameter in link.layer.parameters():
            if sum(parameter is other for other in named) > 1:
                raise _refusal(link.name, "which shares a parameter with another module")


def _check_layout(feeding: Link, fed: Link) -> None:
    """Check that the units of one layer are distinct in the inputs of the next."""
    flattened = False
    for step in fed.before:
        if isinstance(step, Pool) and (flattened or isinstance(feeding.layer, nn.Linear)):
            raise _refusal(step.name, "which pools over different units")
        flattened = flattened or isinstance(step, Flatten)
    if isinstance(feeding.layer, nn.Conv2d):
        if flattened == isinstance(fed.layer, nn.Conv2d):
            raise _refusal(fed.name, f"which reads the channels of {feeding.name!r} as positions")
    elif isinstance(fed.layer, nn.Conv2d) or fed.layer.in_features != feeding.layer.out_features:
        raise _refusal(fed.name, f"which does not read one feature per unit of {feeding.name!r}")


def _refusal(name: str, why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"Expected a plain chain of linear and convolution layers, got {name!r}, {why}; "
        "general structure comes from surgery on the graph."
    )
