"""The worked example of docs/methods.md, as a newcomer would copy it."""

import re
from pathlib import Path

import numpy as np
from support.training import write_data

import tbps_cli.methods
from tbps_cli.engine.train import train
from tbps_cli.models import open_model
from tbps_cli.recipe.load import load

TEXT = (Path(__file__).parents[1] / "docs" / "methods.md").read_text("utf-8")
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
    code, recipe = (re.search(rf"```{kind}\n(.*?)```", TEXT, re.S)[1] for kind in ("python", "toml"))
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "projection.py").write_text(code)
    (tmp_path / "projection.toml").write_text(recipe)
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
