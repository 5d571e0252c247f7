"""`scripts/campaign` in its short form; docs/reliability.md has the long one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from campaigns import page
from campaigns.trials import Ledger, Result, Trial, run_all

ROOT = Path(__file__).parents[1]
PARTS = "kills", "inputs", "hostile", "damage", "disk", "clock"


def campaign(*words: str, seconds: float) -> subprocess.CompletedProcess[str]:
    environment = {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}:{ROOT / 'tests'}",
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    command = [sys.executable, "-P", "-m", "campaigns", *words]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=seconds, check=False
    )


@pytest.mark.timeout(1200)  # of a machine that is busy with other things; alone, they take some ten seconds each
@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills as Linux does")
@pytest.mark.slow
@pytest.mark.parametrize("parts", ["kills,clock", "inputs,disk", "hostile,damage"])
def test_a_short_campaign_finds_no_fault(parts: str) -> None:
    done = campaign("--short", "--only", parts, seconds=1100)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert all(f"| {part} |" in done.stdout for part in parts.split(","))


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.skipif(sys.platform != "linux", reason="forks and kills as Linux does")
def test_a_long_campaign_finds_no_fault(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"{page.BEGIN}\n{page.END}\n")
    done = campaign("--state", str(tmp_path / "state"), "--page", str(tmp_path / "page.md"), seconds=4 * 3600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_a_campaign_that_was_interrupted_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    ran: list[str] = []

    def trial(number: int) -> Trial:
        def run(draw: random.Random) -> Result:
            (tmp_path / f"{number}-{draw.random()}").touch()
            return Result(2, ["a fault"] * (number == 1))

        return Trial("part", "group", number, run)

    state = tmp_path / "state.jsonl"
    run_all([trial(0), trial(1)], Ledger(state, 3), ran.append)
    with state.open("a") as file:
        file.write('\n{"key": "part/group/2", "se')  # killed while it wrote
    ledger = Ledger(state, 3)
    faults = run_all([trial(0), trial(1), trial(2)], ledger, ran.append)
    assert faults == ["a fault"] and len(list(tmp_path.glob("?-*"))) == 3
    assert "| part | group | 6 | 1 |" in page.table(ledger)
    assert Ledger(state, 4).done == {}, "another seed is another campaign"
    assert [json.loads(line)["count"] for line in state.read_text().splitlines() if line.endswith("}")] == [2, 2, 2]


def test_a_trial_that_hangs_or_crashes_is_a_fault_and_the_campaign_goes_on(tmp_path: Path) -> None:

    def crash(draw: random.Random) -> Result:
        os.kill(os.getpid(), signal.SIGKILL)
        return Result()

    def hang(draw: random.Random) -> Result:
        time.sleep(60)
        return Result()

    trials = [Trial("part", "crash", 0, crash), Trial("part", "hang", 0, hang, seconds=0.5)]
    faults = run_all(trials, Ledger(tmp_path / "state", 0), lambda text: None)
    assert faults == ["crashed with status -9", "hung for 0 s"]


def test_the_page_has_the_table_of_a_campaign_without_faults() -> None:
    text = page.PAGE.read_text("utf-8")
    table = text.partition(page.BEGIN)[2].partition(page.END)[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ") and not line.startswith("| part")]
    assert {row[0].removeprefix("| ") for row in rows} >= set(PARTS)
    assert {row[3] for row in rows} == {"0"}
