"""A trained method as an encoder: sentences and images in, unit rows out.

Everything above (evaluation, index, search) sees a `features.encoder.Encoder`, which this class fulfils as
its twin over exported graphs does, and never a method.
"""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbps_cli import methods
from tbps_cli.augment.transform import EvalTransform
from tbps_cli.choices import Choices
from tbps_cli.data.images import read_image, to_rgb
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import ImageWay
from tbps_cli.features.fingerprint import fingerprint
from tbps_cli.features.image_ways import ON_CPU, has_bf16, own_way
from tbps_cli.methods.base import Method, TextSources
from tbps_cli.models import openvino_graph
from tbps_cli.models.code_state import WEIGHTS, code_state
from tbps_cli.models.device import choose, resolved
from tbps_cli.models.kept_images import graph_of
from tbps_cli.models.official import Official
from tbps_cli.models.openvino_graph import NAME, SUFFIX, OpenVinoGraph
from tbps_cli.models.run import Run
from tbps_cli.models.states import check_tokens, method_of
from tbps_cli.nn.block import Attention
from tbps_cli.recipe.schema import Recipe
from tbps_cli.remembered import recall, remember, state_of_file
from tbps_cli.text.long_captions import Cutting, embed_pieces
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.types import Task
from tbps_cli.weights.mapped_pages import ReadOnce

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger("tbps")

if hasattr(os, "register_at_fork"):
    # OpenMP's threads do not survive a fork, and whoever waits for them waits for ever. One thread needs none.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

Rows = NDArray[np.float32]
Progress = Callable[[int, int], None]


class Model:
    """One method with its weights, tokenizer and transform, on one device, in float32."""

    precision = "fp32"

    def __init__(
        self,
        method: Method,
        recipe: Recipe,
        path: Path,
        *,
        device: torch.device | str = "cpu",
        tokenizer: Tokenizer | None = None,
        choices: Choices | None = None,
        settings: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.method = method.to(device).eval()
        self.recipe = recipe
        self.path = path
        self.device = torch.device(device)
        self.name: str = recipe.method.name
        self.data: str | None = recipe.data.name
        self.tokenizer = tokenizer or method.tokenizer(recipe.method)
        self.transform: EvalTransform = method.eval_transform(recipe.method, method.task)
        self.batch_dependent: str | None = method.batch_dependent(recipe.method)
        self.places_taken: int = method.places_taken(recipe.method)
        self.pieces: Cutting | None = None
        """The tokenizer that cuts long captions into pieces, when the recipe asks for it."""
        if recipe.method.long_captions == "chunk":
            if not isinstance(self.tokenizer, Cutting) or self.batch_dependent:
                raise UsageError(
                    f'method.long_captions = "chunk" does not suit {self.name} as it is set.',
                    "Leave it at cut: this form has no pieces to average.",
                )
            self.pieces = self.tokenizer
        self.choices = choices or Choices()
        self.selected_on = self.choices.selected_on
        self.settings = tuple(settings)
        self.notes = list(notes)
        self.batch: int = recipe.train.eval_batch
        """Images or captions embedded at a time when a call does not say."""
        self.max_pixels: int = recipe.data.max_pixels
        self._mark: str | None = None
        self._file: Path | None = None
        """The file that its weights were read from, where they are those of a file alone."""
        self._halved: Method | None = None
        self._graph: OpenVinoGraph | None = None

    @cached_property
    def embed(self) -> int:
        """Length of a row (E)."""
        length = self.image_arrays(np.zeros((1, 3, *self.transform.size), np.float32)).shape[1]
        ReadOnce(self._file).done()
        return length

    @cached_property
    def _tokens(self) -> int:
        """How many tokens the checkpoint's table holds."""
        return len(self.method.state_dict()[self.method.token_table])

    @property
    def fingerprint(self) -> str:
        """16 hex digits over everything that an embedding depends on; the batch only where it matters."""
        mark = self._mark or self.marked()._mark
        return fingerprint(mark, self.batch if self.batch_dependent else None)

    def marked(self, file: list[object] | None = None) -> Model:
        """Itself, with its weights taken down as they are: from here on a change of them shows.

        file: the state of the file that alone they were just read from (`remembered.state_of_file`). Hashing them takes
        longer than mapping them, and reads all of them, so it is done once a file.
        """
        self._file = None if file is None else Path(str(file[0]))
        key = None if file is None else [file, self._settings(), code_state(WEIGHTS)]
        known = recall("fingerprints", key) if key else None
        mark = str(known.get("mark")) if known else ""
        if re.fullmatch(r"[0-9a-f]{16}", mark):  # it becomes part of a file name
            self._mark = mark
            return self
        self._mark = self._weights_mark()
        if key:
            remember("fingerprints", key, {"mark": self._mark})
        return self

    def weights_changed(self) -> bool:
        """Whether the weights are others than when they were taken down, which opening them does."""
        return self._mark is not None and self._weights_mark() != self._mark

    def _weights_mark(self) -> str:
        weights = {
            name: tensor
            for name, tensor in self.method.state_dict().items()
            if not name.startswith(self.method.training_only)
        }
        reading = ReadOnce(self._file)
        made = fingerprint(weights, *self._settings(), read=reading)
        reading.done()
        return made

    def _settings(self) -> tuple[dict[str, object], dict[str, object], str, dict[str, object]]:
        """What embeddings depend on beside the weights."""
        # the length of captions is the tokenizer's and the position table's, the colours are the transform's
        config = self.recipe.method.model_dump(mode="json", exclude={"weights", "context", "mean", "std"})
        return self.tokenizer.describe(), self.transform.describe(), self.precision, config

    def cut_count(self, texts: Sequence[str]) -> int:
        """How many captions lose their last words; none where they are embedded in pieces."""
        return 0 if self.pieces else self.tokenizer.cut_count(texts, taken=self.places_taken)

    def encode_texts(
        self, texts: Sequence[str], *, batch: int | None = None, query: bool = False, progress: Progress | None = None
    ) -> Rows:
        """Sentences -> float32 [B, E] unit rows.

        query: the sentences come from a person who searches: special tokens written out in them are
        taken as ordinary words. progress: called with (done, total). Raises WeightsError when the
        checkpoint has fewer tokens than the tokenizer has ids.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        check_tokens(self._tokens, self.tokenizer, str(self.path))

        def encode(start: int, stop: int) -> Rows:
            if self.pieces:
                return embed_pieces(
                    self.text_arrays, self.pieces, texts[start:stop], query=query, taken=self.places_taken
                )
            return self.text_arrays(self.tokenizer(texts[start:stop], query=query))

        return self._in_batches(encode, len(texts), batch, progress)

    def encode_images(
        self,
        images: Sequence[str | Path | Image.Image],
        *,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Rows:
        """Paths or PIL images -> float32 [B, E] unit rows. Raises UnreadableImage naming the path."""
        images = [images] if isinstance(images, str | Path) else list(images)

        def encode(start: int, stop: int) -> Rows:
            return self.image_arrays(np.stack([self._prepared(image) for image in images[start:stop]]))

        return self._in_batches(encode, len(images), batch, progress)

    def _prepared(self, image: str | Path | Image.Image) -> Rows:
        if isinstance(image, str | Path):
            return self.transform(read_image(image, max_pixels=self.max_pixels))
        return self.transform(to_rgb(image))

    def _in_batches(
        self, encode: Callable[[int, int], Rows], total: int, batch: int | None, progress: Progress | None
    ) -> Rows:
        if not total:
            return np.zeros((0, self.embed), np.float32)
        rows = []
        size = batch or self.batch
        for start in range(0, total, size):
            rows.append(encode(start, min(start + size, total)))
            if progress:
                progress(min(start + size, total), total)
        return np.concatenate(rows)

    def image_arrays(self, image_BCHW: Rows | Tensor) -> Rows:
        """Transformed images [B, 3, H, W] -> float32 [B, E] unit rows."""
        return self._embedded(self.method.encode_images, image_BCHW)

    def image_ways(self) -> list[ImageWay]:
        """float32, and bfloat16 where the device has it: by OpenVINO too where that is installed."""
        on_cpu = self.device.type == "cpu"
        exact = replace(own_way(self), batch=ON_CPU if on_cpu else self.batch, release=ReadOnce(self._file).done)
        if self.batch_dependent or not (has_bf16() if on_cpu else self.device.type == "cuda"):
            return [exact]
        by_torch = ImageWay("bf16", "bf16", "-bf16", self._bf16_arrays, exact.batch, self._release_bf16)
        if not on_cpu or not openvino_graph.is_there():
            return [exact, by_torch]
        by_openvino = ImageWay(NAME, "bf16", SUFFIX, self._openvino_arrays, exact.batch, self._release_openvino)
        return [exact, by_openvino, by_torch]

    def _bf16_arrays(self, image_BCHW: Rows) -> Rows:
        """`image_arrays` with products in bfloat16; sums, norms and the embeddings themselves are float32."""
        if self._halved is None:
            self._halved = halved(self.method, self._file) if self.device.type == "cpu" else self.method
        with torch.autocast(self.device.type, torch.bfloat16):
            return self._embedded(self._halved.encode_images, image_BCHW)

    def _release_bf16(self) -> None:
        self._halved = None

    def _openvino_arrays(self, image_BCHW: Rows) -> Rows:
        if self._graph is None:
            self._graph = graph_of(self, self.method, self._file)
            ReadOnce(self._file).done()  # PyTorch's weights are not read any more
        return self._graph(image_BCHW)

    def _release_openvino(self) -> None:
        if self._graph is not None:
            self._graph.close()

    def text_arrays(self, token_BT: NDArray[np.int64] | Tensor) -> Rows:
        """Token ids [B, T] -> float32 [B, E] unit rows."""
        return self._embedded(self.method.encode_texts, token_BT)

    def _embedded(self, encode: Callable[[Tensor], Tensor], given: NDArray[np.generic] | Tensor) -> Rows:
        with torch.inference_mode():
            tensor = given if isinstance(given, Tensor) else torch.from_numpy(given)
            rows: Rows = encode(tensor.to(self.device)).float().cpu().numpy()
        return rows


def halved(method: Method, file: Path | None) -> Method:
    """The method for bfloat16 products alone: the weights of its image tower's products are bfloat16 already.

    All else is shared with `method`. file: what its weights are mapped from. Under autocast the embeddings are those of
    `method` to the bit: it would round the same weights in the same way for every batch.
    """
    shared = {id(tensor): tensor for tensor in (*method.parameters(), *method.buffers())}
    made = copy.deepcopy(method, dict(shared))
    reading = ReadOnce(file)
    tower = getattr(getattr(made, "clip", None), "visual", None)
    for module in tower.modules() if isinstance(tower, nn.Module) else ():
        name = "weight" if type(module) is nn.Linear else "in_proj_weight" if isinstance(module, Attention) else None
        if name is not None:
            weight = getattr(module, name)
            setattr(module, name, nn.Parameter(weight.detach().bfloat16(), requires_grad=False))
            reading(weight.nbytes)
    reading.done()
    return made


def open_run(
    run: Run, *, device: str = "auto", sets: Sequence[str] = (), words: Path | None = None, told: bool = False
) -> Model:
    """The best weights of a run (or the chosen file of it) as an encoder.

    told: whether the device and what is doubtful have been told already.
    """
    recipe = run.recipe_with(tuple(sets))
    sources = TextSources(words=words, kept=run.tokenizer(), data=recipe.data.name)
    text = methods.find(recipe.method.name).text_input(recipe.method, sources)
    recipe = recipe.model_copy(update={"method": text.config})
    chosen = resolved(device)[0] if told else choose(device)
    state = None if text.tensors else state_of_file(run.weights_file)
    tensors = {**run.weights(), **text.tensors}
    method, _ = method_of(lambda: build(recipe), tensors, name=str(run.weights_file))
    if not told:
        run.warn_of_doubts()
    recipe = folded(method, recipe)
    return Model(
        method,
        recipe,
        run.folder,
        device=chosen,
        tokenizer=text.tokenizer,
        choices=run.choices,
        settings=sets,
    ).marked(state)


def open_official(
    found: Official,
    path: Path,
    *,
    origin: str = "",
    device: str = "auto",
    sets: Sequence[str] = (),
    words: Path | None = None,
    data_root: Path | None = None,
) -> Model:
    """A foreign checkpoint, found at `path` with some settings, as an encoder.

    origin: where it was fetched, for its notes. One logged line says that it was converted.
    """
    chosen = choose(device)
    state = state_of_file(found.source.path)
    made = found.load(words=words, data_root=data_root)
    logger.info("ckpt: %s is an official checkpoint, converted on the fly: %s", path, made.coverage)
    recipe = folded(made.method, made.recipe)
    return Model(
        made.method,
        recipe,
        path,
        device=chosen,
        tokenizer=made.tokenizer,
        choices=found.choices,
        settings=sets,
        notes=[*([origin] if origin else []), str(made.coverage)],
    ).marked(state if made.from_file_alone else None)


def folded(method: Method, recipe: Recipe) -> Recipe:
    """Make a method with its weights ready for inference (`Method.fold`); returns the recipe of what it is then."""
    method.fold()
    return recipe.model_copy(update={"method": method.config})


def build(recipe: Recipe, identities: int = 0) -> Method:
    """The method of a recipe, without trained weights. identities: 0 builds no identity classifier."""
    return methods.find(recipe.method.name)(recipe.method, Task(recipe.data.image_size, identities))
