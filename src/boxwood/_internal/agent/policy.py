"""The policy network: it reads a layer's filters and chooses which of them to keep."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_STAGES = 4
_KERNEL = 7
_SHORT = 16  # columns; filters of no more are looked at without convolutions
_CHANNELS = 8
_HIDDEN = 64


class FilterPolicy(nn.Module):
    """The agent's policy network: it reads the filters as one image and returns a logit of keeping for each.

    The image has a row for each filter and a column for each of its weights. If a filter has more
    than 16 weights, four stages of 7 × 7 convolution, ReLU and 2 × 2 max-pooling come first; two
    linear layers follow.

    Args:
        filters: N, rows of the picture.
        columns: weights of one filter.
        channels: of the convolutions.
        hidden: units of the first linear layer.

    Example:
        >>> FilterPolicy(6, 75)(torch.zeros(6, 75)).shape
        torch.Size([6])

    Source: Huang, Zhou, You and Neumann (2018). Their text could not be reached; the shape of the
    network is that of the ports of it, and the numbers of channels and hidden units are ours.
    Differs from the paper: the picture is standardised, so that layers of small weights are seen
    as well as those of large ones.
    """

    def __init__(
        self, filters: int, columns: int, *, channels: int = _CHANNELS, hidden: int = _HIDDEN
    ) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        height, width, depth = filters, columns, 1
        if columns > _SHORT:
            for _ in range(_STAGES):
                # Pooling rounds up: layers of few filters would have no rows left otherwise.
                stages += [
                    nn.Conv2d(depth, channels, _KERNEL, padding=_KERNEL // 2),
                    nn.ReLU(),
                    nn.MaxPool2d(2, ceil_mode=True),
                ]
                height, width, depth = -(-height // 2), -(-width // 2), channels
        self.look = nn.Sequential(*stages, nn.Flatten())
        self.decide = nn.Sequential(
            nn.Linear(depth * height * width, hidden), nn.ReLU(), nn.Linear(hidden, filters)
        )

    def forward(self, picture: Tensor) -> Tensor:
        """Look at a picture [filters, columns]; logits [filters], of which `keeping` is made."""
        spread = picture.std(correction=0)
        seen = (picture - picture.mean()) / torch.where(spread > 0, spread, 1.0)
        logits: Tensor = self.decide(self.look(seen[None, None]))[0]
        return logits


def picture_of(weights: Sequence[Tensor]) -> Tensor:
    """Lay filters side by side as rows: [N, columns].

    Args:
        weights: of layers whose filters go together, each [N, ...]: a residual stream has several.

    Example:
        >>> picture_of([torch.zeros(4, 3, 5, 5), torch.zeros(4, 2)]).shape
        torch.Size([4, 77])
    """
    return torch.cat([weight.detach().reshape(len(weight), -1) for weight in weights], 1)
