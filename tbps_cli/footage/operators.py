"""torchvision, also beside a PyTorch that it was not built for.

The package index has torchvision for CUDA; beside a CPU build of PyTorch its compiled operators do not load, and
importing it fails ("operator torchvision::nms does not exist"). Its detectors need two of them, which are stated here
in PyTorch: the same results, slower.
"""

from __future__ import annotations

import importlib
import logging
import sys
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tbps_cli.errors import TbpsError
from tbps_cli.footage.boxes import merged

logger = logging.getLogger("tbps")

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)
_AT_A_TIME = 64
"""Boxes whose features are taken together: their rows of a feature map fill some 100 MB."""


@cache
def torchvision() -> Any:
    """The package, with its own operators or those of this module. Raises TbpsError when neither can be imported."""
    try:
        return importlib.import_module("torchvision")
    except (RuntimeError, ImportError):
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]  # the remains of an import that failed halfway
    _declare()
    try:
        package = importlib.import_module("torchvision")
    except (RuntimeError, ImportError) as error:
        said = str(error).splitlines()[0]
        raise TbpsError(
            f"torchvision does not fit PyTorch {torch.__version__} ({said:.120}).",
            "Install both from one place: https://pytorch.org/get-started; or use --detector hog",
        ) from None
    # Its own functions ask this before they call an operator.
    sys.modules["torchvision.extension"]._has_ops = lambda: True  # type: ignore[attr-defined]
    sys.modules["torchvision.ops.roi_align"]._has_ops = lambda: True  # type: ignore[attr-defined]
    logger.info(
        "torchvision %s was built for another PyTorch than %s; the detector runs, slower.",
        package.__version__,
        torch.__version__,
    )
    return package


@cache
def _declare() -> tuple[torch.library.Library, ...]:
    """Give the missing operators; they live as long as the library object."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("roi_align", roi_align, "CompositeExplicitAutograd")
    return (library,)


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The places of the boxes [N, 4] that stay, the surest first, when none may overlap a surer one by more."""
    kept = merged(dets.detach().cpu().numpy(), scores.detach().cpu().numpy(), overlap=iou_threshold)
    return torch.from_numpy(kept.astype(np.int64)).to(dets.device)


def roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Features [N, C, H, W] inside boxes [K, 5] (place in the batch, corners in pixels), as [K, C, height, width].

    Each output is the mean of sampling_ratio x sampling_ratio points, which lie between the features; along each axis
    that is a matrix (Mask R-CNN, He et al., ICCV 2017).
    """
    if sampling_ratio <= 0:
        raise NotImplementedError("a number of points that depends on the box")
    half = 0.5 if aligned else 0.0
    corners = rois[:, 1:].float() * spatial_scale - half
    start, extent = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        extent = extent.clamp(min=1)
    rows_KPH = _weights(start[:, 1], extent[:, 1], pooled_height, sampling_ratio, input.shape[2])
    columns_KQW = _weights(start[:, 0], extent[:, 0], pooled_width, sampling_ratio, input.shape[3])
    found = input.new_zeros((len(rois), input.shape[1], pooled_height, pooled_width))
    for number, features in enumerate(input):
        for part in torch.nonzero(rois[:, 0].long() == number)[:, 0].split(_AT_A_TIME):
            rows, columns = rows_KPH[part].to(input.dtype), columns_KQW[part].to(input.dtype)
            found[part] = torch.einsum("kph,chw,kqw->kcpq", rows, features, columns)
    return found


def _weights(start: Tensor, extent: Tensor, cells: int, points: int, length: int) -> Tensor:
    """How much each place of an axis counts in each cell of each box: [K, cells, length]."""
    inside = (torch.arange(cells * points, device=start.device) + 0.5) / (cells * points)
    place = start[:, None] + extent[:, None] * inside
    counted = (place >= -1) & (place <= length)
    place = place.clamp(min=0)
    low = place.floor().long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    share = torch.where(low >= length - 1, torch.zeros_like(place), place - low)
    weight = place.new_zeros((*place.shape, length))
    weight.scatter_add_(2, low[..., None], ((1 - share) * counted)[..., None])
    weight.scatter_add_(2, high[..., None], (share * counted)[..., None])
    return weight.unflatten(1, (cells, points)).mean(dim=2)
