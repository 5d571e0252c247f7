"""The transformer bricks against PyTorch's own modules."""

import pytest
import torch
from torch import nn

from tbps_cli.nn.block import Attention, Block, Hooks, LayerNorm, QuickGELU, Transformer, init_blocks
from tbps_cli.nn.token_layout import CAUSAL_PADDED, OneOfEachRow


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def twins(width: int = 32, heads: int = 4) -> tuple[Attention, nn.MultiheadAttention]:
    """Ours and PyTorch's attention with the same weights."""
    ours, theirs = Attention(width, heads), nn.MultiheadAttention(width, heads, batch_first=True)
    theirs.load_state_dict({name: 0.2 * draws(*value.shape, seed=1) for name, value in theirs.state_dict().items()})
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_attention_to_oneself_equals_pytorchs():
    ours, theirs = twins()
    x = draws(2, 5, 32)
    assert torch.allclose(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-5)


def test_attention_to_another_sequence_equals_pytorchs():
    ours, theirs = twins()
    x, other = draws(2, 5, 32), draws(2, 7, 32, seed=2)
    assert torch.allclose(ours(x, context=other), theirs(x, other, other, need_weights=False)[0], atol=1e-5)


def test_the_attention_of_one_token_equals_pytorchs_average_over_heads():
    ours, theirs = twins()
    x = draws(2, 5, 32)
    ahead = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected, expected_map = theirs(x, x, x, attn_mask=ahead, average_attn_weights=True)
    place = torch.tensor([3, 1])
    attention_BL = ours.probabilities(x, OneOfEachRow(place, causal=True))
    assert torch.allclose(ours(x, CAUSAL_PADDED), expected, atol=1e-5)
    assert torch.allclose(attention_BL, expected_map[[0, 1], place], atol=1e-6)
    assert attention_BL[1, 2:].abs().max() == 0 and not attention_BL.requires_grad
    whole_map = theirs(x, x, x, average_attn_weights=True)[1]
    assert torch.allclose(ours.probabilities(x, OneOfEachRow(place)), whole_map[[0, 1], place], atol=1e-6)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="30 does not divide into 4 heads"):
        Attention(30, 4)


def test_layer_norm_of_half_precision_is_computed_in_float32():
    norm, x = LayerNorm(64), 100 * draws(3, 64).half()
    exact = nn.functional.layer_norm(x.double(), (64,))
    assert norm(x).dtype == torch.float16
    assert (norm(x).double() - exact).abs().max() < 2e-3


def test_quickgelu_is_x_times_the_sigmoid_of_1_702_x():
    assert QuickGELU()(torch.tensor(2.0)).item() == pytest.approx(2 / (1 + 2.718281828 ** (-3.404)))


def tower(layers: int = 3) -> Transformer:
    made = Transformer(layers, lambda _: Block(32, 4))
    init_blocks(made, 32, torch.Generator().manual_seed(3))
    return made


def test_recomputing_blocks_gives_the_same_outputs_and_gradients():
    gradients = []
    for checkpointing in (False, True):
        made, x = tower(), draws(2, 5, 32).requires_grad_()
        made.checkpointing = checkpointing
        made(x, CAUSAL_PADDED).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_hooks_see_every_block_in_order_and_what_they_return_goes_on():
    seen: list[int] = []

    def before(index: int, x: torch.Tensor) -> torch.Tensor:
        seen.append(index)
        return torch.zeros_like(x) if index == 2 else x

    made, x = tower(), draws(2, 5, 32)
    out = made(x, hooks=Hooks(before_block=before))
    assert seen == [0, 1, 2]
    assert torch.equal(out, made.resblocks[2](torch.zeros_like(x)))


def test_the_attention_in_the_last_block_comes_with_the_ordinary_output():
    made, x = tower(), draws(2, 5, 32)
    hooks = Hooks(before_block=lambda index, tokens: tokens + index)
    out, attention_BL = made.forward_with_attention(x, OneOfEachRow(torch.tensor([4, 2]), causal=True), hooks)
    assert torch.equal(out, made(x, CAUSAL_PADDED, hooks))
    assert torch.allclose(attention_BL.sum(-1), torch.ones(2)) and attention_BL[1, 3:].abs().max() == 0


def test_blocks_are_drawn_with_the_published_spreads():
    made = Transformer(4, lambda _: Block(256, 4))
    init_blocks(made, 256, torch.Generator().manual_seed(0))
    block = made.resblocks[0]
    expected = {
        block.attn.in_proj_weight: 256**-0.5,
        block.attn.out_proj.weight: 256**-0.5 * 8**-0.5,
        block.mlp.c_fc.weight: 512**-0.5,
        block.mlp.c_proj.weight: 256**-0.5 * 8**-0.5,
    }
    for weight, std in expected.items():
        assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert not block.attn.in_proj_bias.any() and not block.attn.out_proj.bias.any()
