"""`tbps train` as people type it."""

import os
import re
import subprocess
import sys
import time

import pytest
from support.training import tiny_recipe, write_data
from typer.testing import CliRunner

from tbps_cli.cli import training_view
from tbps_cli.cli.app import app
from tbps_cli.engine.observe import Evaluated, MemoryEstimate, Plan, Progress, TrainingSummary
from tbps_cli.retrieval.guard import Guard
from tbps_cli.types import Scores, Step


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with data and a recipe."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    tiny_recipe(tmp_path)
    return tmp_path


def tbps(*words):
    return CliRunner().invoke(app, ["train", "tiny-clip.toml", "--device", "cpu", *words])


def test_runs_are_numbered_and_results_go_to_stdout_alone(place) -> None:
    first, second = (tbps("--set", "train.epochs=1") for _ in range(2))
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "runs/tiny-clip-0001" in first.stdout and "runs/tiny-clip-0002" in second.stdout
    assert "epoch 1 on val: R1" in first.stderr and "epoch 1 on val" not in first.stdout
    assert first.stdout.startswith("Text to image, ")
    assert first.stdout.endswith("\nProtocol: weights selected on val · not re-ranked · fp32\n")
    assert "Epoch[1] Iteration[2/4], loss: " in first.stderr and "memory: about" in first.stderr


def test_resume_without_out_takes_the_newest_run_of_the_recipe(place) -> None:
    tbps("--set", "train.epochs=1")
    again = tbps("--set", "train.epochs=1", "--resume")
    assert again.exit_code == 0 and "runs/tiny-clip-0001 is finished" in again.stderr
    assert not (place / "runs" / "tiny-clip-0002").exists()


def test_repeat_prints_the_mean_and_the_deviation_over_seeds(place) -> None:
    result = tbps("--set", "train.epochs=1", "--repeat", "2", "--out", "twice")
    assert result.exit_code == 0
    assert (place / "twice-seed1").is_dir() and (place / "twice-seed2").is_dir()
    assert re.search(r"mean ± sd of 2 seeds +\d+\.\d\d ± \d+\.\d\d", result.stdout)


def test_a_wrong_key_is_one_line_and_a_hint(place) -> None:
    result = tbps("--set", "train.epoch=1")
    assert result.exit_code == 1 and "train.epoch" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["irrra"], "Hint: Did you mean irra?"),
        (["irra", "--set", "train.epochs"], "this is not KEY=VALUE"),
        (["broken.toml"], "broken.toml:1: not valid TOML"),
        (["other.toml"], "Did you mean irra?"),
    ],
)
def test_a_misspelt_recipe_is_answered_before_torch_is_imported(tmp_path, words, message) -> None:
    (tmp_path / "broken.toml").write_text("[data\n")
    (tmp_path / "other.toml").write_text('[data]\nname = "synthetic"\n[method]\nname = "ira"\n')
    program = (
        "import sys\n"
        "from tbps_cli.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('heavy:', [name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", program, "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    assert message in done.stderr and done.stdout == "heavy: []\n"


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_with_one_line(place) -> None:
    words = ["train", "tiny-clip.toml", "--nproc", "2", "--set", "train.epochs=5000", "--out", "run"]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tbps_cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log = place / "run" / "log.txt"
    while not (log.exists() and "Epoch 2 done" in log.read_text()):
        time.sleep(0.2)
        assert launcher.poll() is None
    children = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(children.split()[-1]), 9)
    errors = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 1 and "Traceback" not in errors
    assert re.search(r"Error: process \d ended with signal 9; the others were stopped", errors)


# The display --------------------------------------------------------------------------------------

PROGRESS = Progress(Step(2, 9, 100, 60), 210, {"loss": 4.5, "sdm": 2.5}, 1e-5, 128.4, 765.0, 71.5, 2, 3 << 30)


def test_the_live_display_shows_losses_rate_speed_time_left_and_the_best() -> None:
    from io import StringIO

    from rich.console import Console

    screen = Console(file=StringIO(), width=120)
    screen.print(training_view.panel(PROGRESS, "training", 120))
    shown = screen.file.getvalue()
    for part in (
        "epoch 3/60",
        "128.4 pairs/s",
        "12 min left",
        "peak memory 3.0 GB",
        "sdm",
        "4.5000",
        "1.00e-05",
        "71.50",
    ):
        assert part in shown, part


def test_the_plan_is_told_line_by_line(tmp_path) -> None:
    memory = MemoryEstimate(1 << 30, 1 << 30, 2 << 30, 4 << 30)
    plan = Plan(tmp_path, "irra", "irra", "cuhk-pedes", 68126, 11003, "cuda:0", ("a: b (c)",), 194_500_000, 194_500_000,
                64, 1065, 60, 2, "test", Step(3, 4, 1065, 60), memory, 80 << 30, 7980.0)  # fmt: skip
    text = "\n".join(training_view.plan_lines(plan))
    for part in ("a: b (c)", "68,126 training pairs", "chosen on test", "194.5 M", "64 pairs each on 2 processes",
                 "resumed: epoch 4", "memory: about 8.0 GB of 80.0 GB free on cuda:0", "2 h 13 min",
                 "excluding evaluation and communication (estimated from a short probe)",
                 "weights and gradients 2.0 GB, optimiser 2.0 GB, activations 4.0 GB"):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(("speed", "said"), [(1.84, True), (1.1, False), (None, False)])
def test_the_plan_offers_bf16_where_it_is_faster(tmp_path, speed, said) -> None:
    plan = Plan(
        tmp_path, "irra", "irra", "cuhk-pedes", 4, 2, "cpu", (), 9, 9, 4, 1, 1, 1, "test", Step(), bf16_speed=speed
    )
    line = "precision: bf16 would be 1.8 times as fast here (--set train.precision=bf16; the weights stay fp32)"
    assert (line in training_view.plan_lines(plan)) is said


def test_an_evaluation_and_the_end_are_one_line_each(tmp_path) -> None:
    scores = Scores(73.384, 89.93, 93.71, 66.13, 50.24)
    better = training_view.evaluated_line(Evaluated(55, "test", scores, 73.384, 55, True))
    worse = training_view.evaluated_line(Evaluated(56, "test", scores, 73.384, 55, False))
    assert better.startswith("epoch 55 on test: R1 73.38, ") and "best so far" in better
    assert "best R1: 73.38 at epoch 55" in worse
    found = Guard(32, 0.2, 1e-4, duplicates=0, alike=0, queries=64, tied=1)
    doubtful = training_view.evaluated_line(Evaluated(56, "test", scores, 73.384, 55, False, found))
    assert doubtful.endswith(
        "; embeddings depend on the rest of the batch (32 checked, max difference 2e-01); "
        "1 of 64 captions tie with a wrong image"
    )
    assert training_view.finished_line(TrainingSummary(9, 61.0, True)) == (
        "finished after 9 epochs, stopped early, 1 min 1 s"
    )
    assert training_view.finished_line(TrainingSummary(1, 5.0, False)) == "finished after 1 epoch, 5 s"
