"""The log of searches: one whole line a question, before the answer, or no answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import tiny_run
from support.sets import save_image
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.errors import TbpsError
from tbps_cli.features.rows import content_hash
from tbps_cli.searching.audit import AuditLog, user


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_is_appended_and_the_file_is_its_owners_alone(tmp_path) -> None:
    log = AuditLog(tmp_path / "log.jsonl")
    log.check()
    assert log.path.read_bytes() == b""
    log.append([{"asked": "one\ntwo\x1b"}])
    log.append([{"asked": "three"}, {"asked": "four"}])
    assert [entry["asked"] for entry in lines(log.path)] == ["one\ntwo\x1b", "three", "four"]
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_half_a_line_of_a_killed_process_stays_a_line_of_its_own(tmp_path) -> None:
    log = AuditLog(tmp_path / "log.jsonl")
    log.path.write_bytes(b'{"asked": "hal')
    log.append([{"asked": "whole"}])
    assert log.path.read_bytes() == b'{"asked": "hal\n{"asked": "whole"}\n'


def test_what_could_not_be_written_whole_is_taken_back(tmp_path, monkeypatch) -> None:
    log = AuditLog(tmp_path / "log.jsonl")
    log.append([{"asked": "first"}])
    before = log.path.read_bytes()
    written = os.write
    pieces: list[bytes] = []

    def full(handle: int, data: bytes) -> int:
        if pieces:
            raise OSError(28, "No space left on device")
        pieces.append(data[:7])
        return written(handle, data[:7])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TbpsError, match=r"--audit .*No space left"):
        log.append([{"asked": "second"}])
    monkeypatch.undo()
    assert log.path.read_bytes() == before


APPENDING = """
import sys
from pathlib import Path
from tbps_cli.searching.audit import AuditLog
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    AuditLog(Path(sys.argv[1])).append([{"process": sys.argv[2], "number": number, "filling": "x" * 5000}])
"""


def test_several_processes_write_whole_lines(tmp_path) -> None:
    words = [sys.executable, "-c", APPENDING, str(tmp_path / "log.jsonl")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen([*words, str(number)], **pipes) for number in range(3)]
    assert [process.stdout.readline() for process in running] == ["ready\n"] * 3
    for process in running:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in running:
        process.communicate(timeout=60)
    assert [process.returncode for process in running] == [0] * 3
    assert len(lines(tmp_path / "log.jsonl")) == 120


# The command ----------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    tiny_run(tmp_path / "runs" / "tiny-0001")
    for seed in range(3):
        save_image(tmp_path / "photos" / f"{seed}.jpg", seed)
    return tmp_path / "photos"


def search(*words: str, status: int = 0, **variables: str):
    result = CliRunner().invoke(app, ["search", *words, "--in", "photos"], env=variables)
    assert result.exit_code == status, result.stderr
    return result


def test_a_search_leaves_who_when_what_where_and_what_came_out(photos: Path) -> None:
    words = ["a", "man", "--image", "photos/1.jpg", "--minus", "a bag", "--where", 'path like "*.jpg"', "--top", "2"]
    result = search(*words, "--audit", "log.jsonl", "--json")
    (entry,) = lines(Path("log.jsonl"))
    assert entry["user"] == user() and str(entry["when"]).endswith("Z")
    assert entry["asked"] == "a man + [1.jpg] - a bag"
    assert entry["understood"]["terms"] == [
        {"text": "a man", "weight": 1.0},
        {"image": "photos/1.jpg", "content": content_hash(photos / "1.jpg"), "weight": 1.0},
        {"text": "a bag", "weight": -0.5},
    ]
    assert (entry["gallery"], entry["size"], entry["candidates"]) == ("photos", 3, 3)
    assert entry["where"] == 'path like "*.jpg"'
    assert entry["hits"] == [hit["path"] for hit in json.loads(result.stdout)["hits"]]


def test_the_variable_switches_it_on_and_every_query_of_a_file_has_a_line(photos: Path) -> None:
    Path("q.txt").write_text("red\nblue\n")
    search("--queries", "q.txt", "--html", "page.html", TBPS_AUDIT="log.jsonl")
    assert [entry["asked"] for entry in lines(Path("log.jsonl"))] == ["red", "blue"]
    assert lines(Path("log.jsonl"))[0]["written"] == [str(Path("page.html").absolute())]


@pytest.mark.parametrize("place", ["no/such/folder/log.jsonl", "photos"])
def test_a_log_that_cannot_be_written_stops_the_search_before_it_begins(photos: Path, place: str) -> None:
    result = search("red", "--audit", place, "--html", "page.html", status=1)
    assert f"Error: --audit {place} cannot be written" in result.stderr and result.stdout == ""
    assert "Embedding" not in result.stderr and "photos:" not in result.stderr and not Path("page.html").exists()


def test_a_log_that_fails_at_its_line_gives_no_answer(photos: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    result = search("red", "--audit", "log.jsonl", "--html", "page.html", status=1)
    assert result.stdout == "" and not Path("page.html").exists()
