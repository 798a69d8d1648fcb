"""Zero-shot tasks through lm-eval, the usual harness for language models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from boxwood._internal.adapters.folders import load_folder
from boxwood._internal.adapters.resident import open_tokenizer
from boxwood._internal.core.extras import extra
from boxwood._internal.train.text_scores import TaskScore
from boxwood.errors import InvalidInput


def zero_shot(
    folder: Path | str,
    tasks: Sequence[str],
    *,
    task_folder: Path | None = None,
    limit: int | None = None,
    batch: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> list[TaskScore]:
    """Let lm-eval ask the language model in a folder.

    Args:
        folder: as for `evaluate_pretrained`.
        tasks: names of lm-eval's tasks, such as arc_easy, hellaswag, piqa.
        task_folder: YAML files of tasks of your own.
        limit: examples of each task; all by default.
        batch: requests in a call.
        device: where the model is.
        dtype: of the weights; by default as they are stored.

    Raises:
        InvalidInput: there is no such task, or its data cannot be read.
        MissingDependency: lm-eval is not installed.

    Example:
        >>> zero_shot("pruned", ["arc_easy"])  # doctest: +SKIP
        [TaskScore(task='arc_easy', metric='acc', value=0.43, error=0.01, examples=2376)]
    """
    with extra("evaluation", "lm-eval for zero-shot tasks"):
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    known = TaskManager(include_path=None if task_folder is None else str(task_folder))
    missing = [task for task in tasks if task not in known.all_tasks]
    if missing:
        raise InvalidInput(
            f"Expected tasks that lm-eval knows, got {', '.join(missing)}; `lm-eval ls tasks` "
            f"lists them, and --task-folder adds your own."
        )
    model: Any = load_folder(folder)
    model = model.to(device=device, dtype=dtype) if dtype else model.to(device)
    asked = HFLM(
        pretrained=model, tokenizer=open_tokenizer(folder), backend="causal", batch_size=batch
    )
    try:
        found = simple_evaluate(model=asked, tasks=list(tasks), task_manager=known, limit=limit)
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidInput(
            f"Expected lm-eval to ask {', '.join(tasks)}, got {str(error).splitlines()[0]}; "
            f"lm-eval downloads its data, so check the network, or give --task-folder with your "
            f"own data."
        ) from error
    return results_of(found)


def results_of(found: Any) -> list[TaskScore]:
    """Read lm-eval's results.

    Args:
        found: as ``lm_eval.simple_evaluate`` returns them.

    Example:
        >>> results_of({
        ...     "results": {"arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1}},
        ...     "n-samples": {"arc": {"original": 9, "effective": 4}},
        ... })
        [TaskScore(task='arc', metric='acc', value=0.5, error=0.1, examples=4)]
    """
    rows = []
    for task, values in found["results"].items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = values.get(f"{metric}_stderr,{filtered}")
            rows.append(
                TaskScore(
                    task=task,
                    metric=metric if filtered == "none" else f"{metric} ({filtered})",
                    value=float(value),
                    error=float(error) if isinstance(error, (int, float)) else None,
                    examples=found.get("n-samples", {}).get(task, {}).get("effective", 0),
                )
            )
    return rows
