"""Augmentation in batches on the device that trains, from images that were decoded once.

The published pipelines read, resize and change one image after the other in worker processes. Here
the bytes of a pre-decoded store lie on the device (or are fetched from its memory map), and a whole batch is
changed at once: plain views in `device_paint.py`, TBPS-CLIP's in `device_views.py`. The numbers that they need are
drawn on the CPU, vectorised, from the same per-sample seeds as the exact way (`device_draws.py`): they depend on
(seed, epoch, caption, view) alone, so neither resuming nor ranks nor workers change them. The distribution is that
of the published transforms, the single draws are not (`data.augment_on` chooses); values after equal draws agree
within float32 rounding, but for the self-supervised views: see `device_views.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps_cli.augment import batched_draws as device_draws
from tbps_cli.augment.batched_draws import IMAGE
from tbps_cli.augment.batched_paint import Buffers, paint_slices, paint_whole
from tbps_cli.augment.batched_views import paint_operations
from tbps_cli.augment.exact import Augment, Erase, Flip, PadCrop, PoolOfTwo, SimClr

_SHARE_OF_MEMORY = 0.4
"""Of what is free on the device, how much the images may take; the rest is for training."""


def refusal(images: Mapping[str, Augment]) -> str | None:
    """Why these views cannot be drawn in batches; None when they can.

    All of them must start from one resize of the image. A view uses a flip, a padded crop and an erasing at most
    once each, in this order; or it is made of TBPS-CLIP's pool, its cut of the whole image and flips.
    """
    if len({how.resample for how in images.values()}) > 1:
        return "its views resize in different ways"
    for name, how in images.items():
        odd = _odd(how)
        if odd is not None:
            return f"its view {name!r} {odd}"
    return None


def _odd(how: Augment) -> str | None:
    """What of a view is unknown here, as the end of a sentence."""
    kinds: list[type] = [type(step) for step in how.steps]
    operations = device_draws.made_of_operations(how)
    if operations and how.whole is not None:
        kinds.append(type(how.whole))
    known = (PoolOfTwo, SimClr, Flip) if operations else (Flip, PadCrop, Erase)
    unknown = next((kind.__name__ for kind in kinds if kind not in known), None)
    if unknown is not None:
        return f"uses {unknown}" + (" beside its operations" if unknown in ("PadCrop", "Erase") else "")
    if not operations and kinds != [kind for kind in known if kind in kinds]:
        return "uses an unusual order"
    if any(isinstance(step, Erase) and not step.after_normalise for step in how.steps):
        return "erases before normalising"
    return None


class DecodedImages(Protocol):
    """What is needed of a store of decoded images (`loading.store.Store`)."""

    size: tuple[int, int]

    @property
    def pixels(self) -> NDArray[np.uint8]: ...
    def places(self, paths: Sequence[Path]) -> NDArray[np.int64]: ...


class BatchAugmenter:
    """The images of a split on a device, and what becomes of them under a plan.

    paths: image n of a plan is paths[n]. whole: keep all of them on the device; None decides by
    the memory that is free there (the CPU reads its memory map in any case).
    """

    def __init__(
        self, store: DecodedImages, paths: Sequence[Path], device: torch.device | str, *, whole: bool | None = None
    ) -> None:
        self.device, self.size = torch.device(device), store.size
        self.place, self.buffers = store.places(paths), Buffers()
        self.held = torch.from_numpy(store.pixels)
        self.whole = self._fits() if whole is None else whole
        if self.whole:
            self.held, self.place = self._moved(), np.arange(len(paths))

    def __call__(self, plan_BX: Tensor, how: Augment) -> Tensor:
        """The images of a plan (from `draw`, on the CPU) -> float32 [B, 3, H, W] on the device.

        Plain views come channels last, those made of operations channels first.
        """
        image_B = torch.from_numpy(self.place[plan_BX[:, IMAGE].long().numpy()])
        pixel_BHWC = self.held
        if not self.whole and self.device.type != "cpu":
            pixel_BHWC = self._sent(image_B)
            image_B = torch.arange(len(plan_BX))
        if device_draws.made_of_operations(how):
            return paint_operations(pixel_BHWC, image_B, plan_BX, how, self.buffers)
        plan_BX = torch.cat([image_B[:, None], plan_BX[:, 1:]], dim=1)
        if self.device.type == "cpu":
            image_BHWC = paint_slices(pixel_BHWC, plan_BX, how, self.buffers)
        else:
            image_BHWC = paint_whole(pixel_BHWC, plan_BX.to(self.device, non_blocking=True), how)
        return image_BHWC.permute(0, 3, 1, 2)

    def _sent(self, image_B: Tensor) -> Tensor:
        """These images' bytes on the device; the copy overlaps with what it computes."""
        found = torch.empty(len(image_B), *self.size, 3, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return torch.index_select(self.held, 0, image_B, out=found).to(self.device, non_blocking=True)

    def _fits(self) -> bool:
        if self.device.type != "cuda":
            return False
        needed = len(self.place) * self.size[0] * self.size[1] * 3
        return needed < _SHARE_OF_MEMORY * torch.cuda.mem_get_info(self.device)[0]

    def _moved(self) -> Tensor:
        """The split's images alone, on the device, copied in pieces."""
        moved = torch.empty(len(self.place), *self.size, 3, dtype=torch.uint8, device=self.device)
        for start in range(0, len(self.place), 512):
            part = torch.from_numpy(self.place[start : start + 512])
            moved[start : start + len(part)] = self.held.index_select(0, part)
        return moved
