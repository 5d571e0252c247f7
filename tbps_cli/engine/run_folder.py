"""The folder of a run: which one it is, that it may be written, and that one training at a time does so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tbps_cli import distributed, files
from tbps_cli.engine import state
from tbps_cli.engine.log import FILES
from tbps_cli.engine.state import State
from tbps_cli.errors import UsageError
from tbps_cli.models.run import CARD, LOCK, RECIPE, TOKENIZER, WEIGHTS, number
from tbps_cli.recipe.schema import Recipe

RUNS = Path("runs")


def choose(recipe: Recipe, out: Path | None, *, resume: bool, repetition: int | None = None) -> Path:
    """Where a run goes: what was asked for, with `resume` the newest run of this recipe, or the next number.

    repetition: which of several trainings with different seeds this is, counted from 0.
    """
    if out is not None:
        return out if repetition is None else out.with_name(f"{out.name}-seed{recipe.train.seed}")
    name = recipe.name or recipe.method.name
    if resume:
        there = sorted(RUNS.glob(f"{name}-[0-9][0-9][0-9][0-9]"))
        if len(there) > (repetition or 0):
            return there[-1] if repetition is None else there[repetition]
    return Path(distributed.agreed(f"folder {repetition}", lambda: str(number(RUNS, name))))


def existing_checkpoint(out: Path, *, resume: bool, restart: bool) -> State | None:
    """The checkpoint to go on from, after checking that the folder is what the flags say.

    Raises UsageError when training would overwrite a run without being told to.
    """
    saved = state.load(out) if resume else None
    if saved is not None or restart:
        return saved
    weights = [name for name in WEIGHTS.values() if (out / name).exists()]
    if resume and weights:
        raise UsageError(
            f"--resume: {out} holds trained weights ({weights[0]}) but no {state.FILE}, which is needed to go on.",
            f"Copy {state.FILE} back, start a new run from the weights (--init {out} and another --out), "
            "or train again from the beginning with --restart, which replaces them.",
        )
    if not resume and any((out / name).exists() for name in (state.FILE, RECIPE, *weights)):
        raise UsageError(
            f"--out {out} holds a run already.",
            "Add --resume to go on with it or --restart to train it again from the beginning, or name another folder.",
        )
    return None


def clear(out: Path) -> None:
    """Remove what an earlier training wrote, before another begins in its folder; other files stay."""
    for name in (state.FILE, *WEIGHTS.values(), CARD, TOKENIZER, RECIPE, *FILES):
        (out / name).unlink(missing_ok=True)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Make a run folder and keep other trainings out of it; one that stays empty is removed again.

    Raises UsageError when another process trains into it.
    """
    files.check_place("--out", out, inside=True)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file.", "Name a folder.")
    with files.explained(f"--out {out}"):
        out.mkdir(parents=True, exist_ok=True)
        lock = _lock(out / LOCK)
    try:
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)
        with suppress(OSError):
            out.rmdir()  # of an empty folder only: nothing was begun


def _lock(path: Path) -> int | None:
    """Lock a file for this process, as long as it lives; None where the system has no such locks.

    A record lock and not `flock`: the loader's forked processes would inherit that one, and hold it for seconds after
    this process was killed.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(handle)
            raise UsageError(
                f"--out {path.parent}: another training is writing into this folder.",
                "Wait until it ends, or name another folder.",
            ) from None
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)  # its last holder removed it between our two calls: lock the new one
