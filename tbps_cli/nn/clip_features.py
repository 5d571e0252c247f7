"""One vector an image and one a caption from CLIP's towers, as most methods use them."""

from __future__ import annotations

from torch import Tensor

from tbps_cli.nn.block import Hooks
from tbps_cli.nn.clip_towers import Clip


def image_feature(clip: Clip, image_BCHW: Tensor, hooks: Hooks | None = None) -> Tensor:
    """[B, C, H, W] -> [B, E], the class token after the projection, float32, not normalised."""
    return clip.image_token(image_BCHW, hooks).float()


def text_feature(clip: Clip, token_BT: Tensor, hooks: Hooks | None = None) -> Tensor:
    """[B, T] -> [B, E], the token at the end id after the projection, float32, not normalised."""
    return clip.end_token(token_BT, hooks).float()
