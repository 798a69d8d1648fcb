"""Run an experiment and print its results: shared by the commands that run one."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from boxwood._internal.cli.narration import narrated
from boxwood._internal.cli.progress import bars, seen
from boxwood._internal.cli.tables import show
from boxwood._internal.cli.terminal import Console, say, stoppable
from boxwood._internal.core.replacing import write_whole
from boxwood._internal.recipes.phase import Experiment
from boxwood._internal.report.experiments import run_jobs
from boxwood._internal.report.study import Finding, Measurement, collect, kept_answers, summarise
from boxwood._internal.report.tables import summary_table, to_json_rows
from boxwood._internal.runs.provenance import provenance
from boxwood._internal.runs.ray_cluster import run_on_ray
from boxwood._internal.runs.runner import RunSettings, jobs_of
from boxwood._internal.runs.store import Store


def execute(
    experiment: Experiment,
    *,
    store: Path,
    seeds: range,
    threads: int,
    device: str = "cpu",
    snapshot_every: float = 30.0,
    workers: int = 1,
    ray: str | None = None,
    gpus: float | None = None,
    as_json: bool = False,
    out: Path | None = None,
) -> tuple[Measurement, ...]:
    """Run every branch for every seed, print the summary, and return the measurements."""
    torch.set_num_threads(threads)
    jobs = jobs_of(experiment, seeds)
    opened = Store(store)
    settings = RunSettings(snapshot_every=snapshot_every, device=torch.device(device))
    again = (
        f"Nothing is lost: finished phases are in {store}, and a training under way goes on from its "
        f"last snapshot, one every {snapshot_every:g} s. Run the same command again to go on."
    )
    alone = workers == 1 and ray is None
    shown = bars() if alone and seen() else narrated(jobs, opened, workers=workers)
    with stoppable(again), nullcontext() if as_json else shown as watcher:
        if ray is not None:
            address = None if ray == "local" else ray
            run_on_ray(
                jobs, opened, settings,
                workers=workers, threads=threads, gpus=gpus, address=address,
            )  # fmt: skip
        else:
            run_jobs(jobs, opened, replace(settings, watcher=watcher), workers=workers)
    measurements = collect(jobs, opened)
    findings: tuple[Finding, ...] = (
        tuple(experiment.judge(measurements)) if experiment.judge is not None else ()
    )
    rows = summarise(measurements)
    report: dict[str, Any] = {
        "seeds": list(seeds),
        "summary": to_json_rows(rows),
        "findings": to_json_rows(findings),
        "machine": provenance(),
    }
    text = json.dumps(report, indent=1, default=str)
    if out is not None:
        runs = [
            {"name": m.name, "seed": m.seed, "key": m.key, "test": m.test,
             "validation": m.validation, "kept": m.kept_fraction, "epochs": m.epochs,
             **kept_answers(m)}
            for m in measurements
        ]  # fmt: skip
        whole = json.dumps({**report, "runs": runs}, indent=1, default=str) + "\n"
        write_whole(out, whole.encode())
    if as_json:
        say(text)
        return measurements
    console = Console()
    show(summary_table(rows))
    for finding in findings:
        word = {True: "holds", False: "FAILS", None: "undecided"}[finding.held]
        console.print(f"{word}: {finding.claim} ({finding.said})")
    console.print(f"Store: {store} (run the same command again to resume or extend)")
    return measurements
