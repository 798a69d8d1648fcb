"""Sequence-to-sequence LSTMs with attention, in the manner of Google's translation system."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from boxwood._internal.model.prunable import parameter_names
from boxwood.errors import InvalidInput


class Memory(NamedTuple):
    """A source as the decoder sees it: what each token became, its key, and whether it is one."""

    values: Tensor
    keys: Tensor
    valid: Tensor


class Carried(NamedTuple):
    """State of every decoder layer, each [batch, layers, hidden]."""

    hidden: Tensor
    cell: Tensor


class AdditiveAttention(nn.Module):
    """Weigh the source for each query: ``softmax_s(v · tanh(W q + U k_s))``, then the mean of values.

    Args:
        hidden: units of queries and values.
        units: length of v.

    Example:
        >>> look = AdditiveAttention(hidden=4, units=3)
        >>> memory = look.remember(torch.ones(1, 5, 4), torch.ones(1, 5, dtype=torch.bool))
        >>> look(torch.zeros(1, 2, 4), memory).shape
        torch.Size([1, 2, 4])

    Source: D. Bahdanau, K. Cho, Y. Bengio, arXiv:1409.0473, 2014, section A.1.2; Wu et al. (2016),
    equation 4.
    """

    def __init__(self, *, hidden: int, units: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, units, bias=False)
        self.key = nn.Linear(hidden, units)
        self.energy = nn.Linear(units, 1, bias=False)

    def remember(self, values: Tensor, valid: Tensor) -> Memory:
        """Make the keys of a source once, for all queries."""
        return Memory(values, self.key(values), valid)

    def forward(self, queries: Tensor, memory: Memory) -> Tensor:
        """Return a context for every query: [batch, queries, hidden], as the queries are."""
        mixed = torch.tanh(self.query(queries).unsqueeze(2) + memory.keys.unsqueeze(1))
        energies = self.energy(mixed).squeeze(3).masked_fill(~memory.valid.unsqueeze(1), -torch.inf)
        contexts: Tensor = energies.softmax(2) @ memory.values
        return contexts


class Seq2Seq(nn.Module):
    """Read a source, and say of each target token how likely it is after those before it.

    The encoder's first layer reads both ways, the layers above it forwards. The decoder's first
    layer asks the attention, whose context enters every layer above it. From the third layer on, a
    layer's input is added to its output. Dropout acts on what enters an LSTM.

    An example is two rows side by side, filled up to one length with zeros: the source, tokens
    from 1; and what the decoder is fed, a 0 for the beginning and then the target, tokens from 1,
    one place late. Token 0 ends a target. What is filled up changes no output of another place.

    Args:
        sources: source tokens, 0 for the filling among them.
        classes: target tokens, 0 for beginning and end among them.
        hidden: units of the embeddings and of every LSTM.
        layers: LSTM layers of the encoder, and of the decoder; at least 2.
        attention: units of the attention; as many as ``hidden`` by default.
        dropout: probability, in [0, 1).
        reach: weights and biases are drawn evenly from ``[-reach, reach]``.

    Raises:
        InvalidInput: there are fewer than two layers.

    Example:
        >>> net = Seq2Seq(sources=5, classes=4, hidden=8)
        >>> net(torch.tensor([[[4, 3, 2, 1], [0, 3, 2, 0]]])).shape
        torch.Size([1, 4, 4])

    Source: Y. Wu et al., "Google's neural machine translation system", arXiv:1609.08144, 2016,
    section 3.
    Differs from the paper: the attention is asked by the first layer's output at this step, not at
    the step before, so that in training all steps run at once; the first layer sees no context; an
    encoder has 8 layers there; torch's LSTM has two biases where one would do.
    """

    def __init__(
        self,
        *,
        sources: int,
        classes: int,
        hidden: int,
        layers: int = 3,
        attention: int | None = None,
        dropout: float = 0.0,
        reach: float = 0.1,
    ) -> None:
        super().__init__()
        if layers < 2:
            raise InvalidInput(
                f"Expected layers >= 2, one below the attention's context and one above, got "
                f"{layers}; give 2 or more."
            )
        self.source_embedding = nn.Embedding(sources, hidden)
        self.ahead = _lstm(hidden, hidden)
        self.back = _lstm(hidden, hidden)
        self.encoder = nn.ModuleList(
            _lstm(hidden if layer else 2 * hidden, hidden) for layer in range(layers - 1)
        )
        self.attention = AdditiveAttention(hidden=hidden, units=attention or hidden)
        self.target_embedding = nn.Embedding(classes, hidden)
        self.decoder = nn.ModuleList(
            _lstm(2 * hidden if layer else hidden, hidden) for layer in range(layers)
        )
        self.output = nn.Linear(hidden, classes)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -reach, reach)

    def forward(self, pairs: Tensor) -> Tensor:
        """Score every target token of a batch, given the true ones before it.

        Args:
            pairs: int64 [batch, 2, length], sources and what the decoder is fed.

        Returns:
            [batch, classes, length]; zeros where no example of the batch is as long.
        """
        sources, fed = pairs.unbind(1)
        scores, _ = self.decode(fed[:, : _longest(fed) + 1], self.encode(sources))
        return functional.pad(scores.transpose(1, 2), (0, pairs.shape[2] - scores.shape[1]))

    def encode(self, sources: Tensor) -> Memory:
        """Read sources, int64 [batch, length] filled up with zeros, each with a token at least."""
        sources = sources[:, : _longest(sources)]
        valid = sources > 0
        # Turned round within its own length, a source is read backwards by an LSTM that goes
        # forwards, and its filling comes last both ways: it can change nothing before it.
        places = torch.arange(sources.shape[1], device=sources.device).expand_as(sources)
        turned = torch.where(valid, valid.sum(1, keepdim=True) - 1 - places, places)
        ahead, _ = self.ahead(self.dropout(self.source_embedding(sources)))
        back, _ = self.back(self.dropout(self.source_embedding(sources.gather(1, turned))))
        inner = torch.cat([ahead, back.gather(1, turned.unsqueeze(2).expand_as(back))], 2)
        for layer, lstm in enumerate(self.encoder):
            read, _ = lstm(self.dropout(inner))
            inner = inner + read if layer else read
        return self.attention.remember(inner, valid)

    def decode(
        self, fed: Tensor, memory: Memory, carried: Carried | None = None
    ) -> tuple[Tensor, Carried]:
        """Score the tokens after those that are fed, int64 [batch, steps].

        Args:
            fed: 0 for the beginning, and then the target.
            memory: what `encode` made of the sources.
            carried: the state after the tokens that were fed before; None at the beginning.

        Returns:
            Scores [batch, steps, classes], and the state after them.

        Example:
            >>> net = Seq2Seq(sources=5, classes=4, hidden=8)
            >>> memory, fed = net.encode(torch.tensor([[4, 3]])), torch.tensor([[0, 3, 2]])
            >>> first, carried = net.decode(fed[:, :2], memory)
            >>> second, _ = net.decode(fed[:, 2:], memory, carried)
            >>> torch.allclose(torch.cat([first, second], 1), net.decode(fed, memory)[0])
            True
        """
        inner, context, states = self.target_embedding(fed), None, []
        for layer, lstm in enumerate(self.decoder):
            before = None
            if carried is not None:
                before = tuple(part[:, layer].unsqueeze(0).contiguous() for part in carried)
            entering = inner if context is None else torch.cat([inner, context], 2)
            read, after = lstm(self.dropout(entering), before)
            states.append(after)
            inner = inner + read if layer > 1 else read
            if context is None:
                context = self.attention(inner, memory)
        hidden, cell = (torch.cat(part).transpose(0, 1) for part in zip(*states, strict=True))
        return self.output(inner), Carried(hidden, cell)

    def begin(self, sources: Tensor) -> tuple[Tensor, ...]:
        """Read sources, int64 [batch, length], and return what `next` carries from token to token."""
        memory = self.encode(sources)
        nothing = memory.values.new_zeros(len(sources), len(self.decoder), memory.values.shape[2])
        return (*memory, nothing, nothing)

    def next(self, last: Tensor, carry: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Score the token after each last one: what `boxwood_studies.beam_search` asks, step by step.

        Args:
            last: int64 [batch]; 0 at the beginning.
            carry: what `begin` returned, or the last call.

        Returns:
            Scores [batch, classes], and what is carried on.

        Example:
            >>> from boxwood_studies.beam_search import beam_search
            >>> net = Seq2Seq(sources=5, classes=4, hidden=8)
            >>> words = torch.tensor([[4, 3, 1], [2, 0, 0]])
            >>> len(beam_search(net.next, net.begin(words), width=2, longest=6))
            2
        """
        values, keys, valid, hidden, cell = carry
        memory, carried = Memory(values, keys, valid), Carried(hidden, cell)
        scores, carried = self.decode(last.unsqueeze(1), memory, carried)
        return scores.squeeze(1), (*memory, *carried)


def gnmt(
    *,
    sources: int,
    classes: int,
    hidden: int = 1024,
    layers: int = 4,
    attention: int | None = None,
    dropout: float = 0.2,
    reach: float = 0.04,
) -> Seq2Seq:
    """Build a `Seq2Seq` with the settings that translation uses; see there for its arguments.

    Example:
        >>> with torch.device("meta"):  # vocabularies about as large as those of WMT16
        ...     net = gnmt(sources=36_000, classes=36_000)
        >>> sum(p.numel() for p in net.parameters())
        205075616

    Source: Wu et al. (2016), section 8.3; Zhu and Gupta (2017), section 4.3, where the network with
    1024 units has 211 million parameters.
    """
    return Seq2Seq(
        sources=sources,
        classes=classes,
        hidden=hidden,
        layers=layers,
        attention=attention,
        dropout=dropout,
        reach=reach,
    )


def outside_attention(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find all matrices but those of the attention: embeddings, LSTMs and the softmax layer.

    Example:
        >>> net = Seq2Seq(sources=5, classes=4, hidden=8, layers=2)
        >>> len(outside_attention(net)), any("attention" in name for name in outside_attention(net))
        (13, False)

    Source: Zhu and Gupta (2017), section 4.3; which layers they are follows from the counts there.
    """
    return {
        name: parameter
        for name, parameter in parameter_names(model).items()
        if parameter.dim() > 1 and "attention" not in name.split(".")
    }


def _lstm(inputs: int, hidden: int) -> nn.LSTM:
    return nn.LSTM(inputs, hidden, batch_first=True)


def _longest(tokens: Tensor) -> int:
    """Count the tokens from 1 up to the last of any row."""
    return int((tokens > 0).sum(1).max())
