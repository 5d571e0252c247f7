"""The word table on its way to a method: found, given, made, kept; and TextReID's files whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import support.textreid as tiny
import torch
from safetensors.torch import load_file

from tbps_cli.data.open import open_dataset
from tbps_cli.errors import DataError, RecipeError, UsageError, WeightsError
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert
from tbps_cli.models.model import Model
from tbps_cli.nn.clip_features import text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import Tower
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.words import WordTable
from tbps_cli.weights.word_table import make_table, vocabulary_of

INPUTS = load_file(tiny.GOLDEN / "inputs.safetensors")
OUTPUTS = load_file(tiny.GOLDEN / "outputs.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    tiny.data_folder(root)
    return root


def opened(path: Path, **options: object) -> Model:
    options = {"sets": tiny.SETS, **options}
    model = open_model(path, device="cpu", **options)
    assert isinstance(model, Model)
    return model


def distance(model: Model) -> float:
    """Largest difference from the published code's embeddings, captions floored at zero."""
    text = torch.nn.functional.normalize(OUTPUTS["text_features_floor"], dim=1).numpy()
    image = model.image_arrays(INPUTS["images_1"]) - OUTPUTS["image_features_norm"].numpy()
    return float(max(abs(image).max(), abs(model.text_arrays(INPUTS["tokens_1"]) - text).max()))


# Official checkpoints ------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_finds_its_table_in_the_data_folder(tmp_path: Path, data: Path, prefix: str) -> None:
    model = opened(tiny.checkpoint(tmp_path / "moco", prefix=prefix), data_root=data)
    assert distance(model) < 1e-5
    assert (model.name, model.data, model.selected_on, model.batch_dependent) == ("textreid", "cuhk-pedes", None, None)
    captions = open_dataset("cuhk-pedes", data).split("test").captions
    ids = model.tokenizer(captions)
    assert ids[-1, :60].tolist() == list(range(1, 61)), "the words are those of the annotation files"


def test_the_released_floor_is_a_setting_and_names_the_batch(tmp_path: Path, data: Path) -> None:
    model = opened(tiny.checkpoint(tmp_path / "moco"), data_root=data, sets=[*tiny.SETS, "method.zero_floor=batch"])
    assert abs(model.text_arrays(INPUTS["tokens_1"]) - OUTPUTS["text_features_norm"].numpy()).max() < 1e-5
    assert "rest of its batch" in (model.batch_dependent or "")


def test_a_converted_run_carries_its_words_anywhere_and_scores_alike(tmp_path: Path, data: Path) -> None:
    file = tiny.checkpoint(tmp_path / "author" / "moco")
    before = opened(file, data_root=data)
    run = convert(file, tmp_path / "run", sets=tiny.SETS, words=data / "cuhkpedes" / "clip_vocab_vit.npy")
    shutil.move(run.folder, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "author")
    after = opened(tmp_path / "elsewhere", sets=[])
    assert np.array_equal(before.text_arrays(INPUTS["tokens_1"]), after.text_arrays(INPUTS["tokens_1"]))
    assert before.fingerprint == after.fingerprint
    assert str(data) not in (tmp_path / "elsewhere" / "recipe.toml").read_text()
    stored = load_file(tmp_path / "elsewhere" / "weights.safetensors")
    assert {"head.v_queue", "head.v_encoder_k.conv1.weight", "word_table"} <= stored.keys(), "to go on training"
    dataset = open_dataset("cuhk-pedes", data)
    found = [
        evaluate(model, dataset, "test", cache_dir=tmp_path / "cache", rerank=rerank).document()
        for model in (before, after)
        for rerank in (False, True)
    ]
    assert found[0]["queries"] == 13 and found[0]["gallery"] == 6
    assert found[0]["text_to_image"] == found[2]["text_to_image"]
    assert found[1]["text_to_image"] == found[3]["text_to_image"]


def test_without_a_table_the_checkpoint_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="textreid reads words through a table") as caught:
        opened(tiny.checkpoint(tmp_path / "moco"), data_root=tmp_path)
    assert "--words clip_vocab_vit.npy" in (caught.value.hint or "")
    with pytest.raises(WeightsError, match="there is no file"):
        opened(tiny.checkpoint(tmp_path / "moco"), words=tmp_path / "gone.npy")


def test_unusable_tables_are_refused_by_name(tmp_path: Path, data: Path) -> None:
    file, path = tiny.checkpoint(tmp_path / "moco"), tmp_path / "words.npy"
    np.save(path, tiny.table())
    with pytest.raises(WeightsError, match=r"words\.npy: which word each row belongs to is not known"):
        opened(file, words=path, data_root=tmp_path)
    path.with_suffix(".json").write_text(json.dumps(tiny.words()))
    assert distance(opened(file, words=path)) < 1e-5
    np.save(path, tiny.table()[:, :7])
    with pytest.raises(WeightsError, match="vectors of 7 numbers, the model needs 16"):
        opened(file, words=path)
    np.save(path, tiny.table()[:50])
    with pytest.raises(WeightsError, match="50 rows are too few for 60 words"):
        opened(file, words=path)


def test_a_table_alone_takes_the_words_of_the_data_set_that_the_checkpoint_was_made_for(
    tmp_path: Path, data: Path
) -> None:
    np.save(tmp_path / "words.npy", np.concatenate([tiny.table(), tiny.table()]))
    model = opened(tiny.checkpoint(tmp_path / "moco"), words=tmp_path / "words.npy", data_root=data)
    assert distance(model) < 1e-5, "rows past the vocabulary are not used"


def test_one_annotation_file_alone_does_not_tell_every_word(tmp_path: Path) -> None:
    folder = tiny.data_folder(tmp_path)
    (folder / "annotations" / "test.json").unlink()
    with pytest.raises(DataError, match="have no word"):
        opened(tiny.checkpoint(tmp_path / "moco"), data_root=tmp_path)


def test_words_for_a_method_without_any_are_refused(tmp_path: Path) -> None:
    from support.runs import tiny_run

    tiny_run(tmp_path / "clip")
    with pytest.raises(UsageError, match="clip needs no word table"):
        open_model(tmp_path / "clip", device="cpu", words=tmp_path / "words.npy")


def test_another_table_may_replace_that_of_a_run(tmp_path: Path, data: Path) -> None:
    table = data / "cuhkpedes" / "clip_vocab_vit.npy"
    run = convert(tiny.checkpoint(tmp_path / "moco"), tmp_path / "run", sets=tiny.SETS, words=table)
    more = WordTable(np.concatenate([tiny.table(), np.ones((1, 16), np.float32)]), (*tiny.words(), "surfboard"))
    more.write(tmp_path / "more.npy")
    model = opened(run.folder, sets=[], words=tmp_path / "more.npy")
    assert model.tokenizer(["a surfboard"])[0, 0] == 61
    assert distance(model) < 1e-5
    assert model.fingerprint != opened(run.folder, sets=[]).fingerprint


def test_a_run_that_lost_its_words_says_so(tmp_path: Path, data: Path) -> None:
    table = data / "cuhkpedes" / "clip_vocab_vit.npy"
    run = convert(tiny.checkpoint(tmp_path / "moco"), tmp_path / "run", sets=tiny.SETS, words=table)
    (run.folder / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="reads words through a table"):
        opened(run.folder, sets=[])


@pytest.mark.parametrize("folder", ["simple", "moco_fc"])
def test_checkpoints_with_other_heads_are_read_too(tmp_path: Path, folder: str) -> None:
    given = load_file(tiny.GOLDEN / folder / "inputs.safetensors")
    expected = load_file(tiny.GOLDEN / folder / "outputs.safetensors")
    WordTable(given["vocab_table"].numpy(), tuple(tiny.words(40))).write(tmp_path / "words.npy")
    file = tiny.checkpoint(tmp_path / folder, tiny.weights(folder), yaml=False)
    height, width = given["images_1"].shape[-2:]
    sets = ["method.pool_heads=2", f"data.image_size=[{height},{width}]"]
    model = opened(file, words=tmp_path / "words.npy", sets=sets)
    assert abs(model.image_arrays(given["images_1"]) - expected["image_features_norm"].numpy()).max() < 1e-5


# Making a table ------------------------------------------------------------------------------------


def test_a_made_table_is_what_clips_text_tower_says_of_each_word_alone(tmp_path: Path) -> None:
    sizes = Tower(width=32, layers=1, patch=16, embed=8, text_width=64, text_layers=2)
    clip = Clip(sizes, (32, 32)).eval()
    clip.initialise(torch.Generator().manual_seed(3))
    torch.save(clip.state_dict(), tmp_path / "vit-quickgelu.pt")
    vocabulary = ["shirt", "tshirt", "café", "–", "<|endoftext|>"]
    table = make_table(vocabulary, str(tmp_path / "vit-quickgelu.pt"), width=99, seed=0)
    assert table.vocabulary == tuple(vocabulary) and table.vectors.shape == (6, 8)
    assert not table.vectors[0].any()
    with torch.no_grad():
        alone = [text_feature(clip, torch.from_numpy(Bpe()([word], query=True))) for word in vocabulary]
    assert abs(table.vectors[1:] - torch.cat(alone).numpy()).max() < 1e-5


def test_random_vectors_follow_from_the_seed() -> None:
    first, again, other = (make_table(["a", "b"], "random", width=3, seed=seed).vectors for seed in (1, 1, 2))
    assert first.shape == (3, 3) and np.array_equal(first, again) and not np.array_equal(first, other)


def test_words_are_numbered_as_the_annotation_does_else_by_first_appearance(tmp_path: Path, data: Path) -> None:
    from support.sets import cuhk_records, write_set

    assert vocabulary_of(open_dataset("cuhk-pedes", data)) == tiny.words()
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    assert vocabulary_of(open_dataset("cuhk-pedes", tmp_path))[:4] == ["person", "1", "as", "seen"]


# Training ------------------------------------------------------------------------------------------

RECIPE = """
[data]
name = "cuhk-pedes"
image_size = [32, 16]
[method]
name = "textreid"
weights = "random"
word_weights = "random"
word_width = 16
gru_input = 16
hidden = 6
embed = 8
queue = 24
[method.tower]
width = 4
layers = [1, 1, 1, 1]
embed = 16
text_width = 16
text_layers = 1
heads = 2
[optim]
kind = "adam"
lr = 1e-3
[train]
epochs = 2
batch = 8
select_on = "val"
log_every = 1
workers = 0
save_every = 0.001
"""


def trained(folder: Path, root: Path, name: str = "run", sets: tuple[str, ...] = (), **options: object) -> Path:
    from tbps_cli.engine.train import train
    from tbps_cli.recipe.load import load

    (folder / "tiny.toml").write_text(RECIPE)
    recipe = load(folder / "tiny.toml", sets)
    return train(recipe, data_root=root, out=folder / name, device="cpu", **options)


def test_training_takes_the_table_of_the_data_folder_and_the_run_carries_it(tmp_path: Path, data: Path) -> None:
    run = trained(tmp_path, data)
    stored = load_file(run / "weights.safetensors")
    assert np.array_equal(stored["word_table"].numpy(), tiny.table())
    text = (run / "recipe.toml").read_text()
    assert "vocabulary = 60" in text and 'sampler = "identity-chunks"' in text and "words =" not in text
    assert opened(run, sets=[]).encode_texts(["Word7, WORD9!"]).shape == (1, 8)


def test_training_makes_a_table_of_the_data_sets_own_words(tmp_path: Path) -> None:
    tiny.data_folder(tmp_path, ["ein", "roter", "mantel", "über", "hose"], with_table=False)
    run = trained(tmp_path, tmp_path, sets=("method.word_width=5",))
    model = opened(run, sets=[])
    assert model.encode_texts(["ein roter Mantel über"]).shape == (1, 8)
    assert load_file(run / "weights.safetensors")["word_table"].shape == (6, 5)


def test_a_killed_training_goes_on_exactly_without_the_table_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tbps_cli.engine.step import Stepper

    folder = tiny.data_folder(tmp_path)
    whole = load_file(trained(tmp_path, tmp_path, "whole") / "last.safetensors")
    real, steps = Stepper.__call__, []

    def killed(self: Stepper, *arguments: object, **named: object) -> object:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments, **named)

    monkeypatch.setattr(Stepper, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, tmp_path, "killed")
    monkeypatch.setattr(Stepper, "__call__", real)
    (folder / "clip_vocab_vit.npy").unlink()
    run = trained(tmp_path, tmp_path, "killed", resume=True)
    again = load_file(run / "last.safetensors")
    assert whole.keys() == again.keys()
    assert [name for name, value in whole.items() if not torch.equal(value, again[name])] == []


def test_a_queue_that_the_batch_does_not_divide_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"method\.queue = 25 is not a multiple"):
        trained(tmp_path, tmp_path / "nowhere", sets=("method.queue=25",))


def test_training_goes_on_from_an_official_checkpoint_with_the_data_sets_own_table(
    tmp_path: Path, data: Path, lines: Callable[[], str]
) -> None:
    table = data / "cuhkpedes" / "clip_vocab_vit.npy"
    start = convert(tiny.checkpoint(tmp_path / "moco"), tmp_path / "start", sets=tiny.SETS, words=table).folder
    vocabulary = list(reversed(tiny.words()))
    tiny.data_folder(tmp_path, vocabulary, with_table=False)
    sets = ("method.hidden=12", "method.embed=16", "method.tower.layers=[1,2,1,1]", "method.tower.embed=32")
    more = ("data.image_size=[64,32]", "method.queue=32", "method.tower.heads=4")
    run = trained(tmp_path, tmp_path, init=start, sets=(*sets, *more))
    stored = load_file(run / "last.safetensors")
    assert not np.array_equal(stored["word_table"].numpy(), tiny.table()), "rows of other words"
