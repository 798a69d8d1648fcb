"""``boxwood heal``: train a pruned language model until it predicts like the model before."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from boxwood._internal.cli import checks
from boxwood._internal.cli.models import Threads
from boxwood._internal.cli.progress import titled_bar
from boxwood._internal.cli.prune_blocks import read_text
from boxwood._internal.cli.terminal import Console, say, stoppable
from boxwood._internal.distill.losses import Distillation
from boxwood._internal.report.tables import human, human_bytes, human_seconds
from boxwood.errors import InvalidInput

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


def _tokens(param: checks.Param, value: str | None) -> str | None:
    if value is not None:
        count_of(value, str(param.opts[0]))
    return value


def count_of(text: str, option: str = "--tokens") -> int:
    """Read a number of tokens, as 10M or 500_000.

    Raises:
        InvalidInput: it is none, or not in [1, 10¹⁵].

    Example:
        >>> count_of("10M"), count_of("1.5K"), count_of("500_000")
        (10000000, 1500, 500000)
    """
    number, unit = text.strip(), 1
    if number[-1:].upper() in _UNITS:
        number, unit = number[:-1], _UNITS[number[-1].upper()]
    try:
        value = float(number) * unit
        inside = 1 <= value <= 10**15
    except ValueError:
        inside = False
    if not inside:
        raise InvalidInput(
            f"Expected {option} to be a number of tokens, as 10M or 500K, got {text!r}; give such a "
            f"number."
        )
    return round(value)


def heal(
    student: Annotated[Path, typer.Argument(help="Folder of a pruned or shrunken language model.")],
    out: Annotated[
        Path,
        typer.Option(help="New folder for the healed model.", callback=checks.new_folder),
    ],
    text: Annotated[Path, typer.Option(help="UTF-8 text file to train on.")],
    tokens: Annotated[
        str,
        typer.Option(help="Tokens to train on over all passes, such as 10M.", callback=_tokens),
    ],
    teacher: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the model before pruning, or of another with the same "
            "vocabulary. Without it, the model learns from the text only."
        ),
    ] = None,
    lora: Annotated[
        bool, typer.Option("--lora", help="Train low-rank adapters and merge them under the masks.")
    ] = False,
    rank: Annotated[
        int, typer.Option(help="Rank of the adapters.", callback=checks.whole(1, 4096))
    ] = 16,
    length: Annotated[
        int | None,
        typer.Option(
            help="Tokens in a piece of text. Default: the most that the model takes, up to 512.",
            callback=checks.whole(2),
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Number of pieces in memory at a time.", callback=checks.whole(1))
    ] = 8,
    accumulate: Annotated[
        int,
        typer.Option(
            help="Number of batches whose gradients are added up for one step.",
            callback=checks.whole(1),
        ),
    ] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate, in (0, 1). Default: 1e-4, or 5e-4 with --lora.",
            callback=checks.rate,
        ),
    ] = None,
    warmup: Annotated[
        float,
        typer.Option(
            help="Fraction of the steps over which the learning rate rises.",
            callback=checks.fraction(of_what="steps", one=False),
        ),
    ] = 0.05,
    weight_decay: Annotated[
        float,
        typer.Option(
            help="Weight decay of AdamW.", callback=checks.fraction(of_what="weights", one=False)
        ),
    ] = 0.0,
    temperature: Annotated[
        float,
        typer.Option(help="Temperature of teacher and student, above 0.", callback=checks.positive),
    ] = 1.0,
    text_weight: Annotated[
        float,
        typer.Option(
            help="Weight of the text's own loss, in [0, 1). The teacher's loss has the rest.",
            callback=checks.fraction(of_what="the loss", one=False),
        ),
    ] = 0.0,
    cache: Annotated[
        bool | None,
        typer.Option(
            "--cache/--no-cache",
            help="Store the teacher's most probable tokens on disk. Default: if the "
            "text is read more than once.",
        ),
    ] = None,
    cache_folder: Annotated[
        Path | None,
        typer.Option(
            help="Store them in this folder, to share them with other students of this teacher.",
            callback=checks.new_folder,
        ),
    ] = None,
    keep_words: Annotated[
        int,
        typer.Option(
            help="Number of the teacher's most probable tokens to store for each position.",
            callback=checks.whole(1, 65536),
        ),
    ] = 64,
    bf16: Annotated[
        bool | None,
        typer.Option("--bf16/--no-bf16", help="Compute in bfloat16. Default: if that is faster."),
    ] = None,
    checkpointing: Annotated[
        bool,
        typer.Option(
            "--checkpointing", help="Recompute activations in the backward pass, to save memory."
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            help="Random seed of the order of the text and of the adapters.",
            callback=checks.whole(0),
        ),
    ] = 0,
    snapshot_every: Annotated[
        float, typer.Option(help="Seconds between checkpoints.", callback=checks.seconds)
    ] = 300,
    device: Annotated[str, typer.Option(help="Where to train, such as cpu or cuda.")] = "cpu",
    threads: Threads = 1,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Run three steps, estimate time and memory, and stop."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Recover the quality that pruning cost a language model, by training it under its masks.

    The student learns the teacher's probabilities of every next token of the text. Pruned weights
    stay zero. The learning rate rises, then falls along a cosine. The last 2 % of the text, at most
    32 pieces, are used only to measure. After an interruption, run the same command again to resume.
    OUT appears when it is complete, with the files of STUDENT and healing.json.

    Example: boxwood heal pruned/ --teacher dense/ --text corpus.txt --tokens 10M --out healed/

    Example: boxwood heal pruned/ --teacher dense/ --text corpus.txt --tokens 10M --out healed/ --dry-run

    Example: boxwood heal small/ --teacher dense/ --text corpus.txt --tokens 2M --lora --out healed/
    """
    checks.device(device)
    torch.set_num_threads(threads)
    if cache is False and cache_folder is not None:
        raise InvalidInput("Expected --no-cache or --cache-folder, got both; leave one out.")
    if teacher is None and (cache or cache_folder is not None):
        raise InvalidInput(
            "Expected --teacher with --cache or --cache-folder, got none; give --teacher."
        )
    # Only here: transformers takes seconds to import.
    from boxwood._internal.adapters.folders import quiet_loading
    from boxwood._internal.adapters.healing import heal_pretrained, plan_healing
    from boxwood._internal.adapters.healing_settings import Healing

    healing = Healing(
        tokens=count_of(tokens),
        length=length,
        batch=batch,
        accumulate=accumulate,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        distillation=Distillation(
            temperature=temperature, soft=1.0 - text_weight, hard=text_weight
        ),
        keep=keep_words,
        lora=rank if lora else 0,
        bf16=bf16,
        checkpointing=checkpointing,
        seed=seed,
    )
    read = read_text(text)
    given: dict[str, Any] = {
        "teacher": teacher,
        "cache": cache if cache_folder is None else cache_folder,
        "device": device,
    }
    quiet_loading()
    if dry_run:
        plan = plan_healing(student, out, read, healing, **given)
        _say_plan(plan, as_json=as_json)
        return
    again = "The last checkpoint is kept; run the same command again to resume."
    with stoppable(again), _shown(quiet=as_json) as watch:
        done = heal_pretrained(
            student, out, read, healing, snapshot_every=snapshot_every, watch=watch, **given
        )
    if as_json:
        found = {
            "out": str(out),
            "plan": asdict(done.plan),
            "held_out_nats": {"before": done.before, "after": done.after},
            "history": asdict(done.history),
            "peak_memory_bytes": done.peak_memory_bytes,
        }
        say(json.dumps(found, indent=1))
        return
    Console().print(
        f"Healed into {out}: {done.before:.4f} nats a token of held-out text before, {done.after:.4f} "
        f"after {done.plan.steps:,} steps of {done.plan.tokens_per_step:,} tokens. "
        f"{human_seconds(done.history.seconds)}, at most {human_bytes(done.peak_memory_bytes)} of "
        f"memory.",
        soft_wrap=True,
    )
    if done.after >= done.before:
        Console().print(
            "It predicts held-out text no better than before: try a smaller --learning-rate, or more "
            "--tokens.",
            soft_wrap=True,
        )


def _say_plan(plan: Any, *, as_json: bool) -> None:
    if as_json:
        say(json.dumps(asdict(plan), indent=1))
        return
    asked = {"none": "no teacher", "online": "the teacher is asked at every step"}
    disk = f"the teacher's words are kept once, at most {human_bytes(plan.disk_bytes)} of disk"
    Console().print(
        f"{plan.steps:,} steps of {plan.tokens_per_step:,} tokens, {human(plan.tokens)} in all: "
        f"{plan.passes:.3g} passes over {human(plan.text_tokens)} tokens of text; "
        f"{asked.get(plan.teacher, disk)}. {human(plan.trained)} parameters learn, "
        f"{human(plan.masked)} pruned weights stay zero, in {'bfloat16' if plan.bf16 else 'float32'}. "
        f"About {human_seconds(plan.seconds)}, at most {human_bytes(plan.peak_memory_bytes)} of "
        f"memory, by three steps on this machine.",
        soft_wrap=True,
    )


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Any]:
    """Show steps with the loss and the best so far."""
    with titled_bar(quiet=quiet) as show:

        def watch(done: int, total: int, history: Any) -> None:
            loss = f", loss {history.losses[-1][1]:.3f}" if history.losses else ""
            show(f"heal{loss}, best on held-out text {history.best:.3f}", done, total)

        yield watch
