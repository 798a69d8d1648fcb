"""One training of a healing, started or resumed."""

from pathlib import Path
from typing import Any

from torch import Tensor

from boxwood._internal.adapters.healing_inputs import Pieces, Student
from boxwood._internal.adapters.healing_settings import Healing, HealingPlan
from boxwood._internal.adapters.healing_trainer import (
    HealingTrainer,
    History,
    Order,
    Recorder,
    Watch,
    restore_,
)
from boxwood._internal.adapters.masked_lora import add_adapters, merged
from boxwood._internal.adapters.transformers import MaskTrainerCallback
from boxwood._internal.core.extras import extra
from boxwood._internal.distill.teacher_targets import Targets
from boxwood.errors import InvalidInput

with extra("transformers", "transformers for pretrained models"):
    import transformers

_CHECKS = 10  # measurements of the held-out pieces in a training, at most
_SHARE = 10  # of the tokens of a training, one in as many is held out


def train_student(
    student: Student,
    pieces: Pieces,
    plan: HealingPlan,
    healing: Healing,
    targets: Targets | None,
    device: str,
    *,
    folder: Path,
    resumed: Path | None,
    history: History,
    snapshot_every: float,
    watch: Watch,
    save: bool = True,
) -> Any:
    """Train, or take up a training; return the model with adapters merged."""
    model, callbacks = student.model, []
    if healing.lora:
        model = add_adapters(model, student.masks, healing.lora, seed=healing.seed)
    elif student.masks:
        callbacks.append(MaskTrainerCallback(student.masks))
    if healing.checkpointing:
        _recompute(model)
    held_out, checks = _measured(pieces, plan)
    recorder = Recorder(
        held_out,
        history,
        check_every=max(plan.steps // checks, 1),
        snapshot_every=snapshot_every,
        watch=watch,
        save=save,
    )
    count = plan.steps * healing.batch * healing.accumulate
    trainer = HealingTrainer(
        targets=targets,
        distillation=healing.distillation,
        model=model,
        args=_arguments(plan, healing, folder, device),
        train_dataset=Order(pieces.learned, count, healing.seed),
        callbacks=[*callbacks, recorder],
    )
    if resumed is not None and resumed.name == f"checkpoint-{plan.steps}":
        restore_(model, resumed)  # only the folder is still to be written
    else:
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    if healing.lora:
        model = merged(model)
    return model


def _measured(pieces: Pieces, plan: HealingPlan) -> tuple[Tensor, int]:
    """Choose how many pieces are measured on, and how often: a tenth of the work of a training at most.

    Reading a token costs a third of learning it.
    """
    length = pieces.held_out.shape[1]
    count = min(max(plan.tokens // (_SHARE * length), 1), len(pieces.held_out))
    checks = 3 * plan.tokens // (_SHARE * count * length)
    return pieces.held_out[:count], min(max(checks, 1), _CHECKS)


def _arguments(plan: HealingPlan, healing: Healing, folder: Path, device: str) -> Any:
    return transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=plan.steps,
        per_device_train_batch_size=healing.batch,
        gradient_accumulation_steps=healing.accumulate,
        learning_rate=healing.rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(healing.warmup * plan.steps),
        weight_decay=healing.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch",
        bf16=plan.bf16,
        use_cpu=device == "cpu",
        seed=healing.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=[],
    )


def _recompute(model: Any) -> None:
    """Turn checkpointing of activations on, by the name that this transformers has for it."""
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        enable = getattr(model, f"{name}_enable", None)
        if enable is not None:
            enable(**{f"{name}_kwargs": {"use_reentrant": False}})
            return
    raise InvalidInput(
        f"Expected a model that can compute activations again, got {type(model).__name__}; heal "
        f"without --checkpointing, with a smaller --batch and more --accumulate."
    )
