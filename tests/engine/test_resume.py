"""Runs that are really killed with SIGKILL, and end as if nothing had happened.

`kill_campaign` draws the moments, resumes and compares with a run in one go, bit by bit; docs/kill-campaign.md has
its table. Here every method is killed twenty times (slow), and one of them once (quick).
"""

import re
import shutil
from pathlib import Path

import pytest
from support.kill_campaign import campaign, difference
from support.kills import METHODS, Run, write_data, write_recipe
from support.training import tiny_recipe

from tbps_cli import methods
from tbps_cli.engine import state
from tbps_cli.weights.weights_file import read_metadata, read_safetensors, write_safetensors

pytestmark = pytest.mark.xdist_group("resume")  # its fixtures take seconds: one worker makes them

PAGE = Path(__file__).parents[2] / "docs" / "kill-campaign.md"


def test_every_method_is_killed_in_the_campaign() -> None:
    assert sorted(METHODS) == methods.names()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_twenty_kills_in_a_row_end_bit_identical(tmp_path, method) -> None:
    records = campaign(method, 20, folder=tmp_path)
    assert records.verdict == "bit-identical" and len(records.kills) == 20


def test_the_page_shows_twenty_kills_of_every_method_and_two_of_each_on_two_processes() -> None:
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (.*) \| ([^|]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    one, two = ([row for row in rows if row[2].count("|") == columns] for columns in (7, 8))
    assert {method for method, *_ in one} == {method for method, *_ in two} == set(METHODS)
    assert all(int(kills) >= 20 for _, kills, *_ in one) and all(int(kills) >= 2 for _, kills, *_ in two)
    assert {verdict for *_, verdict in rows} == {"bit-identical"}


# Quickly --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data, two recipes, and a run of each in one go."""
    folder = tmp_path_factory.mktemp("place")
    write_data(folder / "data")
    for method in ("irra", "clip"):
        finish(folder, write_recipe(folder, method), f"{method}-whole")
    return folder


def finish(folder, path, name) -> None:
    assert Run(path, folder / "data", folder / name, sets=("train.save_every=1e-6",)).end() == ["done"]


@pytest.mark.parametrize(
    ("method", "step", "more"), [pytest.param("irra", 2, 0.0, marks=pytest.mark.slow), ("clip", 4, 0.05)]
)
def test_a_killed_run_ends_bit_identical(place, method, step, more) -> None:
    """Once in the middle of an epoch, once while the first epoch is closed."""
    path, name = place / f"{method}.toml", f"{method}-cut"
    run = Run(path, place / "data", place / name, sets=("train.save_every=1e-6",))
    run.wait_for_step(step, more)
    run.kill()
    assert state.load(place / name).place.finished is False
    finish(place, path, name)
    assert difference(place / f"{method}-whole", place / name) is None


@pytest.mark.slow
def test_a_checkpoint_for_which_there_is_no_room_leaves_the_one_before(place) -> None:
    """The write really fails half-way; once there is room again, the run goes on bit-identically."""
    path, out, sets = place / "clip.toml", place / "clip-cramped", ("train.save_every=1e-6",)
    run = Run(path, place / "data", out, sets=sets)
    run.wait_for_step(2)
    run.kill()
    before = (out / state.FILE).read_bytes()
    ended = Run(path, place / "data", out, sets=sets, room=len(before) // 2).end()[0]
    assert ended.startswith(f"{out / state.FILE} cannot be written: ")
    assert (out / state.FILE).read_bytes() == before and not list(out.glob(".*"))
    finish(place, path, out.name)
    assert difference(place / "clip-whole", out) is None


def test_the_comparison_sees_a_last_digit_a_line_and_a_left_over_file(tmp_path, place) -> None:
    def changed(change):
        copy = tmp_path / change.__name__
        shutil.copytree(place / "irra-whole", copy)
        change(copy)
        return difference(place / "irra-whole", copy)

    def nothing(folder):
        pass

    def digit(folder):
        file = folder / "last.safetensors"
        facts, tensors = read_metadata(file), read_safetensors(file)
        tensors["classifier.bias"].view(-1)[3:4].nextafter_(tensors["classifier.bias"].new_tensor(9.0))
        write_safetensors(file, tensors, facts)

    def line(folder):
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"kind": "step"}\n')

    def left_over(folder):
        (folder / ".tmpA1b2C3").touch()

    assert changed(nothing) is None
    assert changed(digit).startswith("last.safetensors: classifier.bias: ")
    assert changed(line) == "metrics.jsonl: line 10 is in line alone"
    assert changed(left_over) == ".tmpA1b2C3 is in left_over alone"


def test_a_half_written_checkpoint_leaves_the_one_before(tmp_path) -> None:
    """And what is left of it is removed, under the names of both writers; other files are not."""
    recipe = tiny_recipe(tmp_path)
    place = state.TrainingProgress(epoch=1, iteration=2, steps=6, best=3.5, best_epoch=1)
    state.save(tmp_path, state.State(place, state.settings(recipe), {"log.txt": 5}, {"meter": {}}))
    for name in (".state.pt.0123abcd.tmp", ".tmpA1b2C3", ".template", ".tmp-notes"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".tmpX1y2Z3").mkdir()
    state.sweep(tmp_path)
    back = state.load(tmp_path)
    assert back.place == place and back.logs == {"log.txt": 5}
    assert sorted(path.name for path in tmp_path.glob(".*")) == [".template", ".tmp-notes", ".tmpX1y2Z3"]
