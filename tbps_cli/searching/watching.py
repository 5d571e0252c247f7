"""Standing questions: each image or track that arrives is judged once, and told if it is rare enough.

A watcher looks at its sources whenever something changes there, brings their index up to date, and asks its queries of
the rows that it has not judged yet, in the order of their times. `thresholds` says from which score on it tells,
`journal` how each alert is told exactly once whatever is killed, `arrivals` which files are taken, `judged_units` what
is judged.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli import amounts, interrupts
from tbps_cli.errors import CacheError, DataError, UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.pipeline import Progress
from tbps_cli.features.rows import Rows
from tbps_cli.filtering.parse import Where, parse, require
from tbps_cli.footage.streams import shown
from tbps_cli.models.checkpoint import Checkpoint, opened
from tbps_cli.places import cache_dir
from tbps_cli.retrieval.similarity import dots
from tbps_cli.searching.alert_command import AlertCommand
from tbps_cli.searching.arrivals import SETTLED, Noticing, look_every
from tbps_cli.searching.audit import AuditLog, user
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index import index
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.journal import Alert, Journal, JudgedRows
from tbps_cli.searching.judged_units import JudgedUnits, moments
from tbps_cli.searching.query import Query, encode
from tbps_cli.searching.ranking import hit_of
from tbps_cli.searching.thresholds import FEWEST, Budget, Tail, arrivals_a_day
from tbps_cli.searching.watched_sources import WatchedSources

logger = logging.getLogger("tbps")
COOL_DOWN = 30.0
"""Seconds, in videos and streams: a person who was lost for a moment has two tracks."""
KEEP = 86_400.0
_SLICE = 50
"""New images or tracks that are judged by one threshold, or a tenth of the population where that is more."""
_PAUSE = 0.5
"""Seconds after a change before the sources are listed: many changes come at once."""
_AGO = re.compile(r"\d+(?:\.\d+)?\s*[a-z]+", re.IGNORECASE)


@dataclass
class WatchState:
    """Where a watcher stands, for a display."""

    title: str
    journal: Path
    rows: int = 0
    population: int = 0
    """Images or tracks that thresholds are set by, among those that pass the filter."""
    a_day: float | None = None
    """How many of them arrive in a day."""
    thresholds: dict[str, float | None] = field(default_factory=dict)
    """Query -> the score that is told above; None: too few are known to set one."""
    waiting: int = 0
    """Files that are still growing."""
    judged: int = 0
    """Images or tracks that have arrived since this watcher began."""
    alerts: int = 0
    trouble: str | None = None


Observe = Callable[[WatchState], None]
Telling = Callable[[], AbstractContextManager[bool]]


def watch(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    sources: str | Path | Sequence[str | Path],
    queries: str | Query | Sequence[str | Query],
    *,
    budget: str | float = "5/day",
    min_score: float | None = None,
    where: str | Where | None = None,
    since: str | datetime | None = None,
    cool_down: float | None = None,
    jsonl: str | Path | None = None,
    command: str | None = None,
    once: bool = False,
    poll: float | None = None,
    settled: float = SETTLED,
    keep: float = KEEP,
    audit: AuditLog | None = None,
    footage: FootageSettings = FootageSettings(),
    download: bool = False,
    precision: str = "auto",
    workers: int | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    stop: threading.Event | None = None,
    telling: Telling | None = None,
    observe: Observe | None = None,
    progress: Progress | None = None,
) -> Generator[Alert, None, None]:
    """Give an alert for each person who arrives in the sources and fits one of the queries, until `stop` is set.

    checkpoint: an open model, or what `models.open_model` opens. sources: what `index` takes, the name of a gallery,
    and addresses of streams (`rtsp://...`, `http://...`), which are recorded in the cache for `keep` seconds.
    budget: how many alerts may come in a day over all queries, a number or `2/week`; see `thresholds` for the rule.
    min_score: the score that is told above, instead. where: only of images for which this is true.
    since: of what is there when a query is first asked, what was seen from then on is judged too (`2026-01-05T17:00`,
    `2h` ago); otherwise all of it is taken for the past.
    cool_down: seconds before and after an alert in which its query is not told of the same camera or video again;
    default `COOL_DOWN` for what was found in videos, streams and whole frames, and none for images.
    jsonl: the journal of alerts; default in the cache. An alert is yielded when its line is on the disk, and never
    again, also after a kill. command: run for each, see `alert_command`.
    once: judge what is new, and end. poll: seconds from one listing of the sources to the next; by default changes are
    noticed at once. settled: seconds for which a file must stay as it is before it is taken.
    telling: what alerts are written down in; where it gives False nothing is told, and what is new stays new.
    observe: called with the state after each look. footage, download, precision, workers, progress: as in `index`.
    Raises TbpsError for what is wrong from the start; what happens later (a source vanishes, a disk is full) is
    logged once, and waited for.
    """
    asked = [queries] if isinstance(queries, str | Query) else list(queries)
    if not asked:
        raise UsageError("there is no query.", 'For example: --query "a man in a red coat"')
    watcher = _Watcher(
        WatchedSources.of([sources] if isinstance(sources, str | Path) else sources, settled, once),
        [one if isinstance(one, Query) else Query(one) for one in asked],
        budget=Budget.parse(budget if isinstance(budget, str) else f"{budget:f}/day"),
        min_score=min_score,
        where=parse(where) if isinstance(where, str) else where,
        since=_since(since),
        cool_down=cool_down,
        journal=Path(jsonl).absolute() if jsonl is not None else None,
        command=command,
        audit=audit,
        telling=telling,
        observe=observe,
    )
    watcher.open_model(opened(checkpoint, device=device, sets=sets, words=words, data_root=data_root))
    watcher.index = lambda model, given: index(
        model,
        given,
        footage=footage,
        download=download,
        precision=precision,
        workers=workers,
        progress=progress,
        codes=False,
    )
    return watcher.run(once=once, poll=poll, settled=settled, keep=keep, stop=stop or interrupts.Flag())


def note_past(
    sources: str | Path | Sequence[str | Path],
    queries: Sequence[str | Query],
    *,
    jsonl: str | Path | None = None,
) -> None:
    """Take what is in the sources now for the past of these queries: `watch` judges what arrives from here on.

    sources, queries, jsonl: as `watch` gets them later. Raises DataError where a source is not there.
    """
    watcher = _Watcher(
        WatchedSources.of([sources] if isinstance(sources, str | Path) else sources, SETTLED, once=False),
        [one if isinstance(one, Query) else Query(one) for one in queries],
        journal=Path(jsonl).absolute() if jsonl is not None else None,
    )
    watcher.arrivals.look()
    for judged in watcher.judged:
        judged.begin(watcher.arrivals.present)


def _since(given: str | datetime | None) -> float | None:
    """A moment in seconds since 1970. Raises UsageError."""
    if given is None:
        return None
    if isinstance(given, datetime):
        return given.timestamp()
    if _AGO.fullmatch(given.strip()):
        return time.time() - amounts.seconds("--since", given)
    try:
        return datetime.fromisoformat(given.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"--since {given}: no time.", "For example: --since 2026-01-05, --since 2026-01-05T17:00 or --since 2h"
        ) from None


class _Watcher:
    """Queries that are asked of everything new."""

    def __init__(
        self,
        sources: WatchedSources,
        queries: Sequence[Query],
        *,
        journal: Path | None,
        budget: Budget = Budget.parse("5/day"),
        min_score: float | None = None,
        where: Where | None = None,
        since: float | None = None,
        cool_down: float | None = None,
        command: str | None = None,
        audit: AuditLog | None = None,
        telling: Telling | None = None,
        observe: Observe | None = None,
    ) -> None:
        if where is not None and "score" in where.fields:
            raise UsageError("--where: a score cannot be a condition here.", "State it: --min-score 0.4")
        self.sources, self.arrivals, self.queries, self.names = sources, sources.arrivals, queries, _names(queries)
        self.budget, self.min_score, self.where, self.since = budget, min_score, where, since
        self.cool_down, self.audit, self._observe = cool_down, audit, observe
        self._telling = telling or partial(nullcontext, True)
        roots = self.arrivals.sources.roots
        place = repr([str(roots.folder.absolute()), sorted(map(str, roots.named.values())), self.arrivals.sources.part])
        folder = cache_dir() / "watch" / _digest(place)
        self.journal = Journal(journal or folder / "alerts.jsonl")
        self.journal.check()
        mark = _digest(str(self.journal.path))
        self.judged = [JudgedRows(folder / f"judged-{_digest(f'{mark} {name}')}.bin") for name in self.names]
        self.command = AlertCommand(command, folder / f"commands-{mark}.jsonl") if command is not None else None
        if self.command:
            self.command.add(line for line in self.journal.lines() if line.get("exec"))
        self.state = WatchState(self.arrivals.sources.title, self.journal.path)
        self.index: Callable[[Encoder, Any], Gallery]
        self._asked_columns = False
        self._trouble: str | None = None

    def open_model(self, model: Encoder) -> None:
        """Encode the queries, and note what is watched for."""
        self.model = model
        self.query_QE = encode(model, self.queries)
        self._log(watch=True, budget_a_day=self.budget.a_day)

    def run(
        self,
        *,
        once: bool,
        poll: float | None,
        settled: float,
        keep: float,
        stop: threading.Event | interrupts.Flag,
    ) -> Generator[Alert, None, None]:
        noticing = Noticing()
        judged = False
        try:
            for recorder in self.sources.recorders:
                recorder.start()
            while not stop.is_set():
                try:
                    if self.arrivals.look() or not judged:
                        self._begin()
                        if once and self.arrivals.taken.waiting and not judged:
                            interrupts.sleep(settled, stop)
                            self.arrivals.look()
                        judged = False
                        yield from self._round()
                        judged = True
                    if self.command:
                        self.command.run_due()
                    self._well()
                except (DataError, CacheError, OSError) as error:
                    if once:
                        raise
                    self._say(error)
                for recorder in self.sources.recorders:
                    recorder.remove_before(time.time() - keep, self._told_files(recorder.folder))
                self._show()
                if once:
                    self._finish(stop)
                    return
                noticing.follow([] if poll else self.arrivals.folders)
                noticing.wait(self._seconds(poll, settled), stop)
                interrupts.sleep(min(_PAUSE, settled), stop)
        finally:
            noticing.close()
            for recorder in self.sources.recorders:
                recorder.stop()

    def _seconds(self, poll: float | None, settled: float) -> float:
        """Until the next look, when nothing changes meanwhile."""
        times = [poll or look_every(self.arrivals.folders)]
        if self.arrivals.taken.waiting:
            times.append(settled)
        if self.command and self.command.due is not None:
            times.append(self.command.due)
        return min(times)

    def _finish(self, stop: threading.Event | interrupts.Flag) -> None:
        """Run all commands, also those that are to be tried again."""
        if self.arrivals.taken.waiting:
            waiting = amounts.amount(self.state.waiting, "file is", "files are")
            logger.info("%s still growing; taken the next time.", waiting)
        while self.command and self.command.due is not None and not stop.is_set():
            interrupts.sleep(self.command.due, stop)
            self.command.run_due()

    # One look

    def _begin(self) -> None:
        """Take what is there when a query is asked for the first time for the past."""
        for judged in self.judged:
            if judged.fresh and self.since is None:
                judged.begin(self.arrivals.present)
                judged.fresh = False

    def _round(self) -> Iterator[Alert]:
        """Bring the index up to date, and judge what is new."""
        gallery = self._gallery()
        self.state.waiting = len(self.arrivals.taken.waiting)
        if gallery is None:
            return
        if self.where and not self._asked_columns:
            require(self.where, gallery.columns.knows)
        self._asked_columns = True
        moment_G = moments(gallery.rows)
        self._begin_since(gallery.rows, moment_G)
        units = JudgedUnits(gallery, self.where, moment_G)
        score_QG = dots(self.query_QE, gallery.vector_GE)
        found: list[Alert] = []
        new_QG = [judged.new(gallery.rows) for judged in self.judged]
        for number, name in enumerate(self.names):
            found += self._judge(name, gallery, units, score_QG[number], new_QG[number], self.judged[number])
        found.sort(key=lambda alert: alert.moment)
        more = {"gallery": gallery.name, "run": gallery.run, **({"exec": True} if self.command else {})}
        with self._telling() as wanted:
            if not wanted:
                return
            told = self.journal.append(found, COOL_DOWN if self.cool_down is None else self.cool_down, **more)
            for judged, new_G in zip(self.judged, new_QG, strict=True):
                judged.add(gallery.rows.take(new_G), time.time())
        self.state.rows = len(gallery)
        self.state.judged += int(units.any_of(np.any(new_QG, axis=0)).sum())
        self.state.alerts += len(told)
        if told:
            self._log(hits=[alert.hit.path for alert in told])
        if self.command:
            self.command.add(alert.document() | more for alert in told)
        yield from told

    def _gallery(self) -> Gallery | None:
        """What is there, embedded; None where nothing usable is."""
        if not self.arrivals.taken.items:
            return None
        try:
            return self.index(self.model, self.arrivals.sources)
        except DataError as error:  # nothing that can be read, or nobody in it; what cannot be written is a CacheError
            logger.debug("%s", error.message)
            return None

    def _begin_since(self, rows: Rows, moment_G: NDArray[np.float64]) -> None:
        for judged in self.judged:
            if judged.fresh and self.since is not None:
                past_G = ~(moment_G >= self.since)  # also what has no time
                judged.add(rows.take(past_G), 0.0)  # all at once: a kill leaves all or nothing of it
                judged.fresh = False

    def _judge(
        self,
        name: str,
        gallery: Gallery,
        units: JudgedUnits,
        score_G: NDArray[Any],
        new_G: NDArray[np.bool_],
        judged: JudgedRows,
    ) -> Iterator[Alert]:
        """The alerts of one query among what is new, in slices: each widens the population of the next."""
        best_U, new_U = units.best_of(score_G), units.any_of(new_G)
        score_U = score_G[best_U].astype(np.float64)
        moment_U = units.moment_U
        if 2 * np.count_nonzero(np.isfinite(moment_U)) < len(moment_U):
            moment_U = judged.arrived(gallery.rows.take(best_U))
        past, waiting = np.flatnonzero(~new_U), np.flatnonzero(new_U)
        waiting = waiting[np.argsort(moment_U[waiting], kind="stable")]
        now = time.time()
        while True:
            tail, a_day = Tail(score_U[past]), arrivals_a_day(moment_U[past]) or float(len(past))
            above = self._threshold(tail, a_day)
            self.state.thresholds[name], self.state.population, self.state.a_day = above, len(past), a_day
            if not len(waiting):
                return
            part, waiting = np.split(waiting, [max(_SLICE, len(past) // 10)])
            if above is None:
                past = np.concatenate([past, part])
                continue
            for unit in part[score_U[part] > above].tolist():
                share = tail.share(score_U[unit]) if len(past) >= FEWEST else None
                hit = hit_of(gallery, score_G[best_U[unit]], int(best_U[unit]))
                moment = float(units.moment_U[unit])
                yield Alert(
                    name,
                    hit,
                    above,
                    share,
                    None if share is None else share * a_day,
                    moment if np.isfinite(moment) else now,
                    f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                    (hit.camera or hit.source) if hit.source or self.cool_down is not None else None,
                )
            past = np.concatenate([past, part])

    def _threshold(self, tail: Tail, a_day: float) -> float | None:
        if self.min_score is not None:
            return self.min_score
        return tail.threshold(self.budget.a_day / (len(self.queries) * a_day)) if a_day else None

    # What is said

    def _log(self, **more: Any) -> None:
        if self.audit:
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            line = {"when": now, "user": user(), "asked": self.names, "gallery": self.state.title}
            where = self.where.text if self.where else None
            self.audit.append([{**line, "run": str(self.model.path), "where": where, **more}])

    def _say(self, error: DataError | CacheError | OSError) -> None:
        text = error.message if isinstance(error, DataError | CacheError) else str(error)
        if text != self._trouble:
            logger.warning("%s It is waited for.", text if text.endswith(".") else text + ".")
        self._trouble = text

    def _well(self) -> None:
        if self._trouble is not None:
            logger.info("%s is watched again.", self.state.title)
        self._trouble = None

    def _show(self) -> None:
        lost = next((f"{shown(one.address)}: {one.trouble}" for one in self.sources.recorders if one.trouble), None)
        self.state.trouble = self._trouble or lost
        if self._observe:
            self._observe(self.state)

    def _told_files(self, folder: Path) -> set[str]:
        """Pieces of a recording that an alert shows: they stay."""
        files = (Path(str(line.get("file", ""))) for line in self.journal.lines())
        return {file.name for file in files if file.parent == folder}


def _names(queries: Sequence[Query]) -> list[str]:
    names = [str(query) for query in queries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--query {twice}: stands there twice.", "Leave one out.")
    return names


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
