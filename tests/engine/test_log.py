"""What a run writes down, and how figures reach it."""

import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tbps_cli.engine import log
from tbps_cli.engine.loss_reader import LossReader, NotFinite
from tbps_cli.engine.observe import Evaluated, Progress
from tbps_cli.engine.step import Outcome
from tbps_cli.errors import MissingExtra, UsageError, WeightsError
from tbps_cli.types import Scores, Step

AT = Step(2, 99, 1065, 60)
PROGRESS = Progress(AT, 2229, {"loss": 4.1234, "sdm": 2.0, "img_acc": 0.5}, 6.4e-6, 100.0, 1.0, None, None)


def test_a_step_is_a_line_in_the_fields_wording() -> None:
    assert log.step_line(PROGRESS) == (
        "Epoch[3] Iteration[100/1065], loss: 4.1234, sdm_loss: 2.0000, img_acc: 0.5000, Base Lr: 6.40e-06"
    )


def test_the_table_has_the_fields_columns_and_three_decimals() -> None:
    rows = log.score_table(Scores(73.38, 89.93, 93.71, 66.13, 50.24)).splitlines()
    assert rows[1].replace(" ", "") == "|task|R1|R5|R10|mAP|mINP|"
    assert rows[3].replace(" ", "") == "|t2i|73.380|89.930|93.710|66.130|50.240|"


def test_means_are_weighted_by_pairs_and_survive_a_checkpoint() -> None:
    meter, restored = log.Meter(), log.Meter()
    meter.add({"loss": 1.0, "acc": 0.5}, 30)
    restored.restore(meter.state())
    restored.add({"loss": 4.0}, 10)
    assert restored.means() == {"loss": 1.75, "acc": 0.5}


def test_logs_are_cut_back_to_the_checkpoint(tmp_path) -> None:
    first = log.RunLog(tmp_path)
    first.stepped(PROGRESS)
    sizes = first.sizes()
    first.evaluated(Evaluated(3, "val", Scores(1, 2, 3, 4, 5), 1.0, 3, True), 3195)
    first.close()
    log.cut(tmp_path, sizes)
    assert (tmp_path / "log.txt").read_text() == log.step_line(PROGRESS) + "\n"
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_line_for_which_there_is_no_room_is_one_clear_error(tmp_path) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    written = log.RunLog(tmp_path)
    with pytest.raises(WeightsError, match=r"log\.txt cannot be written: No space left on device\.") as told:
        written.text("a line")
    assert "--resume" in told.value.hint
    written.close()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_logger_is_one_line_with_what_to_type(tmp_path, monkeypatch, name) -> None:
    for module in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra) as missing:
        log.sinks((name,), tmp_path, 0, {})
    assert missing.value.hint == f"Type: pip install 'tbps[{name}]'"


class FakeWandb(types.ModuleType):
    """What we use of the package, remembering how it was called."""

    class Error(Exception):
        pass

    def __init__(self, refusal: str = "") -> None:
        super().__init__("wandb")
        self.refusal, self.calls = refusal, []

    def init(self, **settings):
        if self.refusal:
            raise self.Error(self.refusal)
        self.calls.append(settings)
        return self


def test_a_run_keeps_its_own_id_at_weights_and_biases(tmp_path, monkeypatch) -> None:
    """Not its folder's name alone: everybody has a runs/irra-0001."""
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    for place in ("a", "b", "a"):
        folder = tmp_path / place / "irra-0001"
        folder.mkdir(parents=True, exist_ok=True)
        log.sinks(("wandb",), folder, 0, {"lr": 1})
    first, other, resumed = (call["id"] for call in fake.calls)
    assert first == resumed != other and first.startswith("irra-0001-")
    assert {(call["project"], call["name"], call["resume"]) for call in fake.calls} == {("tbps", "irra-0001", "allow")}


def test_weights_and_biases_without_a_login_is_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb("No API key configured. Use `wandb login` to log in.\nMore"))
    with pytest.raises(UsageError, match=r"No API key configured. Use `wandb login` to log in.$") as refused:
        log.sinks(("wandb",), tmp_path, 0, {})
    assert "WANDB_MODE=offline" in refused.value.hint


def test_a_line_for_programs_has_losses_rate_speed_time_left_and_memory(tmp_path) -> None:
    written = log.RunLog(tmp_path)
    written.stepped(replace(PROGRESS, seconds_left=61.4, memory=3 << 30))
    written.close()
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert {name: record[name] for name in ("loss", "sdm", "lr", *log.MACHINE)} == {
        "loss": 4.1234, "sdm": 2.0, "lr": 6.4e-6, "pairs_per_second": 100.0, "seconds_left": 61, "memory_mb": 3072,
    }  # fmt: skip


def test_curves_reach_every_sink(tmp_path) -> None:
    class Sink:
        def __init__(self):
            self.seen = {}

        def scalars(self, values, step):
            self.seen |= {(name, step): value for name, value in values.items()}

        def close(self):
            self.seen["closed"] = True

    sink = Sink()
    written = log.RunLog(tmp_path, [sink])
    written.stepped(PROGRESS)
    written.evaluated(Evaluated(3, "val", Scores(1, 2, 3, 4, 5), 1.0, 3, True), 3195)
    written.close()
    assert sink.seen["train/sdm", 2229] == 2.0 and sink.seen["train/lr", 2229] == 6.4e-6
    assert sink.seen["val/mAP", 3195] == 4 and sink.seen["closed"]


def test_figures_come_out_as_they_went_in_and_the_sum_comes_first() -> None:
    watch = LossReader()
    losses = {"sdm": torch.tensor(1.5), "identity": torch.tensor(2.0)}
    watch.put(AT, 7, Outcome(losses, torch.arange(4), {"img_acc": 0.25}))
    (seen,) = watch.take()
    assert list(seen.figures.items()) == [("loss", 3.5), ("sdm", 1.5), ("identity", 2.0), ("img_acc", 0.25)]
    assert (seen.step, seen.pairs) == (7, 4) and watch.take() == []


def test_a_loss_that_is_no_number_names_itself_and_its_captions() -> None:
    watch = LossReader()
    watch.put(AT, 7, Outcome({"sdm": torch.tensor(float("nan"))}, torch.arange(40, 60)))
    with pytest.raises(NotFinite, match=r"sdm = nan at epoch 3, iteration 100 of 1065 \(training captions 40, 41, .*…"):
        watch.take()
