"""Where the weights of a training come from, and what of the recipe follows them."""

import pytest
import torch
from support.runs import golden_state, irra_folder
from support.training import Spy, tiny_recipe, write_data

from tbps_cli.engine.train import train
from tbps_cli.errors import WeightsError
from tbps_cli.models.run import Run
from tbps_cli.weights.weights_file import read_safetensors

SMALL = (
    "data.name=cuhk-pedes",
    "data.image_size=[16, 8]",
    "method.weights=random",
    "train.epochs=1",
    "train.batch=12",
    "train.precision=fp32",
    "train.workers=0",
    "optim.lr=1e-30",
)
WIDER = "method.tower={patch=8, width=32, layers=2, embed=16, text_width=16, text_layers=1, heads=2, text_heads=2}"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Data, and a run whose tower is no named one."""
    folder = tmp_path_factory.mktemp("first")
    write_data(folder)
    return train(
        tiny_recipe(folder, "irra", sets=["train.epochs=1"]), data_root=folder, out=folder / "run", device="cpu"
    )


def begun(first, out, *sets, **options):
    spy = Spy()
    run = train(
        "own", [*SMALL, *sets], data_root=first.parent, init=first, out=out, device="cpu", observer=spy, **options
    )
    return run, spy


def test_the_tower_follows_the_checkpoint_that_training_starts_from(first, tmp_path) -> None:
    """The recipe `own` has ViT-B-16: with it, one tensor of several hundred would fit."""
    run, spy = begun(first, tmp_path / "run")
    assert Run(run).recipe.method.tower == Run(first).recipe.method.tower
    assert f"(as in --init {first})" in next(text for text in spy.plans[0].choices if text.startswith("method.tower:"))
    note = next(note for note in spy.notes if note.startswith("init:"))
    given, made = (read_safetensors(folder / "last.safetensors") for folder in (first, run))
    assert note.startswith(f"init: {len(made)} of {len(made)} tensors")
    torch.testing.assert_close(made["clip.visual.proj"], given["clip.visual.proj"])


def test_a_run_whose_tower_followed_goes_on_with_the_same_command(first, tmp_path) -> None:
    begun(first, tmp_path / "run")
    _, spy = begun(first, tmp_path / "run", resume=True)
    assert "is finished" in spy.notes[0]


def test_a_tower_of_ones_own_that_does_not_fit_is_an_error_that_names_the_difference(first, tmp_path) -> None:
    with pytest.raises(
        WeightsError, match=r"only \d+ of \d+ tensors .* its tower has width 16 \(here 32\), layers 1 \(here 2\)"
    ):
        begun(first, tmp_path / "run", WIDER)
    assert not (tmp_path / "run").exists()


def test_a_tower_of_ones_own_that_fits_for_the_most_part_stays(first, tmp_path) -> None:
    """Another patch: one tensor and the table of places differ."""
    tower = WIDER.replace("width=32, layers=2", "width=16, layers=1").replace("patch=8", "patch=4")
    run, spy = begun(first, tmp_path / "run", tower)
    assert Run(run).recipe.method.tower.patch == 4
    assert "; new: " in next(note for note in spy.notes if note.startswith("init:"))


def test_a_tower_that_the_method_cannot_have_is_refused(first, tmp_path) -> None:
    words = 'word_weights = "random"\nword_width = 6\ngru_input = 6\nhidden = 4\nembed = 8\nqueue = 24'
    resnet = ("method.tower.layers=[1, 1, 1, 1]", "method.tower.width=4", "data.image_size=[32, 32]", "train.epochs=1")
    recipe = tiny_recipe(tmp_path, "textreid", words, resnet)
    textreid = train(recipe, data_root=first.parent, out=tmp_path / "textreid", device="cpu")
    with pytest.raises(WeightsError, match=r"its tower cannot be that of dm_adapter: .*vision transformer"):
        train("dm_adapter", SMALL, data_root=first.parent, init=textreid, out=tmp_path / "run", device="cpu")


def test_a_start_with_another_vocabulary_is_told_before_the_first_step(tmp_path) -> None:
    """Its table has 320 rows: the first batch would look for row 49,406."""
    folder = irra_folder(tmp_path / "small", golden_state(), half=False)
    write_data(tmp_path)
    with pytest.raises(
        WeightsError, match=r"--init \S+: its table of tokens has 320 rows, but the tokenizer has 49,408"
    ):
        train(
            "own",
            [*SMALL, "data.image_size=[96, 32]"],
            data_root=tmp_path,
            init=folder,
            out=tmp_path / "run",
            device="cpu",
        )
    assert not (tmp_path / "run").exists()
