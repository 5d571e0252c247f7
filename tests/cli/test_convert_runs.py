"""`tbps convert` and `tbps runs` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.runs import golden_state, irra_folder, tiny_run
from typer.testing import CliRunner

from tbps_cli.cli import app as house

runner = CliRunner()


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_official_folder_becomes_the_next_run(tmp_path: Path) -> None:
    irra_folder(tmp_path / "official", golden_state())
    result = runner.invoke(house.app, ["convert", "official", "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {
        "run": "runs/irra-0001",
        "method": "irra",
        "data": "icfg-pedes",
        "image_size": [96, 32],
        "converted_from": "official",
        "left_out": [],
    }
    assert "tensors matched irra" in result.stderr
    assert (tmp_path / "runs" / "irra-0001" / "weights.safetensors").is_file()
    plain = runner.invoke(house.app, ["convert", "official/best.pth", "--out", "mine", "--method", "irra"])
    assert plain.exit_code == 0, plain.stderr
    assert "96x32" in plain.stdout
    assert "Next: tbps eval --ckpt mine" in plain.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nothing.pth"], 1, "Error: nothing.pth: there is no such file or folder."),
        (["text.pth"], 1, "Error: text.pth is not a weights file."),
        (["evil.pth"], 1, "Error: evil.pth asks for builtins.eval"),
        (["official", "--method", "clip"], 1, "is a checkpoint of irra, not of clip."),
        (["official", "--method", "iira"], 1, "there is no method 'iira'."),
        (["official", "--out", "official"], 2, "Error: --out official: exists already."),
        (["official", "--set", "train.epochs=3"], 2, "only keys of method and data can change"),
        ([], 2, "Missing argument"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, ("open('ran', 'w')",)

    irra_folder(tmp_path / "official", golden_state())
    (tmp_path / "text.pth").write_text("no weights")
    torch.save(Evil(), tmp_path / "evil.pth")
    result = runner.invoke(house.app, ["convert", *arguments])
    assert (result.exit_code, message in result.stderr) == (status, True), result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.pth"], "nothing.pth: there is no such file"),
        (["empty"], "empty holds neither a run (recipe.toml) nor a checkpoint"),
        (["empty", "--out", "empty/full"], "--out empty/full: exists already"),
        (["empty", "--method", "iira"], "there is no method 'iira'"),
        (["empty", "--set", "train.epochs=3"], "only keys of method and data can change"),
    ],
)
def test_what_is_wrong_with_names_alone_is_told_before_torch_is_imported(arguments: list[str], message: str) -> None:
    Path("empty/full").mkdir(parents=True)
    Path("empty/full/file").touch()
    program = (
        "import sys\n"
        "from tbps_cli.cli.app import main\n"
        "sys.argv = ['tbps', 'convert', *sys.argv[1:]]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    print('status', end.code, 'torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert message in done.stderr
    assert done.stdout.startswith("status ") and done.stdout.endswith(" False\n")


def test_what_was_left_out_is_listed_with_shapes_and_reasons(tmp_path: Path) -> None:
    state = golden_state() | {"img2text.weight": torch.zeros(2, 3), "colour_head.bias": torch.zeros(4)}
    irra_folder(tmp_path / "official", state)
    result = runner.invoke(house.app, ["convert", "official", "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["left_out"] == [
        {"name": "img2text.weight", "shape": [2, 3], "why": "a loss of LPNC, which only training has"},
        {
            "name": "colour_head.bias",
            "shape": [4],
            "why": "it stands outside the towers, and no method of tbps knows it",
        },
    ]
    assert "read as irra without colour_head.bias (4)" in result.stderr.replace("\n", " ")
    plain = runner.invoke(house.app, ["convert", "official", "--out", "mine"])
    assert "2 tensors, listed in mine/card.md" in plain.stdout


def test_runs_are_a_table_and_a_document() -> None:
    empty = runner.invoke(house.app, ["runs"])
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "tbps train demo" in empty.stderr
    assert json.loads(runner.invoke(house.app, ["runs", "--json"]).stdout) == []
    tiny_run(Path("runs/tiny-0001"), epoch=7, R1=41.5)
    table = runner.invoke(house.app, ["runs"]).stdout
    assert all(word in table for word in ("runs/tiny-0001", "clip", "synthetic", " 7 ", "41.50", "val"))
    (document,) = json.loads(runner.invoke(house.app, ["runs", "--json"]).stdout)
    assert (document["run"], document["scores"], document["epoch"]) == ("runs/tiny-0001", {"R1": 41.5}, 7)
    assert json.loads(runner.invoke(house.app, ["runs", "elsewhere", "--json"]).stdout) == []
