"""Position tables of one grid or context, brought to another."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tbps_cli.errors import WeightsError

PEDESTRIAN = (384, 128)
"""Height and width in pixels that the field agrees on."""


def grid_of(image_size: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """Rows and columns of patches for an image of (height, width) pixels."""
    return (image_size[0] - patch) // stride + 1, (image_size[1] - patch) // stride + 1


def image_size_of(rows: int, patch: int, stride: int) -> tuple[int, int]:
    """The image size, in pixels, that a position table of `rows` rows (class token included) was made for.

    A table does not tell its shape: tried are 384x128, then 3:1, then a square (CLIP's own tables).
    Raises WeightsError when none of them fits.
    """
    if _places(grid_of(PEDESTRIAN, patch, stride)) == rows - 1:
        return PEDESTRIAN
    for tall in (3, 1):
        columns = math.isqrt((rows - 1) // tall)
        if columns and _places((tall * columns, columns)) == rows - 1:
            return (tall * columns - 1) * stride + patch, (columns - 1) * stride + patch
    raise WeightsError(
        f"a position table of {rows} rows fits neither 384x128 pixels nor another 3:1 or square image.",
        "Put the configs.yaml of the run beside the file: it says img_size and stride_size.",
    )


def _places(grid: tuple[int, int]) -> int:
    return grid[0] * grid[1]


def resize_grid(table_ND: Tensor, grid: tuple[int, int], source: tuple[int, int] | None = None) -> Tensor:
    """Resize an image tower's position table [1 + n * n, D] to [1 + rows * columns, D].

    Row 0 (the class token) stays; the others are a square grid, or of `source` (rows, columns), resized bilinearly
    with align_corners=False and no antialiasing. Source: IRRA and its descendants, TBPS-CLIP, TextReID.
    A table that has the right number of rows already comes back as it is.
    """
    rows, columns = grid
    if len(table_ND) == 1 + rows * columns:
        return table_ND
    side = int((len(table_ND) - 1) ** 0.5)
    tall, wide = source or (side, side)
    laid = table_ND[1 : 1 + tall * wide].float().reshape(1, tall, wide, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(laid, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([table_ND[:1].float(), resized[0].flatten(1).T]).to(table_ND.dtype)


def resize_context(table_TD: Tensor, length: int) -> Tensor:
    """Resize a text position table [T, D] to `length` rows: first and last stay, the rest linearly.

    Source: TBPS-CLIP's released code (align_corners=False).
    """
    if len(table_TD) == length:
        return table_TD
    inner = F.interpolate(table_TD[1:-1].float().T[None], size=length - 2, mode="linear", align_corners=False)
    return torch.cat([table_TD[:1].float(), inner[0].T, table_TD[-1:].float()]).to(table_TD.dtype)


def fit_context(table_TD: Tensor, length: int) -> Tensor:
    """A text position table [T, D] for captions of `length` tokens.

    A longer one is made linearly over all rows, both ends kept, as open_clip does it (`resize_text_pos_embed`:
    align_corners=False, no antialiasing); a shorter one as in `resize_context`. How UFineBench lengthened its tables is
    not published, and the rule in ICL's code gives a shape that does not fit, so that it trains a table from noise.
    """
    if length <= len(table_TD):
        return resize_context(table_TD, length)
    longer = F.interpolate(table_TD.float().T[None], size=length, mode="linear", align_corners=False)
    return longer[0].T.to(table_TD.dtype)
