"""The parity check must be able to fail: each way in which a folder may be wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parity.check import Figures, Report, adapter, distance, folders, main, run
from safetensors.torch import load_file, save_file

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden" / "irra"


@pytest.fixture
def figures():
    values = {"good": torch.tensor([1.0, 2.0]), "words": ["a", "b"], "table": {"inner": 3}}
    return Figures(values, Report(), "file:")


def test_a_figure_within_its_tolerance_holds_and_one_outside_fails(figures):
    figures.check("good", torch.tensor([1.0, 2.00001]))
    assert figures.report.holds
    figures.check("good", torch.tensor([1.0, 2.0001]))
    assert figures.report.failures == ["file:good  1.0e-04  2e-05  FAIL"]


def test_nan_on_either_side_fails():
    for ours, theirs in ((float("nan"), 1.0), (1.0, float("nan")), (float("nan"), float("nan"))):
        report = Report()
        Figures({"x": torch.tensor(theirs)}, report).check("x", torch.tensor(ours))
        assert len(report.failures) == 1, (ours, theirs)


def test_another_shape_fails_even_where_it_would_broadcast(figures):
    figures.check("good", torch.tensor([[1.0, 2.0]]))
    assert figures.report.failures == ["file:good  inf (shape [1, 2] for [2])  2e-05  FAIL"]


def test_equal_infinities_do_not_differ_and_unequal_ones_do():
    low = torch.tensor([float("-inf"), 1.0])
    assert distance(low, low)[0] == 0
    assert distance(torch.tensor([0.0, 1.0]), low)[0] == float("inf")


def test_a_relative_comparison_divides_by_the_largest_expected_entry():
    assert distance([100.0, 1.0], [100.0, 2.0], relative=True)[0] == pytest.approx(0.01)
    assert distance([0.5], [0.0], relative=True)[0] == 0.5


def test_words_are_compared_whole(figures):
    figures.exact("words", ("a", "b"))
    assert figures.report.holds
    figures.exact("words", ["a", "c"])
    assert len(figures.report.failures) == 1


def test_what_nobody_asked_for_fails_at_the_end_in_nested_tables_too(figures):
    figures.use("good")
    figures.skip("words", "an allowed reason")
    figures.sub("table")
    figures.close()
    assert figures.report.failures == ["file:table.inner  an unknown figure: nothing compared it  -  FAIL"]
    assert "skip  file:words  an allowed reason" in figures.report.lines


def test_a_report_without_any_comparison_does_not_hold():
    assert not Report().holds


def test_a_method_under_another_recipe_finds_the_adapter_of_its_method():
    assert adapter("irra_simplified") is adapter("irra") is not None
    assert adapter("check") is None
    assert adapter("unheard_of") is None


def test_every_change_of_a_folder_is_found(tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(GOLDEN, folder)
    outputs = load_file(folder / "outputs.safetensors")
    outputs["loss.sdm"] = outputs["loss.sdm"] * 1.0001
    outputs["image_features"][0, 0] = float("nan")
    outputs["loss.of_tomorrow"] = torch.tensor(1.0)
    save_file(outputs, folder / "outputs.safetensors")
    optim = json.loads((folder / "optim.json").read_text())
    optim["groups"][3]["lr"] *= 2
    optim["remark"] = 1
    (folder / "optim.json").write_text(json.dumps(optim))
    (folder / "notes.json").write_text("{}")
    found = {line.split()[0] for line in run(folder).failures}
    assert found == {
        "loss.sdm",
        "image_features",
        "loss.of_tomorrow",
        "optim.json:groups",
        "optim.json:remark",
        "notes.json",
    }


def test_a_broken_folder_is_a_failure_and_not_an_escape(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"method": "irra"}')
    assert [line.split()[0] for line in run(tmp_path).failures] == ["adapter"]
    assert "Traceback" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"method": "unheard_of"}')
    assert run(tmp_path).failures == ["config.json:method  no adapter for unheard_of  -  FAIL"]


def test_sub_folders_are_checked_too_and_named(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "deep" / "er"):
        (folder / "config.json").write_text('{"method": "unheard_of"}')
    assert folders(tmp_path) == [tmp_path, tmp_path / "deep" / "er"]
    assert run(tmp_path).lines[1].startswith("deep/er/config.json")


def test_the_command_fails_for_a_folder_without_figures_and_without_arguments(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.strip().endswith("FAIL")
    assert main([]) == 2


@pytest.mark.slow
def test_the_script_works_from_any_folder(tmp_path):
    script = TESTS.parent / "scripts" / "check_parity.py"
    done = subprocess.run([sys.executable, script, GOLDEN], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("skip  ") or line.endswith("  ok") for line in done.stdout.splitlines())
