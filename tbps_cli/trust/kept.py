"""Where the calibration of a model lies; most have none, and then nothing more is imported."""

from __future__ import annotations

from pathlib import Path

from tbps_cli.features.encoder import Encoder
from tbps_cli.models.manifest import is_exported
from tbps_cli.models.run import RECIPE
from tbps_cli.places import cache_dir

FILE = "calibration.json"


def folder_of(checkpoint: Path) -> Path | None:
    """The calibration in a checkpoint's own folder, if tbps wrote that; None for files and folders of others."""
    if checkpoint.is_dir() and ((checkpoint / RECIPE).is_file() or is_exported(checkpoint)):
        return checkpoint / FILE
    return None


def place_of(model: Encoder) -> Path:
    """Where the calibration of a model lies: in its folder, else in the cache."""
    return folder_of(model.path) or cache_dir() / "remembered" / f"calibration-{model.fingerprint}.json"
