"""The recipes that start from person-trained weights: which file, which settings, what a missing file says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.sets import save_image

from tbps_cli.engine.train import train
from tbps_cli.errors import WeightsError
from tbps_cli.models.run import Run
from tbps_cli.recipe.load import load
from tbps_cli.weights.hub_files import parse
from tbps_cli.weights.pretrained import clip_file
from tbps_cli.weights.weights_file import read_safetensors

OF_DATA = {"cuhk-pedes": "best0.pth", "icfg-pedes": "best1.pth", "rstpreid": "best2.pth"}
TINY = (
    "method.tower={width=16, layers=1, patch=8, embed=16, text_width=16, text_layers=1, heads=2, text_heads=2}",
    "method.weights=random",
    "method.cross_layers=1",
    "data.image_size=[16, 8]",
    "train.epochs=1",
    "train.batch=8",
    "train.workers=0",
)


@pytest.mark.parametrize("suffix", ["", "-icfg-pedes", "-rstpreid"])
@pytest.mark.parametrize("name", ["nam", "ham"])
def test_each_data_set_starts_from_its_own_file_and_all_else_is_irras(name: str, suffix: str) -> None:
    recipe, irra = load(f"{name}{suffix}"), load(f"irra{suffix}")
    assert recipe.data == irra.data
    assert recipe.method.model_copy(update={"weights": "openai"}) == irra.method
    if name == "nam":
        wanted = parse(recipe.method.weights)
        assert (wanted.repository, wanted.kind, wanted.file) == (
            "TwT-6/MLLM4Text-ReID",
            "dataset",
            OF_DATA[recipe.data.name],
        )
        assert wanted.revision is not None and len(wanted.revision) == 40, "a commit: the same bytes for everybody"
        assert (recipe.optim, recipe.train) == (irra.optim, irra.train)
    else:
        assert Path(recipe.method.weights).name == OF_DATA[recipe.data.name]
        assert (recipe.optim.lr, recipe.train.batch) == (5e-6, 128)
        changed = {"lr": irra.optim.lr}
        assert recipe.optim.model_copy(update=changed) == irra.optim


def test_weights_that_only_a_person_can_fetch_are_told_with_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"best0\.pth: there is no such file") as caught:
        clip_file(load("ham").method.weights)
    assert "pan.baidu.com/s/19xKmnYNV-XwK9FNcjkQmLw (bo63)" in (caught.value.hint or "")
    assert "--set method.weights=PATH" in (caught.value.hint or "")


def test_ufine_trains_on_captions_of_168_tokens(tmp_path: Path) -> None:
    folder = tmp_path / "UFine6926"
    records = []
    for number in range(16):
        save_image(folder / "images" / f"{number}.jpg", number)
        caption = "a person in a red coat with a long belt and blue trousers " * 10
        split = "train" if number < 12 else "test"
        captions = [caption, f"{caption} {number}"]
        record = {"split": split, "id": number // 2, "file_path": f"images/{number}.jpg", "captions": captions}
        records.append(record)
    (folder / "captions.json").write_text(json.dumps(records))
    run = train(load("ufine", TINY), data_root=tmp_path, out=tmp_path / "run", device="cpu")
    assert read_safetensors(run / "weights.safetensors")["clip.positional_embedding"].shape == (168, 16)
    assert Run(run).recipe.method.context == 168
