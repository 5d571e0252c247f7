"""Times of photographs and files, in every form that cameras, programs and file systems have."""

from __future__ import annotations

import io
import os

import pytest
from PIL import Image

from tbps_cli.features.rows import change_time
from tbps_cli.features.taken import parse_time, time_changed, time_taken


@pytest.mark.parametrize(
    "text",
    [
        "2019:05:06 07:08:09",
        "2019:05:06 07:08:09\0",
        "2019:05:06 07:08:09\0\0 ",
        " 2019:05:06 07:08:09.123",
        "2019:05:06 07:08:09,5",
        "2019:05:06 07:08:09+02:00",
        "2019:05:06 07:08:09.25 -0330",
        "2019-05-06T07:08:09Z",
        "2019-05-06T07:08:09.000001+00:00",
        "2019-05-06 07:08:09",
        "2019/05/06 7:08:09",
    ],
)
def test_every_usual_form_is_the_time_on_the_cameras_clock(text: str) -> None:
    assert parse_time(text) == "2019-05-06T07:08:09"


@pytest.mark.parametrize(
    "text", ["", "None", "0000:00:00 00:00:00", "    :  :     :  :  ", "2019:13:06 07:08:09", "2019:05:06", "x" * 100]
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_time(text) is None


def photograph(taken: object) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[36867] = taken
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "JPEG", exif=exif)
    return content.getvalue()


def test_the_time_is_read_from_the_image() -> None:
    assert time_taken(photograph("2019:05:06 07:08:09.5+02:00\0")) == "2019-05-06T07:08:09"
    assert time_taken(photograph(b"2019:05:06 07:08:09\0\xff")[:-200]) is None
    assert time_taken(b"no image") is None


@pytest.mark.parametrize("seconds", [-62_167_219_300, -(2**33), 0, 2**33, 253_402_300_900, 13_569_465_600])
def test_times_of_any_file_system_fit_the_column_and_differ(seconds: int) -> None:
    def folded(nanoseconds: int) -> int:
        values = list(os.stat_result((0,) * 10))
        return change_time(os.stat_result(values, {"st_mtime_ns": nanoseconds}))

    one, other = folded(seconds * 10**9), folded(seconds * 10**9 + 1)
    assert -(2**63) <= one < 2**63 and one != other
    assert folded(1_700_000_000_123_456_789) == 1_700_000_000_123_456_789


def test_a_time_without_a_calendar_is_none() -> None:
    assert time_changed(253_402_400_000 * 10**9) is None
    assert time_changed(-62_167_300_000 * 10**9) is None
    assert (time_changed(1_700_000_000 * 10**9) or "").startswith("2023-11-1")
    assert (time_changed(10_413_792_000 * 10**9) or "").startswith("2300-01-01")
