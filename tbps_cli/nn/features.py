"""One vector an image and one a caption from CLIP's towers, as most methods use them."""

from __future__ import annotations

import torch
from torch import Tensor

from tbps_cli.nn.block import Block, Hooks
from tbps_cli.nn.clip import Clip
from tbps_cli.nn.text_tower import used


def image_feature(clip: Clip, image_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, E], the class token after the projection, float32, not normalised."""
    return clip.image_token(image_BCHW).float()


def text_feature(clip: Clip, token_BT: Tensor) -> Tensor:
    """[B, T] -> [B, E], the token at the end id after the projection, float32, not normalised.

    Several captions pass without the padding between them.
    """
    # a traced batch has no lengths to ask for, and must not be asked for its own
    if torch.compiler.is_compiling() or not tokens_alone(clip) or len(token_BT) == 1:
        return caption_end(clip, token_BT)
    return clip.packed_ends(token_BT).float()


def tokens_alone(clip: Clip) -> bool:
    """Whether the text tower's blocks are CLIP's own and draw nothing: padding then takes no part in anything."""
    blocks = list(clip.transformer.resblocks)
    return all(type(block) is Block and not (block.training and block.attn.dropout) for block in blocks)


def caption_end(clip: Clip, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
    """`text_feature` with tokens edited on the way.

    Columns past the longest caption are not computed; a graph for export keeps them, its shapes
    cannot depend on what the ids say.
    """
    kept_BT = token_BT if torch.compiler.is_compiling() else used(token_BT)
    return clip.end_token(kept_BT, hooks).float()
