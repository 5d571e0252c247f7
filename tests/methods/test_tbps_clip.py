"""TBPS-CLIP beyond its golden numbers: sizes, views, soft labels, the scale, what trains, refusals."""

import math

import pytest
import torch
from pydantic import ValidationError

from tbps_cli.augment.exact import POOL_TRAIN, SIMCLR_TRAIN
from tbps_cli.augment.transform import IMAGENET_EVAL
from tbps_cli.engine import optim
from tbps_cli.methods import find
from tbps_cli.methods.tbps_clip import TbpsClip
from tbps_cli.nn.sizes import Tower
from tbps_cli.recipe.listing import entry
from tbps_cli.recipe.load import load
from tbps_cli.types import Batch, Group, Step, Task

TINY = Tower(width=64, layers=1, patch=16, embed=64, text_width=64, text_layers=1, context=12, vocabulary=60)
TASK = Task((64, 48), 5)
SIMPLIFIED = {"citc": 0.0, "simclr": 0.0, "second_view": False}
EVERYTHING = {"identity": 1.0, "masked": 1.0, "cross_layers": 1}
VIEWS = ("image", "second", "contrast_a", "contrast_b")


def drawn(seed: int = 0, **more: object) -> TbpsClip:
    method = TbpsClip(TbpsClip.Config(name="tbps_clip", tower=TINY, **more), TASK)
    method.initialise(torch.Generator().manual_seed(seed))
    return method


def batch(rows: int = 6) -> Batch:
    draws = torch.Generator().manual_seed(1)
    text = torch.randint(1, 50, (rows, 12), generator=draws)
    for row in range(rows):
        text[row, 0], text[row, 4 + row], text[row, 5 + row :] = 58, 59, 0
    masked, label = text.clone(), torch.zeros_like(text)
    label[:, 2], masked[:, 2] = text[:, 2], 57
    images = {name: torch.randn(rows, 3, 64, 48, generator=draws) for name in VIEWS}
    person = torch.arange(rows) % 5
    return Batch(images, {"text": text, "masked": masked, "label": label}, person, person, person)


def total(method: TbpsClip, data: Batch, step: Step = Step(epoch=1)) -> torch.Tensor:
    return torch.stack(list(method(data, step).values())).sum()


# Sizes and recipes ----------------------------------------------------------------------------


def test_the_file_is_its_registration():
    assert find("tbps_clip") is TbpsClip


@pytest.mark.parametrize(
    ("recipe", "whole", "trained"),
    [("tbps_clip", 149_752_449, 149_162_625), ("tbps_clip_simplified", 149_620_737, 149_030_913)],
)
def test_the_real_models_have_the_published_numbers_of_parameters(recipe, whole, trained):
    for data in ("", "-icfg-pedes", "-rstpreid"):
        counts = entry(recipe + data).parameters
        assert (counts.all, counts.trained, counts.inference) == (whole, trained, 149_620_736)


def test_the_parts_have_the_published_sizes():
    with torch.device("meta"):
        config = TbpsClip.Config(name="tbps_clip", identity=1.0, masked=1.0)
        method = TbpsClip(config, Task((224, 224), 11_003))
    sizes = {name: sum(value.numel() for value in part.parameters()) for name, part in method.named_children()}
    assert sum(value.numel() for value in method.clip.visual.parameters()) == 86_192_640
    assert sizes["clip"] - 86_192_640 == 63_428_096
    assert (sizes["simclr_mlp"], sizes["classifier"], sizes["words"]) == (131_712, 5_644_539, 39_273_216)
    assert method.clip.visual.conv1.weight.numel() == 589_824


@pytest.mark.parametrize(("recipe", "keys"), [("tbps_clip", 306), ("tbps_clip_simplified", 302)])
def test_the_state_has_the_published_number_of_tensors_and_names(recipe, keys):
    with torch.device("meta"):
        method = TbpsClip(load(recipe).method, Task((224, 224), 11_003))
    names = [method.official.foreign(name) for name in method.state_dict()]
    assert len(set(names)) == keys and None not in names


def test_the_recipes_differ_in_the_losses_and_the_seed_alone():
    full, simplified = load("tbps_clip"), load("tbps_clip_simplified")
    assert (full.optim, full.data) == (simplified.optim, simplified.data)
    assert (full.train.seed, simplified.train.seed) == (1, 0)
    assert full.method.model_copy(update=SIMPLIFIED) == simplified.method
    assert full.method == TbpsClip.Config(name="tbps_clip"), "the defaults are what is published"


# Views ----------------------------------------------------------------------------------------


def test_only_the_views_that_a_loss_looks_at_are_made():
    full, simplified = (TbpsClip.views(load(name).method) for name in ("tbps_clip", "tbps_clip_simplified"))
    assert full.images == dict(zip(VIEWS, (POOL_TRAIN, POOL_TRAIN, SIMCLR_TRAIN, SIMCLR_TRAIN), strict=True))
    assert simplified.images == {"image": POOL_TRAIN}
    assert full.drop_last and full.sampler == "random" and not full.masked
    assert (full.augment_text, full.text_options) == ("rewrite", {"back_translation": 0.1, "deletion": 0.05})
    plain = TbpsClip.views(TbpsClip.Config(name="tbps_clip", back_translation=0.0, word_deletion=0.0))
    assert (plain.augment_text, plain.text_options) == (None, {})


def test_the_simplified_version_does_not_look_at_the_other_views():
    method, data = drawn(**SIMPLIFIED), batch()
    alone = Batch({"image": data.images["image"]}, data.tokens, data.person_B, data.image_B, data.sample_B)
    assert set(method(alone, Step())) == {"nitc", "ritc"}


def test_captions_are_cleaned_before_their_ids_and_no_word_breaks_the_tokenizer():
    tokenizer = TbpsClip.tokenizer(load("tbps_clip").method)
    plain, odd, jekyll = tokenizer(["a man in red", 'A  "man" in (red)!\n', "doctor jekyll"])
    assert plain.tolist() == odd.tolist() and len(plain) == 77
    assert (jekyll == tokenizer.mask_id).sum() == 0 and (jekyll > 0).sum() == 5


def test_images_are_prepared_with_imagenets_numbers_and_bicubic():
    made = TbpsClip.eval_transform(load("tbps_clip").method, Task((224, 224)))
    assert (made.size, made.mean, made.std, made.resample) == ((224, 224), *IMAGENET_EVAL.values())
    assert made.resample == "bicubic" and made.mean == (0.485, 0.456, 0.406)


# Embeddings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", range(6))
def test_an_embedding_does_not_depend_on_companions_or_order(row):
    method, data = drawn().eval(), batch()
    turned = torch.tensor([3, 5, 1, 0, 4, 2])
    place = turned.tolist().index(row)
    with torch.no_grad():
        for encode, given in (
            (method.encode_images, data.images["image"]),
            (method.encode_texts, data.tokens["text"]),
        ):
            whole = encode(given)
            assert torch.allclose(whole.norm(dim=1), torch.ones(6))
            assert torch.allclose(encode(given[row : row + 1])[0], whole[row], atol=1e-6)
            assert torch.allclose(encode(given[turned])[place], whole[row], atol=1e-6)
    assert TbpsClip.batch_dependent(method.config) is None


def test_dropout_changes_captions_in_training_alone_and_images_never():
    method, data = drawn(text_dropout=0.5), batch()
    with torch.no_grad():
        first, second = method.features(data), method.features(data)
        calm, again = method.eval().features(data), method.features(data)
    assert not torch.equal(first["text"], second["text"])
    assert not torch.equal(first["text"], first["soft_text"]), "the soft targets' captions are drawn anew"
    assert all(torch.equal(first[view], second[view]) for view in VIEWS)
    assert torch.equal(calm["text"], again["text"]) and "soft_text" not in calm


@pytest.mark.parametrize("keys", [{"text_dropout": 0.0}, {"soft_labels": 0.0}, {"nitc": 0.0, "second_view": False}])
def test_captions_are_embedded_once_where_a_second_time_would_change_nothing(keys):
    assert "soft_text" not in drawn(**keys).features(batch())
    assert "soft_text" in drawn().features(batch())


def test_the_captions_of_soft_targets_carry_no_gradient():
    assert not drawn().features(batch())["soft_text"].requires_grad


# Losses ---------------------------------------------------------------------------------------


def test_losses_of_features_joined_from_chunks_equal_those_of_the_whole_batch():
    method, data = drawn(**EVERYTHING).eval(), batch()
    with torch.no_grad():
        parts = [method.features(data.rows(0, 2)), method.features(data.rows(2, 6))]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        whole = method(data, Step(epoch=1))
        assert set(whole) == {"nitc", "ritc", "citc", "simclr", "identity", "masked"}
        for name, loss in method.losses(joined, data, Step(epoch=1)).items():
            assert abs(loss - whole[name]) < 1e-5 * max(1, abs(whole[name])), name


def test_weights_scale_their_losses_and_zero_leaves_them_and_their_heads_out():
    data = batch()
    with torch.no_grad():
        one, other = drawn().eval()(data, Step()), drawn(citc=0.3, nitc=2.0).eval()(data, Step())
    assert torch.allclose(other["citc"], 3 * one["citc"]) and torch.allclose(other["nitc"], 2 * one["nitc"])
    bare = drawn(**SIMPLIFIED, ritc=0.0)
    assert set(bare(data, Step())) == {"nitc"}
    assert all(name.startswith(("clip.", "logit_scale")) for name in bare.state_dict())


def test_soft_labels_rise_over_the_first_epoch_and_stay():
    method = drawn()
    ramp = [method.softness(Step(0, iteration, 4, 5)) for iteration in range(4)]
    assert ramp == [0.0, 0.125, 0.25, 0.375]
    assert [method.softness(Step(epoch, 0, 4, 5)) for epoch in (1, 4)] == [0.5, 0.5]


def test_the_scale_stops_at_100_but_its_gradient_does_not():
    method = drawn()
    for start in (math.log(50), 4.75):
        with torch.no_grad():
            method.logit_scale.fill_(start)
        method.logit_scale.grad = None
        scale = method.scale()
        scale.backward()
        assert scale.item() == pytest.approx(min(math.exp(start), 100), rel=1e-6)
        assert method.logit_scale.grad.item() == pytest.approx(math.exp(start), rel=1e-6)


@pytest.mark.parametrize(("drifts", "after"), [(True, 4.75), (False, math.log(100))])
def test_the_parameter_of_the_scale_may_drift_past_its_limit_as_released_or_not(drifts, after):
    method = drawn(scale_may_drift=drifts)
    with torch.no_grad():
        method.logit_scale.fill_(4.75)
    method.after_step()
    assert method.logit_scale.item() == pytest.approx(after)


def test_masked_captions_reach_every_loss_as_released():
    data, plain = batch(), drawn().eval()
    swapped = Batch(data.images, data.tokens | {"text": data.tokens["masked"]}, *[data.person_B] * 3)
    with torch.no_grad():
        text = drawn(**EVERYTHING).eval().features(data)["text"]
        assert torch.allclose(text, plain.features(swapped)["text"], atol=1e-5)
        assert not torch.allclose(text, plain.features(data)["text"], atol=1e-2)


def test_the_identity_loss_without_identities_is_refused():
    method = TbpsClip(TbpsClip.Config(name="tbps_clip", tower=TINY, identity=1.0), Task((64, 48)))
    method.initialise(torch.Generator())
    with pytest.raises(ValueError, match="how many identities"):
        method(batch(), Step())


# What trains ----------------------------------------------------------------------------------


def test_steps_leave_the_patches_as_they_were_and_move_everything_else():
    method, recipe = drawn(**EVERYTHING), load("tbps_clip")
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    optimizer = optim.build(method, recipe.optim)
    for number in range(3):
        optimizer.zero_grad()
        total(method, batch(), Step(number)).backward()
        optimizer.step()
        method.after_step()
    still = {name for name, value in method.named_parameters() if torch.equal(value, before[name])}
    assert still == {"clip.visual.conv1.weight"}


def test_patches_train_when_the_recipe_says_so():
    assert drawn(freeze_patches=False).group_of("clip.visual.conv1.weight") == Group("tower")


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("clip.visual.conv1.weight", Group("frozen", decay=False)),
        ("clip.visual.proj", Group("tower")),
        ("clip.visual.class_embedding", Group("tower", decay=False)),
        ("clip.visual.positional_embedding", Group("tower")),
        ("clip.positional_embedding", Group("tower")),
        ("clip.token_embedding.weight", Group("tower")),
        ("clip.ln_final.weight", Group("tower", decay=False)),
        ("clip.transformer.resblocks.0.attn.in_proj_weight", Group("tower")),
        ("clip.transformer.resblocks.0.attn.in_proj_bias", Group("tower", decay=False)),
        ("logit_scale", Group("tower", decay=False)),
        ("simclr_mlp.0.weight", Group("tower")),
        ("classifier.weight", Group("new")),
        ("classifier.bias", Group("new", decay=False)),
        ("words.cross.cross_attn.in_proj_weight", Group("new")),
        ("words.cross.ln_pre_t.weight", Group("tower", decay=False)),
        ("words.head.ln.weight", Group("new", decay=False)),
    ],
)
def test_groups_follow_the_released_rules(name, group):
    assert drawn(**EVERYTHING).group_of(name) == group


def test_one_seed_draws_one_model_and_another_seed_another():
    first, second, other = drawn(0, **EVERYTHING), drawn(0, **EVERYTHING), drawn(1, **EVERYTHING)
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())
    constant = ("ln_", "in_proj_bias", "out_proj.bias", "classifier.bias", ".ln.", "logit_scale")
    for name, value in other.state_dict().items():
        if not any(part in name for part in constant):
            assert not torch.equal(first.state_dict()[name], value), name


def test_towers_start_from_a_clip_state_and_the_scale_from_what_it_says_or_the_limit():
    source, method = drawn(0), drawn(1)
    heads = {name: value.clone() for name, value in method.state_dict().items() if name.startswith("simclr")}
    state = source.clip.state_dict()
    found = method.load_weights(state | {"logit_scale": torch.tensor(3.0)})
    assert sorted(found) == sorted(name for name in method.state_dict() if name not in heads)
    assert method.logit_scale.item() == 3.0
    assert torch.equal(method.clip.visual.conv1.weight, source.clip.visual.conv1.weight)
    assert all(torch.equal(method.state_dict()[name], value) for name, value in heads.items())
    method.load_weights(state)
    assert method.logit_scale.item() == pytest.approx(math.log(100))


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (SIMPLIFIED | {"nitc": 0.0, "ritc": 0.0}, "all losses have weight 0: set one of nitc"),
        ({"nitc": 0.0}, "second_view = true needs nitc above 0"),
        ({"citc_within": 0.0, "citc_across": 0.0}, "citc needs citc_within or citc_across"),
        ({"text_dropout": 1.0}, "less than 1"),
        ({"soft_labels": 1.5}, "less than or equal to 1"),
        ({"masked": 1.0, "tower": TINY.model_copy(update={"embed": 200})}, "200 does not into 3"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_what_can(keys, words):
    with pytest.raises(ValidationError, match=words):
        TbpsClip.Config(name="tbps_clip", **keys)
