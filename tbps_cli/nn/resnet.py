"""CLIP's modified ResNet (RN50, RN101, RN50x4...): three-layer stem, anti-aliased strides, attention pool.

Parameter names are OpenAI's, under `visual.`. TextReID runs it with the last stage at stride 1 and an
image that is not square; its attention pool then has a table of its own grid.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_cli.errors import RecipeError
from tbps_cli.nn.norm import BatchNorm2d
from tbps_cli.nn.position import PEDESTRIAN, image_size_of
from tbps_cli.nn.row_attention import row_attention

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions.

    pooled: a stride is an average pool before the last convolution, as in CLIP; else the 3x3 convolution and
    the shortcut take it, as in torchvision.
    """

    def __init__(self, inside: int, planes: int, stride: int, *, pooled: bool = True) -> None:
        super().__init__()
        pool, step = (stride, 1) if pooled else (1, stride)
        self.conv1 = nn.Conv2d(inside, planes, 1, bias=False)
        self.bn1 = BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=step, padding=1, bias=False)
        self.bn2 = BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, planes * EXPANSION, 1, bias=False)
        self.bn3 = BatchNorm2d(planes * EXPANSION)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inside != planes * EXPANSION:
            shortcut: OrderedDict[str, nn.Module] = OrderedDict()
            shortcut["-1"] = nn.AvgPool2d(pool) if pooled else nn.Identity()
            shortcut["0"] = nn.Conv2d(inside, planes * EXPANSION, 1, stride=step, bias=False)
            shortcut["1"] = BatchNorm2d(planes * EXPANSION)
            self.downsample = nn.Sequential(shortcut)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x_BCHW)))
        out = self.avgpool(F.relu(self.bn2(self.conv2(out))))
        out = self.bn3(self.conv3(out))
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        return F.relu(out + shortcut)


def stages(
    width: int, layers: tuple[int, int, int, int], last_stride: int, *, pooled: bool = True
) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential, nn.Sequential]:
    """The four stages of a ResNet behind a stem of `width` channels; each doubles the planes of the one before."""
    inside, made = width, []
    for number, (blocks, stride) in enumerate(zip(layers, (1, 2, 2, last_stride), strict=True)):
        planes, stage = width << number, []
        for index in range(blocks):
            stage.append(Bottleneck(inside, planes, stride if index == 0 else 1, pooled=pooled))
            inside = planes * EXPANSION
        made.append(nn.Sequential(*stage))
    return made[0], made[1], made[2], made[3]


class AttentionPool(nn.Module):
    """Pools a feature map [B, C, h, w] to [B, E] by attention from its mean token."""

    def __init__(self, grid: tuple[int, int], channels: int, heads: int, embed: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(1 + grid[0] * grid[1], channels))
        self.k_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, embed)

    def forward(self, map_BCHW: Tensor) -> Tensor:
        x_BPC = map_BCHW.flatten(2).transpose(1, 2)
        x_BPC = torch.cat([x_BPC.mean(1, keepdim=True), x_BPC], dim=1) + self.positional_embedding.to(x_BPC.dtype)
        query, key, value = self.q_proj(x_BPC[:, :1]), self.k_proj(x_BPC), self.v_proj(x_BPC)
        mixed = row_attention(self._split(query), self._split(key), self._split(value))
        return self.c_proj(mixed.transpose(1, 2).flatten(2))[:, 0]

    def _split(self, x_BPC: Tensor) -> Tensor:
        return x_BPC.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def map_of(image_size: tuple[int, int], last_stride: int) -> tuple[int, int]:
    """Rows and columns of the last map: the first convolution rounds up, the pools round down."""
    height, width = (-(-side // 2) // (8 * last_stride) for side in image_size)
    return height, width


def image_of(rows: int, stated: tuple[int, int] | None = None) -> tuple[tuple[int, int], Literal[1, 2]]:
    """Image size and stride of the last stage that a position table of `rows` rows was made for.

    stated: the size when somebody knows it. Otherwise 384x128 is tried with both strides, then stride 1 with
    other 3:1 and square images. Raises WeightsError when none of them fits.
    """
    size = stated or PEDESTRIAN
    height, width = map_of(size, 2)
    if rows == 1 + height * width:
        return size, 2
    return stated or image_size_of(rows, 16, 16), 1


class ResNet(nn.Module):
    """[B, 3, H, W] -> [B, E]. `last_stride` 1 keeps the last stage at 1/16 of the image."""

    def __init__(
        self,
        layers: tuple[int, int, int, int],
        width: int,
        embed: int,
        heads: int,
        image_size: tuple[int, int],
        last_stride: int = 2,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.grid = map_of(image_size, last_stride)
        if min(self.grid) < 1:
            raise RecipeError(
                f"data.image_size = {list(image_size)} is too small for a ResNet.",
                f"Its last map is 1/{16 * last_stride} of the image: give each side that many pixels at least.",
            )
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages(width, layers, last_stride)
        self.attnpool = AttentionPool(self.grid, 8 * width * EXPANSION, heads, embed)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        x_BCHW = image_BCHW.to(self.conv1.weight.dtype)
        for convolution, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x_BCHW = F.relu(norm(convolution(x_BCHW)))
        x_BCHW = F.avg_pool2d(x_BCHW, 2)
        x_BCHW = self.layer4(self.layer3(self.layer2(self.layer1(x_BCHW))))
        return self.attnpool(x_BCHW)

    def tokens(self, image_BCHW: Tensor) -> Tensor:
        """The pooled feature as a sequence of one, [B, 1, E]."""
        return self(image_BCHW)[:, None]

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the tower as CLIP does: attention pool normal, last norm of each block zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=5**0.5, generator=generator)
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
        std = self.attnpool.c_proj.in_features**-0.5
        nn.init.normal_(self.attnpool.positional_embedding, std=std, generator=generator)
        for layer in (self.attnpool.q_proj, self.attnpool.k_proj, self.attnpool.v_proj, self.attnpool.c_proj):
            nn.init.normal_(layer.weight, std=std, generator=generator)
            nn.init.zeros_(layer.bias)
