"""Rank sheets: self-contained, escaped, and in the right order."""

from __future__ import annotations

import base64
import io
import os
import re
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes, urlsplit

from PIL import Image
from support.sets import save_image

from tbps_cli.searching.hits import label
from tbps_cli.searching.sheet import MOST, SheetAnswer, SheetImage, SheetSection, _parts, sheet
from tbps_cli.types import Hit


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
        SheetAnswer("a", [SheetImage(one, "0.9"), SheetImage(two, "0.8")]),
        SheetAnswer("b", [SheetImage(one, "0.7")]),
    ]
    told: list[tuple[int, int]] = []
    text = sheet("t", "s", [SheetSection("all", answers)], progress=lambda done, total: told.append((done, total)))
    stored = re.findall(r"base64,([A-Za-z0-9+/=]+)\)", text)
    assert len(stored) == 2
    assert Image.open(io.BytesIO(base64.b64decode(stored[0]))).size == (60, 160)
    assert told == [(1, 2), (2, 2)]


def test_right_wrong_and_unknown_places_are_marked(tmp_path) -> None:
    image = save_image(tmp_path / "p.png")
    places = [SheetImage(image, "x", right) for right in (True, False, None)]
    tags = Reader(
        sheet("t", "s", [SheetSection("all", [SheetAnswer("q", places, own=SheetImage(image, "described"))])])
    ).tags
    assert [attrs["class"] for tag, attrs in tags if tag == "figure"] == ["own", "yes", "no", ""]


def test_everything_from_data_is_escaped(tmp_path) -> None:
    evil = "<script>alert('&\"')</script>"
    image = save_image(tmp_path / '"><b>.png')
    text = sheet(evil, evil, [SheetSection(evil, [SheetAnswer(evil, [SheetImage(image, evil)], note=evil)])])
    read = Reader(text)
    assert not {"script", "b", "link", "img"} & {tag for tag, _ in read.tags}
    assert "".join(read.words).count(evil) == 7
    assert not re.search(r"https?://|src=|@import", text)


def test_an_image_that_cannot_be_read_stays_a_grey_box(tmp_path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    text = sheet("t", "s", [SheetSection("all", [SheetAnswer("q", [SheetImage(tmp_path / "broken.png", "0.1")])])])
    assert "base64" not in text
    assert "broken.png" in text


def test_groups_without_answers_have_no_heading() -> None:
    assert "<h2>" not in sheet("t", "s", [SheetSection("Worst", [])])


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
    read = Reader(sheet("t", "s", [SheetSection("all", [SheetAnswer("q", [SheetImage(image, label(hit))])])]))
    (link,) = [attrs for tag, attrs in read.tags if tag == "a"]
    assert os.fsdecode(unquote_to_bytes(urlsplit(link["href"]).path)) == str(image)
    assert link["title"] == f"{tmp_path}/cam_a/ü\\n\\x1b[31m 1.png\\xff"
    assert read.words[-3:-1] == ["ü\\n\\x1b[31m 1.png\\xff", "cam_a · c3 · 2024-05-01T10:00:00"]


def test_a_hit_without_further_facts_shows_its_score_and_person(tmp_path) -> None:
    assert label(Hit(1, "1.png", 0.25, tmp_path / "1.png", 7)) == "0.250\nperson 7"
