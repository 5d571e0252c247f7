"""What a run writes down of its protocol, and `train.deterministic`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.training import Spy, tiny_recipe, write_data
from torch.backends import cudnn

from tbps_cli.choices import Choice
from tbps_cli.engine.step import Stepper
from tbps_cli.engine.train import train
from tbps_cli.errors import TbpsError
from tbps_cli.models.run import Run
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.weights.weights_file import read_safetensors


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def trained(folder: Path, data: Path, *sets: str, name: str = "run", **options) -> Run:
    recipe = tiny_recipe(folder, sets=("train.epochs=1", *sets))
    return Run(train(recipe, data_root=data, out=folder / name, device="cpu", **options))


def test_the_protocol_of_the_best_epoch_stands_in_its_head_the_log_and_the_card(tmp_path: Path, data: Path) -> None:
    run = trained(tmp_path, data, "train.select_on=test")
    assert run.choices.made == {"epoch": Choice("test", "cuhk-pedes")}
    assert run.protocol is not None and run.protocol["labels"][0] == "epoch chosen on test"
    line = "Protocol: weights selected on test, as the papers do (honest: --set train.select_on=val) · not re-ranked"
    assert run.protocol["line"].startswith(line)
    assert (run.folder / "log.txt").read_text(encoding="utf-8").splitlines()[-1] == run.protocol["line"]
    assert f"- {run.protocol['line']}" in (run.folder / "card.md").read_text(encoding="utf-8")
    assert evaluate(run.folder, data_root=data).protocol.labels[0] == "epoch chosen on test"
    assert evaluate(run.folder, split="val", data_root=data).protocol.choices.made["epoch"].on == "test"


def test_a_run_that_begins_with_weights_chosen_on_test_says_so_also_after_a_resume(tmp_path: Path, data: Path) -> None:
    first = trained(tmp_path, data, "train.select_on=test", name="first")
    second = trained(tmp_path, data, init=first.folder, name="second")
    assert second.choices.made["start"] == Choice("test", "cuhk-pedes")
    labels = evaluate(second.folder, data_root=data).protocol.labels
    assert labels[0] == "starting weights chosen on test"

    class Stops(Spy):
        def stepped(self, progress) -> None:
            if progress.step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, data, init=first.folder, name="third", observer=Stops())
    third = trained(tmp_path, data, name="third", resume=True)
    assert third.choices.made["start"] == Choice("test", "cuhk-pedes")


@pytest.mark.parametrize(("name", "chosen"), [("best2.pth", Choice("test", "rstpreid", 3)), ("mine.pth", None)])
def test_towers_from_one_of_three_files_bring_its_choice_along(tmp_path: Path, data: Path, name, chosen) -> None:
    """As `method.weights`, which is how recipes name their start: NAM's and HAM's best0, best1 and best2."""
    sizes = tiny_recipe(tmp_path).method.sizes
    towers = Clip(sizes, (16, 8))
    towers.initialise(torch.Generator().manual_seed(0))
    torch.save({"model": towers.state_dict()}, tmp_path / name)
    run = trained(tmp_path, data, f"method.weights={tmp_path / name}")
    assert run.choices.made.get("start") == chosen


def test_weights_chosen_on_val_leave_nothing_behind(tmp_path: Path, data: Path) -> None:
    first = trained(tmp_path, data, name="first")
    second = trained(tmp_path, data, init=first.folder, name="second")
    assert second.choices.made == {"epoch": Choice("val", "cuhk-pedes")}


def test_a_head_whose_protocol_is_no_record_is_passed_over(tmp_path: Path, data: Path) -> None:
    run = trained(tmp_path, data)
    for value in ("{", "[]", json.dumps({"line": 3}), "[" * 100_000):
        run.save_weights("best", read_safetensors(run.weights_file), {"protocol": value})
        assert run.protocol is None


# Deterministic ----------------------------------------------------------------------------------


class Watching(Spy):
    """Asks at every step what PyTorch has been told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[bool, bool, bool]] = []

    def stepped(self, progress) -> None:
        self.told.append((torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark))


def test_deterministic_training_gives_the_same_bits_and_leaves_pytorch_as_it_was(tmp_path: Path, data: Path) -> None:
    spy, before = Watching(), (cudnn.deterministic, cudnn.benchmark)
    runs = [trained(tmp_path, data, "train.deterministic=true", name=name, observer=spy) for name in ("one", "two")]
    assert set(spy.told) == {(True, True, False)}
    one, two = (read_safetensors(run.folder / "last.safetensors") for run in runs)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.are_deterministic_algorithms_enabled() and (cudnn.deterministic, cudnn.benchmark) == before
    assert runs[0].recipe.train.deterministic is True
    plain = Watching()
    trained(tmp_path, data, observer=plain)
    assert set(plain.told) == {(False, *before)}


def test_an_operation_without_a_deterministic_form_is_one_line(tmp_path: Path, data: Path, monkeypatch) -> None:
    def scatter(self, *given, **options):
        return torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))

    monkeypatch.setattr(Stepper, "backward", scatter)
    with pytest.raises(TbpsError, match=r"train.deterministic: PyTorch has no deterministic form of put_") as caught:
        trained(tmp_path, data, "train.deterministic=true")
    assert "train.deterministic=false" in (caught.value.hint or "")
    assert not torch.are_deterministic_algorithms_enabled()
