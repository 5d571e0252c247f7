"""TBPS-CLIP through the engine: both recipes train, in half precision and in chunks too."""

import pytest
import torch
from support.training import TOWER, Spy, write_data

from tbps_cli.engine.train import train
from tbps_cli.models import open_model
from tbps_cli.recipe.load import load
from tbps_cli.weights.weights_file import read_safetensors

RECIPE = """
extends = "{recipe}"
[data]
image_size = [32, 16]
[method]
weights = "random"
{tower}
[optim]
lr = 1e-3
[train]
epochs = 5
batch = 12
precision = "fp32"
select_on = "val"
workers = 0
log_every = 1
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def run(folder, data, recipe, *sets):
    path, spy = folder / "tiny.toml", Spy()
    path.write_text(RECIPE.format(recipe=recipe, tower=TOWER))
    return train(load(path, sets), data_root=data, out=folder / f"run{len(list(folder.iterdir()))}", device="cpu",
                 observer=spy), spy  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "sets", "losses"),
    [
        ("tbps_clip", (), {"nitc", "ritc", "citc", "simclr"}),
        ("tbps_clip", ("train.precision=fp16",), {"nitc", "ritc", "citc", "simclr"}),
        ("tbps_clip_simplified", (), {"nitc", "ritc"}),
        ("tbps_clip_simplified", ("method.identity=1.0", "method.masked=1.0"), {"nitc", "ritc", "identity", "masked"}),
    ],
)
def test_twenty_steps_lower_the_loss_and_give_a_run_that_opens(tmp_path, data, recipe, sets, losses):
    folder, spy = run(tmp_path, data, recipe, *sets)
    assert len(spy.steps) == 20 and set(spy.steps[0].losses) == losses | {"loss", "scale"}
    first, last = (sum(step.losses["loss"] for step in part) for part in (spy.steps[4:8], spy.steps[-4:]))
    assert last < first
    model = open_model(folder, device="cpu")
    assert model.encode_texts(["a woman in red"]).shape == (1, 16)


@pytest.mark.slow
def test_chunks_give_the_whole_batchs_steps_with_dropout_off(tmp_path, data):
    off = "method.text_dropout=0.0"
    whole, _ = run(tmp_path, data, "tbps_clip", off)
    cut, _ = run(tmp_path, data, "tbps_clip", off, "train.chunk=5")
    one, two = (read_safetensors(folder / "last.safetensors") for folder in (whole, cut))
    assert one.keys() == two.keys()
    # the key's bias has no gradient but rounding, which Adam makes a whole step of
    steady = [name for name in one if "in_proj_bias" not in name]
    apart = {name: float((one[name] - two[name]).abs().max()) for name in steady}
    assert max(apart.values()) < 1e-4, max(apart, key=lambda name: apart[name])
    assert torch.equal(one["clip.visual.conv1.weight"], two["clip.visual.conv1.weight"])
