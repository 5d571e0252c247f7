"""Any ONNX graph that finds persons, by the layout of its outputs, with onnxruntime.

The input is one image, float32 [1, 3, H, W] (a free batch counts as 1, free H and W as 640). The outputs are one of

1. YOLOX: one array [1, N, 5 + classes], with N the cells of strides 8, 16 and 32: centre and size in pixels of the
   input, or as logarithms before decoding (both are recognised), whether there is an object, classes. The image stands
   in the upper left corner, scaled to fit, the rest is 114; BGR from 0 to 255.
2. RT-DETR of transformers: `logits` [1, N, classes] and `pred_boxes` [1, N, 4], centre and size in parts of the image.
3. RT-DETR of its authors: `labels`, `boxes`, `scores`, and a second input `orig_target_sizes`: corners in pixels of the
   frame.
4. RT-DETR of ultralytics: one array [1, N, 4 + classes], centre and size in parts of the image.
5. One's own: `boxes` [N, 4], corners in pixels of the input, `scores` [N], and perhaps `labels` [N].

For 2 to 5 the image is scaled to H x W, whatever its shape; RGB from 0 to 1.
A person is the class that the graph's metadata `names` calls one, else class 0.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_cli.errors import MissingExtra, WeightsError
from tbps_cli.footage.boxes import Detection, merged, whole_boxes

Array = NDArray[np.float32]
Found = tuple[Array, Array]
"""Corners [N, 4] in pixels of the frame, scores [N]."""

_SIDE = 640
_STRIDES = 8, 16, 32
_GREY = 114
_LEAST_YOLOX, _LEAST_DETR = 0.3, 0.5
_VERSION = 1
"""To be raised when other boxes come out."""
_RAW = 16.0
"""YOLOX before decoding has logarithms of sizes; decoded, the largest of some thousand boxes has far more pixels."""
_CONTRACT = "The outputs of YOLOX and RT-DETR are known, and boxes + scores: see docs/videos.md."


class OnnxDetector:
    """A graph of one's own; raises WeightsError where its outputs are none of the known layouts."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self._session = _session(path)
        with path.open("rb") as file:
            self.fingerprint = f"onnx-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}-{_VERSION}"
        inputs = {node.name: node for node in self._session.get_inputs()}
        self._sizes_input = next((name for name in inputs if name == "orig_target_sizes"), None)
        images = [node for name, node in inputs.items() if name != self._sizes_input]
        if len(images) != 1 or len(images[0].shape) != 4 or images[0].type != "tensor(float)":
            said = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs.values())
            raise WeightsError(f"{path}: a detector takes one float32 image [1, 3, H, W], not {said}.", _CONTRACT)
        self._input = images[0].name
        height, width = images[0].shape[2:]
        self._size = (width if isinstance(width, int) else _SIDE), (height if isinstance(height, int) else _SIDE)
        self._outputs = [node.name for node in self._session.get_outputs()]
        self._person = _person(path, self._session.get_modelmeta().custom_metadata_map.get("names"))
        self._read = self._layout()

    def __call__(self, frame: Image.Image) -> list[Detection]:
        corners, scores = self._read(frame)
        return whole_boxes(corners, scores, frame.size)

    def _layout(self) -> Callable[[Image.Image], Found]:
        """How the outputs are read, from their names, and their shapes for a grey image."""
        names = set(self._outputs)
        if {"logits", "pred_boxes"} <= names:
            return self._transformers
        if {"boxes", "scores"} <= names:
            return self._corners
        grey = Image.new("RGB", self._size, (_GREY, _GREY, _GREY))
        output = self._run(self._stretched(grey), grey.size)[self._outputs[0]]
        cells = sum((self._size[0] // stride) * (self._size[1] // stride) for stride in _STRIDES)
        if len(names) == 1 and output.ndim == 3 and output.shape[2] > 5 and output.shape[1] == cells:
            raw = float(self._run(self._fitted(grey)[0], grey.size)[self._outputs[0]][..., 2:4].max()) < _RAW
            return self._yolox_raw if raw else self._yolox
        if len(names) == 1 and output.ndim == 3 and output.shape[2] > 4:
            return self._ultralytics
        said = ", ".join(
            f"{name} {list(value.shape)}" for name, value in self._run(self._stretched(grey), grey.size).items()
        )
        raise WeightsError(f"{self.path}: its outputs ({said}) are not those of a detector that is known.", _CONTRACT)

    def _run(self, pixels: Array, size: tuple[int, int]) -> Mapping[str, Array]:
        given: dict[str, NDArray[Any]] = {self._input: pixels}
        if self._sizes_input:
            given[self._sizes_input] = np.array([size], np.int64)
        try:
            return dict(zip(self._outputs, self._session.run(None, given), strict=True))
        except Exception as error:  # onnxruntime raises classes of its own
            said = str(error).splitlines()[0]
            raise WeightsError(f"{self.path}: onnxruntime cannot run it: {said:.200}", _CONTRACT) from None

    # Images as the networks take them ---------------------------------------------------------

    def _stretched(self, frame: Image.Image) -> Array:
        pixels = np.asarray(frame.resize(self._size, Image.Resampling.BILINEAR)).astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])

    def _fitted(self, frame: Image.Image) -> tuple[Array, float]:
        """The image in the upper left corner, and what it was scaled by."""
        scale = min(self._size[0] / frame.width, self._size[1] / frame.height)
        size = max(1, int(frame.width * scale)), max(1, int(frame.height * scale))
        whole = Image.new("RGB", self._size, (_GREY, _GREY, _GREY))
        whole.paste(frame.resize(size, Image.Resampling.BILINEAR), (0, 0))
        return np.ascontiguousarray(np.asarray(whole)[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)), scale

    # Outputs as the networks give them ---------------------------------------------------------

    def _transformers(self, frame: Image.Image) -> Found:
        found = self._run(self._stretched(frame), frame.size)
        scores = 1 / (1 + np.exp(-found["logits"][0].astype(np.float64)))
        return _surest(_of_one(found["pred_boxes"][0], frame.size), scores, self._person, _LEAST_DETR)

    def _ultralytics(self, frame: Image.Image) -> Found:
        found = self._run(self._stretched(frame), frame.size)[self._outputs[0]][0]
        return _surest(_of_one(found[:, :4], frame.size), found[:, 4:], self._person, _LEAST_DETR)

    def _corners(self, frame: Image.Image) -> Found:
        found = {
            name: value.reshape(-1, 4) if name == "boxes" else value.reshape(-1)
            for name, value in self._run(self._stretched(frame), frame.size).items()
        }
        corners, scores = found["boxes"].astype(np.float32), found["scores"].astype(np.float32)
        if not self._sizes_input:
            corners = corners * np.tile(np.divide(frame.size, self._size), 2).astype(np.float32)
        wanted = scores >= _LEAST_DETR
        if "labels" in found:
            wanted &= found["labels"] == self._person
        return corners[wanted], scores[wanted]

    def _yolox_raw(self, frame: Image.Image) -> Found:
        return self._yolox(frame, raw=True)

    def _yolox(self, frame: Image.Image, *, raw: bool = False) -> Found:
        pixels, scale = self._fitted(frame)
        found = self._run(pixels, frame.size)[self._outputs[0]][0].astype(np.float64)
        centre, size = found[:, :2], found[:, 2:4]
        if raw:
            cell, stride = _cells(self._size)
            centre, size = (centre + cell) * stride, np.exp(np.minimum(size, 20)) * stride
        every = np.concatenate([centre - size / 2, centre + size / 2], axis=1) / scale
        corners, scores = _surest(every, found[:, 4:5] * found[:, 5:], self._person, _LEAST_YOLOX)
        kept = merged(corners, scores, overlap=0.45)
        return corners[kept], scores[kept]


def _surest(corners: NDArray[Any], scores_NC: NDArray[Any], person: int, least: float) -> Found:
    """Boxes whose likeliest class is a person, sure enough."""
    if person >= scores_NC.shape[1]:
        return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    wanted = (scores_NC.argmax(axis=1) == person) & (scores_NC[:, person] >= least)
    return corners[wanted].astype(np.float32), scores_NC[wanted, person].astype(np.float32)


def _of_one(boxes: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float64]:
    """Centre and size in parts of the image -> corners in pixels of the frame."""
    centre, half = boxes[:, :2].astype(np.float64), boxes[:, 2:4].astype(np.float64) / 2
    return np.concatenate([centre - half, centre + half], axis=1) * np.tile(size, 2)


def _cells(size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Column and row of each of YOLOX's cells [N, 2], and its stride [N, 1]."""
    cells, strides = [], []
    for stride in _STRIDES:
        rows, columns = np.mgrid[: size[1] // stride, : size[0] // stride]
        cells.append(np.stack([columns.ravel(), rows.ravel()], axis=1))
        strides.append(np.full((rows.size, 1), stride))
    return np.concatenate(cells).astype(np.float64), np.concatenate(strides).astype(np.float64)


def _person(path: Path, names: str | None) -> int:
    """The number of the class of persons, from metadata such as {0: 'person', 1: 'bicycle'}."""
    if not names:
        return 0
    try:
        table = ast.literal_eval(names)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        table = None
    if isinstance(table, (list, tuple)):
        table = dict(enumerate(table))
    found = [number for number, name in table.items() if name == "person"] if isinstance(table, dict) else []
    if len(found) != 1 or not isinstance(found[0], int):
        raise WeightsError(f"{path}: its metadata names no class person ({names:.80}).", _CONTRACT)
    return found[0]


def _session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnxruntime", None, f"--detector {path}") from None
    if not path.is_file():
        raise WeightsError(f"--detector {path}: there is no such file.", "Give the path of an ONNX graph.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is said below, once
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own for every kind of broken file
        said = str(error).splitlines()[0]
        raise WeightsError(f"--detector {path}: onnxruntime cannot open it: {said:.200}", "Export it again.") from None
