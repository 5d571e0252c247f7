"""A gallery in a database that is served: its rows stay there, and what an answer needs of them is fetched.

A thread looks now and then whether the gallery has grown, and opens it anew then. While the database is away, whoever
asks is told so at once, instead of waiting for it in turn; it is tried again every few seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tbps_cli.databases.urls import shown
from tbps_cli.errors import DatabaseError, TbpsError, UnreachableError
from tbps_cli.features.encoder import Encoder
from tbps_cli.searching.database_gallery import DatabaseGallery, database_gallery, open_remote
from tbps_cli.searching.gallery import Gallery
from tbps_cli.serving.picture_ids import far_id_of
from tbps_cli.serving.served import NotReadyError, ServedGallery, Settings, View

logger = logging.getLogger("tbps")
LOOK = 10.0
"""Seconds after which the size of the gallery is asked for."""
ANEW = 300.0
"""Seconds after which it is opened anew also where its size has not changed: other rows may have come for some."""
AGAIN = 2.0
"""Seconds after which a database that was lost is tried again."""
PAUSE = 0.2
"""Seconds between two looks, however many requests fail."""


@dataclass(frozen=True)
class DatabaseView(View):
    """A gallery in a database at one moment, as far as it is known here."""

    gallery: DatabaseGallery

    @cached_property
    def cameras(self) -> dict[str, tuple[str, int | None]]:
        return {shown: (name, None) for shown, (name, _) in super().cameras.items()}

    def find(self, mark: int | str) -> tuple[Gallery, int] | None:
        found = self.gallery.found(mark) if isinstance(mark, str) else None
        return None if found is None else (found, 0)

    def id_of(self, number: int, path: str) -> str:
        return far_id_of(number, path)


class ServedDatabase(ServedGallery):
    """A gallery of the server that lies in a database."""

    def __init__(
        self, number: int, name: str, model: Encoder, urls: Sequence[str], settings: Settings = Settings()
    ) -> None:
        """urls: of the database, or of all shards of the gallery."""
        super().__init__(number, name, model, Path(), [], settings)
        self._urls = list(urls)
        self._opened_at = 0.0
        self._woken = threading.Event()

    @property
    def view(self) -> View | None:
        return self._view

    @property
    def far(self) -> bool:
        return True

    @property
    def grows(self) -> bool:
        return False

    @property
    def unwatchable(self) -> str | None:
        return "lies in a database, which other processes fill: tbps watch asks questions where the images arrive"

    def open(self) -> None:
        """Open it before anybody is answered. Raises DatabaseError for what does not get better by itself."""
        try:
            self._open()
        except UnreachableError as error:
            self._lose(error, None)
        self.busy = False

    def stop(self, seconds: float = 5.0) -> None:
        self._stop.set()
        self._woken.set()
        super().stop(seconds)
        self._view = None  # the connection ends with it

    @contextmanager
    def asked(self) -> Iterator[None]:
        view = self._view
        try:
            yield
        except DatabaseError as error:
            if isinstance(error, UnreachableError):
                self._lose(error, view)
            self._woken.set()
            raise NotReadyError(error.message, error.hint) from None

    # The thread ---------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._stop.is_set():
            view = self._view
            try:
                if self._is_old():
                    self._open()
            except TbpsError as error:
                self._lose(error, view)
            self.busy = False
            self._woken.wait(AGAIN if self._view is None else LOOK)
            self._woken.clear()
            self._stop.wait(PAUSE)

    def _is_old(self) -> bool:
        view = self._view
        if view is None or time.monotonic() - self._opened_at > ANEW:
            return True
        assert isinstance(view, DatabaseView)
        return view.gallery.database.count() != view.facts["images"]

    def _open(self) -> None:
        gallery = database_gallery(open_remote(self._urls), self.model, self.settings.root)
        gallery.drawn()  # so that no request waits for it
        view = DatabaseView(gallery)
        view.facts  # noqa: B018
        with self._lock:
            self._view, self._opened_at, self.trouble = view, time.monotonic(), None

    def _lose(self, error: TbpsError, view: View | None) -> None:
        """Nobody asks it until it is back, unless it is back already: view is what was asked."""
        with self._lock:
            if self._view is not view:
                return
            if self.trouble is None or self.trouble.message != error.message:
                logger.warning("%s", error.message)
            self.trouble, self._view = error, None


def name_of(urls: Sequence[str]) -> str:
    """What a gallery in a database is called: its URLs without their passwords."""
    return ", ".join(map(shown, urls))
