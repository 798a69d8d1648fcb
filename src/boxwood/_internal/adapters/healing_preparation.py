"""What a healing begins with: a plan, the student, pieces of text, and the teacher."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from boxwood._internal.adapters.folders import load_folder
from boxwood._internal.adapters.healing_inputs import (
    Pieces,
    Student,
    check_vocabulary,
    cut,
    open_student,
)
from boxwood._internal.adapters.healing_settings import Healing, HealingPlan
from boxwood._internal.adapters.masked_lora import check_peft, trained_parameters
from boxwood._internal.adapters.resident import open_config
from boxwood._internal.distill.cached_logits import Shards
from boxwood._internal.distill.encodings import TopK
from boxwood._internal.distill.teacher_targets import (
    Forward,
    KeptTargets,
    Targets,
    claim_folder,
    computed,
    digest_of,
)
from boxwood.errors import InvalidInput


def work_folder(out: Path) -> Path:
    """Name the folder of the checkpoints of a healing that is not finished.

    Example:
        >>> work_folder(Path("models/healed")).name
        '.healing-healed'
    """
    return out.with_name(f".healing-{out.name}")


def prepare(
    source: Path,
    text: str,
    healing: Healing,
    teacher: Path | str | None,
    cache: Path | str | bool | None,
    out: Path,
    device: str,
) -> tuple[HealingPlan, Pieces, Student, Targets | None]:
    """Check everything, cheapest first, and load what will be needed."""
    config = open_config(source)
    if healing.lora:
        check_peft()
    if teacher is not None:
        check_vocabulary(source, Path(teacher), text)
    most = getattr(config, "max_position_embeddings", None) or 512
    pieces = cut(source, text, healing.length or min(most, 512))
    length = pieces.learned.shape[1]
    each = length * healing.batch * healing.accumulate
    steps = healing.tokens // each
    if not steps:
        raise InvalidInput(
            f"Expected tokens for at least one step of {length} x {healing.batch} x "
            f"{healing.accumulate} = {each}, got {healing.tokens}; give more tokens, or a smaller "
            f"batch."
        )
    passes = steps * each / pieces.learned.numel()
    if teacher is None and cache:
        raise InvalidInput(
            "Expected --teacher with --cache or --cache-folder, got none; give --teacher."
        )
    kept = teacher is not None and (bool(cache) or (cache is None and passes > 1))
    student = open_student(source)
    places = min(passes, 1) * pieces.learned.numel()
    plan = HealingPlan(
        steps=steps,
        tokens=steps * each,
        tokens_per_step=each,
        text_tokens=pieces.learned.numel(),
        passes=passes,
        teacher="none" if teacher is None else "cached" if kept else "online",
        masked=sum(int((~mask).sum()) for mask in student.masks.values()),
        trained=trained_parameters(student.model, healing.lora),
        bf16=_faster_in_bf16(device) if healing.bf16 is None else healing.bf16,
        disk_bytes=int(places * (6 * healing.keep + 2)) if kept else 0,
    )
    targets = None
    if teacher is not None:
        named = None if cache is None or isinstance(cache, bool) else Path(cache)
        folder = (named or work_folder(out) / "teacher") if kept else None
        targets = _targets(Path(teacher), plan, healing, pieces, folder, device, config.vocab_size)
    return plan, pieces, student, targets


def _targets(
    teacher: Path,
    plan: HealingPlan,
    healing: Healing,
    pieces: Pieces,
    folder: Path | None,
    device: str,
    words: int,
) -> Targets:
    def load() -> Forward:
        model: Any = load_folder(teacher)
        if device == "cpu" and not plan.bf16:
            model = model.float()  # half precision is slow there
        elif plan.bf16:
            model = model.to(torch.bfloat16)
        model = model.to(device).requires_grad_(False)

        def forward(ids: Tensor) -> Tensor:
            with torch.no_grad():
                logits: Tensor = model(input_ids=ids.to(device), use_cache=False).logits
            return logits

        return forward

    if folder is None:
        return computed(load())
    encoding = TopK(min(healing.keep, words - 1), classes=words)
    about = {
        "teacher": digest_of(teacher),
        "text": hashlib.sha256(pieces.learned.numpy().tobytes()).hexdigest(),
        "length": pieces.learned.shape[1],
        "number of kept words": encoding.k,
    }
    claim_folder(folder, about)
    return KeptTargets(load, Shards(folder / "pieces"), encoding)


def _faster_in_bf16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    # These processors multiply bfloat16; others convert it, which takes longer than float32.
    named = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    supported = (getattr(torch.cpu, name, None) for name in named)
    return any(check() for check in supported if check is not None)
