"""Runs that are really killed with SIGKILL, and end as if nothing had happened.

A child process trains with a checkpoint after every step; the test kills it at a moment drawn from
its own output or from the clock, resumes, and compares with a run in one go, bit by bit.
"""

import json
import multiprocessing
import random
import re
import signal
import time

import pytest
import torch
from tiny_training import tiny_recipe, train_child, write_data

from tbps_cli.engine import state
from tbps_cli.weights.files import read_safetensors

# forkserver: torch is imported once, and the children of a process that never computed are safe to fork
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tbps_cli.engine.train", "tbps_cli.methods.irra", "tbps_cli.methods.clip"])
SETS = ["train.save_every=1e-6"]
WIDE = "method.tower={patch=8, width=64, layers=1, embed=64, text_width=64, text_layers=1}"
"""A tower that divides into everybody's heads and adapters."""
TOWER = {name: [WIDE] for name in ("tbps_clip", "cskt", "dm_adapter", "php", "comoe", "rde")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def start(data, out, method):
    """A child that trains, and the pipe in which it counts its steps."""
    ours, theirs = PROCESSES.Pipe(duplex=False)
    sets = [*SETS, *TOWER.get(method, ())]
    child = PROCESSES.Process(target=train_child, args=(theirs, data, out, method, sets))
    child.start()
    theirs.close()
    return child, ours


def heard(pipe):
    """What the child says until it ends."""
    try:
        while True:
            yield pipe.recv()
    except EOFError:
        return


def finish(data, out, method) -> None:
    child, pipe = start(data, out, method)
    said = list(heard(pipe))
    child.join(100)
    assert child.exitcode == 0 and said[-1] == "done"


def kill_after(data, out, method, step: int, more: float) -> bool:
    """Kill a child some seconds after it says that it has taken a step; whether it was still running."""
    child, pipe = start(data, out, method)
    next((said for said in heard(pipe) if said == step), None)
    time.sleep(more)
    child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL


def contents(folder):
    """All that a run leaves: tensors, and logs without what measures time."""
    tensors = {name: read_safetensors(folder / name) for name in ("weights.safetensors", "last.safetensors")}
    text = re.sub(r"Time per batch.*", "", (folder / "log.txt").read_text())
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if key != "pairs_per_second"} for row in rows]
    return tensors, text, rows


def assert_same(first, second) -> None:
    one, two = contents(first), contents(second)
    for name, tensors in one[0].items():
        assert tensors.keys() == two[0][name].keys()
        differing = [key for key, value in tensors.items() if not torch.equal(value, two[0][name][key])]
        assert not differing, f"{name}: {differing[:3]}"
    assert one[1:] == two[1:]


@pytest.mark.parametrize(("method", "step", "more"), [("irra", 2, 0.0), ("clip", 4, 0.05)])
def test_a_killed_run_ends_bit_identical(tmp_path, data, method, step, more) -> None:
    """Once in the middle of an epoch, once while the first epoch is closed."""
    finish(data, tmp_path / "whole", method)
    assert kill_after(data, tmp_path / "cut", method, step, more)
    finish(data, tmp_path / "cut", method)
    assert_same(tmp_path / "whole", tmp_path / "cut")
    assert not list((tmp_path / "cut").glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["irra"])
def test_twenty_kills_in_a_row_end_bit_identical(tmp_path, data, method) -> None:
    draw = random.Random(0)
    finish(data, tmp_path / "whole", method)
    kills, fresh = 0, 0
    while kills < 20:
        out = tmp_path / f"cut{fresh}"
        saved = state.load(out) if out.exists() else None
        if saved is not None and saved.place.finished:
            assert_same(tmp_path / "whole", out)
            fresh += 1
            continue
        done = saved.place.steps if saved else 0
        kills += kill_after(data, out, method, done + draw.randint(1, 3), draw.random() * 0.1)
    finish(data, tmp_path / f"cut{fresh}", method)
    assert_same(tmp_path / "whole", tmp_path / f"cut{fresh}")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("method", sorted(TOWER))
def test_every_other_method_killed_twice_ends_bit_identical(tmp_path, data, method) -> None:
    """With its dropout, soft labels, experts or trust labels. TextReID is killed in the tests of its word table."""
    draw = random.Random(method)
    finish(data, tmp_path / "whole", method)
    kills = [kill_after(data, tmp_path / "cut", method, step, draw.random() * 0.1) for step in (2, 7)]
    finish(data, tmp_path / "cut", method)
    assert any(kills)
    assert_same(tmp_path / "whole", tmp_path / "cut")


def test_a_half_written_checkpoint_leaves_the_one_before(tmp_path, data) -> None:
    recipe = tiny_recipe(tmp_path)
    place = state.Place(epoch=1, iteration=2, steps=6, best=3.5, best_epoch=1)
    state.save(tmp_path, state.State(place, state.settings(recipe), {"log.txt": 5}, {"meter": {}}))
    (tmp_path / ".state.pt.0123abcd.tmp").write_bytes(b"half")
    state.sweep(tmp_path)
    back = state.load(tmp_path)
    assert back.place == place and back.logs == {"log.txt": 5} and not list(tmp_path.glob(".*"))
