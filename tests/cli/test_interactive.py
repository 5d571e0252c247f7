"""`tbps search -i` at a real terminal, and with lines from a pipe."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from support.runs import tiny_run
from support.screen import Terminal, terminal
from support.sets import save_image
from typer.testing import CliRunner

from tbps_cli.cli.app import app

TALK = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
import numpy as np
from support.encoder import FakeEncoder
from tbps_cli.cli import render
from tbps_cli.cli.interactive import Drawing, talk
from tbps_cli.features.rows import Row, Rows
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.session import Session

class Slow(FakeEncoder):
    def encode_texts(self, texts, **options):
        if "slow" in texts:
            print("working", flush=True)
            import time; time.sleep(60)
        return super().encode_texts(texts, **options)

colours = ["red", "green", "blue"]
rows = Rows.of([Row(name + ".png") for name in colours])
gallery = Gallery("photos", Roots(Path("photos")), rows, FakeEncoder().encode_texts(colours))
render.show_log()
print("status", talk(Session(Slow(), gallery), lambda *wanted: None, Drawing()))
"""
TABLE = ["rank   score  file", "   1  1.0000  {}.png"]


def hits(screen: list[str]) -> list[str]:
    """The names of the files that the screen shows, in order."""
    return [line.split()[-1] for line in screen if line.endswith(".png")]


def typed(opened: Terminal, keys: str) -> list[str]:
    """Type something and wait until the next empty prompt; returns the screen."""
    opened.type("\x0c" + keys)  # Ctrl-L clears the screen
    opened.until_first("> " + keys.partition("\r")[0])
    return opened.until_line(">")


def test_a_person_types_sees_and_refines() -> None:
    with terminal("-c", TALK, columns=80, keyboard=True) as opened:
        start = opened.until_line(">")
        assert start[0] == "photos: 3 images. Type what the person looks like."
        assert hits(typed(opened, "someone in red\r"))[0] == "red.png"
        screen = typed(opened, "top 1\r")
        assert hits(screen) == ["red.png"] and "someone in red" in screen
        assert hits(typed(opened, "blue\r")) == ["blue.png"]
        screen = typed(opened, "where camra == 1\r")
        caret = next(line for line in screen if line.strip() == "^")
        assert screen[screen.index(caret) - 1] == "  camra == 1" and caret == "  ^"
        assert hits(typed(opened, "undo\r")) == ["red.png"]
        assert "there is no hit 7" in " ".join(typed(opened, "more 7\r"))
        opened.type("\x04")
        assert opened.finish()[-1] == "status 0"


def test_the_arrow_up_brings_back_a_line_and_ctrl_c_forgets_one() -> None:
    pytest.importorskip("readline")
    with terminal("-c", TALK, columns=80, keyboard=True) as opened:
        opened.until_line(">")
        typed(opened, "green\r")
        opened.type("never asked")
        opened.until_line("> never asked")
        opened.type("\x03")
        assert opened.until_line(">")[-2].startswith("> never asked")
        opened.type("\x1b[A")
        assert opened.until_line("> green")[-1] == "> green"
        opened.type("\r")
        assert opened.until_line(">").count("green") == 2
        opened.type("quit\r")
        assert opened.finish()[-1] == "status 0"


def test_ctrl_c_stops_what_takes_too_long_and_the_session_goes_on() -> None:
    with terminal("-c", TALK, columns=80, keyboard=True) as opened:
        opened.until_line(">")
        opened.type("slow\r")
        opened.until_line("working")
        opened.type("\x03")
        assert "interrupted." in opened.until_line(">")
        assert hits(typed(opened, "blue\r"))[0] == "blue.png"


# Lines from a pipe ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    tiny_run(place / "runs" / "tiny-0001")
    for seed in range(4):
        save_image(place / "photos" / f"{seed}.jpg", seed)
    return place


@pytest.fixture(autouse=True)
def at_the_place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


def run(*arguments: str, given: str | bytes = "", status: int = 0):
    result = CliRunner().invoke(app, ["search", "-i", "--in", "photos", *arguments], input=given)
    assert result.exit_code == status, result.stderr
    return result


def test_lines_of_a_pipe_are_answered_and_mistakes_end_nothing() -> None:
    lines = "a red coat\nmore 2\nwhere camra == 1\nhtml hits.html\ncopy hits\nhtml hits.txt\nhelp\nquit\nnever asked\n"
    result = run("--top", "2", given=lines, status=1)
    assert result.stdout.count("rank") == 2 and "never asked" not in result.stdout
    assert result.stderr.count("Error: ") == 2
    assert "> " not in result.stdout
    assert Path("hits.html").read_text().count("data:image/jpeg") == 2
    assert len(list(Path("hits").iterdir())) == 2
    assert run(given="a red coat").stderr.count("Error: ") == 0


def test_what_a_sentence_was_understood_as_is_said_once_and_the_filter_always() -> None:
    result = run(given="a red coat without a backpack\nmore 1\nwhere path like '1*'\ntop 1\na red coat without a hat\n")
    assert result.stderr.count('Understood: "without a backpack"') == 1
    assert result.stderr.count("where path like '1*'") == 3
    assert result.stderr.count('Understood: "without a hat"') == 1


def test_what_the_command_line_asks_for_is_answered_first() -> None:
    result = run("a", "red", "coat", "-", "a bag", "--where", 'path == "1.jpg"', given="top 3\n")
    assert result.stdout.count("a red coat - a bag") == 2
    assert result.stdout.count("1.jpg") == 2 and "2.jpg" not in result.stdout
    one = json.loads(CliRunner().invoke(app, ["search", "a red coat", "--in", "photos", "--json"]).stdout)
    assert [hit["path"] for hit in one["hits"]] == [
        line.split()[-1] for line in run(given="a red coat\n").stdout.splitlines() if line.endswith(".jpg")
    ]


def test_a_line_that_is_not_utf_8_is_a_mistake_and_the_next_one_is_answered() -> None:
    result = run(given="\ufeffa red coat\n".encode() + b"caf\xe9\nblue\n", status=1)
    assert result.stdout.count("rank") == 2 and "not UTF-8" in result.stderr


def test_every_answer_and_every_file_of_a_session_stands_in_the_log() -> None:
    run(
        "red",
        "--audit",
        "log.jsonl",
        given="more 1\nmore 99\nundo\nwhere path like '1*'\nhtml hits.html\nhelp\n",
        status=1,
    )
    logged = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [entry["asked"] for entry in logged] == ["red", "more 1", "undo", "where path like '1*'", "html hits.html"]
    assert logged[3]["where"] == "path like '1*'" and logged[3]["hits"] == ["1.jpg"]
    assert logged[4]["written"] == [str(Path("hits.html").absolute())]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json"], "-i answers at the terminal alone"),
        (["--html", "x.html"], "-i answers at the terminal alone"),
        (["--where", "camra == 1"], "no field 'camra'"),
        (["--where", "person == 1"], "no image here has a person"),
        (["--group", "track"], "no image here has a track"),
    ],
)
def test_a_command_line_that_cannot_be_meant_ends_it_at_once(arguments: list[str], message: str) -> None:
    result = run(*arguments, given="red\n", status=2)
    assert message in result.stderr and result.stdout == ""


def test_a_value_that_no_image_has_is_named_with_those_that_there_are() -> None:
    told = run(given="red\nwhere path == '9.jpg'\n").stderr
    assert 'No image has path "9.jpg"; there are 0.jpg, 1.jpg, 2.jpg, 3.jpg.' in told
    one = CliRunner().invoke(app, ["search", "red", "--in", "photos", "--where", 'path == "x"'])
    assert 'No image has path "x"; there are' in one.stderr


def test_a_hit_is_opened_by_the_systems_program(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", lambda file: opened.append(Path(file).name) or len(opened) - 1)
    result = run(given="red\nopen 1 2\nopen 1\n", status=1)
    hits = [line.split()[-1] for line in result.stdout.splitlines() if line.endswith(".jpg")]
    assert opened == [hits[0], hits[1], hits[0]]
    assert "no program here opens it" in result.stderr
