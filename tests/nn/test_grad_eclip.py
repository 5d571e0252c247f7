"""What each word says about the image: formulas against slow loops, what it depends on, what it leaves alone."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.grad_eclip import relevance, scaled, two_scales
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.sizes import Tower
from tbps_cli.nn.token_layout import CAUSAL_PADDED

TINY = Tower(width=32, layers=1, patch=16, embed=16, text_width=24, text_layers=3, heads=2, text_heads=2, context=11)


def tower(seed: int = 0) -> Clip:
    made = Clip(TINY, (32, 16))
    draws = torch.Generator().manual_seed(seed)
    made.initialise(draws)
    with torch.no_grad():
        for name, value in made.named_parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=draws) * ("ln_" not in name))
    return made


def captions() -> torch.Tensor:
    token_BT = torch.zeros(3, 11, dtype=torch.int64)
    for row, length in enumerate((11, 6, 2)):
        token_BT[row, :length] = torch.arange(7, 7 + length) + 20 * row
        token_BT[row, 0], token_BT[row, length - 1] = 49406, 49407
    return token_BT


def images(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(5))


def slow_two_scales(z: list[float]) -> list[float]:
    """The sequence and its pairs, position by position. Source: GA-DMS, the released code's pooling."""
    pairs = [sum(z[start : start + 2]) / len(z[start : start + 2]) for start in range(0, len(z), 2)]
    out = []
    for place, value in enumerate(z):
        along = max(0.0, (place + 0.5) * len(pairs) / len(z) - 0.5)
        low = math.floor(along)
        high = min(low + 1, len(pairs) - 1)
        out.append((value + (1 - along + low) * pairs[low] + (along - low) * pairs[high]) / 2)
    return out


@pytest.mark.parametrize("length", [1, 2, 7, 8, 77])
def test_two_scales_equal_the_loop_over_positions(length: int) -> None:
    z = torch.randn(length, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    found = two_scales(z[None, :, None])[0, :, 0]
    assert torch.allclose(found, torch.tensor(slow_two_scales(z.tolist()), dtype=torch.float64), atol=1e-12)


def test_the_gradient_is_the_slope_of_the_similarity_at_the_end_tokens_attention() -> None:
    """By differences, in float64: what one block's attention gives is moved a little, the rest run again by hand."""
    clip, token_BT, image_BE = tower().double(), captions(), images().double()

    @torch.no_grad()
    def similarity(moved: int, channel: int, by: float) -> float:
        x = clip.embedded(token_BT[:1])
        for number, block in enumerate(clip.transformer.blocks):
            query, key, value = (F.layer_norm(x, (24,)) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(
                3, -1
            )
            score = query @ key.mT * 24**-0.5 + torch.full((11, 11), float("-inf")).triu(1)
            out = score.softmax(-1) @ value
            if number == moved:
                out[0, 10, channel] += by
            x = x + block.attn.out_proj(out)
            x = x + block.mlp(F.layer_norm(x, (24,)))
        text = F.layer_norm(x, (24,))[0, 10] @ clip.text_projection
        return float(torch.cosine_similarity(text, image_BE[0], dim=0))

    found = relevance(tower(), image_BE[:1].float(), token_BT[:1]).gradient_NBD
    for block, channel in ((0, 3), (1, 11), (2, 20)):
        slope = (similarity(block, channel, 1e-4) - similarity(block, channel, -1e-4)) / 2e-4
        assert found[block, 0, channel].item() == pytest.approx(slope, abs=1e-5)
        assert abs(slope) > 1e-3


def test_what_a_block_says_of_a_word_equals_the_sum_over_channels() -> None:
    clip, token_BT = tower(), captions()
    said = relevance(clip, images(), token_BT, blocks=1)
    block, x = clip.transformer.blocks[-1], said.start_BTD
    with torch.no_grad():
        value_BTD = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, -1)[2]
    for row, end in enumerate((10, 5, 1)):
        parts = [
            sum(float(said.gradient_NBD[0, row, channel] * value_BTD[row, place, channel]) for channel in range(24))
            * float(said.similarity_NBT[0, row, place])
            for place in range(11)
        ]
        for place in range(11):
            word = 0 < place < end
            expected = parts[place] * float(said.attention_NBT[0, row, place]) / (sum(parts) + 1e-8) if word else 0.0
            assert said.block_NBT[0, row, place].item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_start_end_and_padding_say_nothing_and_nothing_is_below_zero() -> None:
    total_BT = relevance(tower(), images(), captions()).total_BT
    assert total_BT.min() == 0 and total_BT[0].max() > 0
    assert not total_BT[:, 0].any() and not total_BT[0, 10] and not total_BT[1, 5:].any() and not total_BT[2].any()


def test_a_captions_words_do_not_depend_on_the_other_captions() -> None:
    clip = tower()
    together = relevance(clip, images(), captions()).total_BT
    alone = relevance(clip, images()[1:2], captions()[1:2]).total_BT
    assert torch.allclose(alone, together[1:2], atol=1e-5 * float(together.max()))


def test_it_looks_at_the_last_blocks_and_leaves_the_first_as_they_are() -> None:
    clip = tower()
    with torch.no_grad():
        before = clip.transformer.blocks[0](clip.embedded(captions()), CAUSAL_PADDED)
    two = relevance(clip, images(), captions(), blocks=2)
    assert len(two.block_NBT) == 2 and torch.allclose(two.start_BTD, before, atol=1e-6)
    assert len(relevance(clip, images(), captions()).block_NBT) == 3, "all where there are fewer than eight"


def test_no_parameter_gets_a_gradient_and_none_is_needed_around_it() -> None:
    clip = tower()
    with torch.no_grad():
        said = relevance(clip, images(), captions())
    assert not any(value.requires_grad for value in vars(said).values())
    assert all(value.grad is None for value in clip.parameters())
    frozen = tower().requires_grad_(requires_grad=False)
    assert torch.equal(relevance(frozen, images(), captions()).total_BT, said.total_BT)


def test_autocast_and_half_weights_change_only_what_rounding_does() -> None:
    clip = tower()
    exact = relevance(clip, images(), captions())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(relevance(clip, images(), captions()).block_NBT, exact.block_NBT)
    half = to_half(copy.deepcopy(clip))
    said = relevance(half, images(), captions())
    assert said.block_NBT.dtype == torch.float32
    assert half.transformer.blocks[0].mlp.c_fc.weight.dtype == torch.float16, "the tower stays what it was"
    assert torch.allclose(said.gradient_NBD, exact.gradient_NBD, atol=1e-2 * float(exact.gradient_NBD.abs().max()))


def test_scores_have_one_scale_for_the_whole_batch() -> None:
    total = torch.tensor([[0.0, 2.0, 0.5], [0.0, 4.0, 0.0]])
    assert scaled(total).tolist() == [[0.0, 0.5, 0.125], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_batch_that_says_nothing_or_no_number_has_scores_of_zero(odd: float) -> None:
    assert scaled(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2
    assert scaled(torch.tensor([[0.0, odd, 2.0]])).tolist() == [[0.0] * 3]
