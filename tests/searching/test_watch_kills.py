"""Watchers that are killed at any moment: no alert is lost, none is told twice, and every command runs."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.watched import DAY, Shades, arrive, arrive_all

from tbps_cli.searching.watching import watch

# forkserver: the modules are imported once, and a killed child takes nothing of the test with it
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tbps_cli.searching.watching", "support.watched", "watchfiles"])
KILLS = 20


def work(folder: Path, journal: Path, command: str, once: bool) -> None:
    """What every watcher does until it is killed."""
    os.environ["TBPS_CACHE_DIR"] = str(journal.with_name("cache"))  # the server has that of the test that started it
    for _ in watch(
        Shades(), folder, "rare", min_score=0.6, settled=0.03, poll=0.03, jsonl=journal, command=command, once=once
    ):
        pass


@pytest.mark.slow
def test_twenty_kills_lose_no_alert_and_double_none(tmp_path: Path) -> None:
    folder, journal, ran = tmp_path / "cams", tmp_path / "alerts.jsonl", tmp_path / "ran"
    script = tmp_path / "told.sh"
    script.write_text(f"#!/bin/sh\necho $TBPS_PATH >> {ran}\n")
    script.chmod(0o755)
    draw = random.Random(0)
    arrive_all(folder, np.random.default_rng(0).uniform(0.1, 0.5, 60), 0, DAY)
    work(folder, journal, str(script), True)
    planted: set[str] = set()
    while_running = 0
    for kill in range(KILLS):
        child = PROCESSES.Process(target=work, args=(folder, journal, str(script), False))
        child.start()
        until = time.monotonic() + draw.uniform(0.1, 1.2)
        number = 0
        while time.monotonic() < until:
            rare = draw.random() < 0.5
            name = f"{kill:02d}-{number:03d}-{'rare' if rare else 'usual'}.png"
            arrive(folder, name, draw.uniform(0.7, 0.99) if rare else draw.uniform(0.1, 0.5), DAY + kill * 60 + number)
            planted |= {name} if rare else set()
            number += 1
            time.sleep(draw.uniform(0.0, 0.1))
        before = journal.read_bytes().count(b"\n") if journal.exists() else 0
        child.kill()
        child.join()
        while_running += before > 0
    work(folder, journal, str(script), True)
    told = Counter(json.loads(line)["path"] for line in journal.read_bytes().splitlines() if line)
    assert while_running > KILLS // 2  # alerts were told between the kills, not only at the end
    assert set(told) == planted
    assert max(told.values()) == 1
    runs = Counter(ran.read_text().split())
    assert set(runs) == planted
    assert sum(runs.values()) <= len(planted) + KILLS


@pytest.mark.slow
def test_four_watchers_that_start_at_once_share_a_journal(tmp_path: Path) -> None:
    folder, journal = tmp_path / "cams", tmp_path / "alerts.jsonl"
    arrive_all(folder, np.random.default_rng(0).uniform(0.1, 0.5, 60), 0, DAY)
    work(folder, journal, "true", True)
    names = {arrive(folder, f"rare-{number:03d}.png", 0.7 + number / 1000, DAY + number).name for number in range(100)}
    children = [PROCESSES.Process(target=work, args=(folder, journal, "true", True)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=120)
    assert [child.exitcode for child in children] == [0] * 4
    told = Counter(json.loads(line)["path"] for line in journal.read_text().splitlines())
    assert told == Counter(names)
