"""What commands import before they answer: what is not imported takes no time, on any machine."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.runs import tiny_run
from support.sets import cuhk_records, save_image, write_set

from tbps_cli.models.kept_tower import GRAPH, older, place_of
from tbps_cli.models.run import WEIGHTS, Run

LISTED = """
import sys
from tbps_cli.cli.app import main
try:
    main(sys.argv[2:])
finally:
    open(sys.argv[1], "w").write(" ".join(sys.modules))
"""
SENTENCE = "a man in a white shirt and black trousers"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with settled weights, a data set and a folder of images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TBPS_DATA_ROOT", raising=False)
    write_set(tmp_path / "data" / "CUHK-PEDES", cuhk_records(persons=(1, 2, 6)))
    settle(tiny_run(tmp_path / "run").weights_file)
    for seed in range(6):
        save_image(tmp_path / "photos" / f"{seed}.png", seed)
    return tmp_path


def settle(file: Path, age: int = 100) -> None:
    """Make a file as old as those are that nobody changes any more."""
    moment = file.stat().st_mtime - age
    os.utime(file, (moment, moment))


def tbps(*words: str, keep: bool = False) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A command in a process of its own, and the modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", LISTED, "modules.txt", *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"TBPS_KEEP_TOWERS": "1" if keep else "0"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done, set(Path("modules.txt").read_text().split())


def hits(done: subprocess.CompletedProcess[str]) -> tuple[list[str], list[float]]:
    found = json.loads(done.stdout)["hits"]
    return [hit["path"] for hit in found], [hit["score"] for hit in found]


def evaluated(tmp_path: Path, name: str) -> tuple[dict[str, object], str, dict[str, bytes], set[str]]:
    """Everything that `tbps eval` prints and writes."""
    folder = tmp_path / name
    folder.mkdir()
    written = {"--save-ranks": "ranks.csv", "--save-features": "features.npz", "--html": "sheet.html"}
    options = [word for flag, file in written.items() for word in (flag, str(folder / file))]
    done, modules = tbps("eval", "--ckpt", "run", "--data", "cuhk-pedes", "--json", "--interval", *options)
    document = json.loads(done.stdout)
    del document["seconds"]
    said = done.stderr.replace(name, "FOLDER")
    return document, said, {file: (folder / file).read_bytes() for file in written.values()}, modules


def test_an_evaluation_from_the_cache_imports_no_torch_and_says_the_same_to_the_byte(place: Path) -> None:
    tbps("eval", "--ckpt", "run", "--data", "cuhk-pedes")
    *known, modules = evaluated(place, "known")
    assert not modules & {"torch", "scipy", "sklearn", "onnxruntime"}
    for fact in (place / "cache" / "remembered" / "runs").iterdir():
        fact.unlink()
    *opened, modules = evaluated(place, "opened")
    assert "torch" in modules and not modules & {"sympy", "torch._dynamo"}, "an opened run draws no weights"
    assert known == opened


@pytest.mark.slow
def test_a_new_caption_opens_the_run_for_an_evaluation(place: Path) -> None:
    tbps("eval", "--ckpt", "run", "--data", "cuhk-pedes")
    write_set(place / "data" / "CUHK-PEDES", cuhk_records(persons=(1, 2, 7)))
    _, modules = tbps("eval", "--ckpt", "run", "--data", "cuhk-pedes")
    assert "torch" in modules


@pytest.mark.slow
def test_a_sentence_for_a_run_needs_no_torch_once_its_text_tower_is_kept(place: Path) -> None:
    search = "search", SENTENCE, "--ckpt", "run", "--json", "--in"
    tbps("index", "photos", "--ckpt", "run", "--index", "people.h5")
    first, modules = tbps(*search, "people.h5", keep=True)
    assert "torch" in modules and "Keeping the text tower of run" in first.stderr and "Kept: " in first.stderr
    for gallery in ("people.h5", "photos"):
        if gallery == "photos":
            tbps("index", "photos", "--ckpt", "run")
        second, modules = tbps(*search, gallery, keep=True)
        assert not modules & {"torch", "onnx", "sklearn"} and "Keeping" not in second.stderr
        assert hits(second)[0] == hits(first)[0]
        assert np.abs(np.subtract(hits(second)[1], hits(first)[1])).max() < 1e-5
    two, modules = tbps("search", SENTENCE, "--image", "photos/1.png", "--ckpt", "run", "--in", "people.h5", keep=True)
    assert "torch" in modules and two.stdout


@pytest.mark.slow
def test_weights_that_changed_are_noticed_and_their_tower_takes_the_place_of_the_old_one(place: Path) -> None:
    search = "search", SENTENCE, "--ckpt", "run", "--in", "photos", "--json"
    before, _ = tbps(*search, keep=True)
    (old,) = (place / "cache" / "towers").glob("*/")
    file = place / "run" / "weights.safetensors"
    tensors = load_file(file)
    tensors["clip.text_projection"] = tensors["clip.text_projection"][:, ::-1].copy()
    save_file(tensors, file)
    settle(file, 50)
    after, modules = tbps(*search, keep=True)
    assert "torch" in modules and hits(after) != hits(before)
    (new,) = (place / "cache" / "towers").glob("*/")
    assert new != old
    again, modules = tbps(*search, keep=True)
    assert "torch" not in modules and hits(again)[0] == hits(after)[0]


def test_the_towers_of_a_runs_best_and_last_weights_stand_beside_each_other(place: Path) -> None:
    chosen = [place / "run" / name for name in WEIGHTS.values()]
    best, last = (Run(place / "run", chosen=file) for file in chosen)
    for run, fingerprint in ((best, "1" * 16), (best, "2" * 16), (last, "3" * 16)):
        place_of(run, fingerprint).mkdir(parents=True)
    assert older(best, "2" * 16) == [place_of(best, "1" * 16)]
    assert older(last, "3" * 16) == []


@pytest.mark.slow
def test_nothing_is_said_to_be_kept_where_there_can_be_no_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tbps("index", "photos", "--ckpt", "run", "--index", "people.h5")
    monkeypatch.setenv("TBPS_CACHE_DIR", str(place / "people.h5" / "cache"))
    done, _ = tbps("search", SENTENCE, "--ckpt", "run", "--in", "people.h5", "--json", keep=True)
    assert len(hits(done)[0]) == 6 and "Keeping" not in done.stderr


def cut_short(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:1000])


def no_data(folder: Path) -> None:
    (folder / f"{GRAPH}.data").unlink()


def other_numbers(folder: Path) -> None:
    """As many bytes, and a graph that opens."""
    file = folder / f"{GRAPH}.data"
    number_N = np.fromfile(file, np.float32)
    number_N[len(number_N) // 2 :] *= -2
    number_N.tofile(file)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut_short, no_data, other_numbers])
def test_a_damaged_tower_is_made_anew_and_the_answer_is_right(place: Path, damage: Callable[[Path], None]) -> None:
    search = "search", SENTENCE, "--ckpt", "run", "--in", "photos", "--json"
    first, _ = tbps(*search, keep=True)
    (folder,) = (place / "cache" / "towers").glob("*/")
    damage(folder)
    second, modules = tbps(*search, keep=True)
    assert "torch" in modules and hits(second) == hits(first) and "Kept: " in second.stderr
    _, modules = tbps(*search)
    assert "torch" not in modules


@pytest.mark.slow
def test_a_process_that_finds_another_one_keeping_the_tower_answers_and_ends(place: Path) -> None:
    search = "search", SENTENCE, "--ckpt", "run", "--in", "photos", "--json"
    tbps(*search, keep=True)
    (folder,) = (place / "cache" / "towers").glob("*/")
    folder.rename(place / "away")
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, _ = tbps(*search, keep=True)
    assert hits(done)[0] and "Kept" not in done.stderr and not folder.exists()
    tbps(*search, keep=True)
    assert folder.exists()


@pytest.mark.slow
def test_nothing_is_kept_where_it_is_not_wanted_or_the_extra_is_missing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = "search", SENTENCE, "--ckpt", "run", "--in", "photos", "--json"
    done, _ = tbps(*search)
    assert "Keeping" not in done.stderr and not (place / "cache" / "towers").exists()
    (place / "without").mkdir()
    (place / "without" / "sitecustomize.py").write_text(
        "import importlib.util as util\nfound = util.find_spec\n"
        "util.find_spec = lambda name, package=None: None if name == 'onnxscript' else found(name, package)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{place / 'without'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    done, _ = tbps(*search, keep=True)
    assert "Keeping" not in done.stderr and not (place / "cache" / "towers").exists()
