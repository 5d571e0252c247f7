"""`--ckpt NAME`: weights of open_clip's catalogue and of the hub, with the towers that the name stands for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from support.hub import COMMIT, Hub, hub_client
from support.runs import tiny_run

from tbps_cli.errors import WeightsError
from tbps_cli.models import open_model
from tbps_cli.models.checkpoint import Checkpoint
from tbps_cli.models.conversion import convert_file
from tbps_cli.models.model import Model
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import Tower
from tbps_cli.weights import architecture as architectures
from tbps_cli.weights import catalogue
from tbps_cli.weights.architecture import architecture, of_document
from tbps_cli.weights.catalogue import CatalogueEntry
from tbps_cli.weights.weights_file import write_safetensors

REPOSITORY = "laion/tiny"
GREY = (0.5, 0.5, 0.5)
VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": [48, 32], "layers": 2, "width": 64, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
}
RESNET = {**VIT, "embed_dim": 64, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}
SIGLIP = {**VIT, "init_logit_bias": -10, "text_cfg": {**VIT["text_cfg"], "hf_tokenizer_name": "t5"}}


def state(name: str) -> dict[str, torch.Tensor]:
    """Random weights of one of the towers above."""
    built = architecture(name)
    clip = Clip(built.tower, built.image_size)
    clip.initialise(torch.Generator().manual_seed(0))
    return clip.state_dict()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A catalogue of three towers, whose weights lie on a hub of the test's own."""
    configs = tmp_path / "model_configs"
    configs.mkdir()
    for name, config in (("ViT-T", VIT), ("RN-T", RESNET), ("SigLIP-T", SIGLIP)):
        (configs / f"{name}.json").write_text(json.dumps(config))
    (configs / "ViT-T-quickgelu.json").write_text(json.dumps({**VIT, "quick_gelu": True}))
    monkeypatch.setattr(architectures, "_folder", lambda: configs)
    entry = CatalogueEntry(hub=f"{REPOSITORY}/")
    entries = {
        "ViT-T": {"laion": entry, "grey": CatalogueEntry(hub=f"{REPOSITORY}/", mean=GREY, std=GREY)},
        "RN-T": {"laion": CatalogueEntry(hub="laion/resnet/open_clip_model.safetensors", quick_gelu=True)},
        "SigLIP-T": {"webli": entry},
    }
    monkeypatch.setattr(catalogue, "entries", lambda: entries)
    made = Hub()
    for repository, name in ((REPOSITORY, "ViT-T"), ("laion/resnet", "RN-T")):
        write_safetensors(tmp_path / "weights", state(name))
        made.files[repository] = {"open_clip_model.safetensors": (tmp_path / "weights").read_bytes()}
    hub_client(made, tmp_path / "hub", monkeypatch)
    yield made
    made.close()


def opened(name: str | Path) -> Model:
    model = open_model(name, device="cpu")
    assert isinstance(model, Model)
    return model


def rows(model: Model) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).standard_normal((2, 3, *model.transform.size)).astype(np.float32)
    return model.image_arrays(image), model.encode_texts(["a man in a white shirt"])


def test_a_name_of_the_catalogue_opens_with_its_own_size_heads_and_activation(
    hub: Hub, lines: Callable[[], str]
) -> None:
    model = opened("ViT-T/laion")
    tower = model.recipe.method.sizes
    assert (model.name, model.transform.size, tower.activation, tower.image_heads) == ("clip", (48, 32), "gelu", 4)
    said = f"ViT-T/laion: hf-hub:{REPOSITORY}:open_clip_model.safetensors@{COMMIT} (SHA-256 "
    assert f"ckpt: {said}" in lines()
    assert model.notes[0].startswith(said.replace("ViT-T/laion:", "ViT-T/laion,")) and str(model.path) == "ViT-T/laion"
    quick = opened("ViT-T-quickgelu/laion")
    assert quick.recipe.method.sizes.activation == "quickgelu"
    assert abs(rows(model)[0] - rows(quick)[0]).max() > 1e-3


def test_weights_that_were_trained_with_other_colours_get_them(hub: Hub) -> None:
    grey = opened("ViT-T/grey")
    assert (grey.transform.mean, grey.transform.std) == (GREY, GREY)
    assert opened("ViT-T/laion").fingerprint != grey.fingerprint


def test_a_resnet_opens_by_its_name(hub: Hub) -> None:
    model = opened("RN-T/laion")
    assert (model.transform.size, model.recipe.method.sizes.is_resnet) == ((64, 64), True)
    assert [part.shape for part in rows(model)] == [(2, 64), (1, 64)]


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("SigLIP-T/webli", r"SigLIP-T: tbps cannot build these towers \(init_logit_bias, text_cfg", "ViT-B-16"),
        ("ViT-T/laoin", "--ckpt ViT-T/laoin: there are no weights 'laoin' for the tower ViT-T", "laion, grey"),
        ("VitT/laion", "VitT/laion: there is no such file or folder", "Did you mean ViT-T/laion?"),
        ("nothing/like/it", "there is no such file or folder", "Give a run folder or the file of a checkpoint."),
    ],
)
def test_a_name_that_is_none_or_that_tbps_cannot_build_is_told_before_anything_is_fetched(
    hub: Hub, name: str, said: str, hint: str
) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        Checkpoint.find(name)
    assert hint in (caught.value.hint or "")
    assert hub.asked == []


def test_offline_a_name_is_its_cached_file(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE forbids to fetch it"):
        opened("ViT-T/laion")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    first = opened("ViT-T/laion").fingerprint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = list(hub.asked)
    assert opened("ViT-T/laion").fingerprint == first and hub.asked == asked


def test_a_file_of_other_towers_than_its_name_says_is_refused(hub: Hub, tmp_path: Path) -> None:
    other = Clip(Tower(**{**architecture("ViT-T").tower.model_dump(), "layers": 3}), (48, 32))
    write_safetensors(tmp_path / "w", other.state_dict())
    hub.files[REPOSITORY]["open_clip_model.safetensors"] = (tmp_path / "w").read_bytes()
    with pytest.raises(WeightsError, match="does not hold the towers that it should: its width is 64, its layers 3"):
        Checkpoint.find("ViT-T/laion")


def test_a_path_that_exists_is_never_taken_for_a_name(hub: Hub) -> None:
    run = tiny_run(Path("ViT-T") / "laion")
    assert Checkpoint.find("ViT-T/laion").kind == "run" and run.folder.is_dir()
    assert hub.asked == []


def test_a_repository_of_open_clip_says_itself_how_it_is_read(hub: Hub) -> None:
    document = {"model_cfg": VIT, "preprocess_cfg": {"mean": GREY, "std": GREY, "size": [48, 32]}}
    hub.files[REPOSITORY]["open_clip_config.json"] = json.dumps(document).encode()
    model = opened(f"hf-hub:{REPOSITORY}")
    assert (model.transform.size, model.transform.mean) == ((48, 32), GREY)
    assert model.recipe.method.sizes == architecture("ViT-T").tower
    hub.files["laion/sig"] = {
        "open_clip_model.safetensors": hub.files[REPOSITORY]["open_clip_model.safetensors"],
        "open_clip_config.json": json.dumps({"model_cfg": SIGLIP}).encode(),
    }
    with pytest.raises(WeightsError, match=r"open_clip_config\.json: tbps cannot build these towers"):
        opened("hf-hub:laion/sig")


def test_a_run_of_the_hub_opens_as_one(hub: Hub) -> None:
    run = tiny_run(Path("run"))
    hub.files["me/run"] = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    found = Checkpoint.find("hf-hub:me/run")
    assert found.kind == "run" and opened("hf-hub:me/run").fingerprint == opened(run.folder).fingerprint


def test_a_converted_name_remembers_commit_and_hash(hub: Hub, tmp_path: Path) -> None:
    run = convert_file("ViT-T/laion", tmp_path / "converted").run
    assert f"@{COMMIT} (SHA-256 " in run.facts()["converted_from"]
    there, here = rows(opened("ViT-T/laion")), rows(opened(run.folder))
    assert all(np.array_equal(one, other) for one, other in zip(there, here, strict=True))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "states no model"),
        ({"model_cfg": {"embed_dim": 4}}, "no vision_cfg or no text_cfg"),
        ({"model_cfg": {**VIT, "vision_cfg": {"layers": 2}}}, "is not a configuration of CLIP's towers"),
        ({"model_cfg": {**VIT, "vision_cfg": {**VIT["vision_cfg"], "width": "wide"}}}, "is not a configuration"),
        ({"model_cfg": {**VIT, "vision_cfg": {**VIT["vision_cfg"], "layers": [1]}}}, "is not a configuration"),
        ({"model_cfg": {**VIT, "vision_cfg": {**VIT["vision_cfg"], "head_width": -1}}}, "is not a configuration"),
    ],
)
def test_a_configuration_that_is_none_is_one_line(document: dict[str, object], said: str) -> None:
    with pytest.raises(WeightsError, match=said) as caught:
        of_document(document, "here.json")
    assert caught.value.message.startswith("here.json") and "\n" not in caught.value.message


def test_every_tower_that_the_catalogue_shares_with_ours_has_its_sizes() -> None:
    from tbps_cli.nn.sizes import TOWERS, named

    found = {name: architecture(name) for name in TOWERS}
    shapes = {name: name.removesuffix("-336") for name in TOWERS}
    assert {name: named(built.tower) for name, built in found.items()} == shapes
    assert all(built.tower.image_heads == TOWERS[name].image_heads for name, built in found.items())
    assert found["ViT-B-16"].image_size == (224, 224) and found["ViT-L-14-336"].image_size == (336, 336)


def test_the_catalogue_says_which_colours_weights_were_trained_with() -> None:
    assert catalogue.find("openai", "ViT-B-16").mean == (0.48145466, 0.4578275, 0.40821073)
    assert catalogue.find("laion2b_s32b_b82k", "ViT-L-14").mean == GREY
    assert catalogue.parse_name("ViT-B/16/openai") == ("ViT-B-16", "openai")
    assert catalogue.parse_name("vit-b-16-quickgelu/openai") == ("ViT-B-16-quickgelu", "openai")
    assert catalogue.parse_name("runs/irra-0001") is None and catalogue.parse_name("ViT-B-16") is None
