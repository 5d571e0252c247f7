"""RDE through the engine and from official files: trust survives a stop, and checkpoints give the published rows."""

import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.runs import GOLDEN
from support.sets import cuhk_records, write_set
from support.training import Spy, tiny_recipe, write_data

from tbps_cli.data.open import open_dataset
from tbps_cli.engine.stops import Interrupted
from tbps_cli.engine.train import train
from tbps_cli.errors import WeightsError
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.weights.weights_file import read_safetensors

FOLDER = GOLDEN.parent / "rde"
INPUTS, OUTPUTS = load_file(FOLDER / "inputs.safetensors"), load_file(FOLDER / "outputs.safetensors")
MORE = "tse_dim = 16"
SETS = ("data.noise_rate=0.25", "optim.scale={new=10.0}", "optim.eps=1e-3")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


class Stop(Spy):
    """Presses Ctrl-C after a step, or after an epoch: then the division of the next one is under way."""

    def __init__(self, moment, number):
        super().__init__()
        self.moment, self.number = moment, number

    def stepped(self, progress):
        super().stepped(progress)
        self._press("step", progress.step)

    def evaluated(self, evaluated):
        super().evaluated(evaluated)
        self._press("epoch", evaluated.epoch)

    def _press(self, moment, number):
        if (moment, number) == (self.moment, self.number):
            os.kill(os.getpid(), signal.SIGINT)


# Training -------------------------------------------------------------------------------------


def run(folder, data, name, *, resume=False, observer=None, sets=()):
    recipe = tiny_recipe(folder, "rde", MORE, (*SETS, *sets))
    return train(recipe, data_root=data, out=folder / name, resume=resume, device="cpu", observer=observer or Spy())


@pytest.mark.parametrize(("moment", "number"), [("step", 4), ("step", 6), ("epoch", 1)])
def test_a_stopped_run_goes_on_with_the_pairs_that_it_trusted(tmp_path, data, moment, number):
    spy = Spy()
    whole = run(tmp_path, data, "whole", observer=spy)
    with pytest.raises(Interrupted, match="epoch 2 after 0 of 4" if moment == "epoch" else "everything is saved"):
        run(tmp_path, data, "cut", observer=Stop(moment, number))
    cut = run(tmp_path, data, "cut", resume=True)
    for name in ("weights.safetensors", "last.safetensors"):
        one, two = read_safetensors(whole / name), read_safetensors(cut / name)
        assert one.keys() == two.keys() and "trusted" in one
        assert all(torch.equal(one[key], two[key]) for key in one), name
    trusted = read_safetensors(whole / "last.safetensors")["trusted"]
    assert len(trusted) == 48 and 0 < int(trusted.sum()) < 48
    shares = [progress.losses["trusted_share"] for progress in spy.steps]
    assert all(0 <= share <= 1 for share in shares) and len(set(shares)) > 2
    assert "method.gmm: quick (what rde is published with up to 40 % of noise)" in spy.plans[0].choices


def test_batch_statistics_and_no_division_train_too(tmp_path, data):
    spy = Spy()
    sets = ("method.tse_bn_train=true", 'method.division="none"', "train.epochs=2")
    folder = run(tmp_path, data, "other", observer=spy, sets=sets)
    last = read_safetensors(folder / "last.safetensors")
    assert int(last["text_selection.mlp.bns.0.num_batches_tracked"]) == 8
    assert last["trusted"].all() and "trusted_share" not in spy.steps[-1].losses


def test_a_run_searches_without_what_only_its_training_knew(tmp_path, data):
    folder = run(tmp_path, data, "run", sets=("train.epochs=1",))
    rows = open_model(folder, device="cpu").encode_texts(["a man in red", "!", ""])
    assert rows.shape == (3, 32) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)


# Official files -------------------------------------------------------------------------------


YAML = """batch_size: 64
dataset_name: RSTPReid
img_aug: true
img_size: !!python/tuple
- 96
- 32
loss_names: TAL+sr0.3_tau0.015_margin0.1_n0.0
margin: 0.1
milestones: !!python/tuple
- 20
- 50
name: RDE
noisy_file: /home/author/noiseindex/RSTPReid_0.2.npy
noisy_rate: 0.2
output_dir: /home/author/run_logs/RSTPReid
select_ratio: 0.3
stride_size: 16
tau: 0.015
temperature: 0.02
txt_aug: true
"""


def is_half(name):
    """The tensors that the authors' code keeps in half precision."""
    linear = (
        "attn." in name or ".mlp.c_" in name or "mlp.layers" in name or name.split(".")[-2:-1] in (["fc"], ["linear"])
    )
    return linear or name.endswith((".proj", "conv1.weight", "text_projection"))


def rde_folder(folder, state=None, *, half=False, prefix=""):
    """A folder of RDE's run_logs."""
    state = state or load_file(FOLDER / "weights.safetensors")
    folder.mkdir(parents=True)
    if half:
        state = {name: value.half() if is_half(name) else value for name, value in state.items()}
    checkpoint = {
        "model": {f"{prefix}{name}": value for name, value in state.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]},
        "scheduler": {"milestones": (20, 50), "last_epoch": 4},
        "num_epoch": 60,
        "iteration": 0,
        "epoch": 41,
    }
    torch.save(checkpoint, folder / "best.pth")
    (folder / "configs.yaml").write_text(YAML)
    return folder


SETTINGS = ["method.tower.heads=4", "method.tower.text_heads=4"]
"""What no file says: the golden towers have 4 heads, where width // 64 would be 1."""


def test_half_weights_are_those_of_the_authors():
    half = [name for name in load_file(FOLDER / "weights.safetensors") if is_half(name)]
    assert "visul_emb_layer.fc.bias" in half and "texual_emb_layer.mlp.layers.1.weight" in half
    assert not [name for name in half if "ln_" in name or "bns" in name or "embedding" in name]


@pytest.mark.parametrize(("prefix", "half"), [("", False), ("module.", False), ("", True)])
def test_an_official_folder_gives_the_published_similarities(tmp_path, prefix, half):
    model = open_model(rde_folder(tmp_path / "rde", prefix=prefix, half=half), device="cpu", sets=SETTINGS)
    assert (model.name, model.data, model.selected_on, model.embed) == ("rde", "rstpreid", None, 80)
    score = model.text_arrays(INPUTS["tokens_1"]) @ model.image_arrays(INPUTS["images_1"]).T
    assert abs(score - OUTPUTS["sim"].numpy()).max() <= (2e-2 if half else 2e-5)


def test_a_converted_run_gives_the_same_rows_and_names_no_path_of_the_author(tmp_path):
    source = rde_folder(tmp_path / "author" / "rde")
    run = convert(source, tmp_path / "mine", sets=SETTINGS)
    before, after = (open_model(path, device="cpu", sets=SETTINGS) for path in (source, run.folder))
    assert np.array_equal(before.image_arrays(INPUTS["images_1"]), after.image_arrays(INPUTS["images_1"]))
    assert np.array_equal(before.text_arrays(INPUTS["tokens_short"]), after.text_arrays(INPUTS["tokens_short"]))
    assert "author" not in (run.folder / "recipe.toml").read_text()
    assert len(read_safetensors(run.folder / "weights.safetensors")) == len(load_file(FOLDER / "weights.safetensors"))


def test_an_official_folder_is_evaluated_on_an_official_data_set(tmp_path):
    state = load_file(FOLDER / "weights.safetensors")
    # the real tokenizer needs its whole vocabulary and context: new tables, the rest stays
    state["base_model.token_embedding.weight"] = 0.02 * torch.randn(
        49408, 64, generator=torch.Generator().manual_seed(0)
    )
    state["base_model.positional_embedding"] = 0.01 * torch.randn(77, 64, generator=torch.Generator().manual_seed(1))
    model = open_model(rde_folder(tmp_path / "rde", state), device="cpu", sets=SETTINGS)
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    dataset = open_dataset("cuhk-pedes", tmp_path)
    found = evaluate(model, dataset, "test", cache_dir=tmp_path / "cache")
    assert found.document()["queries"] == 8 and 0 < found.scores.mAP <= 100


def test_a_missing_tensor_is_named_and_unused_layers_are_not_missed(tmp_path):
    state = load_file(FOLDER / "weights.safetensors")
    kept = {
        name: value
        for name, value in state.items()
        if not name.startswith(("visul_emb_layer.linear", "texual_emb_layer.mlp.bns.1"))
    }
    model = open_model(rde_folder(tmp_path / "kept", kept), device="cpu", sets=SETTINGS)
    score = model.text_arrays(INPUTS["tokens_1"]) @ model.image_arrays(INPUTS["images_1"]).T
    assert abs(score - OUTPUTS["sim"].numpy()).max() <= 2e-5
    del state["texual_emb_layer.linear.weight"]
    with pytest.raises(WeightsError, match=r"of rde are missing \(first: texual_emb_layer\.linear\.weight"):
        open_model(rde_folder(tmp_path / "missing", state), device="cpu", sets=SETTINGS)
