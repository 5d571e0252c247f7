"""Anything that `--ckpt` accepts becomes one thing: an encoder of captions and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tbps_cli.models.exported import ExportedModel
    from tbps_cli.models.model import Model


def open_model(
    ckpt: str | Path | None = None,
    *,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    runs: Path = Path("runs"),
    data_root: str | Path | None = None,
) -> Model | ExportedModel:
    """Open a run folder, an exported folder or an official checkpoint (file or folder).

    ckpt: None takes the newest run below `runs` and says which.
    device: auto, cpu, cuda, cuda:N or mps. sets: `KEY=VALUE` of `[method]` or `[data]` that may change
    after training. words: the word table of a method that needs one; data_root: where else it may lie.
    An exported folder is opened without torch. Raises WeightsError, RecipeError or UsageError.
    """
    from tbps_cli.models.checkpoint import Checkpoint

    found = Checkpoint.find(ckpt, sets=sets, runs=runs)
    return found.open(device=device, words=words, data_root=data_root)
