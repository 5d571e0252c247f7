"""`tbps train`: a recipe into a run folder, on one process or several, once or with several seeds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbps_cli.cli.options import DataRoot, Device, Sets, Workers

if TYPE_CHECKING:
    from tbps_cli.recipe.schema import Recipe

RUNS = Path("runs")

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="The name of a shipped recipe (see tbps recipes), or a TOML file.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="RUN", help="Folder of the run. Default: runs/NAME-0001 and so on.")
]
Init = Annotated[
    Path | None, typer.Option("--init", metavar="CKPT", help="Start from the weights of a run or official checkpoint.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out (default: the newest run of this recipe).")
]
Processes = Annotated[
    int, typer.Option("--nproc", metavar="N", min=1, help="Train in N processes of this machine, a device each.")
]
Repeat = Annotated[
    int, typer.Option("--repeat", metavar="N", min=1, help="Train N times with N seeds; print mean and deviation.")
]


def command(
    recipe: RecipeName,
    sets: Sets = None,
    data_root: DataRoot = None,
    out: Out = None,
    init: Init = None,
    resume: Resume = False,
    device: Device = "auto",
    nproc: Processes = 1,
    workers: Workers = None,
    repeat: Repeat = 1,
) -> None:
    """Train a recipe; a run that was stopped or killed goes on with --resume."""
    from tbps_cli.recipe.load import load

    read = load(recipe, sets or ())  # before anything that imports torch: most mistakes are made here

    from tbps_cli.cli import training_view
    from tbps_cli.engine.launch import launched, report_to_launcher
    from tbps_cli.places import data_root as root_of

    with report_to_launcher():
        runs: list[Path] = []
        for number in range(repeat):
            one = _seeded(read, number)
            folder = _folder(one, out, resume, number if repeat > 1 else None)
            if nproc > 1:
                _in_processes(nproc, recipe, one, folder, sets, data_root, init, resume, device, workers)
            else:
                _here(one, root_of(data_root), folder, init, resume, device, workers)
            runs.append(folder)
        if not launched():
            training_view.results(runs)


def _seeded(recipe: Recipe, number: int) -> Recipe:
    """The recipe with its seed raised by `number`."""
    train = recipe.train.model_copy(update={"seed": recipe.train.seed + number})
    return recipe.model_copy(update={"train": train})


def _folder(recipe: Recipe, out: Path | None, resume: bool, number: int | None) -> Path:
    """Where the run goes: what was asked for, the newest one of this recipe, or the next number."""
    from tbps_cli.distributed import agreed
    from tbps_cli.models.run import number as next_folder

    if out is not None:
        return out if number is None else out.with_name(f"{out.name}-seed{recipe.train.seed}")
    name = recipe.name or recipe.method.name
    if resume:
        there = sorted(RUNS.glob(f"{name}-[0-9][0-9][0-9][0-9]"))
        if len(there) > (number or 0):
            return there[-1] if number is None else there[number]
    return Path(agreed(f"folder {number}", lambda: str(next_folder(RUNS, name))))


def _here(
    recipe: Recipe, root: Path, out: Path, init: Path | None, resume: bool, device: str, workers: int | None
) -> None:
    """Train in this process, watched."""
    from tbps_cli.cli import training_view
    from tbps_cli.engine.train import train

    with training_view.watching(recipe) as observer:
        train(
            recipe,
            data_root=root,
            out=out,
            init=init,
            resume=resume,
            device=device,
            workers=workers,
            observer=observer,
        )


def _in_processes(
    nproc: int,
    name: str,
    recipe: Recipe,
    out: Path,
    sets: list[str] | None,
    data_root: Path | None,
    init: Path | None,
    resume: bool,
    device: str,
    workers: int | None,
) -> None:
    """Start this command again in several processes; only the first of them talks."""
    from tbps_cli.engine.launch import launch
    from tbps_cli.engine.stops import Interrupted

    options: list[tuple[str, object]] = [("--set", setting) for setting in sets or ()]
    options += [("--set", f"train.seed={recipe.train.seed}"), ("--out", out), ("--device", device)]
    options += [("--data-root", data_root), ("--init", init), ("--workers", workers)]
    words = [word for flag, value in options if value is not None for word in (flag, str(value))]
    sys.stdout.flush()
    try:
        launch(nproc, ["train", name, *words, *["--resume"] * resume])
    except KeyboardInterrupt:
        hint = f"Go on with: tbps train {name} --out {out} --nproc {nproc} --resume (and the same settings)."
        raise Interrupted(f"{nproc} processes were stopped.", hint) from None
