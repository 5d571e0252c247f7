"""Torchvision's detectors with weights from a file, which is read without running any of it.

A file of one's own may hold a detector that was trained further: any of those in `known_detectors.KNOWN`, told by the
names and shapes of its tensors, with persons as class 1 as in COCO.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tbps_cli.errors import UsageError, WeightsError
from tbps_cli.footage.boxes import Detection, whole_boxes
from tbps_cli.footage.known_detectors import KNOWN
from tbps_cli.footage.operators import torchvision
from tbps_cli.nn.draw import shapes_alone
from tbps_cli.weights.weights_file import read_tensors, state_of

_PERSON = 1
"""COCO's first class; 0 is the background."""
_LEAST = 0.5
_VERSION = 1
"""To be raised when other boxes come out."""
_CLASSES = "roi_heads.box_predictor.cls_score.bias"
_BUFFER = ".num_batches_tracked"
"""Ends the name of a tensor that only training reads."""


class TorchvisionDetector:
    """Finds persons, also those who are half hidden, sit or bend."""

    def __init__(self, path: Path, name: str | None = None, *, device: str = "auto") -> None:
        """name: one of `known_detectors.KNOWN`; None finds out which it is. Raises WeightsError and UsageError."""
        self.device = _device(device)
        tensors = state_of(read_tensors(path))
        kind = name or _kind(path, tensors)
        self.name = name or path.name
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.fingerprint = f"{kind}-{digest[:12]}-{_VERSION}"
        self._model = _model(kind, tensors)
        lacking, surplus = _differences(self._model, tensors)
        if lacking or surplus:
            raise WeightsError(
                f"{path} does not hold the weights of {kind}: {_said(lacking, surplus)}.", "Fetch the file again."
            )
        self._model.load_state_dict(tensors, strict=False)
        self._model.eval().to(self.device)

    def __call__(self, frame: Image.Image) -> list[Detection]:
        pixels = torch.from_numpy(np.array(frame)).to(self.device).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            (found,) = self._model([pixels])
        wanted = (found["labels"] == _PERSON) & (found["scores"] >= _LEAST)
        return whole_boxes(found["boxes"][wanted].cpu().numpy(), found["scores"][wanted].cpu().numpy(), frame.size)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(wanted)
    except RuntimeError:
        raise UsageError(f"--device {wanted}: there is no such device.", "For example: cpu, cuda") from None


def _model(kind: str, tensors: dict[str, Tensor]) -> nn.Module:
    classes = len(tensors[_CLASSES]) if _CLASSES in tensors else None
    return torchvision().models.get_model(kind, weights=None, weights_backbone=None, num_classes=classes)


def _kind(path: Path, tensors: dict[str, Tensor]) -> str:
    """Which of torchvision's detectors these are the weights of; where two have the same tensors, the name says it."""
    fitting = []
    for kind in KNOWN:
        with shapes_alone():
            model = _model(kind, tensors)
        if not any(_differences(model, tensors)):
            fitting.append(kind)
    if not fitting:
        raise WeightsError(
            f"{path} holds no detector that is known here.", f"Known: {', '.join(KNOWN)}; or an ONNX graph (.onnx)."
        )
    return max(fitting, key=lambda kind: (kind in path.name, -len(kind)))


def _differences(model: nn.Module, tensors: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names of tensors that a file lacks or has in another shape, and of those that the model has no place for."""
    own = {name: value.shape for name, value in model.state_dict().items() if not name.endswith(_BUFFER)}
    given = {name: value.shape for name, value in tensors.items() if not name.endswith(_BUFFER)}
    return [name for name, shape in own.items() if given.get(name) != shape], [
        name for name in given if name not in own
    ]


def _said(lacking: list[str], surplus: list[str]) -> str:
    parts = [f"{len(lacking)} tensors are missing or have another shape (first: {lacking[0]})"] if lacking else []
    return "; ".join([*parts, *([f"{len(surplus)} belong to something else (first: {surplus[0]})"] if surplus else [])])
