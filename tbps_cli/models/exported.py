"""An exported folder as an encoder: onnxruntime and numpy, no torch.

The folder says everything: `tbps.json` names the method, tokenizer, transform and fingerprint; the
graphs end in unit rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.augment.transform import EvalTransform
from tbps_cli.choices import Choices
from tbps_cli.data.image_files import MAX_PIXELS
from tbps_cli.errors import WeightsError
from tbps_cli.features.encoder import ImageWay
from tbps_cli.features.image_ways import ON_CPU, has_bf16, own_way
from tbps_cli.models import openvino_graph
from tbps_cli.models.export_files import AGAIN, FILES, check_description, check_file, check_graph
from tbps_cli.models.manifest import MANIFEST, read_manifest
from tbps_cli.models.onnx_graph import Graph, TextGraph
from tbps_cli.models.openvino_graph import NAME, SUFFIX, OpenVinoGraph
from tbps_cli.text.long_captions import Cutting, embed_pieces
from tbps_cli.text.tokenizer import Tokenizer, from_description
from tbps_cli.text.tokenizer_file import FILE

if TYPE_CHECKING:
    from PIL import Image


class PixelTransform(EvalTransform):
    """The resize alone: for a graph that normalises by itself (`tbps export --fused`)."""

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:  # type: ignore[override]
        """RGB image -> uint8 [H, W, 3]."""
        return self.pixels(image)


class ExportedModel:
    """Encodes images and captions with the graphs of one folder: a `features.encoder.Encoder`."""

    batch = 64
    max_pixels = MAX_PIXELS

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.manifest = read_manifest(folder)
        check_description(self.manifest, folder / MANIFEST)
        self.name: str = self.manifest["method"]
        self.data: str | None = self.manifest.get("data")
        self.precision: str = self.manifest.get("precision", "fp32")
        # int8 graphs scale their activations by the largest of a batch: alone, a row is what it is in any company
        self.alone = self.precision == "int8"
        self.fingerprint: str = self.manifest["fingerprint"] + ("-alone" if self.alone else "")
        self.embed: int = self.manifest["embed"]
        self.choices = Choices.read(self.manifest)
        self.selected_on = self.choices.selected_on
        self.settings = ()
        self.batch_dependent: str | None = None
        self.method = None
        self.recipe = None
        self.notes: list[str] = []
        if self.manifest["tokenizer"].get("kind") == "bpe":
            _check_tokenizer(self.manifest, folder / FILE)
        self.tokenizer: Tokenizer = from_description(self.manifest["tokenizer"], folder / FILE)
        self.places_taken = int(self.manifest.get("places_taken", 0))
        chunked = self.manifest.get("long_captions") == "chunk" and isinstance(self.tokenizer, Cutting)
        self.pieces: Cutting | None = self.tokenizer if chunked else None  # type: ignore[assignment]
        self.fused = bool(self.manifest.get("fused"))
        """Whether the image graph takes images as they are; batches need one size, so they are resized before."""
        try:
            transform = PixelTransform if self.fused else EvalTransform
            self.transform: EvalTransform = transform.from_description(self.manifest["transform"])
        except (ValueError, TypeError) as error:
            raise WeightsError(f"{folder / MANIFEST}: {error}.", "Export again.") from None
        # opened at their first use: a sentence needs no image graph, an index no text graph
        check = partial(check_graph, self.manifest)
        self._image = Graph(folder / "image.onnx", check=check)
        self._text = TextGraph(folder / "text.onnx", few=self.precision == "fp32", check=check)

    def open_text(self) -> None:
        """Open the text graph now. Raises WeightsError when it is damaged: better before a folder is embedded."""
        self._text.open()

    def check_files(self) -> None:
        """Open the text graph, and read the files of the image graph.

        Raises WeightsError for what was altered or is gone, and for an onnxruntime that is too old.
        """
        self.open_text()
        check_graph(self.manifest, self.path / "image.onnx")
        for name in {"image.onnx", *(self.manifest.get(FILES) or ())}:
            if name.startswith("image.onnx") and not (self.path / name).is_file():
                raise WeightsError(f"{self.path / name} is gone.", AGAIN)

    def image_ways(self) -> list[ImageWay]:
        """The graph as onnxruntime runs it, and in bfloat16 by OpenVINO where that is installed (extra `openvino`)."""
        own = replace(own_way(self), batch=ON_CPU, release=self._close)
        if self.precision != "fp32" or not has_bf16() or not openvino_graph.is_there():
            return [own]
        graph = OpenVinoGraph(self.path / "image.onnx", check=partial(check_graph, self.manifest))
        return [own, ImageWay(NAME, "bf16", SUFFIX, graph, ON_CPU, graph.close)]

    def _close(self) -> None:
        """Let go of both graphs until they are used again."""
        self._image.close()
        self._text.close()

    def weights_changed(self) -> bool:
        """Never: a graph holds its weights as constants."""
        return False

    def cut_count(self, texts: Sequence[str]) -> int:
        """How many captions lose their last words; none where they are embedded in pieces."""
        return 0 if self.pieces else self.tokenizer.cut_count(texts, taken=self.places_taken)

    def encode_texts(
        self, texts: Sequence[str], *, batch: int | None = None, query: bool = False
    ) -> NDArray[np.float32]:
        """Sentences -> [B, E] float32 unit rows."""
        batch = batch or self.batch
        if texts and self.pieces:
            rows = [self._pooled(texts[at : at + batch], batch, query) for at in range(0, len(texts), batch)]
            return np.concatenate(rows)
        return self._run(self._text, [self.tokenizer([text], query=query)[0] for text in texts], batch)

    def _pooled(self, texts: Sequence[str], batch: int, query: bool) -> NDArray[np.float32]:
        assert self.pieces is not None
        run = lambda token_BT: self._run(self._text, list(token_BT), batch)  # noqa: E731
        return embed_pieces(run, self.pieces, texts, query=query, taken=self.places_taken)

    def encode_images(
        self,
        images: Sequence[str | Path | Image.Image],
        *,
        batch: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Paths or images -> [B, E] float32 unit rows."""
        rows, batch = [], batch or self.batch
        for start in range(0, len(images), batch):
            arrays = [self._array(image) for image in images[start : start + batch]]
            rows.append(self._run(self._image, arrays, batch))
            if progress:
                progress(min(start + batch, len(images)), len(images))
        return np.concatenate(rows) if rows else np.zeros((0, self.embed), np.float32)

    def image_arrays(self, image_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Transformed images [B, 3, H, W] -> [B, E] float32 unit rows."""
        return self._run(self._image, list(image_BCHW), len(image_BCHW) or 1)

    def _array(self, image: str | Path | Image.Image) -> NDArray[np.float32]:
        from tbps_cli.data.images import read_image, to_rgb  # and with it PIL: a sentence needs none

        opened = read_image(Path(image)) if isinstance(image, str | Path) else to_rgb(image)
        return self.transform(opened)

    def _run(self, graph: Graph, rows: Sequence[NDArray[Any]], batch: int) -> NDArray[np.float32]:
        if not rows:
            return np.zeros((0, self.embed), np.float32)
        size = 1 if self.alone else batch
        parts = [graph(np.stack(rows[start : start + size])) for start in range(0, len(rows), size)]
        return np.concatenate(parts).astype(np.float32, copy=False)


def _check_tokenizer(facts: Mapping[str, Any], path: Path) -> None:
    """Raise WeightsError where the vocabulary is not the exported one; tbps has it in open_clip, tbps-lite has not."""
    if check_file(facts, path) and not path.is_file() and find_spec("open_clip") is None:
        raise WeightsError(f"{path}, which holds the vocabulary of sentences, is missing.", AGAIN)
