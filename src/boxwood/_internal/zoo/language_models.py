"""The stacked LSTM language models of the Penn Treebank."""

from collections.abc import Mapping

from torch import Tensor, nn


class LSTMLanguageModel(nn.Module):
    """Say for every word of a text how likely each word is to come next.

    An embedding, stacked LSTM layers and a linear layer. Dropout acts on what enters the first
    layer, passes from one layer to the next and leaves the last, never on what a layer hands to
    itself. It keeps nothing between two calls: who trains on a running text gives the state that
    `forward_with_state` returns back to it with the next words.

    Args:
        words: size of the vocabulary.
        hidden: units of the embedding and of each layer.
        layers: LSTM layers.
        dropout: probability, in [0, 1).
        reach: weights and biases are drawn evenly from ``[-reach, reach]``.

    Example:
        >>> import torch
        >>> net = LSTMLanguageModel(words=10, hidden=4)
        >>> net(torch.zeros(2, 7, dtype=torch.int64)).shape
        torch.Size([2, 10, 7])

    Source: W. Zaremba, I. Sutskever, O. Vinyals, "Recurrent neural network regularization",
    arXiv:1409.2329, 2014, sections 3 and 4.1.
    Differs from the paper: torch's LSTM has two biases where one would do.
    """

    def __init__(
        self,
        *,
        words: int,
        hidden: int,
        layers: int = 2,
        dropout: float = 0.0,
        reach: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True, dropout=dropout)
        self.output = nn.Linear(hidden, words)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -reach, reach)

    def forward(self, tokens: Tensor) -> Tensor:
        """Read rows from their beginning.

        Args:
            tokens: int64 [rows, length], numbers of words.

        Returns:
            Scores [rows, words, length] of the word after each.
        """
        return self.forward_with_state(tokens, {})[0]

    def forward_with_state(
        self, tokens: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Continue where the rows before stopped.

        Args:
            tokens: int64 [rows, length].
            state: what the last call returned, for as many rows; empty at a beginning.

        Returns:
            Scores [rows, words, length], and the state after each row, without gradients.

        Example:
            >>> import torch
            >>> net = LSTMLanguageModel(words=10, hidden=4)
            >>> text = torch.arange(8).view(1, 8)
            >>> first, state = net.forward_with_state(text[:, :5], {})
            >>> second, _ = net.forward_with_state(text[:, 5:], state)
            >>> torch.allclose(torch.cat([first, second], 2), net(text))
            True
        """
        start = (state["hidden"], state["cell"]) if state else None
        inner, (hidden, cell) = self.lstm(self.dropout(self.embedding(tokens)), start)
        scores = self.output(self.dropout(inner)).transpose(1, 2)
        return scores, {"hidden": hidden.detach(), "cell": cell.detach()}


def lstm_language_model(*, words: int, hidden: int, dropout: float = 0.0) -> LSTMLanguageModel:
    """Build two LSTM layers of any size, its weights drawn as those of the small model.

    Args:
        words: size of the vocabulary.
        hidden: units of the embedding and of each layer.
        dropout: probability, in [0, 1).

    Example:
        >>> sum(p.numel() for p in lstm_language_model(words=2000, hidden=64).parameters())
        324560
    """
    return LSTMLanguageModel(words=words, hidden=hidden, dropout=dropout)


def ptb_small(*, words: int = 10_000) -> LSTMLanguageModel:
    """Build the small model: 200 units, no dropout; 4.65 million parameters.

    Example:
        >>> sum(p.numel() for p in ptb_small().parameters())
        4653200

    Source: Zaremba et al. (2014), section 4.1, "non-regularized LSTM".
    """
    return LSTMLanguageModel(words=words, hidden=200)


def ptb_medium(*, words: int = 10_000) -> LSTMLanguageModel:
    """Build the medium model: 650 units, dropout of 0.5; 19.8 million parameters.

    Source: Zaremba et al. (2014), section 4.1.
    """
    return LSTMLanguageModel(words=words, hidden=650, dropout=0.5, reach=0.05)


def ptb_large(*, words: int = 10_000) -> LSTMLanguageModel:
    """Build the large model: 1500 units, dropout of 0.65; 66.0 million parameters.

    Source: Zaremba et al. (2014), section 4.1.
    """
    return LSTMLanguageModel(words=words, hidden=1500, dropout=0.65, reach=0.04)
