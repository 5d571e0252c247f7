"""A run that was opened before: what it says of itself is remembered, and its weights are opened when they are needed.

Evaluating from the cache and searching an index with a sentence need a tokenizer, a transform, a fingerprint and a few
words about the model, but hardly its weights: so PyTorch stays unimported, which takes longer than the rest of such a
command. What is remembered belongs to the very files of the run, the code that read them and this machine; a run that
was trained on, or moved, is opened anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.augment.transform import EvalTransform
from tbps_cli.choices import Choices
from tbps_cli.errors import TbpsError, WeightsError
from tbps_cli.features.encoder import Embeddings, ImageWay
from tbps_cli.models import kept_images, openvino_graph
from tbps_cli.models.code_state import EVERYTHING, code_state
from tbps_cli.models.kept_tower import KeptTower
from tbps_cli.models.openvino_graph import SUFFIX, OpenVinoGraph
from tbps_cli.models.run import RECIPE, TOKENIZER, Run
from tbps_cli.remembered import recall, remember, state_of_file
from tbps_cli.text.long_captions import Cutting, embed_pieces
from tbps_cli.text.tokenizer import Tokenizer, from_description

if TYPE_CHECKING:
    from PIL import Image

    from tbps_cli.models.model import Model
    from tbps_cli.recipe.schema import Stated

logger = logging.getLogger("tbps")

KIND = "runs"
FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class RunFacts:
    """What an opened run says of itself, as JSON has it."""

    method: str
    data: str
    fingerprint: str
    embed: int
    batch: int
    max_pixels: int
    batch_dependent: str | None
    places_taken: int
    in_pieces: bool
    """Whether long captions are embedded in pieces."""
    tokenizer: dict[str, object]
    transform: dict[str, object]
    ways: list[list[Any]]
    """Name, precision, suffix and batch of each way of embedding images."""
    device: str
    """The device that computes, with the reason for it."""

    @classmethod
    def of(cls, model: Model, device: str) -> RunFacts:
        """device: with its reason, as the log says it."""
        return cls(
            model.name,
            str(model.data),
            model.fingerprint,
            model.embed,
            model.batch,
            model.max_pixels,
            model.batch_dependent,
            model.places_taken,
            model.pieces is not None,
            model.tokenizer.describe(),
            model.transform.describe(),
            [[way.name, way.precision, way.suffix, way.batch] for way in model.image_ways()],
            device,
        )

    @classmethod
    def read(cls, known: Mapping[str, Any] | None) -> RunFacts | None:
        """What was remembered; None where it is not what this version remembers."""
        if known is None or known.keys() != {field.name for field in fields(cls)}:
            return None
        found = cls(**known)
        # it becomes part of a file name
        return found if FINGERPRINT.fullmatch(str(found.fingerprint)) else None


def key_of(run: Run, device: str) -> list[object] | None:
    """What the facts of a run belong to; None while its weights may still be changing."""
    weights = state_of_file(run.weights_file)
    if weights is None:
        return None
    files = [_digest(run.folder / name) for name in (RECIPE, TOKENIZER)]
    devices = [os.environ.get("CUDA_VISIBLE_DEVICES"), Path("/dev/nvidiactl").exists(), device]
    machine = [platform.node(), *devices, openvino_graph.is_there()]
    return [weights, files, machine, code_state(EVERYTHING)]


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def ready_run(run: Run, device: str, *, by_graph: bool = False) -> KnownRun | Model:
    """A run as it is remembered, else opened now. by_graph: as `KnownRun` takes it.

    The device that was chosen before is logged as if it were chosen now. Raises what opening a run raises.
    """
    key = key_of(run, device)
    facts = RunFacts.read(recall(KIND, key)) if key else None
    if facts is not None:
        with suppress(TbpsError, ValueError, TypeError):  # remembered by another version, or damaged
            known = KnownRun(run, facts, device, by_graph=by_graph)
            logger.info("device: %s", facts.device)
            run.warn_of_doubts()
            return known
    from tbps_cli.models.device import resolved
    from tbps_cli.models.model import open_run

    model = open_run(run, device=device)
    if key is None:
        return model
    chosen, reason = resolved(device)
    facts = RunFacts.of(model, f"{chosen} ({reason})")
    remember(KIND, key, asdict(facts))
    return KnownRun(run, facts, device, by_graph=by_graph, model=model)


class KnownRun:
    """A run as an encoder (`features.encoder.Encoder`) that is opened when somebody asks for what needs its weights.

    by_graph: sentences of people who search go through the graph that was kept of its text tower, where there is one.
    """

    precision = "fp32"
    settings: tuple[str, ...] = ()

    def __init__(
        self, run: Run, facts: RunFacts, device: str, *, by_graph: bool = False, model: Model | None = None
    ) -> None:
        self.run, self.facts, self._device = run, facts, device
        self.path = run.folder
        self.name, self.data = facts.method, facts.data
        self.fingerprint, self.embed = facts.fingerprint, facts.embed
        self.batch, self.max_pixels = facts.batch, facts.max_pixels
        self.batch_dependent, self.places_taken = facts.batch_dependent, facts.places_taken
        self.tokenizer: Tokenizer = from_description(facts.tokenizer)
        self.transform = EvalTransform.from_description(facts.transform)
        self.choices: Choices = run.choices
        self.pieces: Cutting | None = None
        if facts.in_pieces:
            assert isinstance(self.tokenizer, Cutting)
            self.pieces = self.tokenizer
        self.tower = KeptTower.find(run, facts.fingerprint) if by_graph else None
        self._model = model
        self._images: OpenVinoGraph | None = None

    @property
    def model(self) -> Model:
        """The run, opened."""
        if self._model is None:
            from tbps_cli.models.model import open_run

            self._model = open_run(self.run, device=self._device, told=True)
        return self._model

    @cached_property
    def recipe(self) -> Stated | None:
        """The sections that say whose data, and what the paper reports."""
        from tbps_cli.recipe.load import stated

        return stated(self.run.folder / RECIPE)

    def weights_changed(self) -> bool:
        """Whether the weights are others than when they were opened; what is not open cannot change."""
        return self._model is not None and self._model.weights_changed()

    def cut_count(self, texts: Sequence[str]) -> int:
        """How many captions lose their last words; none where they are embedded in pieces."""
        return 0 if self.pieces else self.tokenizer.cut_count(texts, taken=self.places_taken)

    def encode_texts(self, texts: Sequence[str], *, batch: int | None = None, query: bool = False) -> Embeddings:
        """Sentences -> [B, E] float32 unit rows."""
        texts = list(texts)
        if self.tower is not None and query and texts:
            try:
                return self._by(self.tower, texts)
            except WeightsError as error:  # damaged: the model does it, and the next search keeps the tower anew
                logger.debug("%s is not used: %s", self.tower.folder, error.message)
                self.tower.discard()
                self.tower = None
        return self.model.encode_texts(texts, batch=batch, query=query)

    def _by(self, tower: KeptTower, texts: Sequence[str]) -> Embeddings:
        if self.pieces is not None:
            return embed_pieces(tower, self.pieces, texts, query=True, taken=self.places_taken)
        return tower(self.tokenizer(texts, query=True))

    @property
    def opened(self) -> Model | None:
        """The model, if its weights were needed."""
        return self._model

    def encode_images(self, images: Sequence[str | Path | Image.Image], *, batch: int | None = None) -> Embeddings:
        """Paths or images -> [B, E] float32 unit rows."""
        return self.model.encode_images(images, batch=batch)

    def image_arrays(self, image_BCHW: NDArray[np.float32]) -> Embeddings:
        """Transformed images [B, 3, H, W] -> [B, E] float32 unit rows."""
        return self.model.image_arrays(image_BCHW)

    def image_ways(self) -> list[ImageWay]:
        """The ways that the run had when it was opened; each opens it when images come."""
        ways = []
        for place, (name, precision, suffix, batch) in enumerate(self.facts.ways):
            embed, release = partial(self._embed, place, suffix), partial(self._release, place, suffix)
            ways.append(ImageWay(name, precision, suffix, embed, batch, release))
        return ways

    def _embed(self, place: int, suffix: str, image_BCHW: NDArray[np.float32]) -> Embeddings:
        """Images by one of the ways, by its place among them: by the kept graph without opening the run."""
        if suffix == SUFFIX and self._images is None and self._model is None:
            self._images = kept_images.kept(self.run.weights_file, self.fingerprint)
        if suffix == SUFFIX and self._images is not None:
            try:
                return self._images(image_BCHW)
            except WeightsError as error:  # damaged: it is made anew
                logger.debug("%s is not used: %s", self._images.path, error.message)
                kept_images.discard(self.run.weights_file, self.fingerprint)
                self._images = None
        return self.model.image_ways()[place].embed(image_BCHW)

    def _release(self, place: int, suffix: str) -> None:
        if suffix == SUFFIX and self._images is not None:
            self._images.close()
        if self._model is not None:
            self._model.image_ways()[place].release()
