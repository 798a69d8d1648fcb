"""``boxwood run``: run an experiment, or resume it."""

from pathlib import Path
from typing import Annotated

import typer

from boxwood._internal.cli import checks
from boxwood._internal.cli.execute import execute
from boxwood._internal.cli.target import resolve, trusted
from boxwood.errors import InvalidInput

Target = Annotated[str, typer.Argument(help="file.py:function, or a recipe.json.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, mnist, fashion-mnist, cifar10, ptb, file.py:function or package.module:function."
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="name=value to pass to the function. Repeatable.")
]
StorePath = Annotated[
    Path, typer.Option("--store", help="Folder of finished phases.", callback=checks.store)
]
NewStore = Annotated[
    Path, typer.Option("--store", help="Folder of finished phases.", callback=checks.new_folder)
]
Code = Annotated[
    list[str] | None,
    typer.Option(
        "--code",
        help="Python file, module or package whose code a recipe.json or a store may "
        "run. Boxwood's own is always allowed. Repeatable.",
    ),
]
TrustAll = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run any code that a recipe.json or a store "
        "names. Use it only with files that you trust.",
    ),
]
Seeds = Annotated[
    int, typer.Option(help="Number of seeds: 0, 1, …", callback=checks.whole(1, 10_000))
]


def run(
    target: Target,
    data: Data = None,
    seeds: Seeds = 1,
    first_seed: Annotated[
        int, typer.Option(help="First seed.", callback=checks.whole(0, 2**31))
    ] = 0,
    store: NewStore = Path("runs"),
    settings: Settings = None,
    threads: Annotated[
        int,
        typer.Option(
            help="Number of torch threads. One is enough for small networks.",
            callback=checks.whole(1, 1024),
        ),
    ] = 1,
    workers: Annotated[
        int,
        typer.Option(
            help="Number of processes, each with --threads threads.", callback=checks.whole(1, 1024)
        ),
    ] = 1,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster, or local.")] = None,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(
            help="With --ray: GPUs that each task requests, such as 0.5 for two tasks "
            "on one GPU. Default: 1 unless --device is cpu.",
            callback=checks.gpus,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where to train, such as cpu or cuda. Each worker gets its own GPU "
            "as long as there are enough."
        ),
    ] = "cpu",
    snapshot_every: Annotated[
        float,
        typer.Option(help="Seconds between snapshots within a phase.", callback=checks.seconds),
    ] = 30,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write all results to this JSON file.", callback=checks.new_file()),
    ] = None,
    overwrite: checks.Overwrite = False,
    code: Code = None,
    trust: TrustAll = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Run an experiment: every branch, every seed.

    Run the command again to resume it, to add seeds or to show the results. Several processes may
    run it on one store and share the work, as those of --workers and --ray do. You may kill any of
    them at any moment: the others do its work. A recipe.json may only run code of Boxwood and of
    --code, unless you give --trust.

    Example: boxwood run experiments/han2015.py:lenet_300_100 --data fashion-mnist --seeds 5
    """
    if out is not None:
        checks.free(out, overwrite=overwrite)
    # Machines of a cluster may have devices that this one has not.
    checks.device(device, here=ray in (None, "local"))
    if gpus_per_run and (ray is None or device == "cpu"):
        raise InvalidInput(
            f"Expected --gpus-per-run together with --ray and a --device with GPUs, got "
            f"--ray {ray} and --device {device}; give both, such as --ray auto --device cuda."
        )
    execute(
        resolve(target, data, settings or (), trusted(code, trust)),
        store=store,
        seeds=range(first_seed, first_seed + seeds),
        threads=threads,
        workers=workers,
        ray=ray,
        gpus=gpus_per_run,
        device=device,
        snapshot_every=snapshot_every,
        as_json=as_json,
        out=out,
    )
