"""Recover the quality that pruning cost a language model: train it under its masks, with the dense model as teacher."""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from boxwood._internal.adapters.healing_folder import write_healed
from boxwood._internal.adapters.healing_preparation import prepare, work_folder
from boxwood._internal.adapters.healing_runs import train_student
from boxwood._internal.adapters.healing_settings import Healed, Healing, HealingPlan
from boxwood._internal.adapters.healing_trainer import History, Watch, last_whole
from boxwood._internal.core.extras import extra
from boxwood._internal.core.memory import peak_memory, reset_peak_memory
from boxwood._internal.core.replacing import write_whole
from boxwood._internal.distill.teacher_targets import digest_of
from boxwood._internal.files.writing import check_new_folder
from boxwood.errors import InvalidInput

with extra("transformers", "transformers for pretrained models"):
    import transformers

_TRIAL = 3  # steps by which time and memory are predicted; the first is not counted


def heal_pretrained(
    source: Path | str,
    out: Path | str,
    text: str,
    healing: Healing,
    *,
    teacher: Path | str | None = None,
    cache: Path | str | bool | None = None,
    device: str = "cpu",
    snapshot_every: float = 300.0,
    watch: Watch = lambda done, total, history: None,  # noqa: ARG005
) -> Healed:
    """Train a pruned or shrunken language model until it predicts like the model before.

    The student learns the teacher's probabilities of every next token; without a teacher, the text.
    A sparse student keeps its masks: pruned weights stay zero to the last bit. The last 2 % of the
    text, at most 32 pieces, are held out and only measured on. A training that is killed goes on
    from its last checkpoint when the same call is made again, on the CPU to the same bits.
    Checkpoints lie in a hidden folder next to ``out`` until that is written.

    Args:
        source: the student: of ``save_pretrained``, ``boxwood prune`` or ``boxwood shrink``.
        out: a folder that is new or empty; files, names and types of weights as in ``source``.
        text: to learn from; what the model will read should resemble it.
        healing: how it is trained.
        teacher: folder of a model with the same vocabulary, of any depth and width.
        cache: whether the teacher's most probable words are kept on disk, instead of asking it every
            time; or a folder for them, by which several students of one teacher, text, length, batch and
            seed share them. By default they are kept where the text is read more than once.
        device: cpu or cuda.
        snapshot_every: seconds between two checkpoints.
        watch: called after every step.

    Raises:
        InvalidInput: the student is no causal language model, its masks do not fit, the teacher has
            another vocabulary, the text is too short, there are fewer tokens than one step takes, or
            an interrupted healing with other settings is there.

    Example:
        >>> done = heal_pretrained(
        ...     "pruned", "healed", text, Healing(tokens=10_000_000), teacher="dense"
        ... )  # doctest: +SKIP
        >>> done.before, done.after  # doctest: +SKIP
        (4.19, 3.71)

    Source: Muralidharan et al. (2024), "Compact language models via pruning and knowledge
    distillation"; Hinton, Vinyals and Dean (2015), section 2.
    """
    source, out = Path(source), Path(out)
    check_new_folder(out)
    plan, pieces, student, targets = prepare(source, text, healing, teacher, cache, out, device)
    work = work_folder(out)
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock", timeout=0)
    try:
        with lock:
            _claim(work, _asked(source, text, healing, teacher, cache))
            found = last_whole(work)
            history = History() if found is None else found[1]
            reset_peak_memory(torch.device(device))
            model = train_student(
                student, pieces, plan, healing, targets, device,
                folder=work, resumed=None if found is None else found[0], history=history,
                snapshot_every=snapshot_every, watch=watch,
            )  # fmt: skip
            peak = peak_memory(torch.device(device))
            record = {
                "teacher": None if teacher is None else str(teacher),
                "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
                "healing": asdict(healing) | {"learning_rate": healing.rate},
                "plan": asdict(plan),
                "history": asdict(history),
                "peak_memory_bytes": peak,
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            }
            write_healed(
                model, out, source, dtypes=student.dtypes, masks=student.masks, record=record
            )
    except Timeout as error:
        raise InvalidInput(
            f"Expected no other process to write {out}, got one that is healing into it; wait for "
            f"it, or give another folder."
        ) from error
    except BaseException:
        if last_whole(work) is None:
            shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work, ignore_errors=True)
    return Healed(plan, history, peak)


def plan_healing(
    source: Path | str,
    out: Path | str,
    text: str,
    healing: Healing,
    *,
    teacher: Path | str | None = None,
    cache: Path | str | bool | None = None,
    device: str = "cpu",
) -> HealingPlan:
    """Say what `heal_pretrained` will take, by three steps of it that are thrown away.

    Args:
        source: as for `heal_pretrained`, like all others.
        out: nothing is written there.
        text: to learn from.
        healing: how it is trained.
        teacher: folder of a model.
        cache: as there; the trial asks the teacher every time.
        device: cpu or cuda.

    Raises:
        InvalidInput: as `heal_pretrained`.

    Example:
        >>> plan = plan_healing("pruned", "healed", text, Healing(tokens=10_000_000))  # doctest: +SKIP
        >>> plan.steps, plan.seconds / 3600, plan.peak_memory_bytes  # doctest: +SKIP
        (2441, 31.5, 3120000000)
    """
    source, out = Path(source), Path(out)
    check_new_folder(out)
    reset_peak_memory(torch.device(device))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / out.name
        given = (
            Path(folder) / "kept" if cache is not None and not isinstance(cache, bool) else cache
        )
        plan, pieces, student, targets = prepare(
            source, text, healing, teacher, given, place, device
        )
        times: list[float] = []
        few = replace(plan, steps=min(_TRIAL, plan.steps))
        train_student(
            student, pieces, few, healing, targets, device,
            folder=work_folder(place), resumed=None, history=History(), snapshot_every=float("inf"),
            watch=lambda done, total, history: times.append(time.perf_counter()),  # noqa: ARG005
            save=False,
        )  # fmt: skip
    each = (times[-1] - times[1]) / max(len(times) - 2, 1) if len(times) > 2 else 0.0
    peak = peak_memory(torch.device(device))
    return replace(plan, seconds=each * plan.steps, peak_memory_bytes=peak)


def _asked(
    source: Path,
    text: str,
    healing: Healing,
    teacher: Path | str | None,
    cache: Path | str | bool | None,
) -> Mapping[str, Any]:
    """What must be the same when a healing is taken up again."""
    return {
        "student": digest_of(source),
        "text": hashlib.sha256(text.encode()).hexdigest(),
        "teacher": None if teacher is None else str(Path(teacher).resolve()),
        "cache": str(cache),
        **{name: str(value) for name, value in asdict(healing).items()},
    }


def _claim(work: Path, asked: Mapping[str, Any]) -> None:
    path = work / "settings.json"
    if not path.exists():
        write_whole(path, json.dumps(asked, indent=1).encode())
        return
    found = json.loads(path.read_text())
    other = [name for name in asked if found.get(name) != asked[name]]
    if other:
        raise InvalidInput(
            f"Expected the call that began the interrupted healing in {work} began, got another "
            f"{', '.join(other)}; make the same call to resume, or delete {work}."
        )
