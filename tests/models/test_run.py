"""The run folder: its contract, its numbering, and which one is the newest."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from support.runs import tiny_recipe, tiny_run

from tbps_cli.errors import RecipeError, TbpsError, UsageError, WeightsError
from tbps_cli.models.card import card
from tbps_cli.models.run import Run, list_runs, newest, number, run_of
from tbps_cli.text.words import Words


def test_a_run_gives_back_what_was_saved(run: Run) -> None:
    assert run.recipe == tiny_recipe("tiny-0001").model_copy(update={"name": "tiny"})
    assert run.facts() == {"selected_on": "val"}
    assert run.selected_on == "val"
    assert run.weights_file.name == "weights.safetensors"
    run.save_weights("best", {"a": torch.ones(2)}, {"epoch": 3, "R1": 41.5, "nothing": None})
    assert run.facts() == {"epoch": "3", "R1": "41.5"}
    assert run.weights()["a"].tolist() == [1, 1]


def test_the_best_weights_are_preferred_and_the_last_ones_used_without_them(run: Run) -> None:
    run.save_weights("last", {"a": torch.zeros(2)}, {})
    assert run.weights_file.name == "weights.safetensors"
    run.weights_file.unlink()
    assert run.weights_file.name == "last.safetensors"
    run.weights_file.unlink()
    with pytest.raises(WeightsError, match="holds no weights yet") as caught:
        _ = run.weights_file
    assert caught.value.hint is not None
    assert "--resume" in caught.value.hint


def test_a_weights_file_of_a_run_means_that_file_and_other_folders_are_no_runs(run: Run, tmp_path: Path) -> None:
    run.save_weights("last", {"a": torch.zeros(2)}, {})
    chosen = run_of(run.folder / "last.safetensors")
    assert chosen is not None
    assert chosen.weights_file.name == "last.safetensors"
    assert run_of(run.folder) == run
    assert run_of(tmp_path) is None
    assert run_of(run.folder / "recipe.toml") is None


def test_the_tokenizer_is_kept_only_when_the_method_has_words_of_its_own(tmp_path: Path, run: Run) -> None:
    assert run.tokenizer() is None
    assert not (run.folder / "tokenizer.json").exists()
    words = Words(["man", "shirt", "weiß"], slots=9, limit=7)
    own = Run.create(tmp_path / "own", tiny_recipe(), words)
    read = own.tokenizer()
    assert read is not None
    assert read.describe() == words.describe()
    (own.folder / "tokenizer.json").write_text("[]")
    with pytest.raises(WeightsError, match=r"tokenizer\.json is damaged"):
        own.tokenizer()


def test_a_folder_with_something_in_it_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        with pytest.raises(UsageError, match="exists already"):
            Run.create(tmp_path / name, tiny_recipe())
    (tmp_path / "empty").mkdir()
    assert Run.create(tmp_path / "empty", tiny_recipe()).recipe.method.name == "clip"


def test_a_broken_recipe_of_a_run_is_a_clear_error(run: Run) -> None:
    (run.folder / "recipe.toml").write_text("[data\n")
    with pytest.raises(RecipeError, match=r"recipe\.toml:1"):
        _ = run.recipe


def test_the_newest_run_is_the_one_whose_weights_were_written_last(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert newest(runs) is None
    for place, name in enumerate(["b", "a", "c"]):
        made = tiny_run(runs / name)
        os.utime(made.weights_file, (1000 + place, 1000 + place))
    Run.create(runs / "without-weights", tiny_recipe())
    (runs / "notes").mkdir()
    (runs / "file.txt").touch()
    assert [path.name for path in list_runs(runs)] == ["b", "a", "c", "without-weights"]
    assert newest(runs) == runs / "c"


def test_numbers_rise_and_leave_other_names_alone(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert [number(runs, "irra").name for _ in range(2)] == ["irra-0001", "irra-0002"]
    assert number(runs, "irra-icfg").name == "irra-icfg-0001"
    (runs / "irra-0041").mkdir()
    (runs / "irra-mine").mkdir()
    assert number(runs, "irra").name == "irra-0042"


def test_many_who_ask_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    got: list[Path] = []
    threads = [threading.Thread(target=lambda: got.append(number(tmp_path, "x"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 16


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(WeightsError, match="cannot be written"):
        number(tmp_path / "runs", "x")
    with pytest.raises(TbpsError, match="cannot be written"):
        Run.create(tmp_path / "runs" / "x", tiny_recipe())


def test_a_run_names_no_place_of_the_machine_that_made_it(run: Run, tmp_path: Path) -> None:
    run.write_card(card(run.recipe, run.facts(), {"R1": 41.5}))
    whole = b"".join(path.read_bytes() for path in run.folder.iterdir())
    assert str(tmp_path).encode() not in whole
    shutil.move(run.folder, tmp_path / "moved")
    assert Run(tmp_path / "moved").recipe == run_of(tmp_path / "moved").recipe


def test_the_card_says_how_the_epoch_was_chosen() -> None:
    recipe = tiny_recipe()
    trained = card(recipe, {"epoch": 7, "selected_on": "val"}, {"R1": 41.5, "mAP": 30.0})
    assert "epoch 7 of 60, chosen on the val split" in trained
    assert "R1 41.50, mAP 30.00" in trained
    assert "Radford" in trained
    assert "not known" in card(recipe, {"converted_from": "best.pth"})
