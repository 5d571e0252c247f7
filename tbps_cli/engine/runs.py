"""What `tbps train` does: one run or several with different seeds, in this process or in several of this machine.

Importing this imports no torch, and the recipe is read first: a mistake in it is answered at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli import places
from tbps_cli.errors import UsageError
from tbps_cli.recipe.load import build, drafted
from tbps_cli.recipe.schema import Recipe

if TYPE_CHECKING:
    from tbps_cli.engine.experiment import Options
    from tbps_cli.engine.observe import Observer


def train_runs(
    name: str | Path,
    sets: Sequence[str] = (),
    *,
    data_root: Path | None = None,
    out: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    restart: bool = False,
    device: str = "auto",
    workers: int | None = None,
    processes: int = 1,
    repeat: int = 1,
    watch: Callable[[Recipe], AbstractContextManager[Observer]] | None = None,
) -> list[Path]:
    """Train a recipe `repeat` times, with seeds that rise by one, and return the run folders.

    name, sets and the other options: as for `engine.train.train`. processes: of this machine, for each run.
    watch: makes the observer of a run. Returns nothing in a process that `launch` started: its launcher does.
    """
    draft = drafted(name, sets)
    first = build(draft)
    if restart and out is None:
        raise UsageError("--restart needs the folder of the run to train again.", "Add --out RUN.")

    from tbps_cli.engine import run_folder
    from tbps_cli.engine.experiment import Options
    from tbps_cli.engine.launch import launched, report_to_launcher
    from tbps_cli.engine.train import train_into

    tower_is_set = draft.is_stated(("method", "tower"))
    runs: list[Path] = []
    with report_to_launcher():
        for repetition in range(repeat):
            seeded = [*sets, f"train.seed={first.train.seed + repetition}"]
            recipe = build(drafted(name, seeded))
            folder = run_folder.choose(recipe, out, resume=resume, repetition=repetition if repeat > 1 else None)
            options = Options(places.data_root(data_root), folder, init, device, workers, tower_is_set)
            if processes > 1:
                _launch(processes, [str(name), *_flags(options, seeded, resume=resume, restart=restart)])
            else:
                with watch(recipe) if watch else nullcontext(None) as observer:
                    train_into(recipe, options, resume=resume, restart=restart, observer=observer)
            runs.append(folder)
        return [] if launched() else runs


def _flags(options: Options, sets: Sequence[str], *, resume: bool, restart: bool) -> list[str]:
    """The command line of one run, for the processes that share it."""
    given: list[tuple[str, object]] = [("--set", setting) for setting in sets]
    given += [("--out", options.out), ("--device", options.device), ("--data-root", options.data_root)]
    given += [("--init", options.init), ("--workers", options.workers)]
    words = [word for flag, value in given if value is not None for word in (flag, str(value))]
    return [*words, *["--resume"] * resume, *["--restart"] * restart]


def _launch(processes: int, words: list[str]) -> None:
    """Start this command again in several processes; only the first of them talks."""
    from tbps_cli.engine.launch import launch
    from tbps_cli.engine.stops import Interrupted

    sys.stdout.flush()
    try:
        launch(processes, ["train", *words])
    except KeyboardInterrupt:
        again = [word for word in words if word not in ("--resume", "--restart")]
        command = shlex.join(["tbps", "train", *again, "--nproc", str(processes), "--resume"])
        raise Interrupted(f"{processes} processes were stopped.", f"Go on with: {command}") from None
