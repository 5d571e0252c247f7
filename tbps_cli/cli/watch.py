"""`tbps watch`: standing questions, told when somebody who fits arrives in folders, videos and streams."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from tbps_cli import interrupts
from tbps_cli.amounts import amount
from tbps_cli.cli.options import GalleryOptions, Json

if TYPE_CHECKING:
    from rich.status import Status

    from tbps_cli.searching.journal import Alert
    from tbps_cli.searching.watching import WatchState

_QUERY = 12
"""Columns that a query needs at the end of a line; where fewer are left, it goes on the next."""


def command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folders, videos, patterns, lists or the name of a gallery, as for tbps index; and streams: "
            "rtsp://HOST/PATH, http://HOST/PATH.",
        ),
    ] = None,
    queries: Annotated[
        list[str] | None,
        typer.Option("--query", "-q", metavar="TEXT", help="Who is looked for, in a sentence; repeatable."),
    ] = None,
    budget: Annotated[
        str,
        typer.Option("--budget", metavar="N/TIME", help="How many alerts may come, over all queries: 5/day, 2/week."),
    ] = "5/day",
    min_score: Annotated[
        float | None,
        typer.Option("--min-score", metavar="X", help="Tell of scores above this one, whatever the budget."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="EXPR", help="Only of images for which this is true, e.g. 'clock >= 22:00'."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="The first time a query is asked, judge also what was seen since then: 2026-01-05T17:00, or 2h (ago).",
        ),
    ] = None,
    cool_down: Annotated[
        str | None,
        typer.Option(
            "--cool-down",
            metavar="TIME",
            help="After an alert, how long its query is not told of the same camera again. Default: 30s in videos and "
            "streams, 0s for images.",
        ),
    ] = None,
    jsonl: Annotated[
        Path | None,
        typer.Option("--jsonl", metavar="FILE", help="The journal of alerts, a JSON line each. Default: in the cache."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="CMD",
            help="Run this for each alert, without a shell; the alert is on its standard input and in TBPS_QUERY, "
            "TBPS_FILE, TBPS_SCORE, ...",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Judge what is new and end, for cron.")] = False,
    poll: Annotated[
        str | None,
        typer.Option(
            "--poll",
            metavar="TIME",
            help="List the sources so often instead of waiting to be told of changes. Default: 10s on network disks.",
        ),
    ] = None,
    keep: Annotated[
        str,
        typer.Option("--keep", metavar="TIME", help="How long recordings of streams without an alert are kept."),
    ] = "1d",
    audit: Annotated[
        Path | None,
        typer.Option(
            "--audit", metavar="FILE", envvar="TBPS_AUDIT", help="Append the questions and their hits to this log."
        ),
    ] = None,
    as_json: Json = False,
    *,
    made: GalleryOptions,
) -> None:
    """Wait for new images, videos and frames of streams, and tell when somebody fits a query."""
    from tbps_cli.amounts import seconds
    from tbps_cli.searching.audit import AuditLog
    from tbps_cli.searching.watching import KEEP, watch

    log = AuditLog(audit) if audit else None
    if log:
        log.check()
    with _Display(as_json, several=len(queries or ()) > 1, once=once) as display:
        alerts = watch(
            made.ckpt,
            list(sources or ()),
            list(queries or ()),
            budget=budget,
            min_score=min_score,
            where=where,
            since=since,
            cool_down=None if cool_down is None else _length("--cool-down", cool_down),
            jsonl=jsonl,
            command=run,
            once=once,
            poll=None if poll is None else seconds("--poll", poll),
            keep=KEEP if keep == "1d" else seconds("--keep", keep),
            audit=log,
            **made.indexing,
            **made.model,
            observe=display.show,
            progress=display.embedding,
        )
        with _ended_by_signals(), closing(alerts):
            try:
                with interrupts.recognised():
                    for alert in alerts:
                        display.alert(alert)
            except KeyboardInterrupt:
                pass  # the usual end
        with suppress(KeyboardInterrupt):
            display.end()


def _length(flag: str, text: str) -> float:
    """A length of time that may be nothing."""
    from tbps_cli.amounts import seconds

    return 0.0 if text.strip() in ("0", "0s") else seconds(flag, text)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a service manager's signal end the watch as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Display:
    """A line an alert on stdout; on a terminal besides one line on stderr that says where the watch stands."""

    def __init__(self, as_json: bool, *, several: bool, once: bool) -> None:
        self.as_json, self.several, self.once = as_json, several, once
        self.began = time.time()
        self.state: WatchState | None = None
        self.told = False
        self.line: Status | None = None

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *error: object) -> None:
        self._pause()

    def show(self, state: WatchState) -> None:
        """Where the watch stands by now."""
        from tbps_cli.cli import render

        self.state = state
        if not self.told and (state.rows or not state.waiting):
            self.told = True
            self._pause()
            render.note(f"Watching {_standing(state)}")
            end = "" if self.once else " Ctrl-C ends the watch."
            render.note(f"Alerts are written to {render.short_path(str(state.journal))}.{end}")
        self._draw(_progress(state))

    def embedding(self, done: int, total: int) -> None:
        """How far the embedding of new images is."""
        self._draw(f"embedding {done:,} of {total:,}")

    def alert(self, alert: Alert) -> None:
        """One line."""
        from tbps_cli.cli import output, render
        from tbps_cli.escape import json_text

        self._pause()
        if self.as_json:
            output.stdout.write_exactly(json_text(alert.document(), indent=None) + "\n")
        else:
            text = "  ".join(_fields(alert))
            if self.several:
                room = render.console().width - len(text) - 2
                text += "  " + (render.shortened(alert.query, room) if room >= _QUERY else alert.query)
            render.line(text)
        output.stdout.flush()
        if self.state:
            self._draw(_progress(self.state))

    def end(self) -> None:
        """What was seen."""
        from tbps_cli.cli import render

        self._pause()
        if self.state:
            render.note(
                f"{self.state.title}: {amount(self.state.alerts, 'alert')} in "
                f"{amount(self.state.judged, 'new image or track', 'new images and tracks')} "
                f"since {datetime.fromtimestamp(self.began):%Y-%m-%d %H:%M:%S}."
            )

    def _draw(self, text: str) -> None:
        from tbps_cli.cli import render

        if not render.moving():
            return
        from rich.status import Status
        from rich.text import Text

        screen = render.console(stderr=True)
        shown = Text(render.shortened(text, screen.width - 4))
        if self.line is None:
            self.line = Status(shown, console=screen)
            with interrupts.held():  # it has a thread
                self.line.start()
        else:
            self.line.update(shown)

    def _pause(self) -> None:
        """Take the line away: whatever is printed next begins at the left."""
        if self.line is not None:
            self.line.stop()
            self.line = None


def _fields(alert: Alert) -> list[str]:
    """Time, camera, score, how rare, file."""
    hit = alert.hit
    seen = hit.time or alert.found
    rare = "" if alert.share is None else f"1 in {round(1 / alert.share):,}"
    where = hit.source or hit.path
    if hit.seconds is not None:
        where += f" at {hit.seconds:.1f} s"
    fields = [seen[:19].replace("T", " "), hit.camera or "", f"{hit.score:.4f}", rare, where]
    return [text for text in fields if text]


def _standing(state: WatchState) -> str:
    """`photos: 3,204 images, 410 a day; alerts above 0.3871`."""
    return f"{state.title}: {amount(state.rows, 'image')}{_rate(state)}; {_thresholds(state)}"


def _progress(state: WatchState) -> str:
    """What has come so far, and what is the matter: the most important first, since narrow terminals cut it."""
    parts = [f"{amount(state.alerts, 'alert')} in {state.judged:,} new"]
    if state.trouble:
        parts.insert(0, state.trouble)
    if state.waiting:
        parts.append(f"{state.waiting:,} still growing")
    return "; ".join([*parts, _thresholds(state), f"{amount(state.rows, 'image')}{_rate(state)}"])


def _rate(state: WatchState) -> str:
    if not state.a_day:
        return ""
    return f", {state.a_day:,.0f} a day" if state.a_day >= 10 else f", {state.a_day:.1f} a day"


def _thresholds(state: WatchState) -> str:
    from tbps_cli.searching.thresholds import FEWEST

    known = sorted({f"{score:.4f}" for score in state.thresholds.values() if score is not None})
    if not known:
        return f"no alerts before {FEWEST} are known (or state --min-score)"
    return f"alerts above {known[0]}" + (f" to {known[-1]}" if len(known) > 1 else "")
