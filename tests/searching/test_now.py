"""`--now`: answers while images are embedded, and the same answer in the end."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from support.encoder import FakeEncoder
from support.runs import tiny_run
from support.screen import terminal
from support.sets import save_image
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.errors import TbpsError
from tbps_cli.features import row_sink
from tbps_cli.searching import search as module
from tbps_cli.searching.query import Query
from tbps_cli.searching.search import Search, search_all


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are written after every batch, and every one is looked at."""
    monkeypatch.setattr(row_sink, "SEEN_SECONDS", -1.0)
    monkeypatch.setattr(module, "_SHARE", 0.0)


class OneByOne(FakeEncoder):
    """Takes one image at a time."""

    batch = 1


def folder(painted: Callable[..., Path], place: Path) -> Path:
    for number, colour in enumerate(["blue", "green", "yellow", "red", "green", "red"]):
        painted(place / f"{number}-{colour}.png", colour, (16 + number, 32))
    return place


def test_the_best_so_far_are_told_while_images_are_embedded(painted, tmp_path: Path, at_once: None) -> None:
    seen: list[Search] = []
    photos = folder(painted, tmp_path / "photos")
    found = search_all(OneByOne(), photos, [Query("red")], early=seen.append, top=2)
    assert [len(one.gallery) for one in seen] == [1, 2, 3, 4, 5, 6]
    assert [one.answers[0].hits[0].path for one in seen][3:] == ["3-red.png"] * 3
    assert [hit.path for hit in seen[-1].answers[0].hits] == [hit.path for hit in found.answers[0].hits]
    again: list[Search] = []
    search_all(OneByOne(), photos, [Query("red")], early=again.append)
    assert again == [], "there is nothing to wait for"


def test_filters_count_from_the_start_and_what_no_row_has_yet_is_told_at_the_end(
    painted, tmp_path: Path, at_once: None
) -> None:
    seen: list[Search] = []
    photos = folder(painted, tmp_path / "photos")
    search_all(OneByOne(), photos, [Query("red")], where='path like "*green*"', early=seen.append)
    assert [[hit.path for hit in one.answers[0].hits] for one in seen][:2] == [[], ["1-green.png"]]
    with pytest.raises(TbpsError, match="camera"):
        more = folder(painted, tmp_path / "more")
        search_all(OneByOne(), more, [Query("red")], where="camera == 1", early=seen.append)


def test_a_warning_about_the_question_is_said_once(
    painted, tmp_path: Path, at_once: None, lines: Callable[[], str]
) -> None:
    search_all(OneByOne(), folder(painted, tmp_path / "photos"), [Query("red " * 40)], early=lambda found: None)
    assert lines().count("longer than the model reads") == 1


SCREEN = """
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from tbps_cli.cli import render
from tbps_cli.cli.live_view import LiveView
from tbps_cli.types import Hit

def found(count, hits):
    answer = SimpleNamespace(question="a man in red", hits=hits, is_right=lambda hit: None)
    return SimpleNamespace(answers=[answer], gallery=range(count))

def hit(rank, path, score):
    return Hit(rank, path, score, Path(path))

view = LiveView()
with view.watch("photos") as told:
    told(8, 64)
    sys.stdin.readline()
    view.early(found(8, [hit(1, "gate/7.jpg", 0.3)]))
    sys.stdin.readline()
    told(16, 64)
    view.early(found(16, [hit(1, "gate/11.jpg", 0.4), hit(2, "gate/7.jpg", 0.3)]))
    sys.stdin.readline()
print("the final table")
"""


@pytest.mark.parametrize("columns", [80, 140])
def test_on_a_terminal_the_hits_stand_above_the_bar_and_leave_no_trace(columns: int) -> None:
    with terminal("-c", textwrap.dedent(SCREEN), columns=columns) as seen:
        bar = "Embedding photos " + "━" * (columns // 4) + " {:>2}/64 images TIME"
        assert seen.until([bar.format(8)]) == [bar.format(8)]
        seen.go_on()
        seen.until_first("a man in red")
        shown = seen.until_line(bar.format(8))
        assert (shown[1].split(), shown[3].split()) == (["rank", "score", "file"], ["1", "0.3000", "gate/7.jpg"])
        assert shown[-2] == "the best of 8 images so far"
        seen.go_on()
        assert seen.until_line(bar.format(16))[-2] == "the best of 16 images so far"
        assert any("gate/11.jpg" in line for line in seen.shown())
        seen.go_on()
        assert seen.finish() == ["the final table"]


def test_without_a_terminal_it_is_the_search_as_it_always_is(tmp_path: Path) -> None:
    tiny_run(Path("runs/tiny-0001"))
    for seed in range(4):
        save_image(Path("photos") / f"{seed}.jpg", seed)
    command = ["search", "a man in red", "--in", "photos"]
    now, plain = (CliRunner().invoke(app, [*command, *more]) for more in (["--now"], []))
    assert (now.exit_code, now.stdout) == (0, plain.stdout)
    refused = CliRunner().invoke(app, [*command[:1], "--queries", "-", "--in", "photos", "--now"], input="a man\n")
    assert refused.exit_code == 2 and "--now shows one answer" in refused.stderr
