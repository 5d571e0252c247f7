"""Where in an image a model saw what it scored: heat maps from the image tower's own tokens and gradients.

Of a vision transformer after Grad-ECLIP (Zhao et al., "Gradient-based Visual Explanation for CLIP", ICML 2024): in each
of the last blocks the gradient of the score at the class token's attention output weighs the values of all patches,
and how alike the class token's query and a patch's key are weighs the patches. Attention itself is not used: it is too
sparse. Of a ResNet after Grad-CAM, which is the same with a map of a late stage for the values. Any method whose images
go through one of our towers can be looked into: modules are listened to, none is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_cli.methods.base import Method
from tbps_cli.nn.block import Block
from tbps_cli.nn.resnet import ResNet
from tbps_cli.nn.vit import VisionTransformer

BLOCKS = 4
"""Last blocks of a transformer that are looked at, at most; not the first half."""
ROWS, COLUMNS = 12, 4
"""Cells that a map of a ResNet must have: the last stage that has as many is looked at."""
EPSILON = 1e-8


def image_tower(method: Method) -> VisionTransformer | ResNet | None:
    """The tower that a method's images go through; None where it is not one of ours."""
    for module in method.modules():
        if isinstance(module, VisionTransformer | ResNet):
            return module
    return None


@dataclass
class _Seen:
    """What was seen of one block or stage: where the gradient is asked for, and what it came from."""

    block: Block | None = None
    normed_BPD: Tensor | None = None
    out: Tensor | None = None
    """Attention before its output projection, or the map of a stage."""


def heat_maps(method: Method, image_CHW: Tensor, direction_WE: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Where an image's embedding gets what it has of each direction, [W, rows, columns], each map 0 to 1.

    image_CHW: as the model's transform gives it. Cells lie evenly over the whole of it. A map is all zeros where
    nothing speaks for the direction. None where the method has no tower of ours, or its images do not go through it.
    """
    tower = image_tower(method)
    if tower is None:
        return None
    with torch.enable_grad(), _watched(tower) as watched:
        row_E = method.encode_images(image_CHW[None].detach().requires_grad_())[0]
    seen = [one for one in watched if one.out is not None and one.out.requires_grad]
    if isinstance(tower, ResNet):
        seen = _fine_enough(seen)
    if not seen:
        return None
    maps = []
    for direction_E in torch.from_numpy(direction_WE).to(row_E):
        slopes = torch.autograd.grad(row_E @ direction_E, [_out(one) for one in seen], retain_graph=True)
        with torch.no_grad():
            parts = [
                _of_stage(one, slope) if one.block is None else _of_block(one, slope, tower.grid)
                for one, slope in zip(seen, slopes, strict=True)
            ]
            map_HW = torch.stack(parts).sum(0)
            maps.append((map_HW / map_HW.max().clamp(min=EPSILON)).cpu().numpy())
    return np.stack(maps).astype(np.float32) if maps else np.zeros((0, 1, 1), np.float32)


def _fine_enough(stages: list[_Seen]) -> list[_Seen]:
    """The last of a ResNet's stages whose map has enough cells; of small images the first stage."""
    fine = [one for one in stages if _out(one).shape[2] >= ROWS and _out(one).shape[3] >= COLUMNS]
    return fine[-1:] or stages[:1]


@contextmanager
def _watched(tower: VisionTransformer | ResNet) -> Iterator[list[_Seen]]:
    """Listens to the last blocks of a transformer, or to the stages of a ResNet, as long as the context lasts."""
    seen: list[_Seen] = []
    hooks = []
    if isinstance(tower, ResNet):
        for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
            seen.append(_Seen())
            hooks.append(stage.register_forward_hook(partial(_keep_output, seen[-1])))
    else:
        blocks = tower.transformer.blocks
        for block in blocks[-max(1, min(BLOCKS, len(blocks) // 2)) :]:
            seen.append(_Seen(block))
            hooks.append(block.ln_1.register_forward_hook(partial(_keep_normed, seen[-1])))
            hooks.append(block.attn.out_proj.register_forward_pre_hook(partial(_keep_input, seen[-1])))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _keep_output(seen: _Seen, module: nn.Module, given: object, out: Tensor) -> None:
    seen.out = out


def _keep_normed(seen: _Seen, module: nn.Module, given: object, out: Tensor) -> None:
    seen.normed_BPD = out


def _keep_input(seen: _Seen, module: nn.Module, given: tuple[Tensor, ...]) -> None:
    seen.out = given[0]


def _out(seen: _Seen) -> Tensor:
    assert seen.out is not None
    return seen.out


def _of_stage(seen: _Seen, slope_BCHW: Tensor) -> Tensor:
    """Grad-CAM: channels weighed by their mean gradient."""
    weight_C = slope_BCHW[0].mean((1, 2))
    return (weight_C[:, None, None] * _out(seen)[0]).sum(0).clamp(min=0)


def _of_block(seen: _Seen, slope_BPD: Tensor, grid: tuple[int, int]) -> Tensor:
    """Grad-ECLIP: values of the patches along the gradient at the class token, loosely by query and key."""
    assert seen.block is not None and seen.normed_BPD is not None
    cells = grid[0] * grid[1]
    query_PD, key_PD, value_PD = seen.block.attn.project(seen.normed_BPD[0], "qkv").chunk(3, dim=-1)
    patch = slice(1, 1 + cells)  # behind the class token; prompts, where a method has them, come after the patches
    alike_P = F.normalize(key_PD[patch], dim=-1) @ F.normalize(query_PD[0], dim=-1)
    low, high = alike_P.aminmax()
    loose_P = (alike_P - low) / (high - low + EPSILON)
    part_P = (value_PD[patch] @ slope_BPD[0, 0]).clamp(min=0) * loose_P
    return part_P.view(grid)
