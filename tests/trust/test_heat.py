"""Heat maps: towers that learn where a coloured square is point at it, and nothing of a model is changed by looking."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.runs import tiny_recipe, tiny_run
from support.sets import cuhk_records, save_image, write_set
from torch.nn import functional as F

from tbps_cli.models.model import build
from tbps_cli.trust.heat import heat_maps

SIZE, SQUARE = (64, 32), 16
KINDS = 3


def model(kind):
    """A method with a small tower of one kind, for images of 64 x 32."""
    tower = {"width": 32, "layers": 2, "patch": 8, "embed": 16, "text_width": 32, "text_layers": 1, "heads": 2}
    if kind == "resnet":
        tower = {"width": 8, "layers": [1, 1, 1, 1], "embed": 16, "text_width": 32, "text_layers": 1}
    recipe = tiny_recipe(tower=tower | {"text_heads": 2})
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"image_size": SIZE})})
    method = build(recipe)
    method.initialise(torch.Generator().manual_seed(0))
    return method


def squares(count, generator):
    """(images [B, 3, H, W] with a square each of one of three colours, the colours, upper left corners)."""
    image = 0.3 * torch.randn(count, 3, *SIZE, generator=generator)
    kind = torch.randint(KINDS, (count,), generator=generator)
    top = torch.randint(SIZE[0] - SQUARE, (count,), generator=generator)
    left = torch.randint(SIZE[1] - SQUARE, (count,), generator=generator)
    for place in range(count):
        y, x = int(top[place]), int(left[place])
        image[place, int(kind[place]), y : y + SQUARE, x : x + SQUARE] += 2.5
    return image, kind, top, left


def trained(kind, steps):
    """A method and a direction for each colour, trained to tell the colours apart."""
    method, generator = model(kind), torch.Generator().manual_seed(1)
    head = torch.nn.Parameter(torch.randn(KINDS, 16, generator=generator))
    rate = 3e-3
    optimiser = torch.optim.Adam([*method.clip.visual.parameters(), head], rate)
    for _ in range(steps):
        image, colour, _, _ = squares(48, generator)
        score = 10 * method.encode_images(image) @ F.normalize(head, dim=-1).T
        optimiser.zero_grad()
        F.cross_entropy(score, colour).backward()
        optimiser.step()
    return method.eval(), F.normalize(head, dim=-1).detach()


@pytest.mark.parametrize(("kind", "steps"), [("vit", 60), ("resnet", 25)])
def test_a_map_points_at_what_the_direction_stands_for(kind, steps):
    method, head_KE = trained(kind, steps)
    image, colour, top, left = squares(60, torch.Generator().manual_seed(9))
    hits = 0
    for place in range(len(image)):
        direction_E = head_KE[colour[place]] - head_KE.mean(0)
        (map_HW,) = heat_maps(method, image[place], direction_E[None].numpy())
        large = F.interpolate(torch.from_numpy(map_HW)[None, None], size=SIZE, mode="bilinear")[0, 0]
        y, x = divmod(int(large.argmax()), SIZE[1])
        hits += top[place] - 4 <= y < top[place] + SQUARE + 4 and left[place] - 4 <= x < left[place] + SQUARE + 4
    chance = (SQUARE + 8) ** 2 / (SIZE[0] * SIZE[1])
    assert hits / len(image) >= 0.75 > 2 * chance, f"{hits} of {len(image)}"


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_looking_changes_nothing_of_the_model_and_leaves_no_gradient(kind):
    method = model(kind).eval()
    image = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    with torch.inference_mode():
        row = method.encode_images(image[None])
    direction_WE = np.random.default_rng(0).standard_normal((2, 16)).astype(np.float32)
    with torch.inference_mode(False):
        first, second = (heat_maps(method, image, direction_WE) for _ in range(2))
    assert np.array_equal(first, second) and first.min() >= 0 and first.max() <= 1
    assert first.shape == ((2, 8, 4) if kind == "vit" else (2, 16, 8))
    assert all(torch.equal(before[name], tensor) for name, tensor in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in method.modules())
    with torch.inference_mode():
        assert torch.equal(method.encode_images(image[None]), row)


def test_no_direction_gives_no_map_and_a_method_without_our_towers_none_at_all():
    assert heat_maps(model("vit"), torch.zeros(3, *SIZE), np.zeros((0, 16), np.float32)).shape[0] == 0
    assert heat_maps(torch.nn.Linear(2, 2), torch.zeros(3, *SIZE), np.zeros((1, 16), np.float32)) is None


# As a user meets them ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    tiny_run(place / "runs" / "tiny-0001")
    write_set(place / "data" / "synthetic", cuhk_records(persons=(1, 1, 3)))
    for seed in range(3):
        save_image(place / "photos" / f"{seed}.png", seed)
    return place


@pytest.fixture
def at_the_place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.mark.usefixtures("at_the_place")
def test_explain_says_of_each_hit_which_words_it_supports_and_where(tbps):
    status, out, err = tbps("search", "a man in a red coat", "--in", "photos", "--explain", "--json")
    assert status == 0, err
    for hit in json.loads(out)["hits"]:
        assert [word["word"] for word in hit["explain"]] == ["man", "red", "coat"]
        for word in hit["explain"]:
            assert (word["instead"] is None) is (word["support"] > 0)
            assert np.array(word["grid"]).shape == (4, 2) and 0 <= np.min(word["grid"]) <= np.max(word["grid"]) <= 1
    status, out, _ = tbps("search", "a man in a red coat", "--in", "photos", "--explain")
    assert status == 0 and out.count("coat") >= 4 and ("~~" in out or "█" in out)


@pytest.mark.usefixtures("at_the_place")
def test_what_cannot_be_explained_is_one_line(tbps):
    status, _, err = tbps("search", "--image", "photos/0.png", "--in", "photos", "--explain")
    assert status == 2 and "--explain is about the words of a sentence" in err
    tbps("index", "photos", "--index", "kept.h5")
    shutil.rmtree("photos")
    status, out, err = tbps("search", "a red coat", "--in", "kept.h5", "--explain", "--json")
    assert status == 0 and all(word["grid"] is None for hit in json.loads(out)["hits"] for word in hit["explain"])
    assert err.count("no heat maps") == 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_demos_model_points_at_garments_three_times_as_often_as_chance(tbps, tmp_path, monkeypatch):
    """Trains the demo: some minutes on two cores."""
    from benchmarks import pointing

    import tbps_cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    assert tbps("prepare-data", "synthetic", "--decode", "96x32")[0] == 0
    assert tbps("train", "demo")[0] == 0
    found = pointing.pointing(tbps_cli.load(Path("runs/demo-0001")), list(pointing.shown(100, 5)))
    for slot, (hit, chance, count) in found.items():
        assert hit >= 3 * chance, f"{slot}: {hit:.2f} of {count}, chance {chance:.3f}"
