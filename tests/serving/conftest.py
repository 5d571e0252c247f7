"""A server in this process over a few painted images, asked without a network; and a real one in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.encoder import COLOURS, FakeEncoder

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from starlette.testclient import TestClient

from tbps_cli.searching.sources import find_sources
from tbps_cli.serving.app import make_app
from tbps_cli.serving.batching import TextBatches
from tbps_cli.serving.metrics import Metrics
from tbps_cli.serving.security import Access
from tbps_cli.serving.served import ServedGallery, Settings
from tbps_cli.serving.served_database import ServedDatabase, name_of
from tbps_cli.serving.service import Service
from tbps_cli.serving.standing import StandingQuestions
from tbps_cli.serving.work_queue import WorkQueues

Serving = Callable[..., TestClient]


def paint(path: Path, colour: str, size: tuple[int, int] = (16, 32), **options: Any) -> Path:
    """An image of one colour, (width, height) in pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, **options)
    return path


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("tbps_cli.serving.standing.SETTLED", 0.2)  # nothing here is written slowly
    monkeypatch.setattr("tbps_cli.serving.served.PAUSE", 0.1)
    monkeypatch.setattr("tbps_cli.serving.served.LOOK_AT_FILE", 0.2)


@pytest.fixture
def painted() -> Callable[..., Path]:
    return paint


def three(folder: Path) -> Path:
    """A red, a green and a blue image; the last two are of cameras."""
    paint(folder / "red.png", "red")
    paint(folder / "cam1" / "cam1_20260105-100000.png", "green")
    paint(folder / "cam2" / "cam2_20260106-180000.jpg", "blue")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return three(tmp_path / "photos")


def until(true: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What a condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def _served(number: int, place: Path | str, model: FakeEncoder, settings: Settings) -> ServedGallery:
    """A folder, an index file, or the URL of a database."""
    if isinstance(place, str):
        database = ServedDatabase(number, name_of([place]), model, [place], settings)
        database.open()
        return database
    sources = place if place.suffix == ".h5" else find_sources([place])
    return ServedGallery(number, place.name, model, sources, [place], settings)


@pytest.fixture
def serving() -> Iterator[Serving]:
    """Makes a client of a server over folders or an index file; ready when all galleries are."""
    with ExitStack() as stack:

        def serve(
            *folders: Path | str, model: FakeEncoder | None = None, access: Access | None = None,
            client: str = "127.0.0.1", host: str = "localhost", settings: Settings = Settings(), wait: bool = True,
            **more: Any,
        ) -> TestClient:  # fmt: skip
            encoder = model or FakeEncoder()
            galleries = [_served(number, place, encoder, settings) for number, place in enumerate(folders)]
            texts = TextBatches(encoder)
            service = Service(encoder, galleries, texts, **more)
            standing = StandingQuestions(galleries, "1000/h")
            for gallery in galleries:
                gallery.start()
                stack.callback(gallery.stop)
                if wait:
                    assert until(lambda gallery=gallery: gallery.view and not gallery.busy), gallery.trouble
            stack.callback(texts.close)
            app = make_app(service, standing, access or Access(), Metrics(), WorkQueues(2))
            found = TestClient(app, base_url=f"http://{host}", client=(client, 50000), raise_server_exceptions=True)
            found.service = service  # type: ignore[attr-defined]
            return stack.enter_context(found)

        yield serve


@pytest.fixture
def threads_end() -> Iterator[None]:
    """No thread of a server is left behind."""
    yield
    left = until(lambda: not [one for one in threading.enumerate() if one.name.startswith("tbps-gallery")])
    assert left
