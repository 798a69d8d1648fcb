"""Low-rank adapters through peft, under masks: merging them keeps pruned weights at zero."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from boxwood._internal.core.extras import extra
from boxwood.errors import InvalidInput

with extra("transformers", "transformers for pretrained models"):
    import transformers
    from transformers.pytorch_utils import Conv1D


def check_peft() -> None:
    """Refuse to go on without peft.

    Raises:
        MissingDependency: it is not installed.

    Example:
        >>> check_peft()  # doctest: +SKIP
    """
    with extra("lora", "peft for low-rank adapters"):
        import peft  # noqa: F401


def add_adapters(
    model: transformers.PreTrainedModel, masks: Mapping[str, Tensor], rank: int, *, seed: int
) -> Any:
    """Give every linear layer but the head an adapter; only adapters learn from then on.

    A layer computes with ``W + (B A · s) ⊙ M``, where M is the mask of W, so that training sees
    what is merged in the end. Without a mask it is LoRA as peft does it.

    Args:
        model: of transformers; it is changed.
        masks: bool by parameter name; True keeps.
        rank: of ``B A``, at least 1.
        seed: of A; B begins with zeros.

    Returns:
        peft's model; `merged` gives the model back.

    Raises:
        MissingDependency: peft is not installed.
        InvalidInput: there is no linear layer.

    Example:
        >>> adapted = add_adapters(model, masks, rank=16, seed=0)  # doctest: +SKIP

    Source: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang and Chen, arXiv:2106.09685, 2021, section 4.1.
    Differs from the paper: the product is masked where the weight is.
    """
    check_peft()
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.layer import Linear

    class MaskedLinear(Linear):  # type: ignore[misc]  # where peft is not installed
        """peft's layer, whose product is masked."""

        mask: Tensor | None

        def __init__(self, base_layer: nn.Module, adapter_name: str, **settings: Any) -> None:
            super().__init__(base_layer, adapter_name, **settings)
            self.fan_in_fan_out = isinstance(base_layer, Conv1D)
            self.register_buffer("mask", None, persistent=False)

        def get_delta_weight(self, adapter: str) -> Tensor:
            delta: Tensor = super().get_delta_weight(adapter)
            return delta if self.mask is None else delta.masked_fill(~self.mask, 0)

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self.mask is None or self.merged:
                found: Tensor = super().forward(x, *args, **kwargs)
                return found
            layer = self.get_base_layer()
            weight = layer.weight + self.get_delta_weight(self.active_adapters[0])
            if self.fan_in_fan_out:
                weight = weight.T
            return functional.linear(x, weight, layer.bias)

    names = _adapted(model)
    if not names:
        raise InvalidInput(
            f"Expected linear layers to adapt in {type(model).__name__}, got none; heal without LoRA."
        )
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules=names,
    )
    config._register_custom_module(  # the way that peft documents
        {nn.Linear: MaskedLinear, Conv1D: MaskedLinear}
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # peft reads a name that transformers renames
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(model, config)
    for name in names:
        layer: Any = adapted.base_model.model.get_submodule(name)
        mask = masks.get(f"{name}.weight")
        if mask is not None:
            layer.mask = mask.to(layer.weight.device)
    return adapted


def merged(adapted: Any) -> transformers.PreTrainedModel:
    """Add the masked products to the weights, and give the model back without adapters.

    Example:
        >>> model = merged(adapted)  # doctest: +SKIP
    """
    model: transformers.PreTrainedModel = adapted.merge_and_unload()
    return model


def trained_parameters(model: transformers.PreTrainedModel, rank: int) -> int:
    """Count what learns: the adapters of a rank, or for rank 0 everything.

    Example:
        >>> trained_parameters(model, 16)  # doctest: +SKIP
        4884480
    """
    if not rank:
        return sum(parameter.numel() for parameter in model.parameters())
    layers = dict(model.named_modules())
    return sum(rank * sum(_weight(layers[name]).shape) for name in _adapted(model))


def _weight(layer: Any) -> Tensor:
    weight: Tensor = layer.weight
    return weight


def _adapted(model: transformers.PreTrainedModel) -> list[str]:
    """Name the linear layers but the head."""
    asked: Any = model.get_output_embeddings
    head = asked()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    ]
