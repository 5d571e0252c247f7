"""What may be done with the folder of a run, and that nothing in it is lost without being told to."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from support.training import Spy, tiny_recipe, write_data
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.engine import state
from tbps_cli.engine.loss_reader import NotFinite
from tbps_cli.engine.stops import Interrupted
from tbps_cli.engine.train import train
from tbps_cli.errors import DataError, RecipeError, UsageError
from tbps_cli.models.run import LOCK, Run
from tbps_cli.weights.weights_file import read_safetensors

ONE = ("train.epochs=1",)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with data and a recipe."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    tiny_recipe(tmp_path)
    return tmp_path


def run(sets=ONE, **options):
    spy = Spy()
    return train("tiny-clip.toml", sets, device="cpu", observer=spy, **options), spy


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Stopper(Spy):
    """Asks for a stop after the second step, as Ctrl-C does."""

    def stepped(self, progress):
        super().stepped(progress)
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGINT)


def stopped(out, sets=()):
    with pytest.raises(Interrupted) as told:
        train("tiny-clip.toml", sets, out=out, device="cpu", observer=Stopper())
    return told.value


# Weights without a checkpoint -------------------------------------------------------------------


def test_resuming_weights_without_a_checkpoint_is_refused(place) -> None:
    out, _ = run(out=place / "run")
    (out / "state.pt").unlink()
    before = content(out)
    with pytest.raises(UsageError, match=r"holds trained weights \(weights.safetensors\) but no state.pt") as refused:
        run(["train.epochs=1", "train.seed=7"], out=out, resume=True)
    assert "--restart" in refused.value.hint and content(out) == before


@pytest.mark.parametrize("resume", [False, True])
def test_restart_trains_again_from_the_beginning_and_keeps_nothing_of_the_old_run(place, resume) -> None:
    out, _ = run(["train.epochs=2"], out=place / "run")
    (out / "notes.md").write_text("mine")
    if resume:
        (out / "state.pt").unlink()
    run(["train.epochs=1", "train.seed=7"], out=out, resume=resume, restart=True)
    other, _ = run(["train.epochs=1", "train.seed=7"], out=place / "other")
    one, two = (read_safetensors(folder / "weights.safetensors") for folder in (out, other))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert Run(out).recipe.train.seed == 7 and (out / "notes.md").read_text() == "mine"
    epochs = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert set(epochs) == {1}


def test_resume_with_restart_goes_on_where_there_is_a_checkpoint(place) -> None:
    stopped(place / "run")
    _, spy = run((), out=place / "run", resume=True, restart=True)
    assert spy.steps[0].step == 3


def test_restart_needs_to_be_told_which_run(place) -> None:
    result = CliRunner().invoke(app, ["train", "tiny-clip.toml", "--restart"])
    assert result.exit_code == 2 and "Add --out RUN." in result.stderr


# The same run -----------------------------------------------------------------------------------


def test_a_finished_run_is_not_extended_without_a_word(place) -> None:
    out, _ = run(out=place / "run")
    before = content(out)
    with pytest.raises(RecipeError, match=r"is finished, with other settings: train.epochs = 5 \(the run has 1\)"):
        run(["train.epochs=5"], out=out, resume=True)
    _, spy = run(["train.epochs=1", "train.log_every=9"], out=out, resume=True)
    assert "is finished" in spy.notes[0] and content(out) == before


def test_a_run_from_before_a_key_was_there_is_resumed_by_its_default(place) -> None:
    out, _ = run(out=place / "run")
    saved = state.load(out)
    for recipe in (saved.recipe, saved.given):
        del recipe["train"]["deterministic"]
    state.save(out, saved)
    _, spy = run(["train.epochs=1"], out=out, resume=True)
    assert "is finished" in spy.notes[0]
    with pytest.raises(RecipeError, match=r"settings: train.deterministic = True \(the run has False\)\."):
        run(["train.epochs=1", "train.deterministic=true"], out=out, resume=True)


def test_a_run_goes_on_with_its_own_recipe_as_well_as_with_the_one_it_was_made_from(place) -> None:
    stopped(place / "run")
    train(place / "run" / "recipe.toml", out=place / "run", resume=True, device="cpu")
    whole, _ = run((), out=place / "whole")
    one, two = (read_safetensors(folder / "last.safetensors") for folder in (place / "run", whole))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records[0]["captions"].append("Another caption."),
        lambda records: records[0].update(captions=["Other words.", *records[0]["captions"][1:]]),
        lambda records: records[0].update(id=records[4]["id"]),
    ],
    ids=["a caption more", "other words", "another person"],
)
def test_a_run_does_not_go_on_with_other_captions_or_persons(place, change) -> None:
    stopped(place / "run")
    path = place / "data" / "CUHK-PEDES" / "reid_raw.json"
    records = json.loads(path.read_text())
    change(records)
    path.write_text(json.dumps(records))
    with pytest.raises(DataError, match="was trained on other data: the training annotation has changed since"):
        run((), out=place / "run", resume=True)


def test_a_data_set_that_moved_is_the_same_data(place) -> None:
    stopped(place / "run")
    shutil.move(place / "data", place / "elsewhere")
    _, spy = run((), out=place / "run", resume=True, data_root=place / "elsewhere")
    assert spy.steps[0].step == 3


# One at a time ----------------------------------------------------------------------------------

HOLDER = """
import os, sys, time
from pathlib import Path
from tbps_cli.engine.run_folder import held
with held(Path(sys.argv[1])):
    if not os.fork():
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_into_one_folder_is_refused_until_the_first_has_ended(place) -> None:
    """However it ends: it is killed here, and a process that it forked lives on, as those of a loader do."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, "run"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="--out run: another training is writing into this folder"):
            run(out="run")
        holder.kill()
        holder.wait()
        run(out="run")
        assert not (place / "run" / LOCK).exists()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.stdout.close()


# Ways out ---------------------------------------------------------------------------------------


def commanded(hint, *more):
    """What comes of the command at the end of a hint."""
    words = shlex.split(hint[hint.index("tbps train") :])
    return CliRunner().invoke(app, [*words[1:], *more])


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_a_loss_that_is_not_a_number_before_any_weights_leaves_a_command_that_works(place, resume, elsewhere) -> None:
    root = shutil.move(place / "data", place / "else where") if elsewhere else None
    steep = ["optim.kind=sgd", "optim.lr=1e20", "optim.warmup_epochs=0", "train.epochs=1"]
    for again in (False, True) if resume else (False,):
        with pytest.raises(NotFinite) as told:
            run(steep, out=place / "run", resume=again, data_root=root)
    result = commanded(told.value.hint, "--set", "optim.lr=1e-3", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert (place / "run" / "weights.safetensors").is_file()


def test_a_loss_that_is_not_a_number_after_some_epochs_leaves_a_command_that_works(place, monkeypatch) -> None:
    from tbps_cli.engine import schedule

    usual = schedule.rate
    monkeypatch.setattr(schedule, "rate", lambda optim, base, at: 1e30 if at.epoch else usual(optim, base, at))
    with pytest.raises(NotFinite) as told:
        run(["train.epochs=2"], out=place / "run")
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert "--init" in told.value.hint
    result = commanded(told.value.hint, "--set", "train.epochs=1")
    assert result.exit_code == 0, result.stderr
    assert (place / "runs" / "tiny-clip-0001" / "weights.safetensors").is_file()


def test_the_command_of_an_interrupted_run_works(place) -> None:
    hint = stopped(place / "run", ONE).hint
    assert hint.endswith("--resume --device cpu")
    assert commanded(hint).exit_code == 0


@pytest.mark.parametrize(
    "wrong", [["--set", "data.name=rstpreid"], ["--set", "method.weights=none.pt"], ["--set", "data.store=on"]]
)
def test_a_start_that_failed_leaves_no_run_folder(place, wrong) -> None:
    result = CliRunner().invoke(app, ["train", "tiny-clip.toml", "--device", "cpu", *wrong])
    assert result.exit_code == 1 and list((place / "runs").iterdir()) == []
    result = CliRunner().invoke(app, ["train", "tiny-clip.toml", "--device", "cpu", "--out", "mine", *wrong])
    assert result.exit_code == 1 and not (place / "mine").exists()


def test_a_start_that_is_interrupted_leaves_no_run_folder(place, monkeypatch) -> None:
    """A polite kill as well, which would end the process at once."""
    from tbps_cli.engine import train as engine

    monkeypatch.setattr(engine, "prepare", lambda *_: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(9))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        run(out=place / "run")
    assert not (place / "run").exists() and signal.getsignal(signal.SIGTERM) is before


# Signals ----------------------------------------------------------------------------------------


def signalled(place, asked, *words):
    """What a training says that gets a signal, with its whole process group, in the second epoch."""
    sets = ["--set", "train.epochs=5000", "--set", "train.log_every=1", "--workers", "2", *words]
    command = [sys.executable, "-m", "tbps_cli", "train", "tiny-clip.toml", "--device", "cpu", "--out", "run", *sets]
    child = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    log = place / "run" / "log.txt"
    while not (log.exists() and "Epoch[2] Iteration[1/" in log.read_text()):
        time.sleep(0.1)
        assert child.poll() is None, child.stderr.read()
    os.killpg(child.pid, asked)
    said = child.communicate(timeout=120)[1]
    assert child.returncode == 130 and "Traceback" not in said, said
    return said


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_saves_and_says_how_to_go_on(place, asked) -> None:
    """Loader processes get it too: from a terminal, `timeout`, SLURM or systemd."""
    said = signalled(place, asked)
    assert re.search(r"Error: stopped at epoch \d+ after \d of 4 steps; everything is saved\.", said)
    assert "Hint: Go on with: tbps train run/recipe.toml --out run --resume --device cpu" in said


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_several_processes_saves_and_says_how_to_go_on(place, asked) -> None:
    said = signalled(place, asked, "--nproc", "2")
    assert "Error: 2 processes were stopped." in said and "--nproc 2 --resume" in said
    saved = state.load(place / "run").place
    assert saved.steps > 4, "the checkpoint of the first epoch is the last one that was due"
