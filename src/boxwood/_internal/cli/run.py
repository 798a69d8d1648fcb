"""``boxwood run``: run an experiment, or go on with it."""

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
    list[str] | None, typer.Option("--set", help="name=value for the function; may be repeated.")
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
        help="Python file, module or package whose code a recipe.json or a store may name, as well as "
        "Boxwood's own; may be repeated.",
    ),
]
TrustAll = Annotated[
    bool, typer.Option("--trust", help="Run any code that a recipe.json or a store names.")
]
Seeds = Annotated[
    int, typer.Option(help="How many seeds: 0, 1, …", callback=checks.whole(1, 10_000))
]


def run(
    target: Target,
    data: Data = None,
    seeds: Seeds = 1,
    first_seed: Annotated[
        int, typer.Option(help="The first of the seeds.", callback=checks.whole(0, 2**31))
    ] = 0,
    store: NewStore = Path("runs"),
    settings: Settings = None,
    threads: Annotated[
        int,
        typer.Option(
            help="Threads of torch; one is enough for small nets.", callback=checks.whole(1, 1024)
        ),
    ] = 1,
    workers: Annotated[
        int,
        typer.Option(help="Processes, of --threads threads each.", callback=checks.whole(1, 1024)),
    ] = 1,
    ray: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster to use, or local.")
    ] = None,
    gpus_per_run: Annotated[
        float | None,
        typer.Option(
            help="GPUs that each task of --ray asks for, such as 0.5 for two on one; 1 unless "
            "--device is cpu.",
            callback=checks.gpus,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where to train, such as cpu or cuda; each of --workers has one of its own, as "
            "long as there are enough."
        ),
    ] = "cpu",
    snapshot_every: Annotated[
        float,
        typer.Option(help="Seconds between snapshots in a phase.", callback=checks.seconds),
    ] = 30,
    out: Annotated[
        Path | None,
        typer.Option(help="Also write all figures to this JSON file.", callback=checks.new_file()),
    ] = None,
    overwrite: checks.Overwrite = False,
    code: Code = None,
    trust: TrustAll = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Run an experiment: every branch, every seed. Run it again to resume, extend or re-read it.

    Several processes may run the same command on one store: they share the work, as those of
    --workers and of --ray do. Each may be killed at any moment, with its machine; the others do its
    work. A recipe.json may only
    name code of Boxwood and of --code, unless --trust is given.

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
