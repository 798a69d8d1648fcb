"""A shrunken network is an ordinary one: it exports as any other does, and computes the same."""

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from boxwood._internal.graph.shrink import shrink
from boxwood._internal.graph.units import find_units
from boxwood._internal.recipes.unit_selection import select_units
from boxwood._internal.zoo.cifar_nets import small_resnet


class Tagger(nn.Module):
    """An LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.words(tokens))[0])


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)


NETS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "resnet": (small_resnet, torch.linspace(-1, 1, 2 * 196).view(2, 1, 14, 14)),
    "lstm": (Tagger, torch.arange(14).view(2, 7)),
    "encoder": (encoder, torch.linspace(-1, 1, 2 * 5 * 16).view(2, 5, 16)),
}


@pytest.fixture(params=NETS)
def shrunken(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    build, example = NETS[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build().eval()
    return shrink(net, select_units(find_units(net, example), 0.5)).eval(), example


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # of any LSTM
def test_torch_export(shrunken: tuple[nn.Module, Tensor]) -> None:
    small, example = shrunken
    with torch.no_grad():
        exported = torch.export.export(small, (example,)).module()
        torch.testing.assert_close(exported(example), small(example), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself and about any network
def test_onnx(shrunken: tuple[nn.Module, Tensor]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    small, example = shrunken
    if isinstance(small, nn.TransformerEncoderLayer):
        pytest.skip("torch does not export this layer, shrunken or not")
    file = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(small, (example,), file, dynamo=False)
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    with torch.no_grad():
        expected = small(example)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
