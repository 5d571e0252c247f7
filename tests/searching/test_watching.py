"""Standing questions: what is told, once, whatever happens to files, folders, journals and processes."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.streaming import served
from support.videos import write_video
from support.watched import DAY, START, Shades, arrive, arrive_all

from tbps_cli.errors import CacheError, DataError, UsageError
from tbps_cli.footage.streams import stream_name
from tbps_cli.searching.alert_command import AlertCommand
from tbps_cli.searching.arrivals import Arrivals, look_every
from tbps_cli.searching.journal import Alert, Journal, JudgedRows
from tbps_cli.searching.watching import WatchState, watch

QUERY = "somebody who is rare"


def look(folder: Path | list[Path], **options: Any) -> list[Alert]:
    """One look of a watcher, as `--once` does it."""
    options = {"budget": "1/day", "once": True, "settled": 0.02, **options}
    return list(watch(Shades(), folder, options.pop("queries", QUERY), **options))


def written(journal: Path) -> list[dict[str, Any]]:
    # a watcher may be in the middle of its last line
    return [json.loads(line) for line in journal.read_text().rpartition("\n")[0].splitlines()]


@pytest.fixture
def cams(tmp_path: Path) -> Path:
    """200 images of a day with scores below 0.5."""
    folder = tmp_path / "cams"
    arrive_all(folder, np.random.default_rng(0).uniform(0.1, 0.5, 200), 0, DAY)
    return folder


def test_what_is_there_at_first_is_the_past_and_what_comes_is_judged_once(cams: Path) -> None:
    assert look(cams) == []
    arrive(cams, "planted.png", 0.9, DAY + 60)
    arrive(cams, "usual.png", 0.3, DAY + 90)
    alert = look(cams)[0]
    assert (alert.hit.path, round(alert.hit.score, 3), alert.query) == ("planted.png", 0.9, QUERY)
    assert 0.49 < alert.threshold < 0.6
    assert alert.a_day < 0.2
    assert look(cams) == []


def test_a_file_with_a_number_sign_in_its_name_that_is_there_at_first_is_the_past(cams: Path) -> None:
    arrive(cams, "planted#1.png", 0.9, DAY - 60)
    assert look(cams) == []


def test_the_journal_says_what_is_known_of_an_alert(cams: Path, tmp_path: Path) -> None:
    journal = tmp_path / "alerts.jsonl"
    look(cams, jsonl=journal)
    arrive(cams, "planted.png", 0.9, DAY + 60)
    alert = look(cams, jsonl=journal)[0]
    line = written(journal)[0]
    assert line == line | {"id": alert.id, "query": QUERY, "path": "planted.png", "file": str(cams / "planted.png")}
    assert line["time"] == time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(START + DAY + 60))
    assert line["score"] > line["threshold"]
    assert journal.stat().st_mode & 0o777 == 0o600


def test_a_file_that_still_grows_is_taken_when_it_has_stopped(cams: Path) -> None:
    arrivals = Arrivals([cams], settled=0.15)
    assert arrivals.look() is False
    time.sleep(0.2)
    arrive(cams, "new.png", 0.9, DAY)
    assert arrivals.look() is True
    assert (len(arrivals.taken.items), arrivals.taken.waiting) == (200, {"new.png"})
    time.sleep(0.2)
    with (cams / "new.png").open("ab") as file:
        file.write(b"more")
    arrivals.look()
    assert arrivals.taken.waiting == {"new.png"}
    time.sleep(0.2)
    assert arrivals.look() is True
    assert arrivals.taken.waiting == set()


def test_rows_of_a_file_that_grows_again_stay_meanwhile(cams: Path) -> None:
    arrivals = Arrivals([cams], settled=60)
    arrivals.look()
    assert all(arrivals.taken.hides(path) for path in arrivals.taken.waiting)
    assert not arrivals.taken.hides("never.png")


def test_a_file_that_is_moved_or_copied_is_not_told_again(cams: Path) -> None:
    look(cams)
    planted = arrive(cams, "planted.png", 0.9, DAY + 60)
    assert len(look(cams)) == 1
    (cams / "old").mkdir()
    moved = planted.rename(cams / "old" / "planted.png")
    assert look(cams) == []
    shutil.copy(moved, cams / "again.png")
    os.utime(moved)
    assert look(cams) == []


def test_an_alert_is_not_told_again_when_everything_else_was_forgotten(cams: Path, tmp_path: Path) -> None:
    """The journal alone suffices: index and notes are in the cache, which may be removed."""
    journal = tmp_path / "alerts.jsonl"
    look(cams, jsonl=journal)
    arrive(cams, "planted.png", 0.9, DAY + 60)
    look(cams, jsonl=journal)
    shutil.rmtree(tmp_path / "cache")
    assert look(cams, jsonl=journal, since="2026-01-01") == []
    assert len(written(journal)) == 1


def test_since_judges_also_what_was_there_before(cams: Path) -> None:
    arrive(cams, "planted.png", 0.9, DAY + 60)
    arrive(cams, "early.png", 0.95, 60)
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(START + DAY - 3600))
    assert [alert.hit.path for alert in look(cams, since=since)] == ["planted.png"]
    assert look(cams, since="2020-01-01") == []  # the question was asked before


def test_a_new_query_has_a_past_of_its_own(cams: Path) -> None:
    look(cams)
    arrive(cams, "planted.png", 0.9, DAY + 60)
    assert {alert.query for alert in look(cams, queries=[QUERY, "a later question"])} == {QUERY}


def test_the_budget_is_that_of_all_queries_together(cams: Path) -> None:
    states: list[WatchState] = []
    look(cams, observe=states.append)
    look(cams, queries=[QUERY, "two", "three", "four"], observe=states.append)
    one, four = (state.thresholds[QUERY] for state in states)
    assert one < four


def test_a_stated_score_is_the_threshold_whatever_the_population(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    arrive(folder, "first.png", 0.1, 0)
    look(folder, min_score=0.6)
    arrive(folder, "above.png", 0.61, 60)
    arrive(folder, "below.png", 0.59, 90)
    assert [(alert.hit.path, alert.share) for alert in look(folder, min_score=0.6)] == [("above.png", None)]


def test_nothing_is_told_before_fifty_are_known(tmp_path: Path) -> None:
    folder = tmp_path / "few"
    arrive_all(folder, np.linspace(0.1, 0.2, 20), 0, DAY)
    look(folder)
    arrive(folder, "far.png", 0.99, DAY)
    states: list[WatchState] = []
    assert look(folder, observe=states.append) == []
    assert states[0].thresholds == {QUERY: None}


def test_a_filter_chooses_population_and_alerts(cams: Path) -> None:
    arrive_all(cams / "gate", np.linspace(0.7, 0.8, 60), 0, DAY)
    look(cams, where='path like "gate/*"')
    arrive(cams, "street.png", 0.9, DAY)
    arrive(cams / "gate", "usual.png", 0.75, DAY)
    arrive(cams / "gate", "rare.png", 0.85, DAY)
    assert [alert.hit.path for alert in look(cams, where='path like "gate/*"')] == ["gate/rare.png"]
    with pytest.raises(UsageError, match="no image here has a camera"):
        look(cams, where='camera == "c1"')
    with pytest.raises(UsageError, match="a score cannot be a condition"):
        look(cams, where="score > 0.3")


def test_unreadable_files_and_empty_folders_are_passed_over(cams: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert look(tmp_path / "empty") == []
    look(cams)
    (cams / "broken.png").write_bytes(b"no image")
    arrive(cams, "planted.png", 0.9, DAY + 60)
    assert [alert.hit.path for alert in look(cams)] == ["planted.png"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"budget": "many"}, "--budget many"),
        ({"since": "soon"}, "--since soon"),
        ({"command": "no-such-program-anywhere"}, "--exec no-such-program-anywhere"),
        ({"command": "sh 'half"}, "--exec sh 'half"),
        ({"queries": []}, "there is no query"),
        ({"queries": ["the same", "the same"]}, "stands there twice"),
        ({"queries": "  "}, "empty"),
    ],
)
def test_what_is_wrong_from_the_start_is_said_at_once(cams: Path, options: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        look(cams, **options)


def test_a_source_that_is_not_there_or_ends_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        look(tmp_path / "none")
    with pytest.raises(UsageError, match="standard input"):
        look("-")
    for address in ("ftp://host/x", "file:///etc/passwd", "concat://a", "rtsp://"):
        with pytest.raises(UsageError, match="not opened"):
            look(address)
    with pytest.raises(UsageError, match=r"the stream rtsp://camera/live has no end"):
        look("rtsp://user:secret@camera/live")


def test_a_journal_that_cannot_be_written_is_an_error_of_one_line(cams: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match=r"--jsonl .*alerts.jsonl cannot be written"):
        look(cams, jsonl=tmp_path / "file" / "alerts.jsonl")


# The journal ----------------------------------------------------------------------------------


def test_half_a_line_that_a_kill_left_does_not_hide_the_next(cams: Path, tmp_path: Path) -> None:
    journal = tmp_path / "alerts.jsonl"
    look(cams, jsonl=journal)
    journal.write_bytes(b'{"id": "abc", "query": "x", "pa')
    arrive(cams, "planted.png", 0.9, DAY + 60)
    assert len(look(cams, jsonl=journal)) == 1
    assert [entry["path"] for entry in Journal(journal).lines()] == ["planted.png"]


def test_a_journal_that_was_moved_away_begins_anew_and_tells_nothing_twice(cams: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "alerts.jsonl")
    look(cams)
    arrive(cams, "planted.png", 0.9, DAY + 60)
    alerts = look(cams)
    assert journal.append(alerts) == alerts
    journal.path.rename(tmp_path / "alerts.1.jsonl")
    assert journal.append(alerts) == []
    assert journal.path.read_bytes() == b""


def test_a_full_disk_leaves_the_journal_as_it_was(cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look(cams)
    for number in range(3):
        arrive(cams, f"planted{number}.png", 0.9 + number / 100, DAY + 60)
    alerts = look(cams)
    journal = Journal(tmp_path / "alerts.jsonl")
    journal.append(alerts[:1])
    before = journal.path.read_bytes()

    def full(handle: int, data: bytes, write: Callable[[int, bytes], int] = os.write) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return write(handle, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(CacheError, match="No space left on device"):
            journal.append(alerts)
    assert journal.path.read_bytes() == before
    assert journal.append(alerts) == alerts[1:]


# Going on and on ------------------------------------------------------------------------------


class Running:
    """A watcher in a thread."""

    def __init__(self, folder: Path | list[Path], **options: Any) -> None:
        self.stop, self.states, self.alerts = threading.Event(), list[WatchState](), list[Alert]()
        options = {"budget": "1/day", "settled": 0.05, "poll": 0.05, **options}
        self.found = watch(Shades(), folder, QUERY, stop=self.stop, observe=self.states.append, **options)
        self.thread = threading.Thread(target=lambda: self.alerts.extend(self.found))
        self.thread.start()

    def wait(self, fits: Callable[[], bool], seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while not fits():
            assert time.monotonic() < until and self.thread.is_alive(), (self.states[-1:], self.alerts)
            time.sleep(0.01)

    def paths(self) -> list[str]:
        return [entry["path"] for entry in written(self.states[0].journal)] if self.states else []


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*arguments: Any, **options: Any) -> Running:
        started.append(Running(*arguments, **options))
        started[-1].wait(lambda: bool(started[-1].states) and started[-1].states[-1].rows > 0)
        return started[-1]

    yield start
    for one in started:
        one.stop.set()
        one.thread.join(timeout=20)


def test_new_files_are_told_while_it_runs(cams: Path, running: Callable[..., Running]) -> None:
    one = running(cams)
    arrive(cams, "planted.png", 0.9, DAY + 60)
    one.wait(lambda: one.paths() == ["planted.png"])


def test_changes_are_noticed_without_listing_all_the_time(cams: Path, running: Callable[..., Running]) -> None:
    one = running(cams, poll=None)
    one.wait(lambda: one.states[-1].waiting == 0)
    time.sleep(1.0)  # until the folder is followed
    began = time.monotonic()
    arrive(cams / "below", "planted.png", 0.9, DAY + 60)
    one.wait(lambda: one.paths() == ["below/planted.png"])
    assert time.monotonic() - began < look_every([cams])


def test_a_folder_that_vanishes_is_waited_for(cams: Path, running: Callable[..., Running], lines: Any) -> None:
    one = running(cams)
    away = cams.rename(cams.with_name("away"))
    one.wait(lambda: one.states[-1].trouble is not None)
    away.rename(cams)
    one.wait(lambda: one.states[-1].trouble is None)
    arrive(cams, "planted.png", 0.9, DAY + 60)
    one.wait(lambda: one.paths() == ["planted.png"])
    assert lines().count("It is waited for.") == 1


def test_one_of_two_sources_may_vanish(cams: Path, tmp_path: Path, running: Callable[..., Running]) -> None:
    other = tmp_path / "other"
    arrive(other, "first.png", 0.2, 0)
    one = running([cams, other])
    shutil.move(other, tmp_path / "away")
    arrive(cams, "planted.png", 0.9, DAY + 60)
    one.wait(lambda: one.paths() == ["cams/planted.png"])
    shutil.move(tmp_path / "away", other)
    arrive(other, "late.png", 0.95, DAY + 90)
    one.wait(lambda: one.paths()[1:] == ["other/late.png"])


def test_an_index_that_is_removed_is_made_again_and_nothing_told_twice(
    cams: Path, tmp_path: Path, running: Callable[..., Running]
) -> None:
    one = running(cams, jsonl=tmp_path / "alerts.jsonl")
    arrive(cams, "planted.png", 0.9, DAY + 60)
    one.wait(lambda: one.paths() == ["planted.png"])
    (tmp_path / "cache").rename(tmp_path / "removed")  # at once: what is deleted bit by bit comes back meanwhile
    arrive(cams, "later.png", 0.95, DAY + 90)
    one.wait(lambda: len(one.paths()) == 2)
    assert one.paths() == ["planted.png", "later.png"]


@pytest.mark.parametrize("full", ["journal", "judged"])
def test_a_full_disk_is_said_once_and_waited_for(
    cams: Path, running: Callable[..., Running], lines: Callable[[], str], monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    one = running(cams)
    failed: list[int] = []

    def no_room(*_: object, **__: object) -> None:
        failed.append(1)
        raise CacheError("the cache cannot be written: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(*{"journal": (Journal, "append"), "judged": (JudgedRows, "add")}[full], no_room)
        arrive(cams, "planted.png", 0.9, DAY + 60)
        one.wait(lambda: len(failed) >= 3)
    one.wait(lambda: one.states[-1].trouble is None)
    assert one.paths() == ["planted.png"]
    said = lines()
    assert said.count("No space left on device") == 1 and "is watched again" in said


def test_two_watchers_of_one_journal_tell_everything_once(
    cams: Path, tmp_path: Path, running: Callable[..., Running]
) -> None:
    pair = [running(cams, jsonl=tmp_path / "alerts.jsonl") for _ in range(2)]
    for number in range(12):
        arrive(cams, f"planted{number:02d}.png", 0.9 + number / 1000, DAY + number)
        time.sleep(0.03)
    pair[0].wait(lambda: len(pair[0].paths()) >= 12)
    time.sleep(0.5)
    assert sorted(pair[0].paths()) == [f"planted{number:02d}.png" for number in range(12)]
    for one in pair:
        one.stop.set()
        one.thread.join()
    assert len(pair[0].alerts) + len(pair[1].alerts) == 12


# Commands -------------------------------------------------------------------------------------


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "told.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_command_gets_the_alert_as_json_and_as_variables(cams: Path, tmp_path: Path) -> None:
    out = tmp_path / "said"
    command = script(tmp_path, f'cat >> {out}; echo "$TBPS_ALERT_ID $TBPS_QUERY $TBPS_FILE $1" >> {out}') + " '$HOME x'"
    look(cams, command=command)
    planted = arrive(cams, "a $(touch gone).png", 0.9, DAY + 60)
    alert = look(cams, command=command)[0]
    first, second = out.read_text().splitlines()
    assert json.loads(first)["path"] == planted.name
    assert second == f"{alert.id} {QUERY} {planted} $HOME x"  # no shell has read it
    assert look(cams, command=command) == []
    assert len(out.read_text().splitlines()) == 2


def test_a_command_that_fails_is_tried_three_times_and_the_alert_stays(
    cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], str]
) -> None:
    from tbps_cli.searching import alert_command

    monkeypatch.setattr(alert_command, "WAITS", (0.01, 0.02))
    out = tmp_path / "said"
    command = script(tmp_path, f"echo tried >> {out}; echo no network >&2; exit 3")
    look(cams, command=command)
    arrive(cams, "planted.png", 0.9, DAY + 60)
    assert len(look(cams, command=command)) == 1
    assert out.read_text() == "tried\n" * 3
    said = lines()
    assert "ended with status 3 (no network)" in said
    assert "given up after 3 tries" in said
    look(cams, command=command)
    assert out.read_text() == "tried\n" * 3


def test_a_command_that_hangs_is_ended_with_what_it_started(
    cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Callable[[], str]
) -> None:
    from tbps_cli.searching import alert_command

    monkeypatch.setattr(alert_command, "WAITS", (0.01, 0.01))
    arrive(cams, "planted.png", 0.9, DAY + 60)
    command = alert_command.AlertCommand("sh -c 'sleep 60 & sleep 60'", tmp_path / "notes.jsonl", limit=0.2)
    command.add([{"id": "1", "path": "x.png"}])
    began = time.monotonic()
    while command.due is not None:
        time.sleep(command.due)
        command.run_due()
    assert time.monotonic() - began < 10
    assert "took longer than 0.2 s and was ended" in lines()


def test_commands_that_a_killed_watcher_left_over_are_run_by_the_next(cams: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "said", tmp_path / "alerts.jsonl"
    command = script(tmp_path, f"echo $TBPS_PATH >> {out}")
    look(cams, command=command, jsonl=journal)
    arrive(cams, "planted.png", 0.9, DAY + 60)
    found = watch(Shades(), cams, QUERY, budget="1/day", once=True, settled=0.02, command=command, jsonl=journal)
    next(found)  # told, and then nothing more
    found.close()
    assert not out.exists()
    look(cams, command=command, jsonl=journal)
    assert out.read_text() == "planted.png\n"


# Tracks and cool-down -------------------------------------------------------------------------


def alert_at(moment: float, *, path: str, track: str | None = None, place: str | None = "cam1") -> Alert:
    from tbps_cli.types import Hit

    hit = Hit(1, path, 0.9, Path(path), source="a.mp4", track=track, camera=place)
    return Alert(QUERY, hit, 0.5, 0.001, 0.1, moment, "2026-01-05T00:00:00Z", place)


def test_the_journal_has_no_more_digits_of_a_detectors_score_than_json() -> None:
    alert = alert_at(100, path="a.mp4#t=1")
    alert = replace(alert, hit=replace(alert.hit, detection=0.4180999994277954))
    assert alert.document()["detection"] == 0.4181


def test_a_track_is_told_once_and_a_camera_not_again_within_the_cool_down(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "alerts.jsonl")
    first = [
        alert_at(100, path="a.mp4#t=1", track="7"),
        alert_at(200, path="a.mp4#t=99", track="7"),
        alert_at(120, path="a.mp4#t=20", track="8"),
        alert_at(121, path="a.mp4#t=21", track="9", place="cam3"),
    ]
    assert [alert.hit.path for alert in journal.append(first, 30.0)] == ["a.mp4#t=1", "a.mp4#t=21"]
    again = Journal(journal.path)  # another process
    assert again.append(first, 30.0) == []
    assert len(again.append([alert_at(131, path="a.mp4#t=31", track="10")], 30.0)) == 1


def test_tracks_of_two_cameras_with_the_same_name_are_two(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "alerts.jsonl")
    pair = [alert_at(100, path="a.png", track="1", place="cam1"), alert_at(101, path="b.png", track="1", place="cam2")]
    assert journal.append(pair) == pair


def test_images_have_no_cool_down_unless_one_is_stated(tmp_path: Path) -> None:
    folder = tmp_path / "cams"
    arrive_all(folder, np.random.default_rng(0).uniform(0.1, 0.5, 200), 0, DAY)
    look(folder)
    for number in range(3):
        arrive(folder, f"planted{number}.png", 0.9 + number / 100, DAY + number)
    assert len(look(folder)) == 3


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that sees a person in the same place of every frame."""
    from tbps_cli.footage import detector
    from tbps_cli.footage.boxes import Detection

    class Everywhere:
        name = fingerprint = "everywhere"

        def __call__(self, frame: Image.Image) -> list[Detection]:
            return [Detection((8, 8, 32, 64), 0.9)]

    monkeypatch.setattr(detector, "open_detector", lambda *_, **__: Everywhere())


@pytest.mark.usefixtures("everywhere")
def test_a_person_in_a_video_is_one_alert(cams: Path) -> None:
    look(cams)
    write_video(cams / "street.mp4", [Image.new("RGB", (128, 96), (230, 200, 200))] * 40, rate=10, keys=10)
    alerts = look(cams)
    assert [(alert.hit.source, alert.hit.track is not None) for alert in alerts] == [("street.mp4", True)]
    assert look(cams) == []


@pytest.mark.usefixtures("everywhere")
def test_a_stream_that_somebody_named_is_watched_like_a_folder(
    cams: Path, tmp_path: Path, running: Callable[..., Running], lines: Callable[[], str]
) -> None:
    """Its recording gives camera, time and images; neither journal nor messages hold the password."""
    clip = write_video(tmp_path / "clip.ts", [Image.new("RGB", (128, 96), (230, 200, 200))] * 40, rate=10, keys=10)
    with served(clip.read_bytes()) as address:
        one = running([cams, address.replace("//", "//user:secret@")], jsonl=tmp_path / "alerts.jsonl")
        one.wait(lambda: bool(one.paths()), 40)
        one.stop.set()
        one.thread.join()
    alert = one.alerts[0]
    assert alert.hit.camera == stream_name(address)
    assert abs(datetime.fromisoformat(alert.hit.time).timestamp() - time.time()) < 120
    assert alert.hit.file.is_file() and alert.hit.file.parent.parent == tmp_path / "cache" / "streams"
    assert "secret" not in (tmp_path / "alerts.jsonl").read_text() + lines()


# Days -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_ten_days_keep_the_budget_and_planted_persons_are_told(tmp_path: Path, seed: int) -> None:
    """100 images a day, 2 alerts a day borne, looked at twice a day; three persons far above all others come in."""
    folder, draw = tmp_path / "cams", np.random.default_rng(seed)
    arrive_all(folder, np.clip(draw.normal(0.3, 0.05, 300), 0, 1), -3 * DAY, 0)
    look(folder, budget="2/day")
    told: list[str] = []
    for half in range(20):
        arrive_all(folder, np.clip(draw.normal(0.3, 0.05, 50), 0, 1), half * DAY / 2, (half + 1) * DAY / 2)
        if half in (5, 10, 15):
            arrive(folder, f"planted{half}.png", 0.7 + half / 100, half * DAY / 2 + 60)
        told += [alert.hit.path for alert in look(folder, budget="2/day")]
    planted = [path for path in told if path.startswith("planted")]
    assert planted == ["planted5.png", "planted10.png", "planted15.png"]
    assert 6 <= len(told) - 3 <= 35  # a Poisson number of 20 lies there with 99.9 %


# Seams ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seam", ["journal", "judged", "commands"])
def test_a_watcher_that_ends_at_a_seam_loses_and_doubles_nothing(
    cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seam: str
) -> None:
    out, journal = tmp_path / "said", tmp_path / "alerts.jsonl"
    options = {"command": script(tmp_path, f"echo $TBPS_PATH >> {out}"), "jsonl": journal}
    look(cams, **options)
    arrive(cams, "planted.png", 0.9, DAY + 60)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    places = {"journal": (Journal, "append"), "judged": (JudgedRows, "add"), "commands": (AlertCommand, "run_due")}
    with monkeypatch.context() as patch:
        patch.setattr(*places[seam], killed)
        with pytest.raises(KeyboardInterrupt):
            look(cams, **options)
    look(cams, **options)
    assert [entry["path"] for entry in written(journal)] == ["planted.png"]
    assert out.read_text() == "planted.png\n"
