"""The list of runs: quick, without torch, and whole even where a run is damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.runs import tiny_recipe, tiny_run

from tbps_cli.models.run import LOCK, Run
from tbps_cli.models.summary import summaries, summarise


def test_runs_are_listed_with_what_their_files_say(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    old = tiny_run(runs / "old", epoch=7, R1=41.5, mAP=30.25)
    os.utime(old.weights_file, (1000, 1000))
    converted = Run.create(runs / "converted", tiny_recipe())
    converted.save_weights("best", {}, {"converted_from": "best.pth"})
    first, second = summaries(runs)
    assert (first.run, first.method, first.data, first.epoch, first.epochs) == (old.folder, "clip", "synthetic", 7, 60)
    assert (first.scores, first.selected_on, first.notes) == ({"R1": 41.5, "mAP": 30.25}, "val", [])
    assert (first.state, second.state) == ("", "converted")
    assert (second.selected_on, second.epoch, second.notes) == (None, None, ["converted from best.pth"])
    assert json.loads(json.dumps(first.document()))["run"] == str(old.folder)


def test_damaged_and_unfinished_runs_are_listed_with_what_is_wrong(tmp_path: Path) -> None:
    names = ["empty-recipe", "no-method", "broken-head", "short", "text", "unfinished"]
    for name in names:
        tiny_run(tmp_path / name)
    (tmp_path / "empty-recipe" / "recipe.toml").write_text("")
    (tmp_path / "no-method" / "recipe.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "broken-head" / "weights.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{{{{{")
    (tmp_path / "short" / "weights.safetensors").write_bytes(b"")
    (tmp_path / "text" / "weights.safetensors").write_bytes(b'\x1b\0\0\0\0\0\0\0{"__metadata__":{"epoch":"x"}}')
    (tmp_path / "unfinished" / "weights.safetensors").unlink()
    notes = {summary.run.name: summary.notes for summary in summaries(tmp_path)}
    assert notes == {
        "empty-recipe": ["recipe.toml is damaged"],
        "no-method": ["recipe.toml is damaged"],
        "broken-head": ["weights.safetensors is damaged"],
        "short": ["weights.safetensors is damaged"],
        "text": ["weights.safetensors is damaged"],
        "unfinished": ["no weights yet"],
    }


def test_a_run_is_running_while_a_living_process_locks_it_then_stopped_or_finished(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    run.save_weights("last", {}, {"epoch": 3})
    program = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.lockf(file, fcntl.LOCK_EX)\nprint(flush=True)\ninput()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(run.folder / LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline()
    assert summarise(run.folder).state == "running"
    holder.kill()
    holder.communicate()
    assert summarise(run.folder).state == "stopped at 3/60"
    run.write_card("")
    assert summarise(run.folder).state == "finished"


def test_listing_needs_no_torch(run: Run) -> None:
    code = (
        "import sys; from tbps_cli.models.summary import summaries; from pathlib import Path;"
        "assert len(summaries(Path('runs'))) == 1; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
