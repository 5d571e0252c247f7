"""Every command under every condition that a container, a cluster, a pipe or an editor puts it in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import surroundings
from support.runs import golden_state, irra_folder, tiny_run
from support.training import tiny_recipe, write_data

from tbps_cli.cli.app import COMMANDS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="conditions of Linux"),
    pytest.mark.xdist_group("surroundings"),
]

WORDS = {
    "prepare-data": "prepare-data cuhk-pedes --data-root {place}/data",
    "train": "train {place}/tiny-clip.toml --data-root {place}/data --device cpu --set train.epochs=1 --out {new}/run",
    "recipes": "recipes demo",
    "runs": "runs {place}/runs",
    "eval": "eval --ckpt {place}/runs/a --data cuhk-pedes --data-root {place}/data",
    "compare": "compare {place}/runs/a {place}/runs/b --data cuhk-pedes --data-root {place}/data",
    "index": "index {place}/photos --ckpt {place}/runs/a",
    "search": "search --in {place}/photos --ckpt {place}/runs/a red ü",
    "watch": "watch {place}/photos --ckpt {place}/runs/a --query red --once",
    "serve": "serve {place}/photos --ckpt {place}/runs/a --budget none",
    "export": "export --ckpt {place}/runs/a --out {new}/exported --format safetensors",
    "convert": "convert {place}/official --out {new}/converted",
    "cache": "cache --json",
    "doctor": "doctor",
}
STATUS = {
    "ascii stdout": {0},
    "closed stdout": {1},
    "full stdout": {1},
    "read-only folder": {0},
    "no home": {0},
    "unreadable cache": {0, 1},
    "warnings are errors": {0},
    "deleted folder": {1},
}
"""Condition -> how a command may end in it."""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A data set, a recipe, two runs, an official folder and images, below /tmp: an unknown user must get at them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_data(folder / "data")
        tiny_recipe(folder)
        tiny_run(folder / "runs" / "a")
        tiny_run(folder / "runs" / "b", seed=1)
        irra_folder(folder / "official", golden_state())
        images = [path for path in (folder / "data").rglob("*") if path.suffix in (".jpg", ".png", ".bmp")]
        (folder / "photos").mkdir()
        for path in images[:2]:
            (folder / "photos" / path.name).write_bytes(path.read_bytes())
        yield folder


@pytest.fixture(scope="module")
def ask(place) -> Iterator[object]:
    """Runs a command under a condition: (status, stdout, stderr)."""
    server = subprocess.Popen(
        [sys.executable, surroundings.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TBPS_DATA_ROOT": str(place / "data")},
    )

    def run(condition: str, command: str) -> tuple[int, str, str]:
        new = tempfile.mkdtemp()
        Path(new).chmod(0o777)
        words = WORDS[command].format(place=place, new=new).split()
        server.stdin.write(json.dumps([condition, words, new]) + "\n")
        server.stdin.flush()
        return tuple(json.loads(server.stdout.readline()))

    yield run
    server.communicate(timeout=60)


def test_every_command_has_a_cheap_form() -> None:
    assert list(WORDS) == list(COMMANDS)


@pytest.mark.parametrize("condition", surroundings.CONDITIONS)
@pytest.mark.parametrize("command", WORDS)
def test_no_surroundings_make_a_command_end_in_a_traceback(ask, command, condition) -> None:
    status, out, err = ask(condition, command)
    assert "Traceback" not in err, err
    more = {"watch": {0}, "serve": {2}}.get(command, set())  # one prints nothing, the other would never end
    assert status in STATUS[condition] | more, (status, out, err)
    assert sum(line.startswith("Error:") for line in err.splitlines()) == (status != 0), err


@pytest.mark.parametrize("condition", ["closed stdout", "full stdout"])
@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("train", "/run"),
        ("index", "the index of "),
        ("export", "/exported"),
        ("convert", "/converted"),
        ("prepare-data", "/CUHK-PEDES.report.json"),
    ],
)
def test_a_command_whose_results_cannot_be_printed_says_what_it_has_written(ask, command, condition, written) -> None:
    status, _, err = ask(condition, command)
    last = err.splitlines()[-1]
    assert status == 1 and last.startswith("Hint: Only the printing failed; this is written: ") and written in last, err


def test_files_are_written_before_an_output_that_nobody_reads(ask, place) -> None:
    """`tbps eval --html a.html | head` left no page: the reader had gone before it was written."""
    with tempfile.TemporaryDirectory() as folder:
        WORDS["eval to a file"] = f"{WORDS['eval']} --save-ranks {folder}/ranks.csv"
        status, _, err = ask("full stdout", "eval to a file")
        del WORDS["eval to a file"]
        assert status == 1 and f"this is written: {folder}/ranks.csv" in err
        assert Path(folder, "ranks.csv").is_file()


@pytest.mark.parametrize(
    "condition",
    [pytest.param(one, marks=() if one == "closed stdout" else pytest.mark.slow) for one in surroundings.CONDITIONS],
)
def test_nor_does_what_they_do_to_imports(place, condition) -> None:
    with tempfile.TemporaryDirectory() as new:
        Path(new).chmod(0o777)
        words = [surroundings.__file__, condition, new, *WORDS["eval"].format(place=place).split()]
        strict = {"PYTHONWARNINGS": "error"} if condition == "warnings are errors" else {}
        done = python(words, strict)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in STATUS[condition], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "export", "convert", "prepare-data"])
def test_a_remark_of_a_library_does_not_end_a_command(place, command, tmp_path) -> None:
    words = WORDS[command].format(place=place, new=tmp_path).split()
    done = python(["-m", "tbps_cli", *words], {"PYTHONWARNINGS": "error"})
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def python(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
