"""What `--ckpt` names is found once and cheaply, and told before anything else is looked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.runs import golden_state, irra_folder

from tbps_cli.errors import DataError, RecipeError, UsageError, WeightsError
from tbps_cli.methods.irra import IRRA
from tbps_cli.models.checkpoint import Checkpoint, open_data
from tbps_cli.models.run import Run
from tbps_cli.weights.key_table import KeyTable


def test_a_run_says_what_it_is_and_which_data_set_it_belongs_to(run: Run) -> None:
    found = Checkpoint.find(run.folder)
    assert (found.kind, found.path, found.data, found.exclude) == ("run", run.folder, "synthetic", None)
    assert Checkpoint.find(run.folder / "weights.safetensors").path == run.folder
    assert Checkpoint.find(run.folder, sets=["data.name=rstpreid"]).data == "rstpreid"
    assert Checkpoint.find().path == Path("runs/tiny-0001")


def test_a_foreign_file_is_recognised_from_names_and_shapes_without_its_numbers(tmp_path: Path) -> None:
    found = Checkpoint.find(irra_folder(tmp_path / "irra", golden_state()))
    assert (found.kind, found.data) == ("official", "icfg-pedes")
    assert found.official is not None and found.official.reading.method is IRRA
    read = {tensor.device.type for tensor in found.official.reading.files.tensors.values() if tensor.numel() > 1}
    assert read == {"meta"}


def test_the_names_of_a_foreign_file_go_through_its_key_table_once_and_no_other_more_than_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[KeyTable] = []
    real = KeyTable.sort

    def counted(table: KeyTable, names: object) -> object:
        asked.append(table)
        return real(table, names)

    monkeypatch.setattr(KeyTable, "sort", counted)
    Checkpoint.find(irra_folder(tmp_path / "irra", golden_state())).open(device="cpu")
    assert asked.count(IRRA.official) == 1
    # of a method that would leave tensors out, once more for those that are left
    assert max(asked.count(table) for table in asked) <= 2


@pytest.mark.parametrize("kind", ["run", "exported"])
def test_finding_a_run_or_an_export_imports_no_torch(run: Run, tmp_path: Path, kind: str) -> None:
    folder = run.folder
    if kind == "exported":
        folder = tmp_path / "exported"
        folder.mkdir()
        (folder / "image.onnx").touch()
        (folder / "tbps.json").write_text(
            '{"method": "clip", "data": "rstpreid", "fingerprint": "0123456789abcdef", "tokenizer": {}, '
            '"transform": {}, "embed": 8}'
        )
    code = (
        "import sys; from tbps_cli.models.checkpoint import Checkpoint\n"
        f"found = Checkpoint.find({str(folder)!r})\n"
        "print(found.kind, found.data, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [kind, "synthetic" if kind == "run" else "rstpreid", "False"]


def test_what_is_wrong_with_a_checkpoint_is_told_when_it_is_found(run: Run, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "marker",)

    torch.save({"model": golden_state(), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth asks for"):
        Checkpoint.find(tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="there is no such file"):
        Checkpoint.find(tmp_path / "gone.pth")
    with pytest.raises(RecipeError, match=r"method\.temprature"):
        Checkpoint.find(run.folder, sets=["method.temprature=1"])
    with pytest.raises(UsageError, match=r"train\.epochs=3: only keys"):
        Checkpoint.find(run.folder, sets=["train.epochs=3"])
    run.weights_file.unlink()
    with pytest.raises(WeightsError, match="holds no weights yet"):
        Checkpoint.find(run.folder)
    (run.folder / "recipe.toml").write_text("[data]\nname = 3\n")
    with pytest.raises(RecipeError, match=r"recipe\.toml:2: data\.name"):
        Checkpoint.find(run.folder)


def test_further_settings_may_come_when_it_is_opened(tmp_path: Path) -> None:
    found = Checkpoint.find(irra_folder(tmp_path / "irra", golden_state()))
    model = found.open(device="cpu", sets=["data.name=rstpreid"])
    assert model.data == "rstpreid"


def test_its_own_data_set_is_opened_or_the_named_ones(run: Run, tmp_path: Path) -> None:
    found = Checkpoint.find(run.folder)
    for owner in (found, found.open(device="cpu")):
        with pytest.raises(DataError, match="is not in"):
            open_data(owner, split="test", data_root=tmp_path)
    with pytest.raises(UsageError, match="does not say which data set") as caught:
        open_data(Checkpoint("exported", tmp_path), split="test", hint="Name a folder: --in DIR")
    assert caught.value.hint == "Name a folder: --in DIR"


def test_a_training_that_stopped_is_named_with_the_way_to_go_on(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    Checkpoint.find(run.folder)
    assert not caplog.records
    run.save_weights("last", {}, {"epoch": 3})
    Checkpoint.find(run.folder)
    assert "training stopped at 3/60 epochs" in caplog.text
    assert f"tbps train {run.folder} --out {run.folder} --resume" in caplog.text
    run.write_card("")
    caplog.clear()
    Checkpoint.find(run.folder)
    assert not caplog.records
