"""Types of layers: which of their parameters are matrices, and how these are laid out."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from boxwood._internal.core.shards import is_distributed, local, places_of_cuts, wrapped
from boxwood.errors import InvalidInput

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)

_INPUTS_FIRST = ("transformers.pytorch_utils", "Conv1D")
_LINEAR_ELSEWHERE = (_INPUTS_FIRST, ("torch_geometric.nn.dense.linear", "Linear"))


def linear_kinds() -> tuple[type[nn.Module], ...]:
    """List the classes of linear layers: torch's, and those of packages that are imported.

    Example:
        >>> nn.Linear in linear_kinds()
        True
    """
    return (nn.Linear, *_imported(_LINEAR_ELSEWHERE))


def matrices_in(module: nn.Module) -> tuple[str, ...]:
    """Name the matrices and kernels of one layer of a known kind, biases apart.

    The inputs of attention are one matrix of queries, keys and values above each other, where their
    sizes agree; those of a recurrent layer hold the rows of all its gates.

    Example:
        >>> matrices_in(nn.GRUCell(2, 3)), matrices_in(nn.ReLU())
        (('weight_ih', 'weight_hh'), ())
        >>> matrices_in(nn.MultiheadAttention(4, 2))
        ('in_proj_weight',)
    """
    if isinstance(module, (*linear_kinds(), *CONVOLUTIONS, nn.Bilinear)):
        return ("weight",)
    if isinstance(module, nn.RNNBase):
        return tuple(n for n in module._flat_weights_names if n.startswith("weight_"))
    if isinstance(module, nn.RNNCellBase):
        return ("weight_ih", "weight_hh")
    if isinstance(module, nn.MultiheadAttention):
        if module._qkv_same_embed_dim:
            return ("in_proj_weight",)
        return ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    return ()


@dataclass(frozen=True)
class Layout:
    """How the first two dimensions of a parameter lie, where outputs are not the first.

    Criteria and granularities read rows as outputs. `outputs_first` shows them a parameter that way,
    and `as_stored` turns what they decided back.

    Args:
        groups: groups of a transposed convolution.

    Example:
        >>> import torch
        >>> layout = Layout()
        >>> layout.outputs_first(torch.zeros(3, 5)).shape
        torch.Size([5, 3])
        >>> grouped = Layout(groups=2)
        >>> turned = grouped.outputs_first(torch.zeros(4, 3, 7))  # 4 inputs, 6 outputs
        >>> turned.shape, grouped.as_stored(turned).shape
        (torch.Size([6, 2, 7]), torch.Size([4, 3, 7]))
    """

    groups: int = 1

    def outputs_first(self, tensor: Tensor) -> Tensor:
        """Turn a tensor that lies as the parameter does into [outputs, inputs of a group, ...]."""
        return self._turned(tensor)

    def as_stored(self, tensor: Tensor) -> Tensor:
        """Turn a tensor [outputs, inputs of a group, ...] to lie as the parameter does."""
        return self._turned(tensor)  # the other way round is the same: groups stay where they are

    def _turned(self, tensor: Tensor) -> Tensor:
        if is_distributed(tensor):
            return self._turned_shards(tensor)
        inputs = len(tensor) // self.groups
        grouped = tensor.reshape(self.groups, inputs, *tensor.shape[1:]).transpose(1, 2)
        return grouped.flatten(0, 1).contiguous()

    def _turned_shards(self, tensor: Tensor) -> Tensor:
        if self.groups > 1 and any(dim < 2 for dim, _ in places_of_cuts(tensor)):
            raise InvalidInput(
                f"Expected a transposed convolution with groups to be whole in its first two "
                f"dimensions, got shards of one of shape {tuple(tensor.shape)}; decide masks before "
                f"the network is sharded, or leave it out with layers=."
            )
        shape = self._turned(torch.empty(tensor.shape, device="meta")).shape
        if self.groups > 1:
            return wrapped(self._turned(local(tensor)), tensor, shape)
        part = local(tensor).transpose(0, 1).contiguous()
        return wrapped(part, tensor, shape, dims={0: 1, 1: 0})


Layouts = Mapping[str, Layout]
"""Of the parameters whose first dimension does not count outputs, by dotted name."""


def layouts_of(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Layout]:
    """Find the parameters whose first dimension counts inputs.

    Those are the kernels of transposed convolutions, and the matrices of transformers' ``Conv1D``.

    Args:
        model: holds the weights.
        weights: parameters by dotted name.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ConvTranspose2d(4, 6, 1, groups=2))
        >>> layouts_of(net, dict(net.named_parameters()))
        {'1.weight': Layout(groups=2)}
    """
    names = {id(weight): name for name, weight in weights.items()}
    found = {}
    for module in model.modules():
        if isinstance(module, (*TRANSPOSED_CONVOLUTIONS, *_imported((_INPUTS_FIRST,)))):
            name = names.get(id(module._parameters.get("weight")))
            if name is not None:
                groups = module.groups if isinstance(module, TRANSPOSED_CONVOLUTIONS) else 1
                found[name] = Layout(groups)
    return found


def outputs_first(layouts: Layouts, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn those tensors that need it, as `Layout.outputs_first`.

    Example:
        >>> import torch
        >>> outputs_first({"a": Layout()}, {"a": torch.zeros(2, 3), "b": torch.zeros(2)})["a"].shape
        torch.Size([3, 2])
    """
    return {n: layouts[n].outputs_first(t) if n in layouts else t for n, t in tensors.items()}


def as_stored(layouts: Layouts, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn those tensors back that `outputs_first` turned.

    Example:
        >>> as_stored({}, {})
        {}
    """
    return {n: layouts[n].as_stored(t) if n in layouts else t for n, t in tensors.items()}


def _imported(classes: Iterable[tuple[str, str]]) -> Iterator[type[nn.Module]]:
    """Find classes of packages that need not be installed: a network of them has imported them."""
    for package, name in classes:
        found = getattr(sys.modules.get(package), name, None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            yield found
