"""A drawn street of twelve seconds for tests, drawn once a session and read with its truth."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tbps_cli.footage.boxes import Detection
from tbps_cli.footage.frames import frames
from tbps_cli.synthetic.street import Street, build_street

SMALL = Street(persons=10, cameras=2, seconds=12, size=(480, 360), rate=3, seed=4)


@pytest.fixture(scope="session")
def _small_street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("street") / "synthetic-street"
    build_street(folder, SMALL, workers=1)
    return folder


@pytest.fixture
def small_street(_small_street: Path, tmp_path: Path) -> Path:
    """A street of two cameras and ten persons: `clips/`, `frames/` and `queries.jsonl`, a copy of one's own."""
    folder = tmp_path / "synthetic-street"
    for file in _small_street.rglob("*"):
        if file.is_file():
            place = folder / file.relative_to(_small_street)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    return folder


def truth_of(clip: Path) -> dict[str, Any]:
    """The truth file of a clip."""
    found: dict[str, Any] = json.loads(clip.with_suffix(".json").read_text("utf-8"))
    return found


class TrueBoxes:
    """A detector that knows the street: it gives the true boxes of those of whom enough can be seen."""

    name = fingerprint = "true-boxes"

    def __init__(self, street: Path, least: float = 0.3) -> None:
        self.boxes: dict[str, list[Detection]] = {}
        for clip in street.glob("clips/*.mp4"):
            for frame, true in zip(frames(clip), truth_of(clip)["frames"], strict=True):
                self.boxes[_mark(frame.image)] = [
                    Detection(tuple(box["box"]), box["visible"]) for box in true["boxes"] if box["visible"] >= least
                ]

    def __call__(self, frame: Image.Image) -> list[Detection]:
        return self.boxes[_mark(frame)]


def _mark(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()
