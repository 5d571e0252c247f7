"""RDE beyond its golden numbers: sizes, batch companions, what trains, trust, refusals."""

import copy

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.runs import GOLDEN

from tbps_cli.engine import optim
from tbps_cli.engine.step import Stepper
from tbps_cli.errors import RecipeError
from tbps_cli.methods.cskt import CSKT
from tbps_cli.methods.irra import IRRA
from tbps_cli.methods.rde import RDE
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.sizes import Tower
from tbps_cli.recipe.listing import entry
from tbps_cli.recipe.load import load
from tbps_cli.recipe.names import list_recipes
from tbps_cli.recipe.resolve import Facts, resolve
from tbps_cli.types import Batch, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles

WEIGHTS = load_file(GOLDEN.parent / "rde" / "weights.safetensors")
TINY = Tower(width=64, layers=2, patch=16, embed=32, text_width=64, text_layers=2, context=20, vocabulary=60)
UNUSED = {
    "image_selection.linear.weight",
    "image_selection.linear.bias",
    *(f"{side}_selection.mlp.bns.1.{part}" for side in ("image", "text") for part in ("weight", "bias")),
}


def drawn(captions: int = 0, **more: object) -> RDE:
    method = RDE(RDE.Config(name="rde", tower=TINY, tse_dim=24, **more), Task((96, 32), captions=captions))
    method.initialise(torch.Generator().manual_seed(0))
    return method


def batch(rows: int = 6) -> Batch:
    """Captions of 1, 4, 7... words; the first has none but "!", the word of id 0."""
    draws = torch.Generator().manual_seed(1)
    text = torch.randint(1, 50, (rows, 20), generator=draws)
    for row in range(rows):
        text[row, 0], text[row, 2 + 3 * row], text[row, 3 + 3 * row :] = 58, 59, 0
    text[0, 1] = 0
    images = torch.randn(rows, 3, 96, 32, generator=draws)
    return Batch({"image": images}, {"text": text}, torch.arange(rows) % 4, torch.arange(rows), torch.arange(rows))


def total(method: RDE, data: Batch) -> torch.Tensor:
    return torch.stack(list(method(data, Step()).values())).sum()


# Sizes and recipes ----------------------------------------------------------------------------


def test_the_real_model_has_the_published_number_of_parameters():
    with torch.device("meta"):
        method = RDE(RDE.Config(name="rde"), Task((384, 128)))
    sizes = {name: sum(value.numel() for value in part.parameters()) for name, part in method.named_children()}
    assert sizes == {"clip": 149_617_664, "image_selection": 1_841_664, "text_selection": 1_316_352}
    names = [RDE.official.foreign(name) for name in method.state_dict()]
    assert len(names) == 335 and None not in names


def test_every_published_setting_has_a_recipe_with_its_scores():
    names = [name for name in list_recipes() if name.startswith("rde")]
    assert len(names) == 12
    best = {name: entry(name).recipe.published.R1 for name in names}
    for base in ("rde", "rde-icfg-pedes", "rde-rstpreid"):
        rates = [best[base], *(best[f"{base}-noise{rate}"] for rate in (20, 50, 80))]
        assert rates == sorted(rates, reverse=True)
    counts = entry("rde-noise20").parameters
    assert (counts.all, counts.trained) == (152_775_680, 152_775_680)


@pytest.mark.parametrize(
    ("recipe", "sets", "gmm"),
    [
        ("rde", [], "quick"),
        ("rde-noise20", [], "quick"),
        ("rde-noise50", [], "thorough"),
        ("rde-icfg-pedes-noise80", [], "thorough"),
        ("rde-rstpreid", [], "thorough"),
        ("rde", ["data.name=RSTPReid"], "thorough"),
        ("rde-noise50", ["method.gmm=quick"], "quick"),
    ],
)
def test_how_mixtures_are_fitted_follows_the_noise_and_the_data_set(recipe, sets, gmm):
    resolved, choices = resolve(load(recipe, sets), Facts())
    assert resolved.method.gmm == gmm
    assert any(choice.key == "method.gmm" for choice in choices) == ("method.gmm=quick" not in sets)


def test_groups_have_the_published_rates():
    method, recipe = drawn(), load("rde")
    found = optim.settings(method, recipe.optim)
    rates = {
        "clip.visual.proj": (1e-5, 4e-5),
        "clip.ln_final.bias": (2e-5, 0),
        "image_selection.fc.weight": (1e-3, 4e-5),
        "text_selection.mlp.bns.0.bias": (1e-3, 0),
    }
    for name, (rate, decay) in rates.items():
        assert (found[name].lr, found[name].weight_decay) == (pytest.approx(rate), decay)
    assert method.group_of("image_selection.linear.bias") == Group("new", decay=False)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tower", "RN50", "rde needs a vision transformer"),
        ("select_ratio", 0.0, "greater than 0"),
        ("select_ratio", 1.5, "less than or equal to 1"),
        ("tse_dim", 7, "multiple of 2"),
        ("loss", "sdm", "TAL"),
        ("division", "gmm", "ccd"),
    ],
)
def test_impossible_settings_are_refused(key, value, said):
    with pytest.raises(ValidationError, match=said):
        RDE.Config.model_validate({"name": "rde", key: value})


# Embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", range(6))
@pytest.mark.parametrize("zero_is_pad", [True, False])
def test_an_embedding_does_not_depend_on_batch_companions(row, zero_is_pad):
    method, data = drawn(tse_bn_train=True, zero_is_pad=zero_is_pad).eval(), batch()
    with torch.no_grad():
        image, text = method.encode_images(data.images["image"]), method.encode_texts(data.tokens["text"])
        alone = data.rows(row, row + 1)
        assert torch.allclose(method.encode_images(alone.images["image"])[0], image[row], atol=1e-6)
        assert torch.allclose(method.encode_texts(alone.tokens["text"])[0], text[row], atol=1e-6)
        assert torch.allclose(method.encode_texts(data.tokens["text"].flip(0))[5 - row], text[row], atol=1e-6)
    assert torch.allclose(image.norm(dim=1), torch.ones(6)) and torch.allclose(text.norm(dim=1), torch.ones(6))


def test_the_dot_product_is_the_mean_of_both_cosines():
    method, data = drawn().eval(), batch()
    with torch.no_grad():
        features = method.features(data)
        whole = method.encode_texts(data.tokens["text"]) @ method.encode_images(data.images["image"]).T
    cosines = [
        torch.cosine_similarity(features[text][:, None], features[image][None], dim=-1)
        for text, image in (("text", "image"), ("text_tse", "image_tse"))
    ]
    assert torch.allclose(whole, (cosines[0] + cosines[1]) / 2, atol=1e-6)


def test_pure_half_precision_stays_near_float32():
    method, data = drawn().eval(), batch()
    half = to_half(copy.deepcopy(method))
    with torch.no_grad():
        for name, value in method.features(data).items():
            assert (half.features(data)[name] - value).abs().max() < 2e-2 * value.abs().max()
    assert half.text_selection.mlp.bns[0].weight.dtype == torch.float32
    assert half.text_selection.linear.weight.dtype == torch.float16


# Training -------------------------------------------------------------------------------------


def test_a_last_batch_of_one_pair_with_one_word_is_normalised_by_what_ran_before():
    """Batch norm over one row has no deviation: PyTorch refuses it with a traceback."""
    method, data = drawn(tse_bn_train=True).train(), batch()
    method.features(data)  # statistics that are not those of the start
    method.text_selection.mlp.bns[0].running_mean -= 0.5
    before = {name: value.clone() for name, value in method.text_selection.state_dict().items()}
    features = method.features(data.rows(0, 1))
    features["text_tse"].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in method.text_selection.state_dict().items())
    assert method.text_selection.mlp.bns[0].weight.grad.abs().max() > 0
    with torch.no_grad():
        wanted = method.eval().text_features(data.rows(0, 1).tokens["text"])[1]
    assert torch.allclose(features["text_tse"], wanted, atol=1e-6)


@pytest.mark.parametrize("tse_bn_train", [True, False])
def test_steps_move_every_parameter_that_is_used(tse_bn_train):
    method, recipe = drawn(tse_bn_train=tse_bn_train).train(), load("rde")
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    optimizer = optim.build(method, recipe.optim)
    for _ in range(2):
        optimizer.zero_grad()
        total(method, batch()).backward()
        optimizer.step()
    still = {name for name, value in method.named_parameters() if torch.equal(value, before[name])}
    assert still == UNUSED
    counted = {
        int(method.state_dict()[f"{side}_selection.mlp.bns.0.num_batches_tracked"]) for side in ("image", "text")
    }
    assert counted == ({2} if tse_bn_train else {0})


@pytest.mark.parametrize("loss", ["TAL", "TRL", "InfoNCE", "SDM"])
def test_pairs_that_are_not_trusted_cost_nothing_but_stay_among_the_others(loss):
    method, data = drawn(captions=6, loss=loss), batch()
    features = method.features(data)
    costs = method.costs(features, data)
    method.trusted[[1, 4]] = False
    kept = [0, 2, 3, 5]
    for name, value in method.losses(features, data, Step()).items():
        whole = costs[name][kept].sum() / (4 if loss in ("InfoNCE", "SDM") else 1)
        assert value.item() == pytest.approx(whole.item(), rel=1e-5)
    assert method.metrics(features, data) == {"trusted_share": pytest.approx(4 / 6)}
    method.trusted[:] = False
    assert [value.item() for value in method.losses(features, data, Step()).values()] == [0, 0]


def pass_over(method: RDE, captions: int = 40):
    """Pairs by tens, those with a number that divides by 4 mismatched, and features that show it."""
    draws = torch.Generator().manual_seed(2)
    for numbers in torch.arange(captions).split(10):
        embedding = torch.randn(len(numbers), 32, generator=draws)
        other = torch.where((numbers % 4 == 0)[:, None], torch.randn(len(numbers), 32, generator=draws), embedding)
        features = {"image": embedding, "text": other, "image_tse": embedding, "text_tse": other}
        yield features, Batch({}, {}, numbers, numbers, numbers)


@pytest.mark.parametrize("gmm", ["auto", "quick", "thorough"])
def test_the_division_trusts_the_pairs_that_match(gmm):
    method = drawn(captions=40, gmm=gmm)
    method.start_epoch(pass_over(method), torch.Generator().manual_seed(0))
    assert method.trusted.tolist() == [number % 4 != 0 for number in range(40)]
    method.trusted[:] = False
    method.start_epoch(pass_over(method, captions=20), torch.Generator().manual_seed(0))
    assert method.trusted[20:].all(), "a caption that the pass left out is trusted"


def test_without_division_nothing_is_looked_at():
    def nobody():
        raise AssertionError("walked")
        yield

    for method in (drawn(captions=4, division="none"), drawn()):
        method.start_epoch(nobody(), torch.Generator())
        assert method.metrics({}, batch()) in ({}, {"trusted_share": 1.0})


def test_the_batch_may_be_cut_unless_its_statistics_are_used(tmp_path):
    recipe = load("rde", ["train.precision=fp32", "train.chunk=2"])
    with pytest.raises(RecipeError, match=r"train\.chunk = 2: the batch of rde cannot be cut: batch normalisation"):
        method = drawn(tse_bn_train=True)
        Stepper(method, optim.build(method, recipe.optim), train=recipe.train)
    gradients = []
    for train in (recipe.train, recipe.train.model_copy(update={"chunk": None})):
        method = drawn(captions=6).train()
        method.trusted[2] = False
        Stepper(method, optim.build(method, recipe.optim), train=train).backward(batch(), Step())
        gradients.append({name: value.grad for name, value in method.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=0)


# Foreign checkpoints ----------------------------------------------------------------------------


def test_relatives_do_not_claim_each_others_files():
    options = {"img_size": [96, 32], "select_ratio": 0.5, "loss_names": "TRL+itc", "tau": 0.02, "txt_aug": False}
    files = OfficialFiles(WEIGHTS, options, "best.pth")
    config = RDE.recognise(files)
    assert config is not None
    assert (config.select_ratio, config.loss, config.tau, config.tse_dim) == (0.5, "TRL", 0.02, 48)
    assert not config.vary_words and config.margin == 0.1
    assert IRRA.recognise(files) is None and CSKT.recognise(files) is None
    plain = {name: value for name, value in WEIGHTS.items() if "emb_layer" not in name}
    assert RDE.recognise(OfficialFiles(plain, options, "best.pth")) is None


@pytest.mark.parametrize("batches", [0, 17])
def test_a_checkpoint_tells_whether_its_norms_ever_saw_a_batch(batches):
    counted = {name: torch.tensor(batches) for name in WEIGHTS if name.endswith("num_batches_tracked")}
    config = RDE.recognise(OfficialFiles(WEIGHTS | counted, {"img_size": [96, 32]}, "best.pth"))
    assert config is not None and config.tse_bn_train == (batches > 0)
