"""Both towers against open_clip's, and what is ours alone: images of any shape, starting from CLIP."""

import pytest
import torch
from support import oracles

from tbps_cli.errors import RecipeError, WeightsError
from tbps_cli.nn.adapters import AdapterBlock, MixtureBlock
from tbps_cli.nn.block import Hooks
from tbps_cli.nn.clip_features import image_feature, text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.sizes import TOWERS, Tower, named, read_sizes, spelled
from tbps_cli.nn.text_tower import at_end, end_of, used

VIT = Tower(width=64, layers=2, patch=16, embed=32, text_width=64, text_layers=2, context=12, vocabulary=50)
RESNET = Tower(width=32, layers=(1, 2, 1, 1), embed=32, text_width=64, text_layers=1, context=12, vocabulary=50)
TOKENS = torch.tensor([[48, 5, 9, 49] + [0] * 8, [48, 7, 3, 11, 2, 6, 49] + [0] * 5])


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def drawn(sizes: Tower, image_size: tuple[int, int], **more: int) -> Clip:
    """Towers with random weights, norms and statistics included, so that nothing is trivial."""
    clip = Clip(sizes, image_size, **more).eval()
    draws = torch.Generator().manual_seed(1)
    clip.initialise(draws)
    with torch.no_grad():
        for value in clip.state_dict().values():
            if value.ndim == 1 and value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape, generator=draws))
    return clip


@pytest.mark.parametrize("image_size", [(16, 7), (7, 16)])
def test_an_image_smaller_than_a_patch_is_a_mistake_of_the_recipe(image_size: tuple[int, int]) -> None:
    sizes = Tower(width=16, layers=1, patch=8, embed=16, text_width=16, text_layers=1)
    with pytest.raises(RecipeError, match=r"data\.image_size: images of .* are smaller than a patch of 8x8"):
        Clip(sizes, image_size)


def open_clip_twin(sizes: Tower, side: int) -> torch.nn.Module:
    model = oracles.open_clip_model()
    layers = sizes.layers if isinstance(sizes.layers, int) else list(sizes.layers)
    vision = {"layers": layers, "width": sizes.width, "patch_size": sizes.patch, "image_size": side}
    text = {"context_length": 12, "vocab_size": 50, "width": 64, "heads": 1, "layers": sizes.text_layers}
    return model.CLIP(sizes.embed, vision, text, quick_gelu=True).eval()


@pytest.mark.parametrize(("sizes", "side"), [(VIT, 48), (RESNET, 64)], ids=["vit", "resnet"])
def test_both_towers_equal_open_clips_under_the_same_names(sizes, side):
    ours, theirs = drawn(sizes, (side, side)), open_clip_twin(sizes, side)
    report = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= {"logit_scale"}
    with torch.no_grad():
        image, text = image_feature(ours, images(side, side)), text_feature(ours, TOKENS)
        assert (image - theirs.encode_image(images(side, side))).abs().max() < 1e-5
        assert (text - theirs.encode_text(TOKENS)).abs().max() < 1e-5


def test_a_tall_image_with_a_stride_of_its_own_gives_a_token_for_each_place():
    clip = drawn(VIT, (64, 32), stride=8)
    assert clip.image_tokens(images(64, 32)).shape == (2, 1 + 7 * 3, 32)


ADAPTED = lambda _: AdapterBlock(64, 1, "quickgelu", reduction=4, scale=0.5)  # noqa: E731
MIXED = lambda _: MixtureBlock(64, 1, "quickgelu", num_experts=3, top_k=2, reduction=4, scale=0.5)  # noqa: E731


@pytest.mark.parametrize("block", [None, ADAPTED, MIXED], ids=["plain", "adapters", "experts"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_one_token_of_the_last_block_is_that_token_of_all(block, dropout):
    """Features and gradients, under hooks too; dropout draws what it draws for all tokens."""
    found = []
    hooks = Hooks(before_block=lambda index, x_BLD: x_BLD * (1 + 0.1 * index))
    for alone in (True, False):
        torch.manual_seed(0)
        clip = Clip(VIT, (64, 32), image_block=block, text_block=block, text_dropout=dropout).train()
        clip.initialise(torch.Generator().manual_seed(1))
        image_BCHW = images(64, 32)
        torch.manual_seed(3)
        if alone:
            parts = clip.image_token(image_BCHW, hooks), clip.end_token(TOKENS, hooks)
        else:
            parts = clip.image_tokens(image_BCHW, hooks)[:, 0], at_end(clip.text_tokens(TOKENS, hooks), TOKENS)
        torch.cat(parts).square().sum().backward()
        gradients = {name: value.grad for name, value in clip.named_parameters() if value.grad is not None}
        found.append((*parts, gradients))
    one, all_of_them = found
    assert (one[0] - all_of_them[0]).abs().max() < 1e-6 and (one[1] - all_of_them[1]).abs().max() < 1e-6
    assert one[2].keys() == all_of_them[2].keys()
    for name, gradient in one[2].items():
        assert (gradient - all_of_them[2][name]).abs().max() <= 2e-5 * max(gradient.abs().max(), 1e-2), name


def test_the_last_block_computes_the_one_token_that_is_wanted():
    seen, clip = [], drawn(VIT, (64, 32))
    for tower in (clip.visual, clip):
        for block in tower.transformer.resblocks:
            block.mlp.register_forward_hook(lambda _, given, made: seen.append(made.shape[:-1].numel()))
    image_feature(clip, images(64, 32))
    text_feature(clip, TOKENS)
    assert seen == [2 * (1 + 4 * 2), 2, 4 + 7, 2]  # captions without their padding


def test_padding_and_later_words_do_not_change_a_caption():
    clip = drawn(VIT, (32, 32))
    longer = TOKENS.clone()
    longer[0, 4:] = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8])
    with torch.no_grad():
        assert torch.allclose(text_feature(clip, TOKENS)[0], text_feature(clip, longer)[0], atol=1e-6)
        assert torch.allclose(text_feature(clip, TOKENS)[:1], text_feature(clip, TOKENS[:1]), atol=1e-6)


def test_the_end_is_the_first_of_the_highest_ids_and_columns_past_it_are_cut():
    twice = torch.tensor([[48, 49, 3, 49, 0, 0]])
    assert end_of(twice).tolist() == [1]
    assert used(TOKENS).shape == (2, 7)


def test_towers_start_from_a_clip_state_on_another_grid():
    square, tall = drawn(VIT, (64, 64)), drawn(VIT, (96, 32))
    names = tall.start_from(square.state_dict())
    assert sorted(tall.state_dict()) == names
    table, source = tall.visual.positional_embedding, square.visual.positional_embedding
    assert table.shape == (1 + 6 * 2, 64)
    assert torch.equal(table[0], source[0])
    assert torch.equal(tall.token_embedding.weight, square.token_embedding.weight)


def test_a_clip_state_that_lacks_a_tensor_is_refused_by_its_name():
    state = drawn(VIT, (32, 32)).state_dict()
    del state["visual.transformer.resblocks.1.attn.in_proj_weight"]
    with pytest.raises(WeightsError, match=r"1 of .* missing \(first: visual.transformer.resblocks.1.attn.in_proj"):
        drawn(VIT, (32, 32)).start_from(state)


def test_a_clip_state_of_other_towers_is_refused_with_both_shapes():
    state = drawn(VIT.model_copy(update={"embed": 64}), (32, 32)).state_dict()
    with pytest.raises(WeightsError, match=r"text_projection is \(64, 64\) in the file, the tower needs \(64, 32\)"):
        drawn(VIT, (32, 32)).start_from(state)


@pytest.mark.parametrize("sizes", [VIT, RESNET], ids=["vit", "resnet"])
def test_sizes_are_read_off_a_state(sizes):
    assert read_sizes(drawn(sizes, (64, 64)).state_dict()) == sizes


def test_what_is_no_clip_state_is_refused():
    with pytest.raises(WeightsError, match="tensor positional_embedding is missing"):
        read_sizes({"weight": torch.zeros(1)})


def test_towers_of_the_catalogue_get_their_name_back_with_the_heads_that_no_state_tells():
    assert named(TOWERS["ViT-H-14"].model_copy(update={"heads": None, "activation": "quickgelu"})) == "ViT-H-14"
    assert named(VIT) == VIT
    assert [spelled(name) for name in ("ViT-B/16", "vit_l_14@336px", "RN50x4")] == [
        "ViT-B-16",
        "ViT-L-14-336",
        "RN50x4",
    ]


MILLIONS = {
    ("ViT-B-32", 224): 151.28,
    ("ViT-B-16", 224): 149.62,
    ("ViT-L-14", 224): 427.62,
    ("ViT-L-14-336", 336): 427.94,
    ("ViT-H-14", 224): 986.11,
    ("RN50", 224): 102.01,
    ("RN101", 224): 119.69,
    ("RN50x4", 288): 178.30,
    ("RN50x16", 384): 290.98,
    ("RN50x64", 448): 623.26,
}
"""Side in pixels and millions of parameters, as open_clip's list of models has them."""


@pytest.mark.parametrize(("name", "side"), MILLIONS, ids=[name for name, _ in MILLIONS])
def test_named_towers_have_the_published_numbers_of_parameters(name, side):
    with torch.device("meta"):
        clip = Clip(TOWERS[name], (side, side))
    assert sum(value.numel() for value in clip.parameters()) / 1e6 == pytest.approx(MILLIONS[name, side], abs=0.006)


def test_half_precision_spares_norms_embeddings_and_position_tables():
    clip = to_half(drawn(VIT, (32, 32)))
    kept = {name for name, value in clip.named_parameters() if value.dtype == torch.float32}
    assert all("ln_" in name or "embedding" in name for name in kept)
    assert {"visual.class_embedding", "positional_embedding", "token_embedding.weight"} <= kept
    assert clip.visual.proj.dtype == clip.text_projection.dtype == torch.float16
    assert text_feature(clip, TOKENS).dtype == torch.float32


def test_a_width_that_does_not_divide_into_heads_is_refused_unless_the_heads_are_said():
    sizes = {"layers": 1, "patch": 16, "embed": 16, "text_width": 64, "text_layers": 1}
    with pytest.raises(ValueError, match=r"width 200 does not divide into 3 heads: set tower\.heads"):
        Tower(width=200, **sizes)
    with pytest.raises(ValueError, match=r"width 200 does not divide into 3 heads: set tower\.text_heads"):
        Tower(width=64, **sizes | {"text_width": 200})
    assert Tower(width=200, heads=4, **sizes).image_heads == 4


def test_a_state_of_such_a_width_is_no_clip_model():
    state = drawn(VIT, (64, 64)).state_dict()
    state["visual.conv1.weight"] = torch.zeros(200, 3, 16, 16)
    with pytest.raises(WeightsError, match=r"not those of a CLIP model: width 200 does not divide into 3 heads"):
        read_sizes(state)
