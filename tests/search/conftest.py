"""A model that sees colours, so that searches have right answers without any training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tbps_cli.augment.exact import EvalTransform
from tbps_cli.cli import render
from tbps_cli.text.bpe import Bpe

COLOURS = {"red": (220, 10, 10), "green": (10, 220, 10), "blue": (10, 10, 220), "yellow": (220, 220, 10)}


class Colours:
    """An image's row is its mean colour, a sentence's the sum of the colours that it names; both unit."""

    name, data, selected_on, precision, recipe, embed = "colours", "synthetic", None, "fp32", None, 3
    batch_dependent: str | None = None
    path = Path("runs/colours-0001")
    transform = EvalTransform((8, 4), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    tokenizer = Bpe(12)
    pieces = None
    places_taken = 0

    def __init__(self, fingerprint: str = "0123456789abcdef") -> None:
        self.fingerprint = fingerprint
        self.seen = 0
        self.texts: list[str] = []

    def image_arrays(self, image_BCHW):
        self.seen += len(image_BCHW)
        return unit(image_BCHW.mean(axis=(2, 3)))

    def encode_images(self, images):
        return self.image_arrays(np.stack([self.transform(Image.open(path).convert("RGB")) for path in images]))

    def encode_texts(self, texts, *, batch=None, query=False):
        self.texts += texts
        rows = [
            sum((np.array(COLOURS[word]) for word in text.split() if word in COLOURS), np.ones(3)) for text in texts
        ]
        return unit(np.array(rows, np.float32))


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def paint(path: Path, colour: str, size: tuple[int, int] = (16, 32), **options: object) -> Path:
    """An image of one colour, (width, height) in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, **options)
    return path


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Commands attach a handler to the logger; the next test starts without it."""
    yield
    logger = logging.getLogger("tbps")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, render.LogLines)]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """What the logger `tbps` has said since the last time, as one text."""
    with caplog.at_level(logging.INFO, logger="tbps"):

        def said() -> str:
            text = "\n".join(record.getMessage() for record in caplog.records)
            caplog.clear()
            return text

        yield said


@pytest.fixture
def model() -> Colours:
    return Colours()


@pytest.fixture
def painted() -> Callable[..., Path]:
    return paint


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """red.png, green.png and below/blue.jpg."""
    folder = tmp_path / "photos"
    paint(folder / "red.png", "red")
    paint(folder / "green.png", "green")
    paint(folder / "below" / "blue.jpg", "blue")
    return folder
