"""`tbps train`: a recipe into a run folder, on one process or several, once or with several seeds."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbps_cli.cli import complete
from tbps_cli.cli.options import DataRoot, Device, Sets, Workers

if TYPE_CHECKING:
    from tbps_cli.engine.observe import Observer
    from tbps_cli.recipe.schema import Recipe

RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="The name of a shipped recipe (see tbps recipes), or a TOML file.",
        autocompletion=complete.recipe,
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="RUN", help="Folder of the run. Default: runs/NAME-0001 and so on.")
]
Init = Annotated[
    Path | None,
    typer.Option(
        "--init",
        metavar="CKPT",
        help="Start from the weights of a run or official checkpoint, or from hf-hub:OWNER/REPO:FILE; "
        "the tower follows it unless you set one.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out (default: the newest run of this recipe).")
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Train from the beginning in --out and replace the run there; with --resume only if it has no checkpoint.",
    ),
]
Processes = Annotated[
    int,
    typer.Option("--nproc", metavar="N", min=1, help="Train in N processes on this machine, each with its own device."),
]
Repeat = Annotated[
    int,
    typer.Option(
        "--repeat", metavar="N", min=1, help="Train N times with different seeds and print mean and standard deviation."
    ),
]


def command(
    recipe: RecipeName,
    sets: Sets = None,
    data_root: DataRoot = None,
    out: Out = None,
    init: Init = None,
    resume: Resume = False,
    restart: Restart = False,
    device: Device = "auto",
    nproc: Processes = 1,
    workers: Workers = None,
    repeat: Repeat = 1,
) -> None:
    """Train a recipe. A run that was stopped or killed continues with --resume."""
    from tbps_cli.engine.runs import train_runs

    runs = train_runs(
        recipe,
        sets or (),
        data_root=data_root,
        out=out,
        init=init,
        resume=resume,
        restart=restart,
        device=device,
        workers=workers,
        processes=nproc,
        repeat=repeat,
        watch=_watching,
    )
    if runs:
        from tbps_cli.cli import output, training_view

        output.stdout.written += map(str, runs)
        training_view.results(runs)


def _watching(recipe: Recipe) -> AbstractContextManager[Observer]:
    """The display of a run, which imports torch and is therefore made when the recipe is known to be right."""
    from tbps_cli.cli import training_view

    return training_view.watching(recipe)
