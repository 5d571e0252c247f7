"""Images of one colour and an encoder that sees colours, so that searches have right answers without training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.encoder import COLOURS, FakeEncoder


def paint(path: Path, colour: str, size: tuple[int, int] = (16, 32), **options: object) -> Path:
    """An image of one colour, (width, height) in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, **options)
    return path


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


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
def model() -> FakeEncoder:
    return FakeEncoder()


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
