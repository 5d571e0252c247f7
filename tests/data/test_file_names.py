"""What names of files say, and what they do not say."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_cli.data.file_names import NameFacts, NamePattern, facts_of
from tbps_cli.data.layouts import icfg_pedes, rstpreid
from tbps_cli.errors import FilterError

WHEN = "2026-01-05T10:11:12"
KNOWN = {
    # data sets
    "0001_c1s1_000151_01.jpg": NameFacts("c1", None, 1),
    "bounding_box_test/-1_c3s2_042744_04.jpg": NameFacts("c3", None, None),
    "0000_c6s3_094992_02.jpg": NameFacts("c6", None, None),
    "0002_c1s1_000451_03.jpg.jpg": NameFacts("c1", None, 2),
    "0001_c2_f0046182.jpg": NameFacts("c2", None, 1),
    "imgs/0000_c14_0031.jpg": NameFacts("14", None, 0),
    "0000_000_01_0303morning_0008_0.jpg": NameFacts("01", "0303morning", 0),
    "train/0007/0007_012_05_0114afternoon_0015_1_ex.jpg": NameFacts("05", "0114afternoon", 7),
    "p11600_s14885.jpg": NameFacts(None, None, "p11600"),
    # cameras, recorders, phones
    "cam3_2026-01-05T10-11-12.jpg": NameFacts("cam3", WHEN),
    "CAM-3_20260105_101112.mp4": NameFacts("cam-3", WHEN),
    "20260105_101112.mp4": NameFacts(None, WHEN),
    "VID_20260105_101112.mp4": NameFacts(None, WHEN),
    "IMG_20260105_101112345.jpg": NameFacts(None, f"{WHEN}.345"),
    "VID20260105101112.mp4": NameFacts(None, WHEN),
    "ch01_20260105101112.mp4": NameFacts("ch01", WHEN),
    "ch01_20260105101112_20260105102112.mp4": NameFacts("ch01", WHEN),
    "RLC-410_01_20260105101112.mp4": NameFacts(None, WHEN),
    "192.168.1.64_01_20260105101112345_MOTION.jpg": NameFacts(None, f"{WHEN}.345"),
    "WIN_20260105_10_11_12_Pro.mp4": NameFacts(None, WHEN),
    "2026_0105_101112_001F.MP4": NameFacts(None, WHEN),
    "NO20260105-101112-000001F.MP4": NameFacts(None, WHEN),
    "DJI_20260105101112_0001_D.MP4": NameFacts(None, WHEN),
    "2026-01-05 10.11.12.mov": NameFacts(None, WHEN),
    "2026-01-05 10:11:12.jpg": NameFacts(None, WHEN),
    "2026-01-05_101112.avi": NameFacts(None, WHEN),
    "01-20260105101112-00.jpg": NameFacts(None, WHEN),
    "front door 2026-01-05_10-11-12.mp4": NameFacts(None, WHEN),
    "station/cam_a/2026-01-05/10-11-12.mp4": NameFacts("cam_a", WHEN),
    "2026-01-05/001/dav/10/10.11.12-10.21.12[M][0@0][0].dav": NameFacts(None, WHEN),
    "CUHK03/cam_a/000_45.bmp": NameFacts("cam_a"),
    "camera 12/clip.mp4": NameFacts("camera 12"),
    "cam1/cam2_x.jpg": NameFacts("cam2"),
    # nothing, or not everything
    "": NameFacts(),
    "street.mp4": NameFacts(),
    "1.jpg": NameFacts(),
    "000151.jpg": NameFacts(),
    "20260105.mp4": NameFacts(),
    "1767607872.mp4": NameFacts(),
    "1767607872123.mp4": NameFacts(),
    "IMG_1234.JPG": NameFacts(),
    "20261305_101112.mp4": NameFacts(),
    "20260230_101112.mp4": NameFacts(),
    "20260105_251112.mp4": NameFacts(),
    "120260105101112.mp4": NameFacts(),
    "202601051011123456.mp4": NameFacts(),
    "VID-20260105-WA0003.mp4": NameFacts(),
    "PXL_20260105_101112345.mp4": NameFacts(),
    "signal-2026-01-05-10-11-12-345.mp4": NameFacts(),
    "photo_2026-01-05_10-11-12.jpg": NameFacts(),
    "Screenshot_20260105-101112.png": NameFacts(),
    "cam3_2026-01-05T10-11-12Z.jpg": NameFacts("cam3"),
    "2026-01-05T10-11-12+01:00.jpg": NameFacts(),
    "20260105101112_20270105101112.mp4": NameFacts(),
    "20260105101112_20260105101113_20260105101114.mp4": NameFacts(),
    "10-11-12.mp4": NameFacts(),
    "2026-01-05/2026-01-06/10-11-12.mp4": NameFacts(),
    "camp3.jpg": NameFacts(),
    "scam3.jpg": NameFacts(),
    "cam1_cam2.jpg": NameFacts(),
    "chapter.mp4": NameFacts(),
    "ch.mp4": NameFacts(),
    "0001_c1_01.jpg": NameFacts(),
}


@pytest.mark.parametrize(("name", "expected"), KNOWN.items(), ids=KNOWN)
def test_a_name_says_what_it_says_and_no_more(name, expected):
    assert facts_of(name) == expected


def test_names_of_data_sets_say_the_same_as_in_their_layouts():
    for name in ("0000_c14_0031.jpg", "3700_c1_0002.jpg"):
        assert facts_of(name)[:2] == rstpreid.about(name)
    for name in ("0000_012_01_0303morning_0015_0_ex.jpg", "1040_000_15_0303noon_0001_2.jpg"):
        assert facts_of(name)[:2] == icfg_pedes.about(name)


@given(st.text(max_size=300))
def test_any_name_is_read_without_an_error(name):
    facts_of(name)


@given(st.integers(0, 10**25))
def test_a_plain_number_is_a_time_only_with_fourteen_or_seventeen_digits(number):
    said = facts_of(f"{number}.mp4")
    assert said.camera is said.person is None
    assert said.time is None or len(str(number)) in (14, 17)


# Patterns -------------------------------------------------------------------------------------

FITS = {
    ("{camera}_{time:%Y%m%d-%H%M%S}", "gate_20260105-101112.mp4"): NameFacts("gate", WHEN),
    ("{camera}_{time:%Y%m%d-%H%M%S}", "a/b/north_gate_20260105-101112.jpg"): NameFacts("north_gate", WHEN),
    ("{camera}/{time:%Y-%m-%d}/{time:%H-%M-%S}", "x/gate/2026-01-05/10-11-12.mp4"): NameFacts("gate", WHEN),
    ("{camera}/{time:%Y-%m-%d %H.%M}", "gate/2026-01-05 10.11.avi"): NameFacts("gate", "2026-01-05T10:11:00"),
    ("{time:%d.%m.%y}_{}", "05.01.26_x.jpg"): NameFacts(None, "2026-01-05T00:00:00"),
    ("{time:%d%b%Y_%I%M%p}", "05Jan2026_1011PM.jpg"): NameFacts(None, "2026-01-05T22:11:00"),
    ("{person}_{track}_{}", "0017_t3_004.jpg"): NameFacts(None, None, 17, "t3"),
    ("{person}/{}", "anna/1.jpg"): NameFacts(None, None, "anna"),
    ("{{{camera}}}", "{gate}.jpg"): NameFacts("gate"),
    ("{camera}.{}.jpg", "gate.1.jpg"): NameFacts("gate"),
    ("{camera}[1]+{}", "gate[1]+x.jpg"): NameFacts("gate"),
    ("{time:%Y%m%d%H%M%S%f}", "20260105101112345.jpg"): NameFacts(None, f"{WHEN}.345"),
    # what does not fit says nothing
    ("{camera}_{time:%Y%m%d-%H%M%S}", "gate_20260105_101112.mp4"): None,
    ("{camera}_{time:%Y%m%d-%H%M%S}", "gate_20261305-101112.mp4"): None,
    ("{camera}/{}", "gate.jpg"): None,
    ("{camera}[1]+{}", "gate1x.jpg"): None,
}


@pytest.mark.parametrize(("pattern", "path", "expected"), [(*key, value) for key, value in FITS.items()])
def test_a_pattern_reads_the_end_of_a_path(pattern, path, expected):
    assert NamePattern(pattern).facts_of(path) == expected


REFUSED = {
    "": ("names no field", 0),
    "street": ("names no field", 0),
    "{cam}_{}": ("'cam' is no field", 1),
    "{camera": ("is not closed", 0),
    "camera}": ("closes nothing", 6),
    "{camera}_{camera}": ("camera stands twice", 10),
    "{time}": ("a time needs its format", 5),
    "{time:%Q}": ("%Q is not known", 6),
    "x{time:%Y%m%": ("is not closed", 1),
    "{time:%Y%m%d%}": ("% is not known", 12),
    "{time:%H%M%S}": ("a time needs year, month and day", 0),
    "{time:%Y%m%d}/{time:%Y}": ("%Y stands twice", 0),
    "{time:%Y/%m/%d}": ("a time ends at its folder", 8),
    "{camera:3}": ("only a time has a format", 7),
    "{}{}{}{}{camera}": ("more than 4 fields of any length", 8),
}


@pytest.mark.parametrize(("pattern", "said"), REFUSED.items(), ids=list(REFUSED))
def test_a_wrong_pattern_shows_the_place(pattern, said):
    with pytest.raises(FilterError) as caught:
        NamePattern(pattern)
    assert caught.value.message == f"--pattern: {said[0]} (character {said[1] + 1})."
    assert caught.value.excerpt == (pattern, " " * said[1] + "^")
    assert caught.value.hint


@given(st.text(alphabet="{}:%Ymdcaertimpson_/.-*+?()[]\\ ", max_size=40), st.text(max_size=60))
def test_any_pattern_is_used_or_refused(pattern, path):
    try:
        made = NamePattern(pattern)
    except FilterError:
        return
    made.facts_of(path)


def test_a_name_that_nearly_fits_in_many_ways_is_done_in_a_moment():
    pattern = NamePattern("{camera}_{person}_{track}_{}_end")
    start = time.process_time()
    assert pattern.facts_of("_" * 128) is None
    assert pattern.facts_of("_" * 100_000) is None
    assert time.process_time() - start < 10
