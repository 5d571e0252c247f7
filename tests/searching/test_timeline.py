"""The line of time: lanes of cameras, marks that do not overlap, readable ticks."""

from __future__ import annotations

import itertools

import pytest

from tbps_cli.searching.timeline import Presence, clip_time, seconds_of, time_line

IDS, KINDS = [f"h{n}" for n in range(9)], [""] * 9


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.0"), (12.48, "0:12.5"), (59.96, "1:00.0"), (3671.25, "1:01:11.2")]
)
def test_seconds_into_a_video_read_as_a_player_shows_them(seconds: float, text: str) -> None:
    assert clip_time(seconds) == text


def test_every_camera_has_a_lane_in_the_order_of_its_best_hit() -> None:
    line = time_line(
        [Presence(1, 2, "b", 0, 5), Presence(0, 1, "a", 60, 60), Presence(2, 3, "b", 100, 110)], IDS, KINDS, dated=False
    )
    assert [lane.name for lane in line.lanes] == ["a", "b"]
    assert [mark.rank for mark in line.lanes[1].marks] == [2, 3]
    assert line.day == "time into the video"
    assert [tick.text for tick in line.ticks] == ["0:00", "0:30", "1:00", "1:30"]


def test_marks_of_one_lane_never_overlap() -> None:
    line = time_line([Presence(n, n + 1, "a", n, n + 10) for n in range(9)], IDS, KINDS, dated=False)
    (lane,) = line.lanes
    rows: dict[int, list[tuple[float, float]]] = {}
    for mark in lane.marks:
        rows.setdefault(mark.top, []).append((mark.at, mark.at + mark.width))
    assert all(before[1] <= after[0] for row in rows.values() for before, after in itertools.pairwise(row))
    assert all(mark.at >= 0 and mark.at + mark.width <= 100.01 for mark in lane.marks)
    assert lane.height >= max(rows) + 16


def test_dates_are_shown_as_the_camera_has_them() -> None:
    moments = [seconds_of(f"2026-01-05T{time}+02:00") for time in ("17:05:00", "17:55:00")]
    line = time_line(
        [Presence(n, n + 1, "a", moment, moment) for n, moment in enumerate(moments)], IDS, KINDS, dated=True
    )
    assert line.day == "2026-01-05"
    assert "17:30" in [tick.text for tick in line.ticks]
    assert line.lanes[0].marks[0].said == "1: 17:05:00"


def test_one_moment_makes_no_line_and_no_time_is_none() -> None:
    assert time_line([Presence(0, 1, "a", 5, 5), Presence(1, 2, "a", 5, 9)], IDS, KINDS, dated=False) is None
    assert time_line([], [], [], dated=True) is None
    assert seconds_of("yesterday") is None
