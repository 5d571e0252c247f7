"""Rank sheets: self-contained, escaped, and in the right order."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from PIL import Image
from support.browser import opened_page
from support.sets import save_image

from tbps_cli.searching.heat_overlay import overlay
from tbps_cli.searching.hits import label
from tbps_cli.searching.rank_sheet import MOST, _parts
from tbps_cli.searching.sheet import SheetAnswer, SheetImage, SheetSection, sheet
from tbps_cli.searching.thumbnails import Excerpt
from tbps_cli.searching.timeline import Presence
from tbps_cli.types import Hit, WordSupport


class Reader(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.words.append(data)


def test_each_thumbnail_is_stored_once_and_is_a_small_jpeg(tmp_path) -> None:
    one = save_image(tmp_path / "one.png", 1, (300, 800))
    two = save_image(tmp_path / "two.png", 2)
    answers = [
        SheetAnswer("a", [SheetImage(Excerpt(one), "0.9"), SheetImage(Excerpt(two), "0.8")]),
        SheetAnswer("b", [SheetImage(Excerpt(one), "0.7")]),
    ]
    told: list[tuple[int, int]] = []
    text = sheet(
        "t", [("what", "s")], [SheetSection("all", answers)], progress=lambda done, total: told.append((done, total))
    )
    stored = re.findall(r"base64,([A-Za-z0-9+/=]+)\)", text)
    assert len(stored) == 2
    assert Image.open(io.BytesIO(base64.b64decode(stored[0]))).size == (60, 160)
    assert told == [(1, 2), (2, 2)]


def test_right_wrong_and_unknown_places_are_marked(tmp_path) -> None:
    image = save_image(tmp_path / "p.png")
    places = [SheetImage(Excerpt(image), "x", right) for right in (True, False, None)]
    tags = Reader(
        sheet(
            "t",
            [("what", "s")],
            [SheetSection("all", [SheetAnswer("q", places, own=SheetImage(Excerpt(image), "described"))])],
        )
    ).tags
    assert [attrs["class"] for tag, attrs in tags if tag == "figure"] == ["own", "yes", "no", ""]


def test_everything_from_data_is_escaped(tmp_path) -> None:
    evil = "<script>alert('&\"')</script>"
    image = save_image(tmp_path / '"><b>.png')
    text = sheet(
        evil, [(evil, evil)], [SheetSection(evil, [SheetAnswer(evil, [SheetImage(Excerpt(image), evil)], note=evil)])]
    )
    read = Reader(text)
    assert [tag for tag, _ in read.tags].count("script") == 1
    assert not {"link", "img", "iframe"} & {tag for tag, _ in read.tags}
    assert "".join(read.words).count(evil) == 8
    assert not re.search(r"https?://|src=|@import", text)


def test_an_image_that_cannot_be_read_stays_a_grey_box(tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    text = sheet(
        "t",
        [("what", "s")],
        [SheetSection("all", [SheetAnswer("q", [SheetImage(Excerpt(tmp_path / "broken.png"), "0.1")])])],
    )
    assert "base64" not in text
    assert "broken.png" in text


def test_groups_without_answers_have_no_heading() -> None:
    assert "<h2>" not in sheet("t", [("what", "s")], [SheetSection("Worst", [])])


def test_worst_and_best_come_first_and_every_query_stands_once() -> None:
    worst, best, others = _parts([*range(100, 300), *range(100)])
    assert worst == list(range(100, 150))
    assert best == list(range(99, 49, -1))
    assert others == [*range(50), *range(150, 300)]
    assert _parts([2, 0, 1]) == ([2], [1], [0])
    assert _parts([0]) == ([], [], [0])
    assert sum(map(len, _parts(list(range(5000))))) == MOST


def test_a_hit_leads_to_its_file_and_shows_folder_camera_and_time(tmp_path) -> None:
    name = os.fsdecode("ü\n\x1b[31m 1.png".encode() + b"\xff")
    image = tmp_path / "cam_a" / name
    hit = Hit(1, f"cam_a/{name}", 0.5, image, None, "c3", "2024-05-01T10:00:00")
    read = Reader(
        sheet("t", [("what", "s")], [SheetSection("all", [SheetAnswer("q", [SheetImage(Excerpt(image), label(hit))])])])
    )
    (link,) = [attrs for tag, attrs in read.tags if tag == "a"]
    assert os.fsdecode(unquote_to_bytes(urlsplit(link["href"]).path)) == str(image)
    assert link["title"] == f"{tmp_path}/cam_a/ü\\n\\x1b[31m 1.png\\xff"
    shown = read.words.index("ü\\n\\x1b[31m 1.png\\xff")
    assert "cam_a · c3 · 2024-05-01 10:00:00" in read.words[shown:]


def test_a_hit_without_further_facts_shows_its_score_and_person(tmp_path) -> None:
    assert label(Hit(1, "1.png", 0.25, tmp_path / "1.png", 7)) == "0.250\nperson 7"


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</style><style>*{display:none}",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "url(javascript:alert(1))}body{display:none}",
    "{{ 7 * 7 }}{% raw %}<%= 7 %>",
    "evil\u202egnp.exe",
    "\u2066isolated\u2069 \u200f\u061cright",
    "line\nbreak\r\n\u2028and\u2029more",
    "nul\x00 bell\x07 escape\x1b[31m",
    "half an emoji \ud83d and a byte \udcff",
    "&amp;&lt;&#60;",
    "<!-- --><![CDATA[",
    "\ufeff" + "x" * 500,
    "http://198.51.100.7/track.png",
]
"""Names, sentences and persons as somebody might make them who wants more than to be shown."""


def hostile_sheet(folder: Path) -> str:
    """A sheet on which every place that takes text from outside has one of those."""
    image = save_image(folder / "one.png", 1, (40, 100))
    frame = save_image(folder / "frame.png", 2, (640, 360))

    def place(text: str) -> SheetImage:
        crop = Excerpt(frame, (10, 20, 40, 100))
        return SheetImage(crop, f"0.5\n{text}", True, text, [(text, text)], None, Excerpt(frame))

    answers = [
        SheetAnswer(
            text,
            [place(text), SheetImage(Excerpt(image), text, None, text)],
            text,
            SheetImage(Excerpt(folder / f"{number}.png"), text, name=text),
            [(text, text)],
            [Presence(0, 1, text, 0.0, 5.0), Presence(1, 2, text + "2", 60.0, 61.0)],
        )
        for number, text in enumerate(HOSTILE)
    ]
    facts = [(text, text) for text in HOSTILE]
    return sheet(
        " ".join(HOSTILE), facts, [SheetSection(text, answers) for text in HOSTILE[:2]], kind=HOSTILE[0], figures=facts
    )


def test_hostile_text_stays_text_wherever_it_stands(tmp_path) -> None:
    text = hostile_sheet(tmp_path)
    assert text.encode("utf-8")
    read = Reader(text)
    tags = [tag for tag, _ in read.tags]
    assert tags.count("script") == 1 and tags.count("style") == 2
    assert not {"img", "link", "iframe", "object", "base", "form"} & set(tags)
    names = {name for _, attributes in read.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "style", "srcset", "action")]
    links = [attributes["href"] for tag, attributes in read.tags if tag == "a"]
    assert links and all(link.startswith(("#h", "file:///")) for link in links)
    assert "".join(read.words).count("{{ 7 * 7 }}{% raw %}") > 10
    assert not re.search("[\x00\x07\x1b\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)


def test_the_policy_names_the_hashes_of_what_is_on_the_page(tmp_path) -> None:
    text = hostile_sheet(tmp_path)
    (policy,) = [a["content"] for tag, a in Reader(text).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        (rule,) = [rule for rule in policy.split("; ") if rule.startswith(kind)]
        blocks = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
        assert rule.split()[1:] == [f"'sha256-{one}'" for one in hashes]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1440, 390])
def test_a_browser_has_no_complaint_about_a_hostile_page_and_asks_for_nothing(tmp_path, width: int) -> None:
    (tmp_path / "page.html").write_text(hostile_sheet(tmp_path), encoding="utf-8")
    log = tmp_path / "net.json"
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--log-net-log={log}",
    ]
    command += [f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{tmp_path}/page.html"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    assert 'class="js"' in done.stdout, "the page's own script did not run"
    asked = re.findall(r'"url":"((?:https?|file):[^"]*)"', log.read_text())
    assert not [url for url in asked if "198.51.100.7" in url or "track.png" in url]


def test_a_hit_of_a_frame_opens_the_frame_with_its_box_and_the_next_one(tmp_path) -> None:
    frame = save_image(tmp_path / "frame.png", 2, (640, 360))
    places = [SheetImage(Excerpt(frame, (10 * n, 20, 40, 100)), "0.5\nframe", frame=Excerpt(frame)) for n in range(2)]
    text = sheet("t", [], [SheetSection("", [SheetAnswer("q", places)])])
    tags = Reader(text).tags
    assert [a["href"] for tag, a in tags if tag == "a"][:2] == ["#h1x1-1-frame", "#h1x1-2-frame"]
    assert [(a["x"], a["width"]) for tag, a in tags if tag == "rect"] == [("0", "40"), ("10", "40")]
    assert [a["viewbox"] for tag, a in tags if tag == "svg"] == ["0 0 640 360"] * 2
    assert [a["href"] for _, a in tags if a.get("rel") == "next"] == ["#h1x1-2-frame"]
    assert len(re.findall(r"\.f\d+\{", text)) == 1 and len(re.findall(r"\.t\d+\{", text)) == 2


def test_a_page_without_heads_leads_to_no_file(tmp_path) -> None:
    image = save_image(tmp_path / "one.png", 1, (40, 100))
    text = sheet("t", [], [SheetSection("", [SheetAnswer("q", [SheetImage(Excerpt(image), "0.5")])])], blur=True)
    assert "file:" not in text and "<a " not in text


def test_a_sheet_of_two_thousand_queries_is_written_quickly(tmp_path) -> None:
    """Processor time: 20,000 places over 100 images; the images themselves are a few per cent of it."""
    images = [Excerpt(save_image(tmp_path / f"{n}.png", n, (20, 50))) for n in range(100)]
    answers = [
        SheetAnswer(f"query {q}", [SheetImage(images[(q + n) % 100], f"0.{n}\nperson {n}", n == 3) for n in range(10)])
        for q in range(2000)
    ]
    start = time.process_time()
    text = sheet("many", [], [SheetSection("all", answers)])
    assert time.process_time() - start < 6
    assert text.count('<section class="answer">') == 2000 and text.count("base64,") == 100


def test_words_stand_below_an_image_and_their_heat_maps_lie_over_it(photos):
    words = (
        WordSupport("red", 0.2, None, ((0.0, 1.0), (0.5, 0.0))),
        WordSupport("<b>", 0.05, None, None),
        WordSupport("coat", -0.1, "hoodie", ((1.0, 0.0), (0.0, 0.0))),
    )
    place = SheetImage(Excerpt(photos / "red.png"), "0.5", words=words)
    text = sheet("q", [], [SheetSection("", [SheetAnswer("", [place])])])
    (listed,) = re.findall(r'<ul class="words">.*?</ul>', text, re.DOTALL)
    assert re.findall(r'class="(b\d+)"', listed) == ["b10", "b2", "b0"]
    assert "<s><bdi>coat</bdi></s> hoodie?" in listed and "&lt;b&gt;" in listed
    assert listed.count("<i ") == 1 and text.count(".x0{background-image:url(data:image/png;base64,") == 1


def test_a_heat_map_has_the_proportions_of_its_image_and_is_clear_where_nothing_is():
    with Image.open(io.BytesIO(overlay(((0.0, 0.0), (0.0, 1.0)), (100, 300)))) as opened:
        made = opened.convert("RGBA")
    assert made.height / made.width == pytest.approx(3, abs=0.03)
    assert made.getpixel((0, 0))[3] < 10 and made.getpixel((made.width - 1, made.height - 1))[3] > 120


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_arrow_keys_move_enter_opens_the_frame_and_escape_closes_it(tmp_path) -> None:
    frame = save_image(tmp_path / "frame.png", 2, (640, 360))
    places = [SheetImage(Excerpt(frame, (10 * n, 20, 40, 100)), f"0.{n}", frame=Excerpt(frame)) for n in range(9)]
    text = sheet("t", [], [SheetSection("", [SheetAnswer("q", places)])], large=True, size=(158, 360))
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    steps = [
        ("ArrowRight", "h1x1-1"),
        ("ArrowRight", "h1x1-2"),
        ("ArrowDown", "h1x1-8"),
        ("ArrowUp", "h1x1-2"),
        ("Enter", "h1x1-2-frame"),
        ("ArrowRight", "h1x1-3-frame"),
        ("ArrowLeft", "h1x1-2-frame"),
        ("Escape", "h1x1-2"),
        ("ArrowLeft", "h1x1-1"),
    ]
    with opened_page(tmp_path / "page.html", tmp_path / "profile", width=1300) as page:
        for key, wanted in steps:
            page.press(key)
            assert page.until("document.activeElement.closest('[id]')?.id", wanted) == wanted, key
