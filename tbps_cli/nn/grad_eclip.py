"""How much each word of a caption contributes to the caption's similarity with an image, after Grad-ECLIP.

For each of the last blocks of the text tower three things are multiplied: the gradient of the similarity at the end
token's attention output, the values that attention read, and how alike query and keys are; the attention itself
weighs the product. GA-DMS (Zheng et al., EMNLP 2025, arXiv 2509.09118) chooses by it which words to mask; a display
may show it to a person. Formulas are those of GA-DMS's released code, which differs from its paper in two ways: the
blocks are run with one head of full width, whatever they were trained with, and a block's contributions are divided
by their own sum. Computed in float32, where the released code has half precision, in which that sum may round to 0.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tbps_cli.nn.block import Block
from tbps_cli.nn.text_tower import TextTower, at_end, end_of
from tbps_cli.nn.token_layout import CAUSAL_PADDED

BLOCKS = 8
"""Last blocks of the text tower that are looked at."""
EPSILON = 1e-8
"""Added to what is divided by."""


@dataclass(frozen=True)
class Relevance:
    """What was found for B captions of T tokens, in each of the N blocks that were looked at; no gradient."""

    start_BTD: Tensor
    """Tokens before the first of the blocks."""
    text_BE: Tensor
    """The captions' embeddings as these blocks give them, not normalised: not the tower's own."""
    gradient_NBD: Tensor
    """Of the sum of similarities, at the end tokens' attention output before its projection."""
    similarity_NBT: Tensor
    """Of the end token's query and every key, 0 to 1 along each caption."""
    attention_NBT: Tensor
    """How much the end token attends to each."""
    block_NBT: Tensor
    """What each block says of each word, of either sign."""

    @property
    def total_BT(self) -> Tensor:
        """What all blocks together say of each word: not below 0, and 0 for the start, the end and what follows."""
        return self.block_NBT.sum(0).clamp(min=0)


@dataclass(frozen=True)
class _Attended:
    """What attention did in one block."""

    query_BTD: Tensor
    key_BTD: Tensor
    value_BTD: Tensor
    attention_BTT: Tensor
    out_BTD: Tensor
    """Before the output projection."""


def relevance(tower: TextTower, image_BE: Tensor, token_BT: Tensor, *, blocks: int = BLOCKS) -> Relevance:
    """What each word contributes to the similarity of its caption (row b) with its image (row b).

    image_BE: embeddings of any length, of any float type. token_BT: whole captions, int64; all T positions count,
    padding included. blocks: how many of the last ones to look at; all where there are fewer.
    No parameter gets a gradient from it. Captions do not influence each other. Source: GA-DMS's released code.
    """
    seen = tower.transformer.blocks[-blocks:]
    before = tower.transformer.blocks[: len(tower.transformer.blocks) - len(seen)]
    with torch.autocast(token_BT.device.type, enabled=False):
        with torch.no_grad():
            x_BTD = tower.embedded(token_BT)
            for block in before:
                x_BTD = block(x_BTD, CAUSAL_PADDED)
        start_BTD = x_BTD.float()
        with torch.enable_grad():
            x_BTD, attended = start_BTD.detach().requires_grad_(), []
            for block in seen:
                x_BTD, one = _with_one_head(_in_float32(block), x_BTD)
                attended.append(one)
            text_BE = tower.ln_final(at_end(x_BTD, token_BT)) @ tower.text_projection.float()
            score = (F.normalize(image_BE.detach().float(), dim=-1) * F.normalize(text_BE, dim=-1)).sum()
            slopes = torch.autograd.grad(score, [one.out_BTD for one in attended])
        with torch.no_grad():
            return _put_together(start_BTD, text_BE.detach(), attended, slopes, token_BT)


def scaled(total_BT: Tensor) -> Tensor:
    """What all blocks say of each word, from 0 to 1: one scale for the whole batch, as released.

    All zeros where nothing stands out, or where an entry is not a number.
    """
    low, high = total_BT.aminmax()
    spread = high - low
    usable = torch.isfinite(total_BT).all() & (spread > 0)
    return torch.where(usable, (total_BT - low) / torch.where(usable, spread, 1.0), 0.0)


def two_scales(x_BTD: Tensor) -> Tensor:
    """The mean of a sequence and of what its pairs of neighbours have in common, [B, T, D].

    An odd last position is a pair of its own; pairs become positions again by linear interpolation between their
    centres.
    """
    x_BDT = x_BTD.mT
    pair_BDP = F.avg_pool1d(x_BDT, 2, ceil_mode=True)
    coarse_BDT = F.interpolate(pair_BDP, size=x_BDT.shape[-1], mode="linear", align_corners=False)
    return ((x_BDT + coarse_BDT) / 2).mT


def _with_one_head(block: Block, x_BTD: Tensor) -> tuple[Tensor, _Attended]:
    """The block as if its attention had one head of full width, and what that attention did."""
    attn, (length, width) = block.attn, x_BTD.shape[1:]
    query, key, value = attn.project(block.ln_1(x_BTD), "qkv").chunk(3, dim=-1)
    ahead_TT = torch.ones(length, length, dtype=torch.bool, device=x_BTD.device).triu(1)
    attention_BTT = (query @ key.mT * width**-0.5).masked_fill(ahead_TT, float("-inf")).softmax(-1)
    out_BTD = attention_BTT @ value
    x_BTD = block.feed(x_BTD + attn.out_proj(out_BTD))
    return x_BTD, _Attended(query, key, value, attention_BTT, out_BTD)


def _in_float32(block: Block) -> Block:
    """The block itself, or a copy where its weights are half."""
    if all(parameter.dtype == torch.float32 for parameter in block.parameters()):
        return block
    return copy.deepcopy(block).float()


def _put_together(
    start_BTD: Tensor, text_BE: Tensor, attended: list[_Attended], slopes: tuple[Tensor, ...], token_BT: Tensor
) -> Relevance:
    place_T, end_B1 = torch.arange(token_BT.shape[1], device=token_BT.device), end_of(token_BT)[:, None]
    word_BT = (place_T > 0) & (place_T < end_B1)
    gradient, similarity, attention, found = [], [], [], []
    for one, slope_BTD in zip(attended, slopes, strict=True):
        gradient.append(at_end(slope_BTD, token_BT))
        similarity.append(_alike(one, token_BT))
        attention.append(at_end(one.attention_BTT, token_BT))
        part_BT = (one.value_BTD @ gradient[-1][..., None]).squeeze(-1) * similarity[-1]
        found.append(word_BT * part_BT * attention[-1] / (part_BT.sum(1, keepdim=True) + EPSILON))
    parts = (torch.stack(each).detach() for each in (gradient, similarity, attention, found))
    return Relevance(start_BTD, text_BE, *parts)


def _alike(one: _Attended, token_BT: Tensor) -> Tensor:
    """Cosines of the end token's query with every key, each seen at two scales; from 0 to 1 along a caption, [B, T]."""
    query_BD = F.normalize(at_end(two_scales(one.query_BTD), token_BT), dim=-1)
    cosine_BT = (F.normalize(two_scales(one.key_BTD), dim=-1) @ query_BD[..., None]).squeeze(-1)
    low_B1, high_B1 = cosine_BT.aminmax(dim=1, keepdim=True)
    return (cosine_BT - low_B1) / (high_B1 - low_B1 + EPSILON)
