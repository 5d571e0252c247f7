"""One tiny IRRA run, and its export, for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.runs import tiny_recipe, tiny_run

from tbps_cli.exporting.agree import Agreement, Examples
from tbps_cli.exporting.exporter import export
from tbps_cli.models import open_model
from tbps_cli.models.model import Model
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.load import build


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def examples() -> Examples:
    """Noise of several sizes, and captions from empty to too long."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (20 + 9 * n, 12 + 5 * n, 3), np.uint8) for n in range(7)]
    captions = ["a man in a white shirt", "", "word " * 100, "a woman, 25, with a RED bag!"]
    return Examples([Image.fromarray(pixels) for pixels in noise], captions)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    values = {**tiny_recipe().model_dump(mode="json", exclude_none=True), "name": "irra"}
    values["method"] = {key: values["method"][key] for key in ("tower", "weights")} | {
        "name": "irra",
        "cross_layers": 1,
    }
    run = tiny_run(tmp_path_factory.mktemp("runs") / "irra-0001", build(Draft(values, {}, "irra")))
    return open_model(run.folder, device="cpu")


@pytest.fixture(scope="session")
def exported(model: Model, examples: Examples, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Agreement]:
    """The folder with graphs and weights, and how well it agrees. Do not change it."""
    out = tmp_path_factory.mktemp("exports") / "irra"
    agreement = export(model, out, examples=examples)
    assert agreement is not None
    return out, agreement
