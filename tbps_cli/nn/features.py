"""One vector a picture and one a caption from CLIP's towers, as most methods use them."""

from __future__ import annotations

import torch
from torch import Tensor

from tbps_cli.nn.block import Block, Hooks
from tbps_cli.nn.clip import Clip
from tbps_cli.nn.text_tower import end_of, used

GROUPS = 4
"""Most passes that one batch of captions is cut into."""
WORTH = {"cpu": 8, "cuda": 128}
"""Captions that keep a device busy: a pass of its own needs as many."""


def image_feature(clip: Clip, image_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, E], the class token after the projection, float32, not normalised."""
    return clip.image_token(image_BCHW).float()


def text_feature(clip: Clip, token_BT: Tensor) -> Tensor:
    """[B, T] -> [B, E], the token at the end id after the projection, float32, not normalised.

    A large batch passes in groups of similar length, so that a long caption makes few others long.
    """
    if torch.compiler.is_compiling() or not _rows_alone(clip):  # a traced batch has no length to ask for
        return caption_end(clip, token_BT)
    groups = min(GROUPS, len(token_BT) // WORTH.get(token_BT.device.type, 128))
    if groups < 2:
        return caption_end(clip, token_BT)
    ends = end_of(token_BT).tolist()
    order_B = torch.tensor(sorted(range(len(ends)), key=ends.__getitem__))
    x_BTD = clip.embedded(used(token_BT))  # once: every call has a gradient of the whole word table
    parts = []
    for row_B in order_B.chunk(groups):
        row_B, width = row_B.to(token_BT.device), ends[row_B[-1]] + 1
        parts.append(clip.ends(x_BTD[row_B, :width], end_of(token_BT[row_B])).float())
    return torch.cat(parts)[order_B.argsort().to(token_BT.device)]


def _rows_alone(clip: Clip) -> bool:
    """Whether CLIP's own blocks, without random draws, look at each row alone: groups then change nothing."""
    blocks = list(clip.transformer.resblocks)
    return all(type(block) is Block and not (block.training and block.attn.dropout) for block in blocks)


def caption_end(clip: Clip, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
    """`text_feature` with tokens edited on the way.

    Columns past the longest caption are not computed; a graph for export keeps them, its shapes
    cannot depend on what the ids say.
    """
    kept_BT = token_BT if torch.compiler.is_compiling() else used(token_BT)
    return clip.end_token(kept_BT, hooks).float()
