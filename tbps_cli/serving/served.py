"""A gallery that is served: indexed in the background, answered from as far as it is, opened anew when it has grown.

Whoever searches takes a `View`, in which rows and hashes belong together whatever the background does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tbps_cli import files
from tbps_cli.errors import DataError, TbpsError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.parts import part_paths
from tbps_cli.filtering.columns import Texts
from tbps_cli.searching.arrivals import Noticing, look_every
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index
from tbps_cli.searching.index_state import FootageSettings, IndexingGiven
from tbps_cli.searching.orders import GroupedBy
from tbps_cli.searching.questions import askable
from tbps_cli.searching.sources import Sources
from tbps_cli.searching.withheld import Forgotten, list_beside, list_in_cache
from tbps_cli.serving.picture_ids import PathHashes, id_of
from tbps_cli.serving.shared_ranking import SharedGallery

logger = logging.getLogger("tbps")
PAUSE = 1.0
"""Seconds after a change before the sources are listed: many changes come at once."""
FOREVER = 1e9
LOOK_AT_FILE = 2.0
"""Seconds after which an index file is looked at."""
CAMERAS = 500
"""Cameras that are listed."""


class NotReadyError(DataError):
    """A gallery of which nothing can be said now: 503."""


@dataclass(frozen=True)
class View:
    """A gallery at one moment."""

    gallery: Gallery

    @cached_property
    def hashes(self) -> PathHashes:
        """Finds rows by the ids of images."""
        return PathHashes(self.gallery.rows)

    def find(self, mark: int | str) -> tuple[Gallery, int] | None:
        """The row that an id means, and the gallery in which it stands; None where there is none (any more)."""
        place = self.hashes.place(mark) if isinstance(mark, int) else None
        return None if place is None else (self.gallery, place)

    def id_of(self, number: int, path: str) -> str:
        """The id of a row of the gallery with this number."""
        return id_of(number, path)

    @cached_property
    def cameras(self) -> dict[str, tuple[str, int | None]]:
        """What each camera is called in answers -> its name, and how many images it has (None: nobody has counted).

        Names need not be UTF-8; what no text can hold is written as \\xff.
        """
        cameras = self.gallery.columns.column("camera")
        if not isinstance(cameras, Texts):
            return {}
        names = cameras.text_V.tolist()
        counts: list[int | None] = [1] * len(names)
        if cameras.code_G is not None:
            counts = np.bincount(cameras.code_G, minlength=len(names)).tolist()
        listed = sorted((name, count) for name, count in zip(names, counts, strict=True) if name)
        return {name.decode("utf-8", "backslashreplace"): (text_of(name), count) for name, count in listed}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the page makes its filters from: cameras with how many images each has, first and last time."""
        columns, known = self.gallery.columns, askable(self.gallery)
        listed = islice(self.cameras.items(), CAMERAS)
        return {
            "images": len(self.gallery),
            "fields": list(columns.known()),
            "cameras": [{"name": name} | ({} if count is None else {"images": count}) for name, (_, count) in listed],
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
    root: Path | None = None
    """Where the images of an index file or a database lie on this machine, if elsewhere than they say."""

    @property
    def indexing(self) -> IndexingGiven:
        """How images become rows, as `index` and `watch` take it by name."""
        return {
            "footage": self.footage,
            "download": self.download,
            "precision": self.precision,
            "workers": self.workers,
        }


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
        self._noticing = Noticing()
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
    def grows(self) -> bool:
        """Whether an answer may be incomplete since it is still being indexed."""
        return not self.from_file

    @property
    def far(self) -> bool:
        """Whether its rows lie in a database, which may take its time."""
        return False

    @property
    def unwatchable(self) -> str | None:
        """Why standing questions cannot be asked of it; None where they can."""
        return "is an index file, to which nothing comes by itself" if self.from_file else None

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Around all that is asked of it, since a database may be lost meanwhile."""
        yield

    def ready(self) -> View:
        """What can be asked. Raises NotReadyError."""
        view = self.view
        if view is not None:
            return view
        if self.trouble is not None:
            raise NotReadyError(self.trouble.message, self.trouble.hint)
        raise NotReadyError(f"gallery {self.name} is still being opened.", "Try again in a moment.")

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

    def look(self) -> None:
        """See now whether something has arrived."""
        self._noticing.look()

    def document(self) -> dict[str, Any]:
        """What GET /v1/galleries says of it."""
        state = "indexing" if self.busy else "ready"
        if self.view is None and self.trouble is not None:
            state = "failed"
        made: dict[str, Any] = {"name": self.name, "state": state, "watchable": self.unwatchable is None}
        if self.unwatchable is not None:
            made["unwatchable"] = f"This gallery {self.unwatchable}."
        view = self.view
        made |= view.facts if view else {"images": 0, "fields": [], "cameras": [], "groups": []}
        if self.progress is not None and self.busy:
            made["progress"] = {"done": self.progress[0], "total": self.progress[1]}
        if self.trouble is not None:
            made["trouble"] = {"message": self.trouble.message, "hint": self.trouble.hint}
        return made

    # The thread ---------------------------------------------------------------------------------

    def _keep(self) -> None:
        noticing = self._noticing
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
            return [(path, files.identity(path)) for path in (self.sources, *part_paths(self.sources))]
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
            return open_index(self.model, self.sources, root=self.settings.root)
        settings = self.settings
        refresh = settings.refresh or self.view is not None
        return index(
            self.model,
            self.sources,
            **settings.indexing,
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
            forgotten = Forgotten.of_lists(self._list_files)
            hidden = forgotten.covers(gallery.rows, gallery.roots) if forgotten else np.zeros(0, bool)
            if hidden.any():
                left = np.flatnonzero(~hidden)
                gallery = replace(gallery, rows=gallery.rows.take(left), vector_GE=gallery.vector_GE[left], file=None)
            view = View(SharedGallery.of(gallery))
            view.hashes  # noqa: B018 - made here, so that no request waits for it
            view.facts  # noqa: B018
            self._view, self._lists, self.forgotten = view, lists, forgotten

    @cached_property
    def _list_files(self) -> list[Path]:
        """The lists of what was forgotten (`tbps index --forget`) that count here."""
        return [list_in_cache(), *([list_beside(self.sources)] if isinstance(self.sources, Path) else [])]

    def _state_of_lists(self) -> object:
        """What changes when one of the lists does."""
        return list(map(files.identity, self._list_files))


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


def text_of(name: bytes) -> str:
    """A name as columns have it, as text; what is no UTF-8 survives."""
    return name.decode("utf-8", "surrogateescape")


def names_of(galleries: Sequence[ServedGallery]) -> str:
    """The names of galleries, for messages."""
    return ", ".join(gallery.name for gallery in galleries)
