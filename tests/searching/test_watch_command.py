"""`tbps watch` as a user meets it, on a tiny run of random weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.runs import tiny_run
from support.sets import save_image
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.searching.watching import watch

runner = CliRunner()
ALL = ("--query", "a man in red", "--min-score", "-1", "--once")
"""With these every new image is an alert."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    tiny_run(place / "runs" / "tiny-0001")
    save_image(place / "photos" / "cam3_2026-01-05T10-11-12.jpg", 0)
    return place


@pytest.fixture(autouse=True)
def at_the_place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(watch.__kwdefaults__, "settled", 0.02)  # the images of these tests do not grow
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def run(*arguments: str, status: int = 0):
    result = runner.invoke(app, ["watch", *arguments])
    assert result.exit_code == status, result.stderr
    return result


def test_an_alert_is_one_line_on_stdout_and_one_in_the_journal(tmp_path: Path) -> None:
    first = run("photos", *ALL, "--jsonl", "alerts.jsonl")
    assert first.stdout == ""
    assert "Watching photos: 1 image" in first.stderr and "Alerts are written to alerts.jsonl" in first.stderr
    save_image(Path("photos") / "cam4_2026-01-05T10-11-13.jpg", 1)
    second = run("photos", *ALL, "--jsonl", "alerts.jsonl")
    assert re.fullmatch(r"2026-01-05 10:11:13  cam4  -?0\.\d{4}  cam4_2026-01-05T10-11-13\.jpg\n", second.stdout), (
        second.stdout
    )
    assert "photos: 1 alert in 1 new image or track since 20" in second.stderr
    line = json.loads(Path("alerts.jsonl").read_text())
    assert (line["camera"], line["file"]) == ("cam4", str(tmp_path / "photos" / "cam4_2026-01-05T10-11-13.jpg"))
    assert run("photos", *ALL, "--jsonl", "alerts.jsonl").stdout == ""


def test_json_prints_the_lines_of_the_journal() -> None:
    run("photos", *ALL)
    for seed in (1, 2):
        save_image(Path("photos") / f"{seed}.jpg", seed)
    printed = [json.loads(line) for line in run("photos", *ALL, "--json").stdout.splitlines()]
    assert [line["path"] for line in printed] == ["1.jpg", "2.jpg"]


def test_several_queries_are_named_in_their_lines() -> None:
    run("photos", *ALL, "--query", "a woman")
    save_image(Path("photos") / "1.jpg", 1)
    lines = run("photos", *ALL, "--query", "a woman").stdout.splitlines()
    assert sorted(line.split("1.jpg  ")[1] for line in lines) == ["a man in red", "a woman"]


def test_too_few_images_are_said_and_what_to_do() -> None:
    assert "no alerts before 50 are known (or state --min-score)" in run("photos", "-q", "a man", "--once").stderr


def test_questions_and_hits_are_logged_where_that_is_wanted() -> None:
    run("photos", *ALL, "--audit", "log.jsonl")
    save_image(Path("photos") / "1.jpg", 1)
    run("photos", *ALL, "--audit", "log.jsonl")
    log = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [line.get("hits") for line in log] == [None, None, ["1.jpg"]]
    assert all(line["asked"] == ["a man in red"] and line["user"] for line in log)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-q", "a man"], "no source is given"),
        (["photos"], "there is no query"),
        (["photos", "-q", "a man", "--budget", "5"], "--budget 5: not so many alerts in some time"),
        (["photos", "-q", "a man", "--cool-down", "long"], "--cool-down long: not a length of time"),
        (["photos", "-q", "a man", "--exec", ""], "--exec is empty"),
        (["photos", "-q", "a man", "--where", "path like"], "--where"),
        (["http://host/x", "-q", "a man", "--once"], "has no end"),
        (["gone", "-q", "a man"], "gone: there is no such file or folder"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_hint(arguments: list[str], said: str) -> None:
    result = runner.invoke(app, ["watch", *arguments])
    lines = [line for line in result.stderr.splitlines() if not line.startswith(" ")]
    assert result.exit_code in (1, 2)
    assert said in lines[-2] and lines[-2].startswith("Error: ") and lines[-1].startswith("Hint: ")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_with_what_was_seen(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tbps_cli", "watch", "photos", *ALL[:-1], "--jsonl", "alerts.jsonl"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    while "Alerts are written" not in process.stderr.readline():
        pass
    save_image(Path("photos") / "1.jpg", 1)
    until = time.monotonic() + 60
    while not Path("alerts.jsonl").read_bytes() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.count("1.jpg") == 1
    assert "photos: 1 alert in 1 new image or track" in err
    assert "Traceback" not in err
