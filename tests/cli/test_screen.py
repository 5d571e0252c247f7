"""What stands on the screen of a real terminal: the display of a training, progress bars, tables.

A program runs in a terminal of 80 or 140 columns, waits where the test wants to look, and the whole screen is
compared. Pipes cannot show these faults: they have no cursor.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from support.runs import tiny_run
from support.screen import terminal
from support.training import tiny_recipe, write_data

TRAINING = """
import logging, sys
from pathlib import Path
from types import SimpleNamespace

from tbps_cli.cli import render, training_view
from tbps_cli.engine.observe import Evaluated, Progress, TrainingSummary
from tbps_cli.types import Scores, Step

def step(epoch, iteration, best=None):
    losses = {"loss": 4.5, "sdm": 2.5, "identity": 1.25, "masked": 0.75}
    view.stepped(Progress(Step(epoch, iteration, 100, 2), 1, losses, 1e-5, 128.4, 765.0, best, best and 1, 3 << 30))

render.show_log()
recipe = SimpleNamespace(train=SimpleNamespace(log_every=10))
with training_view.watching(recipe) as view:
    view.decoding(30, 120)
    sys.stdin.readline()
    view.note("device: cpu (no CUDA device found)")
    for iteration in range(50):
        step(0, iteration)
    sys.stdin.readline()
    logging.getLogger("tbps").warning("data: 3 of the 68,126 images are truncated; the readable part of each is used")
    view.evaluating(64, 128)
    view.evaluated(Evaluated(1, "val", Scores(33.21, 65.05, 80.21, 37.71, 28.18), 33.21, 1, True))
    print("a library prints something", file=sys.stderr)
    sys.stdin.readline()
    step(1, 0, 33.21)
    sys.stdin.readline()
    view.finished(TrainingSummary(2, 61.0))
"""

BARS = """
import logging, sys
from tbps_cli.cli import render

render.show_log()
logger = logging.getLogger("tbps")
title = "Embedding /photos/[bold]of/a/very/long/path/that/does/not/fit/beside/a/bar/2026"
with render.progress(title, "images") as bar:
    bar(3_000, 0)
    sys.stdin.readline()
    logger.warning("index: photos/0007.jpg is left out: it is truncated, and what can be read of it is not enough")
    bar(6_000, 12_000)
    sys.stdin.readline()
print("done")
"""


def folded(*lines: str, columns: int) -> list[str]:
    """Lines as a terminal of that width shows them: broken between words."""
    return [part for line in lines for part in textwrap.wrap(line, columns, break_long_words=False)]


def figures(best: str, columns: int) -> list[str]:
    """The last lines of the display."""
    known = "loss 4.5000   sdm 2.5000   identity 1.2500   masked 0.7500   rate 1.00e-05"
    return [known, f"best R1 {best}"] if columns == 80 else [f"{known}   best R1 {best}"]


@pytest.mark.parametrize("columns", [80, 140])
def test_the_display_of_a_training_stays_below_the_lines_and_goes_when_it_ends(columns) -> None:
    with terminal("-c", TRAINING, columns=columns) as seen:
        wanted = ["decoding images, 30 of 120", "━" * columns]
        assert seen.until(wanted) == wanted

        seen.go_on()
        lines = ["device: cpu (no CUDA device found)"]
        display = ["epoch 1/2  training  128.4 pairs/s, 12 min left, peak memory 3.0 GB", "━" * columns]
        wanted = [*lines, *display, *figures("-", columns)]
        assert seen.until(wanted) == wanted

        seen.go_on()
        lines += folded(
            "Warning: data: 3 of the 68,126 images are truncated; the readable part of each is used",
            "epoch 1 on val: R1 33.21, R5 65.05, R10 80.21, mAP 37.71, mINP 28.18 (the best so far)",
            "a library prints something",
            columns=columns,
        )
        display = ["epoch 1/2  saving  128.4 pairs/s, 12 min left, peak memory 3.0 GB", "━" * columns]
        wanted = [*lines, *display, *figures("33.21 (epoch 1)", columns)]
        assert seen.until(wanted) == wanted, "the new best is there at once, not only at the next step"

        seen.go_on()
        display = ["epoch 2/2  training  128.4 pairs/s, 12 min left, peak memory 3.0 GB", "━" * columns]
        wanted = [*lines, *display, *figures("33.21 (epoch 1)", columns)]
        assert seen.until(wanted) == wanted

        seen.go_on()
        assert seen.finish() == [*lines, "finished after 2 epochs, 1 min 1 s"]


@pytest.mark.parametrize(
    ("columns", "title"), [(80, "Embedding /ph…e/a/bar/2026"), (140, "Embedding /photos/[bold…/fit/beside/a/bar/2026")]
)
def test_a_warning_stands_above_the_bar_and_the_bar_leaves_nothing_behind(columns, title) -> None:
    with terminal("-c", BARS, columns=columns) as seen:
        bar = "━" * (columns // 4)
        assert seen.until([f"{title} {bar} 3,000 images"]) == [f"{title} {bar} 3,000 images"]
        seen.go_on()
        warning = folded(
            "Warning: index: photos/0007.jpg is left out: it is truncated, and what can be read of it is not enough",
            columns=columns,
        )
        wanted = [*warning, f"{title} {bar}  6,000/12,000 images TIME"]
        assert seen.until(wanted) == wanted
        seen.go_on()
        assert seen.finish() == [*warning, "done"]


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch) -> None:
    monkeypatch.setattr("support.screen.KIND", "dumb")
    with terminal("-c", BARS, columns=80) as seen:
        seen.go_on()
        seen.go_on()
        assert "━" not in "".join(seen.finish())


# Whole commands -------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working folder with data, a recipe, a run, and images of which one is broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    write_data(tmp_path / "data")
    tiny_recipe(tmp_path)
    tiny_run(tmp_path / "runs" / "tiny-0001")
    images = [path for path in (tmp_path / "data").rglob("*") if path.suffix in (".jpg", ".png", ".bmp")]
    (tmp_path / "photos").mkdir()
    for path in images[:3]:
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "photos" / "broken.png").write_bytes(images[0].read_bytes()[:60])
    return tmp_path


COMMANDS = {
    "train tiny-clip.toml --device cpu --set train.epochs=2": "finished after 2 epochs, ",
    "eval --data cuhk-pedes --ckpt runs/tiny-0001": "Protocol: ",
    "index photos --ckpt runs/tiny-0001": "Warning: ",
    "prepare-data cuhk-pedes --data-root data --decode 16x8": "ready",
}
"""A command -> how a line of its screen begins."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_line_of_a_command_begins_at_the_edge_and_no_bar_is_left(command, place) -> None:
    with terminal("-m", "tbps_cli", *command.split(), columns=80, lines=60) as seen:
        lines = seen.finish()
    assert seen.process.returncode == 0, lines
    assert any(line.startswith(COMMANDS[command]) for line in lines), lines
    assert "━" not in "".join(lines), lines
    assert not any(word in line[1:] for line in lines for word in ("Warning:", "epoch 1 on", "finished")), lines
