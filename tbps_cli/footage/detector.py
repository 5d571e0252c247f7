"""What finds persons in a frame: torchvision's detectors, any ONNX graph, or OpenCV's that is always there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

from PIL import Image

from tbps_cli.errors import UsageError
from tbps_cli.footage.boxes import Detection as Detection

logger = logging.getLogger("tbps")


class Detector(Protocol):
    """Called with a frame in RGB, it gives the persons in it, the surest first.

    name: as a user chose it. fingerprint: equal where the same frame gives the same boxes; a name for a folder.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, frame: Image.Image) -> list[Detection]: ...


def open_detector(name: str | Path | None, *, download: bool = False, device: str = "auto") -> Detector:
    """Open a detector by its name or the path of its file; None is the best that is at hand.

    One line says which was opened, why, what it cannot do and what would be better. download: fetch weights that are
    not on this machine. device: as everywhere; "auto" is a GPU where there is one. Raises UsageError and WeightsError.
    """
    from tbps_cli.footage.hog import HogDetector

    if name is None or str(name) == "hog":
        return HogDetector()
    raise UsageError(f"--detector {name}: there is no such detector.", "Known: hog.")
