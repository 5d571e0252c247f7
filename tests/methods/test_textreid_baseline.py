"""TextReID's released form without CLIP: an ImageNet ResNet, word vectors that are trained, both at once or alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import support.textreid as clip_form
import support.textreid_baseline as reference
import torch
from parity.check import run as check_parity
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from support import oracles

from tbps_cli.data.open import open_dataset
from tbps_cli.engine.train import train
from tbps_cli.errors import WeightsError
from tbps_cli.methods._textreid_config import TextReidConfig
from tbps_cli.methods.textreid import TextReID
from tbps_cli.models import open_model
from tbps_cli.models.conversion import convert
from tbps_cli.models.model import Model
from tbps_cli.nn.imagenet import ImageNetResNet
from tbps_cli.nn.sizes import Tower
from tbps_cli.recipe.load import load
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.text.words import Words
from tbps_cli.types import Task
from tbps_cli.weights import pretrained
from tbps_cli.weights.foreign import OfficialFiles

BASELINE = {"image_network": "imagenet", "weights": "imagenet", "word_vectors": "trained", "head": "simple"}
TINY = Tower(width=4, layers=(1, 1, 1, 1), embed=16, text_width=64, text_layers=1, heads=2)
SMALL = {"tower": TINY, "vocabulary": 20, "gru_input": 5, "hidden": 4, "embed": 8, "queue": 12}
OPTIONS = {"INPUT": {"HEIGHT": 64, "WIDTH": 32}, "MODEL": {"RESNET": {"RES5_STRIDE": 1}}}


def config(**more: object) -> TextReidConfig:
    return TextReID.Config(name="textreid", **(SMALL | BASELINE | more))


def drawn(task: Task | None = None, **more: object) -> TextReID:
    method = TextReID(config(**more), task or Task((64, 32), 5))
    method.initialise(torch.Generator().manual_seed(0))
    return method


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published layout with 29 words, and without a word table."""
    root = tmp_path_factory.mktemp("datasets")
    clip_form.data_folder(root, clip_form.words(29), with_table=False)
    return root


def opened(path: Path, **options: object) -> Model:
    model = open_model(path, device="cpu", **options)
    assert isinstance(model, Model)
    return model


# Parity ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference.golden_folder(tmp_path_factory.mktemp("golden") / "baseline")


def test_every_figure_of_the_baseline_written_again_is_compared_and_equal(golden: Path) -> None:
    report = check_parity(golden)
    assert report.failures == []
    assert report.compared > 400
    assert not any(line.startswith("skip") for line in report.lines)


@pytest.mark.parametrize("name", ["visual_model.layer2.0.conv2.weight", "textual_model.embed.weight"])
def test_a_golden_folder_of_other_weights_fails(golden: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(golden, tmp_path / "other")
    weights = load_file(golden / "weights.safetensors")
    weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, tmp_path / "other" / "weights.safetensors")
    assert any(line.split()[0].endswith("_features") for line in check_parity(tmp_path / "other").failures)


@pytest.mark.parametrize("folder", [".", "simple"])
def test_vectors_in_the_weights_embed_as_the_same_vectors_from_a_table(tmp_path: Path, folder: str) -> None:
    """Of the published figures: CLIP's image tower with trained words, no `vocab_table` among the inputs."""
    source = clip_form.GOLDEN / folder
    weights, given = (load_file(source / f"{name}.safetensors") for name in ("weights", "inputs"))
    table = given.pop("vocab_table")
    if "textual_model.embed.weight" in weights:  # a linear layer stood between: its outputs are the vectors
        linear, bias = (weights.pop(f"textual_model.embed.{name}") for name in ("weight", "bias"))
        table = table @ linear.T + bias
    weights["textual_model.embed.weight"] = table
    for twin in ("embed_model.t_encoder_q", "embed_model.t_encoder_k"):
        if f"{twin}.gru.weight_ih_l0" in weights:
            weights[f"{twin}.embed.weight"] = table.clone()
    outputs = {
        name: value
        for name, value in load_file(source / "outputs.safetensors").items()
        if not name.startswith(("step", "after_steps")) or name == "step1.loss.global_align_loss"
    }
    settings = json.loads((source / "config.json").read_text()) | {"steps": 1}
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "config.json").write_text(json.dumps(settings))
    for name, tensors in {"weights": weights, "inputs": given, "outputs": outputs}.items():
        save_file(tensors, tmp_path / "trained" / f"{name}.safetensors")
    report = check_parity(tmp_path / "trained")
    assert report.failures == []


# Sizes and settings ------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_torchvisions_resnet_50_without_its_classifier() -> None:
    with torch.device("meta"):
        theirs = oracles.torchvision().models.resnet50().state_dict()
        method = TextReID(TextReID.Config(name="textreid", **BASELINE, vocabulary=11_999), Task((384, 128), 11_003))
    tower = {name: value.shape for name, value in method.visual.state_dict().items()}
    assert tower == {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}
    assert method.textual.embed.weight.shape == (12_000, 512) and method.word_table is None
    assert sum(value.numel() for value in method.visual.parameters()) == 23_508_032
    assert method.encode_images(torch.zeros(1, 3, 384, 128, device="meta")).shape == (1, 256)


def test_images_are_normalised_by_imagenets_numbers_in_training_and_after() -> None:
    plain, clip = (TextReID.eval_transform(one, Task((64, 32))) for one in (config(), config_of_clip()))
    assert plain.mean == (0.485, 0.456, 0.406) and clip.mean != plain.mean and plain.resample == clip.resample
    view = TextReID.views(config()).images["image"]
    assert (view.mean, view.std) == (plain.mean, plain.std)
    assert view.steps[-1].value == plain.mean


def config_of_clip() -> TextReidConfig:
    return TextReID.Config(name="textreid")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"tower": "ViT-B-16"}, r'image_network = "imagenet" needs the stages of a ResNet as tower \(RN50, '),
        ({"pool_heads": 2}, "one of ImageNet has no attention pool"),
        ({"weights": "openai"}, 'weights = "openai" is a CLIP model'),
        ({"image_network": "clip"}, 'weights = "imagenet" is for image_network = "imagenet"'),
        ({"word_vectors": "learned"}, "word_vectors"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_reason(more: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        config(**more)


@pytest.mark.parametrize("head", ["moco", "simple"])
@pytest.mark.parametrize("network", ["clip", "imagenet"])
@pytest.mark.parametrize("words", ["table", "trained"])
def test_every_form_embeds_alone_as_in_company(head: str, network: str, words: str) -> None:
    weights = {"weights": "random"} if network == "clip" else {}
    method = drawn(head=head, image_network=network, word_vectors=words, **weights).eval()
    token_BT = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [9, 0, 0, 0, 0]])
    image_BCHW = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for encode, given in ((method.encode_texts, token_BT), (method.encode_images, image_BCHW)):
            together = encode(given)
            assert torch.allclose(torch.cat([encode(given[row : row + 1]) for row in range(3)]), together, atol=1e-6)
    assert (method.token_table in method.state_dict()) and len(method.state_dict()[method.token_table]) == 21


# What starts where -------------------------------------------------------------------------------


def imagenet_file(path: Path) -> dict[str, torch.Tensor]:
    """A state dict with torchvision's names, its classifier included."""
    tower = ImageNetResNet((1, 1, 1, 1), 4)
    tower.initialise(torch.Generator().manual_seed(5))
    state = tower.state_dict() | {"fc.weight": torch.zeros(10, 128), "fc.bias": torch.zeros(10)}
    torch.save(state, path)
    return state


@pytest.mark.parametrize("head", ["moco", "simple"])
def test_the_tower_starts_from_a_file_of_torchvision(tmp_path: Path, head: str) -> None:
    given = imagenet_file(tmp_path / "resnet.pth")
    state, _ = pretrained.clip_state(str(tmp_path / "resnet.pth"))
    method = drawn(head=head)
    assert len(method.load_weights(state)) == len(given) - 2
    for tower in (method.visual, *([method.head.v_encoder_k] if head == "moco" else [])):
        assert all(torch.equal(value, given[name]) for name, value in tower.state_dict().items())


def test_imagenets_weights_are_torchvisions_first_ones_and_known_by_their_hash() -> None:
    models = oracles.torchvision().models
    for tower, weights in (("RN50", models.ResNet50_Weights), ("RN101", models.ResNet101_Weights)):
        entry = pretrained._imagenet(tower)
        assert entry.url == weights.IMAGENET1K_V1.url and len(entry.sha256 or "") == 8
    with pytest.raises(WeightsError, match='no weights "imagenet" for the tower RN50x4') as caught:
        pretrained.clip_state("imagenet", "RN50x4")
    assert caught.value.hint == "Known for RN50, RN101; or give the path of a file."


def test_a_clip_tower_does_not_start_from_imagenets_network(tmp_path: Path) -> None:
    imagenet_file(tmp_path / "resnet.pth")
    state, _ = pretrained.clip_state(str(tmp_path / "resnet.pth"))
    with pytest.raises(WeightsError, match=r"of the towers' .* are missing"):
        drawn(image_network="clip", weights="random").load_weights(state)


# Foreign checkpoints -------------------------------------------------------------------------------


def files(drop: str | None = None, **options: object) -> OfficialFiles:
    weights = {name: value for name, value in reference.drawn().state_dict().items() if not (drop and drop in name)}
    return OfficialFiles(weights, options, "b.pth")


def test_shapes_and_the_yaml_tell_everything() -> None:
    found = TextReID.recognise(files(**OPTIONS))
    assert found is not None
    assert (found.image_network, found.word_vectors, found.head, found.weights) == tuple(BASELINE[key] for key in ORDER)
    assert (found.sizes.width, found.sizes.layers, found.last_stride) == (4, (1, 2, 1, 1), 1)
    assert (found.vocabulary, found.gru_input, found.hidden, found.embed) == (29, 10, 6, 12)
    assert TextReID.recognise_task(files(**OPTIONS), found) == Task((64, 32), 9)


ORDER = ("image_network", "word_vectors", "head", "weights")


@pytest.mark.parametrize(("options", "stride"), [({}, 1), ({"MODEL": {"DEVICE": "cuda"}}, 2), (OPTIONS, 1)])
def test_the_last_stride_is_the_yamls_else_the_codes_default_else_the_published_one(options, stride) -> None:
    found = TextReID.recognise(files(**options))
    assert found is not None and found.last_stride == stride
    assert options or TextReID.recognise_task(files(), found).image_size == (384, 128)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"MODEL": {"RESNET": {"RES5_STRIDE": 1, "RES5_DILATION": 2}}}, "RES5_STRIDE 1 and RES5_DILATION 2"),
        ({"INPUT": {"PIXEL_MEAN": [0.48145466, 0.4578275, 0.40821073]}}, "normalised with the mean"),
    ],
)
def test_options_that_change_features_unseen_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(WeightsError, match=reason):
        TextReID.recognise(files(**options))


def test_a_classifier_of_imagenet_in_the_file_is_passed_over() -> None:
    given = files(**OPTIONS)
    more = {f"{tower}.fc.weight": torch.zeros(10, 128) for tower in ("visual_model", "embed_model.v_encoder_k")}
    assert TextReID.recognise(OfficialFiles({**given.tensors, **more}, OPTIONS, "b.pth")) == TextReID.recognise(given)


def test_a_missing_tensor_is_named_as_the_file_would_have_it() -> None:
    with pytest.raises(WeightsError, match=r"b.pth: 1 of \d+ .* missing \(first: embed_model.textual_embed_layer.bias"):
        TextReID.recognise(files(drop="textual_embed_layer.bias", **OPTIONS))


def test_a_checkpoint_takes_its_words_from_the_annotation_and_needs_no_table(tmp_path: Path, data: Path) -> None:
    file = reference.checkpoint(tmp_path / "author")
    model = opened(file, data_root=data)
    given, model_of_paper = reference.inputs(1), reference.drawn().eval()
    with torch.no_grad():
        image = model_of_paper(given["images"], given["tokens"], given["lengths"])[0]
        raw = model_of_paper.textual_model(given["tokens"], given["lengths"]).clamp(min=0)
        text = model_of_paper.embed_model.textual_embed_layer(raw)
    for ours, theirs in ((model.image_arrays(given["images"]), image), (model.text_arrays(given["tokens"]), text)):
        assert np.abs(ours - torch.nn.functional.normalize(theirs, dim=1).numpy()).max() < 1e-5
    assert model.tokenizer(["Word7, WORD29!"])[0, :3].tolist() == [7, 29, 0]
    assert model.transform.mean == (0.485, 0.456, 0.406)
    scores = evaluate(model, open_dataset("cuhk-pedes", data), "test", cache_dir=tmp_path / "cache").document()
    assert scores["queries"] == 13 and scores["gallery"] == 6

    run = convert(file, tmp_path / "run", data_root=data)
    shutil.move(run.folder, tmp_path / "elsewhere")
    again = opened(tmp_path / "elsewhere")
    assert np.array_equal(model.encode_texts(["word3 word4"]), again.encode_texts(["word3 word4"]))
    assert again.fingerprint == model.fingerprint


def test_without_the_annotation_the_words_are_asked_for_and_a_list_is_enough(tmp_path: Path) -> None:
    file = reference.checkpoint(tmp_path / "author")
    with pytest.raises(WeightsError, match="the words stand in the annotation of cuhk-pedes") as caught:
        opened(file, data_root=tmp_path)
    assert "--data-root" in (caught.value.hint or "") and "--words FILE.json" in (caught.value.hint or "")
    (tmp_path / "words.json").write_text(json.dumps(clip_form.words(29)))
    assert opened(file, words=tmp_path / "words.json", data_root=tmp_path).encode_texts(["word29"]).shape == (1, 12)
    (tmp_path / "words.json").write_text(json.dumps(clip_form.words(30)))
    with pytest.raises(WeightsError, match="has 30 words, the checkpoint 29 vectors"):
        opened(file, words=tmp_path / "words.json")


# Training ------------------------------------------------------------------------------------------

RECIPE = """
[data]
name = "cuhk-pedes"
image_size = [32, 16]
[method]
name = "textreid"
image_network = "imagenet"
word_vectors = "trained"
weights = "random"
vocabulary = 40
gru_input = 8
hidden = 6
embed = 8
head = "simple"
tower = {width = 4, layers = [1, 1, 1, 1], embed = 16, text_width = 16, text_layers = 1, heads = 2}
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
    (folder / "tiny.toml").write_text(RECIPE)
    return train(load(folder / "tiny.toml", sets), data_root=root, out=folder / name, device="cpu", **options)


def test_training_learns_vectors_of_the_data_sets_words_and_the_run_carries_them(tmp_path: Path, data: Path) -> None:
    run = trained(tmp_path, data)
    stored = load_file(run / "weights.safetensors")
    assert stored["textual.embed.weight"].shape == (41, 8), "the places of the recipe, and the padding"
    assert not stored["textual.embed.weight"][0].any()
    assert "vocabulary = 40" in (run / "recipe.toml").read_text()
    assert opened(run).encode_texts(["word1 word2"]).shape == (1, 8)
    more = trained(tmp_path, data, "more", ("method.vocabulary=3",))
    assert load_file(more / "weights.safetensors")["textual.embed.weight"].shape == (30, 8), (
        "as many as there are words"
    )


@pytest.mark.parametrize("head", ["simple", "moco"])
def test_a_stopped_training_goes_on_exactly_without_the_annotations_words(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    from tbps_cli.engine.step import Stepper

    sets = (f"method.head={head}", "method.queue=24")
    whole = load_file(trained(tmp_path, data, "whole", sets) / "last.safetensors")
    real, steps = Stepper.__call__, []

    def killed(self: Stepper, *arguments: object, **named: object) -> object:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(self, *arguments, **named)

    monkeypatch.setattr(Stepper, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, data, "killed", sets)
    monkeypatch.setattr(Stepper, "__call__", real)
    again = load_file(trained(tmp_path, data, "killed", sets, resume=True) / "last.safetensors")
    assert [name for name, value in whole.items() if not torch.equal(value, again[name])] == []


@pytest.mark.parametrize("head", ["simple", "moco"])
def test_a_start_from_another_data_sets_words_moves_each_vector_to_its_words_new_row(
    tmp_path: Path, data: Path, head: str
) -> None:
    sets = (f"method.head={head}", "method.queue=24")
    first = trained(tmp_path, data, "first", sets)
    vocabulary = ["new", *reversed(clip_form.words(29)), "newer"]
    clip_form.data_folder(tmp_path, vocabulary, with_table=False)
    still = ("optim.lr=1e-30", "optim.weight_decay=0.0", "method.momentum=1.0")
    second = trained(tmp_path, tmp_path, "second", (*sets, *still), init=first)
    start, end = (
        load_file(file)["textual.embed.weight"] for file in (first / "weights.safetensors", second / "last.safetensors")
    )
    assert torch.allclose(end[2:31], start[1:30].flip(0))
    assert not torch.allclose(end[1], start[1])
    for run in (first, second):
        assert isinstance(opened(run).tokenizer, Words)


def test_a_word_table_is_no_list_of_words(tmp_path: Path, data: Path) -> None:
    np.save(tmp_path / "table.npy", np.zeros((30, 10), np.float32))
    with pytest.raises(WeightsError, match=r"table\.json: missing; it names the word of each row"):
        opened(reference.checkpoint(tmp_path / "author"), words=tmp_path / "table.npy")
