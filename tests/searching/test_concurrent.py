"""Two processes that index and three that search one changing folder: every gallery is one consistent snapshot."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.encoder import FakeEncoder
from support.race import oracle_of, wrong
from support.sets import save_image

from tbps_cli.searching.index import index

CONTENTS = 24


@pytest.fixture
def contents(tmp_path: Path) -> Path:
    """Every image that the folder will ever show."""
    for number in range(CONTENTS):
        save_image(tmp_path / "contents" / f"{number:02d}.png", seed=number)
    return tmp_path / "contents"


def start(*words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.race", *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def change(folder: Path, contents: Path, draw: random.Random) -> None:
    """One thing that happens to a folder of images: they come, go, move, and become other images."""
    there = sorted(folder.rglob("*.png"))
    source = contents / f"{draw.randrange(CONTENTS):02d}.png"
    target = folder / draw.choice(["", "below"]) / f"{draw.randrange(12):02d}.png"
    target.parent.mkdir(exist_ok=True)
    kind = draw.randrange(5)
    if kind == 0 and len(there) > 4:
        draw.choice(there).unlink()
    elif kind == 1 and there:
        draw.choice(there).rename(target)
    elif kind == 2:
        shutil.copyfile(source, target)  # a reader may see half of it
    else:
        shutil.copyfile(source, folder / "new.tmp")
        (folder / "new.tmp").rename(target)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, f"{out.strip()} {err.strip()[-2000:]}"


def race(folder: Path, contents: Path, seconds: float, path: list[Path], roles: list[str]) -> Iterator[tuple[int, str]]:
    """How every process ended that was not killed."""
    readers = [start("open" if path and number else "read", folder, contents, seconds, *path) for number in range(3)]
    writers = [start(role, folder, contents, seconds, *path) for role in roles]
    for process in (*readers, *writers):
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    draw, began, killed = random.Random(0), time.monotonic(), 0
    kill_at = began + seconds / 4
    while time.monotonic() - began < seconds:
        change(folder, contents, draw)
        time.sleep(draw.uniform(0, 0.05))
        if time.monotonic() > kill_at:
            kill_at += max(1.0, seconds / 20)
            victim = draw.randrange(2)
            writers[victim].send_signal(signal.SIGKILL)
            returncode, said = outcome(writers[victim])
            killed += returncode == -signal.SIGKILL
            if returncode != -signal.SIGKILL:
                yield returncode, said
            left = max(0.5, seconds - (time.monotonic() - began))
            writers[victim] = start(roles[victim], folder, contents, left, *path)
    yield from map(outcome, [*readers, *writers])
    assert killed


@pytest.mark.parametrize(
    ("seconds", "own_file", "roles"),
    [
        (5, False, ["pile", "pile"]),
        pytest.param(60, False, ["write", "write"], marks=[pytest.mark.slow, pytest.mark.timeout(400)]),
        pytest.param(60, True, ["pile", "write"], marks=[pytest.mark.slow, pytest.mark.timeout(400)]),
    ],
)
def test_every_gallery_is_consistent_while_others_write_and_die(
    seconds: float, own_file: bool, roles: list[str], contents: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        shutil.copyfile(contents / f"{number:02d}.png", folder / f"{number:02d}.png")
    path = [tmp_path / "people.h5"] if own_file else []
    ends = list(race(folder, contents, seconds, path, roles))
    assert [said for returncode, said in ends if returncode] == []
    assert all(int(said.removeprefix("ready").split()[0]) > 0 for _, said in ends)
    oracle, model = oracle_of(contents), FakeEncoder()
    left = index(model, folder, *path)
    assert wrong(left, oracle) == ""
    assert {row.path for row in left.rows} == {file.relative_to(folder).as_posix() for file in folder.rglob("*.png")}
    again = index(model, folder, *path)
    assert again.update.added == 0
