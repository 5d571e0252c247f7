"""CLIP's vision transformer, with an image of any shape and a stride of its own.

Every token is normalised and projected (the papers read the patch tokens too); the class token is
row 0. Parameter names are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tbps_cli.errors import RecipeError
from tbps_cli.nn.block import Block, Hooks, LayerNorm, Transformer
from tbps_cli.nn.position import grid_of
from tbps_cli.nn.token_layout import OneOfEachRow


class VisionTransformer(nn.Module):
    """[B, 3, H, W] normalised images -> [B, 1 + P, E] projected tokens, P = rows * columns."""

    half_parameters = ("proj",)

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch: int,
        stride: int,
        width: int,
        layers: int,
        embed: int,
        block: Callable[[int], Block],
    ) -> None:
        super().__init__()
        if min(image_size) < patch:
            height, side = image_size
            raise RecipeError(
                f"data.image_size: images of {height}x{side} pixels are smaller than a patch of {patch}x{patch}.",
                "Set a larger one: height, then width.",
            )
        self.grid = grid_of(image_size, patch, stride)
        self.image_size = image_size
        self.conv1 = nn.Conv2d(3, width, patch, stride, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + self.grid[0] * self.grid[1], width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(layers, block)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed))

    def forward(self, image_BCHW: Tensor, hooks: Hooks | None = None) -> Tensor:
        return self.projected(self.transformer(self.embedded(image_BCHW, hooks), hooks=hooks))

    def first(self, image_BCHW: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Row 0 of `forward` alone, the class token, [B, E]: the last block computes no other."""
        x_BPD = self.embedded(image_BCHW, hooks)
        return self.projected(self.transformer(x_BPD, _first(x_BPD), hooks))[:, 0]

    def forward_with_attention(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, and how much the class token attends to each in the last block, [B, 1 + P]."""
        x_BPD = self.embedded(image_BCHW)
        x_BPD, attention_BP = self.transformer.forward_with_attention(x_BPD, _first(x_BPD))
        return self.projected(x_BPD), attention_BP

    def embedded(self, image_BCHW: Tensor, hooks: Hooks | None = None) -> Tensor:
        """Patches with class token and positions, after `ln_pre`."""
        patch_BPD = self.conv1(image_BCHW.to(self.conv1.weight.dtype)).flatten(2).transpose(1, 2)
        first_B1D = self.class_embedding.to(patch_BPD.dtype).expand(patch_BPD.shape[0], 1, -1)
        x_BPD = torch.cat([first_B1D, patch_BPD], dim=1) + self.positional_embedding.to(patch_BPD.dtype)
        if hooks and hooks.embedded:
            x_BPD = hooks.embedded(x_BPD)
        return self.ln_pre(x_BPD)

    def projected(self, x_BPD: Tensor) -> Tensor:
        """`ln_post` and the projection, on all tokens."""
        return self.ln_post(x_BPD) @ self.proj


def _first(x_BPD: Tensor) -> OneOfEachRow:
    """Of each row the class token is wanted."""
    return OneOfEachRow(torch.zeros(x_BPD.shape[0], dtype=torch.int64, device=x_BPD.device))
