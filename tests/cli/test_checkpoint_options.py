"""What all commands with `--ckpt` share: the order of their checks, and where a word table is looked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import support.textreid as textreid
import torch
from support.runs import golden_state, irra_folder, tiny_run
from support.sets import save_image
from typer.testing import CliRunner

from tbps_cli.cli import render
from tbps_cli.cli.app import app

runner = CliRunner()


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TBPS_DATA_ROOT", raising=False)
    yield
    logger = logging.getLogger("tbps")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, render.LogLines)]


TABLE = [
    (["eval", "--plain"], "t2i"),
    (["search", "word7 word9", "--in", "photos", "--json"], '"hits"'),
    (["search", "word7 word9", "--json"], '"gallery": "cuhk-pedes test"'),
    (["index", "photos"], "2 images"),
    (["export", "--out", "exported", "--format", "safetensors"], "Exported to exported"),
]


@pytest.mark.parametrize(("command", "said"), TABLE, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_the_word_table_is_found_below_the_data_root(command: list[str], said: str) -> None:
    textreid.data_folder(Path("elsewhere"))
    save_image(Path("photos/1.png"), 1)
    save_image(Path("photos/2.png"), 2)
    file = textreid.checkpoint(Path("moco"))
    options = ["--ckpt", str(file), "--set", textreid.SETS[0], "--device", "cpu"]
    found = runner.invoke(app, [*command, *options, "--data-root", "elsewhere"])
    assert found.exit_code == 0, found.stderr
    assert said in found.stdout


EVIL = [
    ["eval", "--ckpt", "evil.pth", "--data", "cuhk-pedes"],
    ["compare", "evil.pth", "runs/tiny", "--data", "cuhk-pedes"],
    ["compare", "runs/tiny", "evil.pth"],
    ["search", "a man", "--ckpt", "evil.pth"],
    ["search", "a man", "--ckpt", "evil.pth", "--in", "photos"],
    ["index", "photos", "--ckpt", "evil.pth"],
    ["export", "--ckpt", "evil.pth", "--out", "out"],
]


@pytest.mark.parametrize("command", EVIL, ids=" ".join)
def test_a_file_that_asks_for_code_is_named_before_the_data_set_is_looked_for(command: list[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, ("open('ran', 'w')",)

    torch.save({"model": golden_state(), "x": Evil()}, "evil.pth")
    tiny_run(Path("runs/tiny"))
    save_image(Path("photos/1.png"), 1)
    result = runner.invoke(app, command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: evil.pth asks for builtins.eval" in result.stderr
    assert not Path("ran").exists()


@pytest.mark.parametrize("command", [["eval"], ["eval", "--data", "rstpreid"], ["search", "a man"]], ids=" ".join)
@pytest.mark.parametrize("kind", ["run", "official"])
def test_a_missing_data_set_is_told_before_weights_are_read(
    command: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_run(Path("run"))
    irra_folder(Path("official"), golden_state())

    def read(*_: object, **__: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("tbps_cli.models.model.method_of", read)
    monkeypatch.setattr("tbps_cli.models.official.method_of", read)
    result = runner.invoke(app, [*command, "--ckpt", kind])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is not in data" in result.stderr and "prepare-data" in result.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["search", "a man", "--in", "gone", "--ckpt", "none"], "--in gone: there is no such file or folder"),
        (["search", "a man", "--in", "notes.txt", "--ckpt", "none"], "notes.txt"),
        (["index", "gone", "--ckpt", "none"], "gone: there is no such file or folder"),
        (["search", "a man", "--where", "camra == 1", "--in", "gone"], "no field 'camra'"),
        (["export", "--out", "full", "--ckpt", "none"], "--out full: exists already"),
        (["eval", "--ckpt", "none", "--data", "cuhk-pedes"], "none: there is no such file"),
        (["eval", "--ckpt", "none", "--set", "train.epochs=3"], "only keys of method and data"),
    ],
)
def test_flags_and_folders_are_checked_before_the_checkpoint_and_this_before_data(
    command: list[str], said: str
) -> None:
    Path("notes.txt").write_text("not an index")
    Path("full").mkdir()
    Path("full/thesis.tex").write_text("years of work")
    result = runner.invoke(app, command)
    assert result.exit_code in (1, 2) and result.stdout == ""
    assert said in result.stderr


def test_the_data_set_that_is_asked_about_chooses_among_three_checkpoints() -> None:
    """The data set itself is missing here; the choice is told before."""
    folder = irra_folder(Path("nam"), golden_state())
    for number in range(3):
        Path(f"nam/best{number}.pth").write_bytes((folder / "best.pth").read_bytes())
    (folder / "best.pth").unlink()
    result = runner.invoke(app, ["eval", "--ckpt", "nam", "--data", "rstpreid"])
    said = " ".join(result.stderr.split())
    assert "nam: best2.pth is taken, the one of 3 files for rstpreid" in said
    assert "its epoch was chosen on the test split of rstpreid" in said
    assert "is not in data" in said
