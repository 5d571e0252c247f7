"""Standing questions of a server: kept in a file, judged by `tbps watch`'s own loop, told to whoever listens.

Each gallery with questions has a thread that watches its sources (`searching.watching`). Its journal has each alert
once, whatever is killed, so that a client that lost its connection is told what it missed: the id of an event says how
many lines of each journal were told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tbps_cli import files
from tbps_cli.errors import CacheError, TbpsError, UsageError
from tbps_cli.places import cache_dir
from tbps_cli.searching.arrivals import SETTLED
from tbps_cli.searching.journal import Journal
from tbps_cli.searching.query import Query
from tbps_cli.searching.watching import note_past, watch
from tbps_cli.serving.picture_ids import id_of, split_id
from tbps_cli.serving.served import ServedGallery

try:
    import fcntl
except ImportError:  # Windows: one server a cache
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tbps")
MOST = 50
"""Questions of one gallery."""
PAUSE = 15.0
"""Seconds after which a listener that was told nothing gets a comment, so that proxies keep the connection."""
AGAIN = 10.0
"""Seconds after which questions that cannot be asked are tried again."""
HELD, HELD_AGAIN = 60.0, 0.3
"""Seconds for which an alert waits for its image to be in the gallery that is shown, and after which that is seen."""
LOOK = 2.0
"""Seconds after which it is seen what other servers of the same cache have written: questions, and alerts."""


@dataclass(frozen=True)
class Question:
    """A standing question."""

    id: str
    gallery: str
    text: str
    since: str

    def document(self) -> dict[str, Any]:
        """As GET /v1/watch has it, and as it is kept."""
        return {"id": self.id, "gallery": self.gallery, "text": self.text, "since": self.since}


@dataclass
class _Watching:
    """The thread of one gallery."""

    texts: list[str]
    """What it asks."""
    stop: threading.Event
    thread: threading.Thread


@dataclass
class StandingQuestions:
    """All questions of a server."""

    galleries: list[ServedGallery]
    budget: str = "5/day"
    """How many alerts may come in a day, over all questions of a gallery."""
    folder: Path = field(default_factory=lambda: cache_dir() / "serve")
    settled: float = field(default_factory=lambda: SETTLED)
    """Seconds for which a file must stay as it is before a question is asked of it."""
    loop: asyncio.AbstractEventLoop | None = None
    _questions: list[Question] = field(default_factory=list)
    _deleted: set[tuple[str, str]] = field(default_factory=set)
    """Gallery and name of questions that were deleted since the server began: listeners are told of them no longer."""
    _watching: dict[str, _Watching] = field(default_factory=dict)
    _listeners: set[asyncio.Event] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Around every change of what is asked, and of the threads that ask it."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read what was kept, and watch; from now on also what other servers of this cache write."""
        self.loop = loop
        seen = self._written()
        with self._lock:
            self._take_up()
        threading.Thread(target=self._follow, args=(seen,), daemon=True, name="tbps-questions").start()

    def close(self) -> None:
        """Stop watching, and let listeners go."""
        self._ended.set()
        for watching in list(self._watching.values()):
            watching.stop.set()
        self._tell()

    def all(self) -> list[dict[str, Any]]:
        """The questions of galleries that are served."""
        return [question.document() for question in self._read() if self._served(question.gallery)]

    def add(self, served: ServedGallery, text: str) -> dict[str, Any]:
        """Keep a question and watch for it. Raises UsageError for one that cannot be watched for."""
        if served.unwatchable is not None:
            hint = "Serve its folder." if served.from_file else "tbps watch SOURCE --query TEXT, on that machine."
            raise UsageError(f"gallery {served.name} {served.unwatchable}.", hint)
        text = " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
        if not text:
            raise UsageError("the question is empty.", "For example: a man in a red coat")
        with self._lock:
            mine = [question for question in self._read() if question.gallery == served.name]
            same = next((question for question in mine if question.text == text), None)
            if same is not None:
                return same.document()
            if len(mine) >= MOST:
                raise UsageError(f"there are {MOST} questions already.", "Delete one.")
            # Now, not when its thread begins: what arrives as soon as the question is kept is told.
            note_past(served.given, [text], jsonl=self._journal(served.name))
            made = Question(secrets.token_hex(6), served.name, text, f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
            self._change(lambda kept: [*kept, made])
            self._take_up()
        return made.document()

    def remove(self, id: str) -> bool:
        """Delete a question; whether there was one. From then on nobody is alerted of it."""
        with self._lock:
            gone = next((question for question in self._read() if question.id == id), None)
            if gone is None:
                return False
            self._change(lambda kept: [question for question in kept if question.id != id])
            self._take_up()
        return True

    async def events(self, after: str | None) -> AsyncIterator[str]:
        """Server-sent events: the alerts after the one with this id; None: those from now on."""
        told = asyncio.Event()
        self._listeners.add(told)
        try:
            sent = self._counts(after)
            yield f"retry: 3000\nid: {'.'.join(map(str, sent))}\nevent: now\ndata: {{}}\n\n"
            while not self._ended.is_set():
                told.clear()
                held = False
                for place, served in enumerate(self.galleries):
                    for line in list(self._lines(served))[sent[place] :]:
                        untold = self._is_deleted(line) or _is_forgotten(served, line)
                        if not untold and _is_too_early(served, line):
                            held = True
                            break
                        sent[place] += 1
                        if untold:
                            continue
                        yield f"id: {'.'.join(map(str, sent))}\nevent: alert\ndata: {json.dumps(_shown(line))}\n\n"
                try:
                    async with asyncio.timeout(HELD_AGAIN if held else PAUSE):
                        await told.wait()
                except TimeoutError:
                    if not held:
                        yield ": nothing new\n\n"
        finally:
            self._listeners.discard(told)

    def alerts(self, last: int) -> list[dict[str, Any]]:
        """The last alerts, the newest first."""
        found = [
            line
            for served in self.galleries
            for line in self._lines(served)
            if not _is_forgotten(served, line) and not _is_too_early(served, line)
        ]
        newest = sorted(found, key=lambda line: str(line.get("found", "")), reverse=True)[:last]
        return [_shown(line) for line in newest]

    # Inside -------------------------------------------------------------------------------------

    def _counts(self, id: str | None) -> list[int]:
        """How many alerts of each gallery a client has seen; all of them where it does not say."""
        parts = (id or "").split(".")
        if len(parts) == len(self.galleries) and all(part.isdecimal() and len(part) < 12 for part in parts):
            return [int(part) for part in parts]
        return [sum(1 for _ in self._lines(served)) for served in self.galleries]

    def _lines(self, served: ServedGallery) -> Iterator[dict[str, Any]]:
        """The alerts of a gallery in order."""
        for line in Journal(self._journal(served.name)).lines():
            known = {key: line[key] for key in line if key not in ("exec", "run")}
            yield known | {"gallery": served.name, "picture": id_of(served.number, str(line.get("path", "")))}

    def _served(self, name: str) -> ServedGallery | None:
        return next((served for served in self.galleries if served.name == name), None)

    def _is_deleted(self, line: dict[str, Any]) -> bool:
        return (str(line["gallery"]), str(line["query"])) in self._deleted

    def _take_up(self) -> None:
        """Watch every gallery for the questions of now, in the place of those before. Under the lock."""
        before, self._questions = self._questions, self._read()
        self._deleted = (self._deleted | _names(before)) - _names(self._questions)
        for served in self.galleries:
            texts = [question.text for question in self._questions if question.gallery == served.name]
            old = self._watching.get(served.name)
            if served.unwatchable is not None or texts == (old.texts if old else []) or self._ended.is_set():
                continue
            if old is not None:
                old.stop.set()
                del self._watching[served.name]
            if texts:
                stop = threading.Event()
                thread = threading.Thread(
                    target=self._run, args=(served, texts, stop, old), daemon=True, name=f"tbps-watch-{served.number}"
                )
                self._watching[served.name] = _Watching(texts, stop, thread)
                if self._ended.is_set():  # since a moment ago
                    stop.set()
                thread.start()

    def _follow(self, seen: tuple[object, ...]) -> None:
        """Take up what other servers of this cache write: questions that are asked there, alerts told there."""
        while not self._ended.wait(LOOK):
            now = self._written()
            if now[0] != seen[0]:
                with self._lock:
                    self._take_up()
            if now[1:] != seen[1:]:
                self._tell()
            seen = now

    def _written(self) -> tuple[object, ...]:
        """What changes when the questions do, and when a journal does."""
        made: list[object] = []
        for path in (self._file, *(self._journal(served.name) for served in self.galleries)):
            try:
                made.append(files.identity(path))
            except OSError:
                made.append(None)
        return tuple(made)

    def _run(self, served: ServedGallery, texts: list[str], stop: threading.Event, before: _Watching | None) -> None:
        if before is not None:
            before.thread.join()
        said = ""
        while not stop.is_set():
            try:
                for _ in self._asked(served, texts, stop):
                    served.look()
                    self._tell()
            except TbpsError as error:
                if error.message != said:
                    logger.warning("standing questions of %s: %s They are tried again.", served.name, error.message)
                said = error.message
                stop.wait(AGAIN)

    def _asked(self, served: ServedGallery, texts: list[str], stop: threading.Event) -> Iterator[Any]:
        """The alerts of these questions, until `stop` is set."""
        return watch(
            served.model,
            served.given,
            texts,
            budget=self.budget,
            jsonl=self._journal(served.name),
            **served.settings.indexing,
            settled=self.settled,
            stop=stop,
            telling=lambda: self._telling(served, texts, stop),
        )

    @contextmanager
    def _telling(self, served: ServedGallery, texts: list[str], stop: threading.Event) -> Iterator[bool]:
        """While alerts are written down no question is deleted, here or by another server of this cache; whether all
        of these are asked still."""
        with self._lock, _locked(self.folder / "questions.lock"):
            kept = {question.text for question in self._read() if question.gallery == served.name}
            yield not stop.is_set() and kept.issuperset(texts)

    def _tell(self) -> None:
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for told in self._listeners:
            told.set()

    def _journal(self, gallery: str) -> Path:
        return self.folder / f"alerts-{blake2b(gallery.encode('utf-8', 'replace'), digest_size=6).hexdigest()}.jsonl"

    @property
    def _file(self) -> Path:
        return self.folder / "questions.json"

    def _read(self) -> list[Question]:
        """What is kept. A file that is damaged is moved aside, so that no new question is written over it."""
        try:
            listed = json.loads(self._file.read_text("utf-8"))
            return [Question(**{key: str(one[key]) for key in ("id", "gallery", "text", "since")}) for one in listed]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            aside = self._file.with_suffix(".damaged.json")
            with suppress(OSError):
                self._file.replace(aside)
            logger.warning(
                "%s cannot be read (%s): there are no standing questions. It is kept as %s.",
                self._file, error, aside.name,
            )  # fmt: skip
            return []

    def _change(self, changed: Callable[[list[Question]], list[Question]]) -> None:
        """Keep other questions. Several servers may share the file: what is there by now is what is changed."""
        with files.explained(self.folder, CacheError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / "questions.lock"):
                questions = changed(self._read())
                text = json.dumps([one.document() for one in questions], indent=1) + "\n"
                files.write_text(self._file, text, CacheError)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """No other process that locks this file runs meanwhile."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if fcntl is not None:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _names(questions: list[Question]) -> set[tuple[str, str]]:
    """Of each its gallery, and its name in the journal."""
    return {(question.gallery, str(Query(question.text))) for question in questions}


def _shown(line: dict[str, Any]) -> dict[str, Any]:
    """An alert as clients get it: without where its file lies."""
    return {key: value for key, value in line.items() if key != "file"}


def _is_too_early(served: ServedGallery, line: dict[str, Any]) -> bool:
    """Whether its image cannot be shown yet, since the gallery is about to be opened anew; not for long."""
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(str(line.get("found", "")))
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return False
    parts = split_id(str(line["picture"]))
    view = served.view
    return 0 <= age.total_seconds() < HELD and view is not None and parts is not None and view.find(parts[1]) is None


def _is_forgotten(served: ServedGallery, line: dict[str, Any]) -> bool:
    """Whether an alert is of an image that must not be shown any more."""
    file, path = str(line.get("file", "")), str(line.get("path", ""))
    part = path.removeprefix(str(line.get("source") or path))
    served.view  # noqa: B018 - takes up what was forgotten since
    return served.forgotten.covers_file(file) or file + part in served.forgotten.paths
