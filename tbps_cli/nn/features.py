"""One vector a picture and one a caption from CLIP's towers, as most methods use them."""

from __future__ import annotations

import torch
from torch import Tensor

from tbps_cli.nn.block import Hooks
from tbps_cli.nn.clip import Clip
from tbps_cli.nn.text_tower import at_end, used


def image_feature(clip: Clip, image_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, E], the class token after the projection, float32, not normalised."""
    return clip.image_tokens(image_BCHW)[:, 0].float()


def text_feature(clip: Clip, token_BT: Tensor) -> Tensor:
    """[B, T] -> [B, E], the token at the end id after the projection, float32, not normalised."""
    return caption_end(clip, token_BT)


def caption_end(clip: Clip, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
    """`text_feature` with tokens edited on the way.

    Columns past the longest caption are not computed; a graph for export keeps them, its shapes
    cannot depend on what the ids say.
    """
    kept_BT = token_BT if torch.compiler.is_compiling() else used(token_BT)
    return at_end(clip.text_tokens(kept_BT, hooks), kept_BT).float()
