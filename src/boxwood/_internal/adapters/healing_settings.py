"""The settings of a healing, the estimate of its time and memory, and its result."""

from dataclasses import dataclass

from boxwood._internal.adapters.healing_trainer import History
from boxwood._internal.distill.losses import Distillation
from boxwood.errors import InvalidInput

_LOGITS = Distillation(temperature=1.0, soft=1.0, hard=0.0)


@dataclass(frozen=True, kw_only=True)
class Healing:
    """How a pruned language model is trained.

    Args:
        tokens: that are learned, over all passes, at least one step of ``length · batch ·
            accumulate``; what is over is left out.
        length: tokens of a piece, at least 2; by default what the model takes, at most 512.
        batch: pieces in memory at a time.
        accumulate: batches whose gradients make one step.
        learning_rate: the highest, above 0; by default 1e-4, with LoRA 5e-4. It rises over
            ``warmup`` and falls along half a cosine to 0.
        warmup: fraction of the steps in which the learning rate rises, in [0, 1).
        weight_decay: of AdamW, decoupled.
        distillation: temperature and the weights of teacher and text.
        keep: words of the teacher that are kept for each token, if any are; see `heal_pretrained`.
        lora: rank of low-rank adapters, which are merged under the masks; 0 trains all weights.
        bf16: compute in bfloat16, with weights in float32; by default where that is faster.
        checkpointing: compute activations again on the way back, for less memory.
        seed: of the order of the pieces, of adapters and of dropout.

    Raises:
        InvalidInput: a number is out of range.

    Example:
        >>> Healing(tokens=10_000_000).distillation
        Distillation(temperature=1.0, soft=1.0, hard=0.0)

    Source: Muralidharan et al. (2024), "Compact language models via pruning and knowledge
    distillation", section 3: the teacher's logits alone, at temperature 1.
    """

    tokens: int
    length: int | None = None
    batch: int = 8
    accumulate: int = 1
    learning_rate: float | None = None
    warmup: float = 0.05
    weight_decay: float = 0.0
    distillation: Distillation = _LOGITS
    keep: int = 64
    lora: int = 0
    bf16: bool | None = None
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.tokens, self.batch, self.accumulate, self.keep) < 1 or self.lora < 0:
            raise InvalidInput(
                f"Expected tokens, batch, accumulate and keep of at least 1 and a rank of at least 0, "
                f"got {self.tokens}, {self.batch}, {self.accumulate}, {self.keep} and {self.lora}; "
                f"correct them."
            )
        rate = self.learning_rate
        if (rate is not None and not 0 < rate < 1) or not 0 <= self.warmup < 1:
            raise InvalidInput(
                f"Expected a learning rate in (0, 1) and a warm-up in [0, 1), got {rate} and "
                f"{self.warmup}; correct them."
            )

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return self.learning_rate or (5e-4 if self.lora else 1e-4)


@dataclass(frozen=True)
class HealingPlan:
    """What a healing will take.

    Args:
        steps: of the optimiser.
        tokens: that are learned.
        tokens_per_step: of them in a step.
        text_tokens: of the text, without held-out pieces.
        passes: over the text.
        teacher: how it is asked: online, cached or none.
        masked: weights that are held at zero.
        trained: parameters that learn.
        bf16: whether it computes in bfloat16.
        disk_bytes: at most, for a teacher's words; checkpoints come to it.
        seconds: predicted, from a trial on this machine; None before one.
        peak_memory_bytes: of the trial; None before one.
    """

    steps: int
    tokens: int
    tokens_per_step: int
    text_tokens: int
    passes: float
    teacher: str
    masked: int
    trained: int
    bf16: bool
    disk_bytes: int
    seconds: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Healed:
    """What came out of a healing.

    Args:
        plan: what was planned.
        history: losses and nats of held-out pieces.
        peak_memory_bytes: of the last process that trained.
    """

    plan: HealingPlan
    history: History
    peak_memory_bytes: int

    @property
    def before(self) -> float:
        """Nats a token of the held-out pieces before training."""
        return self.history.held_out[0][1]

    @property
    def after(self) -> float:
        """The same of the network that is written."""
        return self.history.held_out[-1][1]
