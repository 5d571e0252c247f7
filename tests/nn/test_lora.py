"""LoRA: it starts as nothing, adds the product that it says, leaves the weights alone and can be folded in."""

import pytest
import torch

from tbps_cli.nn.clip_features import image_feature, text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.lora import add_lora, is_lora, with_products
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.sizes import Tower

SIZES = Tower(width=64, layers=2, patch=16, embed=32, text_width=64, text_layers=2, context=12, vocabulary=50)
RESNET = Tower(width=32, layers=(1, 1, 1, 1), embed=32, text_width=64, text_layers=1, context=12, vocabulary=50)
TOKENS = torch.tensor([[48, 5, 9, 49] + [0] * 8, [48, 7, 3, 11, 2, 6, 49] + [0] * 5])
SCALE = 1.5


def towers(where=None, *, lively=True, rank=3, sizes=SIZES) -> Clip:
    clip = Clip(sizes, (64, 32))
    if where is not None:
        add_lora(clip, rank=rank, scale=SCALE, where=where)
    clip.initialise(torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in clip.named_parameters():
            if lively and "lora_B" in name:
                parameter.normal_(std=0.1, generator=draws)
    return clip.eval()


def embedded(clip: Clip) -> torch.Tensor:
    images = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return torch.cat([image_feature(clip, images), text_feature(clip, TOKENS)])


@pytest.mark.parametrize("where", ["qkvo+mlp", "qkvo", "qv", "mlp"])
def test_an_adapted_tower_starts_as_it_was_and_folding_changes_nothing(where):
    fresh, lively = towers(where, lively=False), towers(where)
    assert torch.equal(embedded(fresh), embedded(towers()))
    assert (embedded(lively) - embedded(fresh)).abs().max() > 1e-2
    state = {name: value for name, value in with_products(lively.state_dict(), SCALE).items() if not is_lora(name)}
    plain = towers()
    plain.load_state_dict(state)
    assert (embedded(plain) - embedded(lively)).abs().max() < 1e-5


def test_taking_the_products_away_again_gives_the_weights_back():
    clip = towers("qkvo+mlp")
    merged = with_products(clip.state_dict(), SCALE)
    assert merged.keys() == clip.state_dict().keys()
    again = with_products(merged, -SCALE)
    for name, value in clip.state_dict().items():
        assert (again[name] - value).abs().max() < 1e-6, name
    name = "transformer.resblocks.1.attn.in_proj_weight"
    assert (merged[name] - clip.state_dict()[name]).abs().max() > 1e-2


def test_a_projection_is_the_sum_of_the_weight_and_the_scaled_product():
    clip, x = towers("qv"), torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(3))
    attention = clip.transformer.resblocks[0].attn
    query, key, value = attention.project(x, "qkv").chunk(3, dim=-1)
    weight, bias = attention.in_proj_weight.view(3, 64, 64), attention.in_proj_bias.view(3, 64)
    adapted = weight[0] + SCALE * attention.lora_B_q @ attention.lora_A_q
    assert torch.allclose(query, x @ adapted.T + bias[0], atol=1e-5)
    assert torch.allclose(key, x @ weight[1].T + bias[1], atol=1e-5)
    for parts, expected in (("q", query), ("k", key), ("kv", torch.cat([key, value], -1))):
        assert torch.allclose(attention.project(x, parts), expected, atol=1e-5), parts


def test_the_published_numbers_of_matrices_and_parameters():
    with torch.device("meta"):
        clip = Clip(Tower(width=768, layers=12, patch=16, embed=512, text_width=512, text_layers=12), (384, 128))
        add_lora(clip, rank=4, scale=1.0)
    thin = [value.numel() for name, value in clip.named_parameters() if is_lora(name)]
    assert (len(thin), sum(thin)) == (288, 1_105_920)


def test_a_clip_state_loads_into_adapted_towers():
    clip = towers("qkvo+mlp", lively=False)
    source = towers()
    with torch.no_grad():
        source.transformer.resblocks[0].attn.in_proj_weight.add_(1)
    names = clip.start_from(source.state_dict())
    assert sorted(source.state_dict()) == names
    assert torch.equal(embedded(clip), embedded(source))


def test_half_precision_turns_the_matrices_half_too():
    clip = to_half(towers("qkvo+mlp"))
    assert {value.dtype for name, value in clip.named_parameters() if is_lora(name)} == {torch.float16}


def test_a_resnet_has_no_blocks_to_adapt_but_its_text_tower_has():
    clip = towers("qkvo+mlp", sizes=RESNET)
    assert not any(is_lora(name) for name in clip.visual.state_dict())
    assert any(is_lora(name) for name in clip.transformer.state_dict())


def test_a_rank_above_the_width_is_refused():
    with pytest.raises(ValueError, match="rank of 65 is more than the width of 64"):
        towers("qv", rank=65)
