"""What finds persons in a frame: torchvision's detectors, any ONNX graph, or OpenCV's, which is always there.

A detector is named (`hog`, `fasterrcnn_resnet50_fpn_v2`) or given as a file (`yolox_s.onnx`, weights of torchvision's).
Without a name the best one whose weights are on this machine is taken; nothing is fetched unless somebody says so.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Protocol

from PIL import Image

from tbps_cli.errors import TbpsError, UsageError, WeightsError
from tbps_cli.files import expanded
from tbps_cli.footage.boxes import Detection as Detection
from tbps_cli.footage.known_detectors import HOG, KNOWN, PROPOSED

logger = logging.getLogger("tbps")


class Detector(Protocol):
    """Called with a frame in RGB, it gives the persons in it, the surest first.

    name: as a user chose it. fingerprint: equal where the same frame gives the same boxes; the name of a folder.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, frame: Image.Image) -> list[Detection]: ...


def open_detector(name: str | Path | None, *, download: bool = False, device: str = "auto") -> Detector:
    """Open a detector by its name or the path of its file; None is the best that is at hand.

    One line says which was opened, why, what it cannot do and what would be better. download: fetch weights that are
    not on this machine. device: cpu, cuda, ...; "auto" is a GPU where there is one. Raises UsageError and WeightsError.
    """
    if name is None:
        return _best_at_hand(download, device)
    if str(name) == HOG:
        return _hog(f"as --detector {HOG} says")
    if str(name) in KNOWN:
        return _known(str(name), download, device)
    path = expanded(Path(name))
    if path.suffix.lower() == ".onnx":
        from tbps_cli.footage.onnx_detector import OnnxDetector

        return OnnxDetector(path)
    if path.is_file() or os.sep in str(name) or path.suffix:
        from tbps_cli.footage.torchvision_detector import TorchvisionDetector

        return TorchvisionDetector(path, device=device)
    raise UsageError(
        f"--detector {name}: there is no detector of that name.",
        f"Known: {HOG}, {', '.join(KNOWN)}; or the path of an ONNX graph or of weights of one of these.",
    )


def _best_at_hand(download: bool, device: str) -> Detector:
    """A detector of torchvision whose weights are here; the proposed one where it may be fetched; else HOG."""
    here = next((name for name, known in KNOWN.items() if known.found() is not None), None)
    if download:
        return _known(here or PROPOSED, download, device)
    if here is None:
        return _hog("no weights of a better one are on this machine")
    try:
        return _known(here, download, device)
    except TbpsError as error:  # nobody asked for it
        logger.warning("detector: %s cannot be used: %s", here, error.message)
        return _hog(f"{here} cannot be used")


def _hog(why: str) -> Detector:
    from tbps_cli.footage.hog import HogDetector

    logger.info(
        "detector: OpenCV's HOG (%s). It misses persons who sit, bend, are half hidden or below 50 pixels of height, "
        "and takes some poles for persons. Far better: --detector %s --download (%d MB, once)",
        why,
        PROPOSED,
        KNOWN[PROPOSED].megabytes,
    )
    return HogDetector()


def _known(name: str, download: bool, device: str) -> Detector:
    from tbps_cli.footage.torchvision_detector import TorchvisionDetector

    known = KNOWN[name]
    path = known.found()
    if path is None and not download:
        raise WeightsError(
            f"--detector {name}: its weights ({known.megabytes} MB) are not on this machine.",
            f"Add --download to fetch them from {known.url}, or put that file at {known.path}.",
        )
    if path is None:
        from tbps_cli.weights.pretrained import download as fetch

        path = fetch(known.url, known.path, sha256=known.sha256, otherwise=f"use --detector {HOG}")
    detector = TorchvisionDetector(path, name, device=device)
    logger.info("detector: %s on %s (%s)", name, detector.device, known.about)
    return detector
