"""A gallery that is served: indexed in the background, answered from as far as it is, opened anew when it has grown.

Whoever searches takes a `View`, in which rows and hashes belong together whatever the background does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tbps_cli.errors import TbpsError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.parts import part_paths
from tbps_cli.filtering.columns import Texts
from tbps_cli.searching.arrivals import Noticing, look_every
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.orders import GroupedBy
from tbps_cli.searching.questions import askable
from tbps_cli.searching.sources import Sources
from tbps_cli.searching.withheld import Forgotten, list_beside, list_in_cache
from tbps_cli.serving.picture_ids import PathHashes

logger = logging.getLogger("tbps")
PAUSE = 1.0
"""Seconds after a change before the sources are listed: many changes come at once."""
FOREVER = 1e9
LOOK_AT_FILE = 2.0
"""Seconds after which an index file is looked at."""
CAMERAS = 500
"""Cameras that are listed."""


@dataclass(frozen=True)
class View:
    """A gallery at one moment."""

    gallery: Gallery

    @cached_property
    def hashes(self) -> PathHashes:
        """Finds rows by the ids of images."""
        return PathHashes(self.gallery.rows)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the page makes its filters from: cameras with how many images each has, first and last time."""
        columns, known = self.gallery.columns, askable(self.gallery)
        cameras = columns.column("camera")
        counted: list[dict[str, Any]] = []
        if isinstance(cameras, Texts):
            codes = cameras.code_G
            names = cameras.text_V.tolist()
            counts = np.bincount(codes, minlength=len(names)) if codes is not None else np.ones(len(names), int)
            named = [(name, int(count)) for name, count in zip(names, counts, strict=True) if name]
            counted = [
                {"name": name.decode("utf-8", "replace"), "images": count} for name, count in sorted(named)[:CAMERAS]
            ]
        return {
            "images": len(self.gallery),
            "fields": list(columns.known()),
            "cameras": counted,
            "first": known.first,
            "last": known.last,
            "groups": [one.value for one in GroupedBy if one is GroupedBy.near_duplicate or columns.knows(one.value)],
        }


@dataclass(frozen=True)
class Settings:
    """How sources are indexed."""

    footage: FootageSettings = field(default_factory=FootageSettings)
    download: bool = False
    workers: int | None = None
    precision: str = "auto"
    refresh: bool = True
    """False takes an index that is there as it is."""


class ServedGallery:
    """One gallery of the server, and the thread that keeps it up to date."""

    def __init__(
        self,
        number: int,
        name: str,
        model: Encoder,
        sources: Sources | Path,
        given: Sequence[str | Path],
        settings: Settings = Settings(),
    ) -> None:
        """sources: where the images lie, or an index file. given: the same as it was typed."""
        self.number, self.name, self.model, self.sources, self.settings = number, name, model, sources, settings
        self.given = list(given)
        self._view: View | None = None
        self._lists: object = None
        self._lock = threading.RLock()
        self.forgotten = Forgotten()
        """What must not be shown although an index may still hold it."""
        self.busy = True
        """Whether it is being indexed."""
        self.progress: tuple[int, int] | None = None
        """Images done, and those to do, while it is indexed."""
        self.trouble: TbpsError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"tbps-gallery-{number}")

    @property
    def view(self) -> View | None:
        """The gallery as it is now; without what was forgotten a moment ago, whatever the thread is busy with."""
        if self._view is not None and self._lists != self._state_of_lists():
            with self._lock:
                if self._lists != self._state_of_lists():
                    self._show(self._view.gallery)
        return self._view

    @property
    def from_file(self) -> bool:
        """Whether it is an index file, whose sources are not looked at."""
        return isinstance(self.sources, Path)

    @property
    def folders(self) -> list[Path]:
        """Where changes are noticed at once: the sources that are folders.

        Never a folder around them: all that lies in it would be watched, and nothing is answered while that begins.
        """
        if isinstance(self.sources, Path):
            return []
        roots = self.sources.roots
        return [path for path in (list(roots.named.values()) or [roots.folder]) if path.is_dir()]

    def start(self) -> None:
        """Begin to index, in the background."""
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Stop looking; an index that is being written stays whole whatever happens."""
        self._stop.set()
        self._thread.join(seconds)

    def document(self) -> dict[str, Any]:
        """What GET /v1/galleries says of it."""
        state = "indexing" if self.busy else "ready"
        if self.view is None and self.trouble is not None:
            state = "failed"
        made: dict[str, Any] = {"name": self.name, "state": state, "watchable": not self.from_file}
        made |= self.view.facts if self.view else {"images": 0, "fields": [], "cameras": [], "groups": []}
        if self.progress is not None and self.busy:
            made["progress"] = {"done": self.progress[0], "total": self.progress[1]}
        if self.trouble is not None:
            made["trouble"] = {"message": self.trouble.message, "hint": self.trouble.hint}
        return made

    # The thread ---------------------------------------------------------------------------------

    def _keep(self) -> None:
        noticing = Noticing()
        state: object = None
        while not self._stop.is_set():
            now = self._state()
            if self.view is None or now is None or now != state:
                self._renew()
                state = now
            noticing.follow(self.folders if self.settings.refresh else [])
            seconds = LOOK_AT_FILE if self.from_file else look_every(self.folders)
            noticing.wait(seconds if self.settings.refresh else FOREVER, self._stop)
            self._stop.wait(PAUSE)
        noticing.close()

    def _state(self) -> object:
        """What changes when an index file does; None for sources, which say themselves whether something is new."""
        if not isinstance(self.sources, Path):
            return None
        try:
            files = [self.sources, *part_paths(self.sources)]
            return [(path, path.stat().st_mtime_ns, path.stat().st_ino) for path in files if path.exists()]
        except OSError:
            return 0

    def _renew(self) -> None:
        """Bring the gallery up to date; what is wrong is kept for whoever asks, and the last view stays."""
        self.busy = self.view is None or not self.from_file
        try:
            gallery = self._opened()
            if self.view is None or self._changed(gallery):
                self._show(gallery)
        except TbpsError as error:
            if self.trouble is None or self.trouble.message != error.message:
                logger.warning("%s: %s", self.name, error.message)
            self.trouble = error
        else:
            self.trouble = None
        self.busy, self.progress = False, None

    def _opened(self) -> Gallery:
        if isinstance(self.sources, Path):
            return open_index(self.model, self.sources)
        settings = self.settings
        refresh = settings.refresh or self.view is not None
        return index(
            self.model,
            self.sources,
            footage=settings.footage,
            download=settings.download,
            workers=settings.workers,
            precision=settings.precision,
            refresh=refresh,
            progress=self._progress,
            grown=_Growing(self._show) if self.view is None else None,
        )

    def _progress(self, done: int, total: int) -> None:
        self.progress = done, total

    def _changed(self, gallery: Gallery) -> bool:
        assert self.view is not None
        shown, update = self.view.gallery, gallery.update
        if len(gallery) != len(shown) or update.added or update.removed or self.from_file:
            return True
        return not np.array_equal(gallery.rows.columns["path"], shown.rows.columns["path"])

    def _show(self, gallery: Gallery) -> None:
        with self._lock:
            lists = self._state_of_lists()  # before they are read: what comes meanwhile is seen by the next request
            forgotten = Forgotten.of_lists(self._list_files())
            hidden = forgotten.covers(gallery.rows, gallery.roots) if forgotten else np.zeros(0, bool)
            if hidden.any():
                left = np.flatnonzero(~hidden)
                gallery = replace(gallery, rows=gallery.rows.take(left), vector_GE=gallery.vector_GE[left], file=None)
            view = View(gallery)
            view.hashes  # noqa: B018 - made here, so that no request waits for it
            view.facts  # noqa: B018
            self._view, self._lists, self.forgotten = view, lists, forgotten

    def _list_files(self) -> list[Path]:
        """The lists of what was forgotten (`tbps index --forget`) that count here."""
        return [list_in_cache(), *([list_beside(self.sources)] if isinstance(self.sources, Path) else [])]

    def _state_of_lists(self) -> object:
        """What changes when one of the lists does."""
        made: list[tuple[int, int]] = []
        for path in self._list_files():
            with suppress(FileNotFoundError):
                about = path.stat()
                made.append((about.st_mtime_ns, about.st_size))
        return made


class _Growing:
    """Takes the gallery while it is being indexed, as often as takes little of the time."""

    def __init__(self, show: Callable[[Gallery], None]) -> None:
        self.show, self.next = show, 0.0

    def __call__(self, gallery: Gallery) -> None:
        began = time.monotonic()
        if began < self.next or not len(gallery):
            return
        self.show(gallery)
        self.next = time.monotonic() + 20 * (time.monotonic() - began)


def names_of(galleries: Sequence[ServedGallery]) -> str:
    """The names of galleries, for messages."""
    return ", ".join(gallery.name for gallery in galleries)
