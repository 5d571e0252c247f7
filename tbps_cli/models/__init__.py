"""Anything that `--ckpt` accepts becomes one thing: an encoder of captions and images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from tbps_cli.models.exported import ExportedModel
    from tbps_cli.models.model import Model

logger = logging.getLogger("tbps")


def open_model(
    ckpt: str | Path | None = None,
    *,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: Path | None = None,
    runs: Path = Path("runs"),
    data_root: Path | None = None,
) -> Model | ExportedModel:
    """Open a run folder, an exported folder or an official checkpoint (file or folder).

    ckpt: None takes the newest run below `runs` and says which.
    device: auto, cpu, cuda, cuda:N or mps. sets: `KEY=VALUE` of `[method]` or `[data]` that may change
    after training. words: the word table of a method that needs one; data_root: where else it may lie.
    An exported folder is opened without torch. Raises WeightsError, RecipeError or UsageError.
    """
    from tbps_cli.models.exported import is_exported

    path = _newest(runs) if ckpt is None else Path(ckpt).expanduser()
    if not path.exists():
        raise WeightsError(f"--ckpt {path}: there is no such file or folder.", _runs_there(runs))
    if is_exported(path):
        return _exported(path, sets, words)
    from tbps_cli.models.model import open_official, open_run
    from tbps_cli.models.run import run_of

    run = run_of(path)
    if run is not None:
        return open_run(run, device=device, sets=sets, words=words)
    return open_official(path, device=device, sets=sets, words=words, data_root=data_root)


def _newest(runs: Path) -> Path:
    from tbps_cli.models.run import newest

    path = newest(runs)
    if path is None:
        raise WeightsError(
            f"there is no finished run in {runs}.", "Name one: --ckpt RUN-OR-FILE; or make one: tbps train demo"
        )
    logger.info("ckpt: %s (the newest run in %s)", path, runs)
    return path


def _exported(path: Path, sets: Sequence[str], words: Path | None) -> ExportedModel:
    from tbps_cli.models.exported import ExportedModel

    if sets or words:
        flag = "--words" if words else f"--set {sets[0]}"
        raise UsageError(f"{flag}: {path} is an export, its settings are fixed.", "Give the run it was made from.")
    return ExportedModel(path)


def _runs_there(runs: Path) -> str:
    from tbps_cli.models.run import list_runs

    known = [str(run) for run in list_runs(runs)][:5]
    return f"Runs here: {', '.join(known)}." if known else "Give a run folder or the file of a checkpoint."
