"""Layouts of tokens: the same attention wherever tokens lie, and blocks that may leave some out."""

import pytest
import torch

from tbps_cli.nn.adapters import AdapterBlock, MixtureBlock
from tbps_cli.nn.block import Block
from tbps_cli.nn.moe import ExpertMixture
from tbps_cli.nn.parsing import Expert, ParserBlock
from tbps_cli.nn.token_layout import CAUSAL_PADDED, PADDED, EndsOfPacked, OneOfEachRow, pack, token_at

LENGTHS = torch.tensor([4, 1, 6])
ENDS = LENGTHS - 1
MAKERS = {
    Block: lambda: Block(16, 2),
    AdapterBlock: lambda: AdapterBlock(16, 2, "quickgelu", reduction=4, scale=0.5),
    MixtureBlock: lambda: MixtureBlock(16, 2, "quickgelu", num_experts=3, top_k=2, reduction=4, scale=0.5),
    ParserBlock: lambda: ParserBlock(16, 2, "token", ExpertMixture(16, 3, 2, lambda: Expert(16, 4, 0.0))),
}
"""How a block of each kind is made."""


def block_of(kind: type[Block]) -> Block:
    """A block whose parameters are all drawn, so that nothing in it is zero."""
    made, draws = MAKERS[kind](), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draws))
    return made.eval()


def rows() -> torch.Tensor:
    return torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(1))


def all_kinds(kind: type[Block] = Block) -> set[type[Block]]:
    return {kind}.union(*(all_kinds(below) for below in kind.__subclasses__()))


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_one_token_of_a_row_is_that_token_of_all(causal: bool) -> None:
    block, x_BLD = block_of(Block), rows()
    whole_BLD = block(x_BLD, CAUSAL_PADDED if causal else PADDED)
    one_B1D = block(x_BLD, OneOfEachRow(ENDS, causal=causal))
    assert torch.allclose(one_B1D, token_at(whole_BLD, ENDS), atol=1e-6)


@torch.no_grad()
def test_packed_tokens_attend_within_their_own_caption() -> None:
    block, x_BLD, packed = block_of(Block), rows(), pack(ENDS)
    whole_BLD, x_ND = block(x_BLD, CAUSAL_PADDED), packed.gather(x_BLD)
    assert torch.allclose(block(x_ND, packed), packed.gather(whole_BLD), atol=1e-6)
    assert torch.allclose(block(x_ND, EndsOfPacked(packed)), token_at(whole_BLD, ENDS), atol=1e-6)


@pytest.mark.parametrize(("context", "columns", "tokens"), [(20, 16, 64), (9, 9, 54)])
@torch.no_grad()
def test_coarse_packing_keeps_padding_that_no_token_sees(context: int, columns: int, tokens: int) -> None:
    """Six captions of up to nine tokens: as many more as make multiples of 8 and 64, or all that there are."""
    end_B, x_BLD = torch.tensor([2, 8, 0, 5, 7, 4]), torch.randn(6, context, 16)
    exact, coarse, block = pack(end_B), pack(end_B, coarse=context), block_of(Block)
    assert coarse.rows(coarse.gather(x_BLD[:, :columns])).shape == (6, columns, 16)
    assert len(exact.place_N) == 32 and len(coarse.place_N) == tokens and coarse.real_BT.sum() == 32
    found = []
    for packed in (exact, coarse):
        x_ND = packed.gather(x_BLD[:, : packed.real_BT.shape[1]])
        found.append(block(block(x_ND, packed), EndsOfPacked(packed)))
    assert torch.allclose(*found, atol=1e-6)


def test_every_kind_of_block_is_tried_here() -> None:
    assert all_kinds() == set(MAKERS)


@pytest.mark.parametrize("kind", MAKERS)
@torch.no_grad()
def test_a_block_that_says_so_feeds_each_token_alone(kind: type[Block]) -> None:
    block, x_BLD = block_of(kind), rows()
    if not block.token_wise:
        pytest.skip("it says that it looks at several tokens")
    whole_BLD = block.feed(x_BLD)
    assert torch.allclose(block.feed(x_BLD[:, 2:3]), whole_BLD[:, 2:3], atol=1e-6)
    assert torch.allclose(block.feed(x_BLD.flatten(0, 1)), whole_BLD.flatten(0, 1), atol=1e-6)


def test_a_block_that_drops_in_training_leaves_no_token_out() -> None:
    block = Block(16, 2, dropout=0.1)
    assert not block.train().may_skip_tokens and block.eval().may_skip_tokens
