"""The worked example of docs/methods.md, as a newcomer would copy it: it trains, and `scripts/check` accepts it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.training import write_data

import tbps_cli.methods
from tbps_cli.engine.train import train
from tbps_cli.models import open_model
from tbps_cli.recipe.load import load

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "methods.md").read_text("utf-8").partition("## Add your own method")[2]
CODE, RECIPE = (re.search(rf"```{kind}\n(.*?)```", TEXT, re.S)[1] for kind in ("python", "toml"))
SMALL = (
    "method.weights=random",
    "method.tower={width=64, layers=1, patch=16, embed=64, text_width=64, text_layers=1}",
    "data.name=cuhk-pedes",
    "data.image_size=[48, 16]",
    "train.epochs=1",
    "train.batch=16",
    "train.select_on=val",
    "train.workers=0",
)


def test_the_example_of_a_new_method_trains_and_encodes(tmp_path, monkeypatch):
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "projection.py").write_text(CODE)
    (tmp_path / "projection.toml").write_text(RECIPE)
    monkeypatch.setattr(tbps_cli.methods, "__path__", [*tbps_cli.methods.__path__, str(folder)])
    run = train(
        load(tmp_path / "projection.toml", SMALL),
        data_root=write_data(tmp_path / "data"),
        out=tmp_path / "run",
        device="cpu",
        workers=0,
    )
    model = open_model(run, device="cpu")
    text_QE = model.encode_texts(["a man in a white shirt", "a woman with a red bag"])
    assert text_QE.shape == (2, 64)
    assert np.allclose(np.linalg.norm(text_QE, axis=1), 1, atol=1e-5)


def said_by(folder, *command):
    """What a tool of `scripts/check` complains of; nothing when it is content."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else ""


LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"


def test_the_example_passes_the_checks_of_format_lint_and_layers(tmp_path):
    shutil.copytree(ROOT / "tbps_cli", tmp_path / "tbps_cli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    added = tmp_path / "tbps_cli" / "methods" / "projection.py"
    added.write_text(CODE)
    assert said_by(tmp_path, "-m", "ruff", "format", "--check", str(added)) == ""
    assert said_by(tmp_path, "-m", "ruff", "check", str(added)) == ""
    assert said_by(tmp_path, "-c", LINT) == ""
    added.write_text(CODE.replace("losses.matching import cmpm", "engine.optim import build as cmpm"))
    assert "tbps_cli.engine" in said_by(tmp_path, "-c", LINT)


@pytest.mark.timeout(600)
def test_the_example_has_full_types(tmp_path):
    (tmp_path / "projection.py").write_text(CODE)
    assert said_by(ROOT, "-m", "mypy", str(tmp_path / "projection.py")) == ""
    (tmp_path / "projection.py").write_text(CODE.replace("self.config.weight", "self.config.weigth"))
    assert "weigth" in said_by(ROOT, "-m", "mypy", str(tmp_path / "projection.py"))
