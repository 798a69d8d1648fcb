"""Every classifier of torchvision, compiled, against torch."""

import pytest
import torch

torchvision = pytest.importorskip("torchvision")
pytest.importorskip("llvmlite")

from boxwood._internal.engine.compiling import compile as compile_  # noqa: E402

NAMES = torchvision.models.list_models(module=torchvision.models)
# The larger siblings hold the same operations, a hundred million times more often.
LARGE = ("vit_h", "vit_l", "regnet_y_128gf", "regnet_y_32gf", "regnet_x_32gf", "convnext_large",
         "efficientnet_v2_l", "efficientnet_b7", "efficientnet_b6")  # fmt: skip


def randomised(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(name, weights=None, **settings).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        for weight in net.parameters():
            if not weight.any():
                weight.normal_(0, 0.02)
            if weight.ndim > 1 and weight.shape[1] > 1:
                weight.mul_(torch.rand_like(weight) >= 0.8)
                weight.mul_(5**0.5)  # as large as before in sum
    return net


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(LARGE)])
def test_a_classifier_computes_what_torch_computes(name: str) -> None:
    """The relative error is below 1e-4, and that against float64 is of rounding's size."""
    net = randomised(name)
    size = 224 if name.startswith(("vit", "maxvit", "inception")) else 96
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        wanted, exact = net(x), net.double()(x.double())
    session = compile_(net.float(), x)
    for ours, error in ((session(x), (wanted - exact).abs().max()),):
        scale = exact.abs().max()
        assert (ours - wanted).abs().max() <= 1e-4 * scale
        assert (ours - exact).abs().max() <= 20 * error + 2e-6 * scale
