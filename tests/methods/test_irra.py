"""IRRA beyond its golden numbers: sizes, the masking switch, chunks, foreign checkpoints, groups."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tbps_cli.errors import WeightsError
from tbps_cli.methods import find
from tbps_cli.methods.irra import IRRA
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.sizes import Tower
from tbps_cli.types import Batch, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles

WEIGHTS = load_file(Path(__file__).parents[1] / "golden" / "irra" / "weights.safetensors")
TINY = Tower(width=64, layers=1, patch=16, embed=64, text_width=64, text_layers=1, context=12, vocabulary=60)
TASK = Task((96, 32), 5)


def config(**more: object) -> IRRA.Config:
    return IRRA.Config(name="irra", tower=TINY, cross_layers=1, **more)


def drawn(seed: int = 0, **more: object) -> IRRA:
    method = IRRA(config(**more), TASK)
    method.initialise(torch.Generator().manual_seed(seed))
    return method


def batch() -> Batch:
    draws = torch.Generator().manual_seed(1)
    text = torch.randint(1, 50, (6, 12), generator=draws)
    text[:, 0], text[:, 8], text[:, 9:] = 58, 59, 0
    masked, label = text.clone(), torch.zeros_like(text)
    for row, place in enumerate([1, 2, 3, 4, 5, 6, 7][:6]):
        label[row, place], masked[row, place] = text[row, place], 57
    label[0, 4], masked[0, 4] = text[0, 4], 57
    images = torch.randn(6, 3, 96, 32, generator=draws)
    person = torch.tensor([0, 1, 1, 4, 0, 2])
    return Batch({"image": images}, {"text": text, "masked": masked, "label": label}, person, person, person)


@pytest.mark.parametrize(
    ("identities", "parameters"), [(11_003, 194_535_419), (3_102, 190_482_206), (3_701, 190_789_493)]
)
def test_the_real_model_has_the_published_number_of_parameters(identities, parameters):
    with torch.device("meta"):
        method = IRRA(IRRA.Config(name="irra"), Task((384, 128), identities))
    assert sum(value.numel() for value in method.parameters()) == parameters
    kept = [value for name, value in method.named_parameters() if not name.startswith(method.training_only)]
    assert sum(value.numel() for value in kept) == 149_617_664
    assert sum(value.numel() for value in method.clip.visual.parameters()) == 86_189_568
    assert len(method.state_dict()) == 367


def test_the_papers_half_precision_converts_237_of_367_tensors():
    with torch.device("meta"):
        method = to_half(IRRA(IRRA.Config(name="irra"), Task((384, 128), 3)))
    types = [value.dtype for value in method.parameters()]
    assert (types.count(torch.float16), types.count(torch.float32)) == (237, 130)


def test_the_file_is_its_registration():
    assert find("irra") is IRRA


def test_masking_the_caption_of_all_losses_equals_training_on_masked_captions():
    released, paper, data = drawn(), drawn(mask_global_text=False), batch()
    with torch.no_grad():
        ours = released(data, Step())
        swapped = Batch(
            data.images, data.tokens | {"text": data.tokens["masked"]}, data.person_B, data.image_B, data.sample_B
        )
        theirs, apart = paper(swapped, Step()), paper(data, Step())
    for name, loss in ours.items():
        assert torch.allclose(loss, theirs[name], atol=1e-5), name
    assert abs(ours["sdm"] - apart["sdm"]) > 1e-4
    assert torch.allclose(ours["masked"], apart["masked"])


@pytest.mark.parametrize(("switch", "runs"), [(True, 1), (False, 2)])
def test_the_text_tower_runs_once_when_one_caption_serves_all_losses(switch, runs):
    method, calls = drawn(mask_global_text=switch), []
    method.clip.ln_final.register_forward_hook(lambda *_: calls.append(1))
    method.features(batch())
    assert len(calls) == runs


def test_losses_of_features_joined_from_chunks_equal_those_of_the_whole_batch():
    method, data = drawn(), batch()
    with torch.no_grad():
        parts = [method.features(data.rows(0, 2)), method.features(data.rows(2, 6))]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        whole = method(data, Step())
        for name, loss in method.losses(joined, data, Step()).items():
            assert abs(loss - whole[name]) < 1e-4 * abs(whole[name]), name


def test_weights_scale_their_losses_and_zero_leaves_them_and_their_heads_out():
    data = batch()
    with torch.no_grad():
        whole, scaled = drawn()(data, Step()), drawn(masked=0.5, identity=2.0)(data, Step())
    assert torch.allclose(scaled["masked"], 0.5 * whole["masked"])
    assert torch.allclose(scaled["identity"], 2 * whole["identity"])
    bare = drawn(masked=0.0, identity=0.0, itc=1.0, cmpm=1.0)
    assert set(bare(data, Step())) == {"sdm", "itc", "cmpm"}
    assert all(name.startswith("clip.") for name in bare.state_dict())
    assert not IRRA.views(bare.config).masked and IRRA.views(drawn().config).masked


def test_every_trained_parameter_gets_a_gradient():
    method = drawn()
    sum(method(batch(), Step()).values()).backward()
    assert [name for name, value in method.named_parameters() if value.grad is None] == []


def test_the_identity_loss_without_identities_is_refused():
    method = IRRA(config(), Task((96, 32)))
    method.initialise(torch.Generator())
    with pytest.raises(ValueError, match="how many identities"):
        method(batch(), Step())


def test_embeddings_are_unit_rows_that_do_not_depend_on_companions():
    method, data = drawn().eval(), batch()
    with torch.no_grad():
        image, text = method.encode_images(data.images["image"]), method.encode_texts(data.tokens["text"])
        assert torch.allclose(image.norm(dim=1), torch.ones(6)) and torch.allclose(text.norm(dim=1), torch.ones(6))
        assert torch.allclose(method.encode_images(data.images["image"][2:3]), image[2:3], atol=1e-6)
        assert torch.allclose(method.encode_texts(data.tokens["text"][2:3]), text[2:3], atol=1e-6)


def test_metrics_are_shares_of_the_batch():
    method, data = drawn(), batch()
    figures = method.metrics(method.features(data), data)
    assert set(figures) == {"img_acc", "txt_acc", "mlm_acc"}
    assert all(0 <= value <= 1 for value in figures.values())


def test_one_seed_draws_one_model_and_leaves_nothing_as_it_was():
    first, second, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(first.state_dict()[name], value) for name, value in second.state_dict().items())
    constant = ("ln_", "in_proj_bias", "out_proj.bias", "classifier.bias", ".ln.")
    for name, value in other.state_dict().items():
        if not any(part in name for part in constant):
            assert not torch.equal(first.state_dict()[name], value), name


def test_towers_start_from_a_clip_state_and_heads_do_not():
    source, method = drawn(0), drawn(1)
    heads = {name: value.clone() for name, value in method.state_dict().items() if not name.startswith("clip.")}
    found = method.load_weights(source.clip.state_dict())
    assert sorted(found) == sorted(name for name in method.state_dict() if name.startswith("clip."))
    assert torch.equal(method.clip.text_projection, source.clip.text_projection)
    assert all(torch.equal(method.state_dict()[name], value) for name, value in heads.items())


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("clip.visual.proj", Group("tower")),
        ("clip.ln_final.weight", Group("tower")),
        ("clip.visual.ln_pre.bias", Group("bias", decay=False)),
        ("clip.transformer.resblocks.0.attn.in_proj_bias", Group("bias", decay=False)),
        ("cross.cross_attn.in_proj_weight", Group("new")),
        ("cross.cross_attn.in_proj_bias", Group("bias", decay=False)),
        ("cross.ln_pre_t.weight", Group("tower")),
        ("cross.ln_post.bias", Group("bias", decay=False)),
        ("classifier.weight", Group("new")),
        ("classifier.bias", Group("new", decay=False)),
        ("mlm_head.ln.weight", Group("new")),
        ("mlm_head.fc.bias", Group("new", decay=False)),
    ],
)
def test_groups_follow_the_released_rules(name, group):
    assert drawn().group_of(name) == group


# Foreign checkpoints ------------------------------------------------------------------------


def files(drop: str | None = None, **options: object) -> OfficialFiles:
    kept = {name: value for name, value in WEIGHTS.items() if drop is None or not name.startswith(drop)}
    return OfficialFiles(kept, options, "best.pth")


def test_a_checkpoint_alone_tells_its_sizes_losses_and_image():
    found = IRRA.recognise(files())
    assert found is not None
    assert (found.sizes.width, found.sizes.layers, found.sizes.image_heads, found.sizes.text_tower_heads) == (
        128,
        2,
        2,
        1,
    )
    assert (found.cross_layers, found.sdm, found.identity, found.masked, found.temperature) == (2, 1, 1, 1, 0.02)
    assert IRRA.recognise_task(files(), found) == Task((96, 32), 11)


def test_options_say_what_shapes_cannot():
    options = {
        "temperature": 0.05,
        "stride_size": 16,
        "img_size": (96, 32),
        "loss_names": "itc+id+mlm",
        "id_loss_weight": 0.5,
    }
    found = IRRA.recognise(files(**options))
    assert found is not None
    assert (found.temperature, found.stride, found.sdm, found.itc, found.identity) == (0.05, 16, 0, 1, 0.5)


def test_a_checkpoint_without_heads_is_the_fine_tuned_baseline():
    kept = {name: value for name, value in WEIGHTS.items() if name.startswith("base_model.")}
    found = IRRA.recognise(OfficialFiles(kept, {}, "best.pth"))
    assert found is not None
    assert (found.identity, found.masked) == (0, 0)


@pytest.mark.parametrize(
    "extra",
    [
        "prompt_learner.tmap.weight",
        "base_model.visual.transformer.resblocks.0.adapter_mlp.down.weight",
        "base_model.vision_param",
        "shared_transformer.resblocks.0.feed_forward.alpha",
        "safl.part_tokens",
        "STransformer.resblocks.0.ln_1.weight",
        "visul_emb_layer.fc.weight",
    ],
)
def test_checkpoints_of_relatives_are_left_to_them(extra):
    assert IRRA.recognise(OfficialFiles(WEIGHTS | {extra: torch.zeros(1)}, {}, "best.pth")) is None


def test_a_state_without_the_prefix_is_not_irras():
    plain = {name.removeprefix("base_model."): value for name, value in WEIGHTS.items()}
    assert IRRA.recognise(OfficialFiles(plain, {}, "best.pth")) is None


def test_a_missing_tensor_is_named_as_the_file_would_have_it():
    with pytest.raises(WeightsError, match=r"best.pth: 4 of 61 .* missing \(first: base_model.*resblocks.1.attn"):
        IRRA.recognise(files(drop="base_model.transformer.resblocks.1.attn"))


def test_options_that_deny_the_shapes_are_refused_with_both():
    with pytest.raises(WeightsError, match=r"positional_embedding is \(13, 128\).*image 384x128.*need \(193, 128\)"):
        IRRA.recognise(files(img_size=[384, 128]))
