"""Dropout by place: the right share, the same for any cut, independent in every direction."""

import pytest
import torch
from torch.nn import functional as F

from tbps_cli.nn import dropout
from tbps_cli.nn.block import Block, Transformer
from tbps_cli.nn.dropout import Dropout, keep_mask, start_at

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def at_the_start():
    start_at(0)
    torch.manual_seed(0)
    yield
    start_at(0)


def after(seed, *shape, share=0.3):
    torch.manual_seed(seed)
    return keep_mask(shape, share, CPU)


def test_the_stated_share_is_dropped_everywhere() -> None:
    kept = after(1, 50, 40, 60).float()
    # 120,000 draws: one standard deviation is 0.0013 overall, 0.009 along one place of the first axis
    assert kept.mean().item() == pytest.approx(0.7, abs=0.006)
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert (kept.mean(axes) - 0.7).abs().max() < 0.05


def test_neighbours_calls_and_seeds_are_independent() -> None:
    kept = after(1, 60, 40, 50).float() - 0.7
    pairs = [(kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept[:, :, 1:], kept[:, :, :-1])]
    pairs += [(kept, after(2, 60, 40, 50).float() - 0.7), (kept, keep_mask((60, 40, 50), 0.3, CPU).float() - 0.7)]
    for one, other in pairs:
        assert abs((one * other).mean().item()) / 0.21 < 0.015


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_rows_are_kept_alike_however_the_batch_is_cut(cut) -> None:
    whole = after(7, 6, 5, 4)
    first = after(7, cut, 5, 4)
    start_at(cut)
    assert torch.equal(torch.cat([first, after(7, 6 - cut, 5, 4)]), whole)


def test_a_caption_is_kept_alike_whatever_the_longest_one_of_its_piece_is() -> None:
    assert torch.equal(after(7, 3, 9, 4)[:, :5], after(7, 3, 5, 4))
    assert torch.equal(after(7, 3, 2, 9, 9)[:, :, :5, :5], after(7, 3, 2, 5, 5))


def test_the_mean_stays_and_evaluation_drops_nothing() -> None:
    layer, ones = Dropout(0.25), torch.ones(100, 100)
    assert sorted(set(layer(ones).flatten().tolist())) == [0, pytest.approx(4 / 3)]
    assert layer(ones).mean().item() == pytest.approx(1, abs=0.02)
    assert layer.eval()(ones) is ones and Dropout(0.0)(ones) is ones


@pytest.mark.parametrize("causal", [True, False])
def test_attention_without_drops_is_the_fused_one(causal) -> None:
    query, key, value = torch.randn(3, 2, 2, 5, 4, generator=torch.Generator().manual_seed(3))
    plain = dropout.attention(query, key, value, 0.0, causal=causal)
    torch.testing.assert_close(plain, F.scaled_dot_product_attention(query, key, value, is_causal=causal))
    several = torch.stack([dropout.attention(query, key, value, 0.4, causal=causal) for _ in range(3000)])
    assert (several.mean(0) - plain).abs().max() < 0.1 and several.std(0)[:, :, -1].min() > 0.05


def test_a_block_that_is_computed_again_drops_the_same() -> None:
    tower = Transformer(2, lambda _: Block(8, 2, dropout=0.5)).train()
    given = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(3))
    gradients = []
    for checkpointing in (False, True):
        tower.checkpointing = checkpointing
        torch.manual_seed(5)
        gradients.append(torch.autograd.grad(tower(given).square().sum(), list(tower.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
