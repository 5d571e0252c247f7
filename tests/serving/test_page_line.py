"""What the page shows of cameras and times: nothing cut, no rank covered by another, round times on the axis."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from serving.conftest import paint
from serving.test_page import browser, opened, served, wait

pytestmark = pytest.mark.xdist_group("page")
__all__ = ["browser"]

CAMERAS, PERSONS = 14, 3


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Fourteen cameras with long names, five images of each within three days; and three persons at three cameras."""
    place = tmp_path_factory.mktemp("line")
    for number in range(5 * CAMERAS):
        camera, day = number % CAMERAS, 5 + number % 3
        name = f"cam{camera:02d}_2026010{day}-{(number * 7) % 24:02d}{(number * 11) % 60:02d}00.png"
        paint(place / "photos" / name, "red", (16, 30 + number))
    for person in range(PERSONS):
        for camera in range(3):
            name = f"{person + 1:04d}_c{camera + 1}s1_{person}{camera}0151_01.jpg"
            paint(
                place / "photos" / "market" / name, ("green", "blue", "yellow")[person], (16, 110 + 3 * person + camera)
            )
    with served(place / "photos", place / "cache") as url:
        yield url


@pytest.fixture(params=[(1440, 900), (390, 844)], ids=["wide", "phone"])
def page(request: pytest.FixtureRequest, browser, address: str) -> Iterator[object]:
    with opened(browser, address) as made:
        made.set_viewport_size({"width": request.param[0], "height": request.param[1]})
        made.fill("#text", "red")
        wait(made, "answer?.hits.length === 60 && !document.querySelector('#line').hidden")
        yield made


CUT = """selector => [...document.querySelectorAll(selector)]
    .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent)"""


def test_no_name_and_no_time_is_cut(page) -> None:
    assert page.evaluate(CUT, ".lane > span, .told .seen span, .told b, .told i") == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    inside = """() => {
        const box = document.querySelector('#line').getBoundingClientRect();
        return [...document.querySelectorAll('.track em')].filter((one) => {
            const mine = one.getBoundingClientRect();
            return mine.left < box.left || mine.right > box.right;
        }).length;
    }"""
    assert page.evaluate(inside) == 0 and page.locator(".track em").count() >= 1


def test_the_first_hits_are_on_the_first_screen_and_all_cameras_a_press_away(page) -> None:
    lanes = page.locator(".lane:not(.axis)")
    first = lanes.count()
    assert first in (3, 5)
    assert page.locator(".hit").first.bounding_box()["y"] < 450
    page.locator("#line .link").click()
    cameras = page.evaluate("new Set(answer.hits.map((hit) => hit.camera).filter(Boolean)).size")
    assert lanes.count() == cameras > 8
    assert page.locator(".lane .track button").count() == page.evaluate(
        "answer.hits.filter((hit) => hit.camera).length"
    )
    page.locator("#line .link").click()
    assert lanes.count() == first


def test_ranks_on_the_line_never_cover_each_other(page) -> None:
    page.locator("#line .link").click()
    boxes = page.evaluate("""() => [...document.querySelectorAll('.track')].map((track) =>
        [...track.querySelectorAll('button:not(.thin)')].map((one) => one.getBoundingClientRect())
            .map(({ left, right }) => [left, right]).sort((a, b) => a[0] - b[0]))""")
    assert sum(map(len, boxes)) > 8
    for ones in boxes:
        assert all(before[1] <= after[0] + 0.01 for before, after in pairwise(ones))
    thin = page.locator(".track button.thin")
    named = page.evaluate(
        "[...document.querySelectorAll('.track button')].every((one) => one.ariaLabel.startsWith('Hit '))"
    )
    assert named and thin.count() + sum(map(len, boxes)) == page.locator(".track button").count()


def test_the_axis_has_round_times(page) -> None:
    minute, day = 60, 86400
    for span, most in ((40, 6), (50 * minute, 3), (7 * 3600, 6), (3 * day, 3), (40 * day, 6), (900 * day, 6)):
        times = page.evaluate(f"roundTimes(1767571234.5, 1767571234.5 + {span}, false, {most})")
        assert 1 <= len(times) <= most + 1, (span, times)
        steps = {round(after - before) for before, after in pairwise(times)}
        assert len(steps) <= 1
        step = steps.pop() if steps else 1
        assert all(time % step == 0 for time in times), (span, times)
    assert page.evaluate("tickText(Date.parse('2026-01-06T00:00') / 1000, 0, 3 * DAY, true)") == "01-06"
    assert page.evaluate("tickText(Date.parse('2026-01-06T12:00') / 1000, 0, 3 * DAY, true)") == "12:00"
    assert (
        page.evaluate("dayText(Date.parse('2026-01-05T01:00') / 1000, Date.parse('2026-01-07T01:00') / 1000)") == "2026"
    )
    assert page.locator(".lane.axis > span").inner_text() == "2026"


def test_no_image_is_above_all_of_the_gallery(page) -> None:
    assert page.evaluate("[share(99.99999), share(100), share(99.96), share(12.34), share(0)]") == [
        "99.9", "99.9", "99.9", "12.3", "0.0",
    ]  # fmt: skip


def test_why_there_is_no_confident_match_is_said_as_it_is(page) -> None:
    said = """(best) => sureText({ level: 0.9, confident: false, size: 0, best_score: best, lowest_score: 0.2,
        strangers_score_as_high: 0.87, present_refused: 0.9 })"""
    assert page.evaluate(said, 0.1) == (
        "no confident match: the best image scores 0.100, people who are there 0.200 or more"
    )
    assert page.evaluate(said, 0.3) == (
        "no confident match: the best image scores 0.300, and so does the best of as many images of strangers in "
        "87 of 100 searches"
    )


def test_how_many_alerts_may_come_is_said_in_words(page) -> None:
    assert page.evaluate("['5/day', '1/h', '1000 per hour', '0.5/Week'].map(budgetText)") == [
        "5 alerts a day", "1 alert an hour", "1,000 alerts an hour", "0.5 alerts a week",
    ]  # fmt: skip


def test_all_images_of_a_person_are_a_press_away(page) -> None:
    page.fill("#text", "green")
    page.select_option("#group", "person", force=True)
    page.locator("#group").dispatch_event("change")
    wait(page, "answer?.query === 'green' && answer.hits[0]?.person === 1 && answer.hits[0].members === 3")
    page.locator(".hit .open").first.click()
    assert page.locator("#d-all").inner_text() == "Show all 3 images of this person"
    page.locator("#d-all").click()
    wait(page, "answer?.hits.length === 3 && answer.hits.every((hit) => hit.person === 1)")
    assert page.locator(".chip", has_text="person == 1").count() == 1
    quoted = "(served().groups.push('source'), state.group = 'source', othersOf({ source: 'a\"b.mp4' }))"
    assert page.evaluate(quoted) == 'source == "a\\"b.mp4"'
