"""Augmentation in batches on the device that trains, from images that were decoded once.

The published pipelines read, resize and change one image after the other in worker processes. Here the bytes of a
pre-decoded store lie on the device (or are fetched from its memory map), and what happens to the images of a batch
was drawn beforehand (`plans.py`). The distribution is that of the published transforms, the single draws are not
(`data.augment_on` chooses); values after equal draws agree within float32 rounding.

The self-supervised views of TBPS-CLIP differ from the exact way in two things. They are cut from the store's resized
image and not from the file (the box is drawn in the file's pixels and scaled), so their sharpness differs a little:
a small cut of an image that the store made smaller is softer. And values stay floats between the operations, where
PIL rounds to bytes, takes the mean of the contrast as a whole number, turns the hue in steps of 1/256 and blurs with
boxes instead of a Gaussian.
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps_cli.augment import ops, plans
from tbps_cli.augment.exact import Augment, Erase
from tbps_cli.augment.plans import IMAGE, PLACE, Kind, is_plain
from tbps_cli.augment.transform import Triple

PIECE = 1 << 25
"""Values that a device with memory of its own works on at a time; a CPU takes an image, which its caches hold."""

Places = list[list[list[float]]]
"""For each image the places of its plan: kind and four numbers."""

_SHARE_OF_MEMORY = 0.4
"""Of what is free on the device, how much the images may take; the rest is for training."""

OPERATIONS: dict[Kind, tuple[Callable[..., Tensor], int]] = {
    Kind.BRIGHTNESS: (ops.brightness, 1),
    Kind.CONTRAST: (ops.contrast, 1),
    Kind.SATURATION: (ops.saturation, 1),
    Kind.HUE: (ops.hue, 1),
    Kind.GREY: (ops.grey, 0),
    Kind.ROTATE: (ops.rotate, 1),
    Kind.CROP: (ops.crop, 4),
    Kind.FLIP: (ops.flip, 0),
    Kind.ERASE: (ops.erase_, 4),
    Kind.BLUR: (ops.blur, 1),
    Kind.SHIFT: (ops.shift, 2),
}
"""What each kind does before normalising, and how many of a place's numbers it takes."""


def refusal(images: Mapping[str, Augment]) -> str | None:
    """Why these views cannot be made in batches; None when they can. All must start from one resize of the image."""
    if len({how.resample for how in images.values()}) > 1:
        return "its views resize in different ways"
    against = {name: plans.refusal(how) for name, how in images.items()}
    return next((f"its view {name!r} {reason}" for name, reason in against.items() if reason), None)


class DecodedImages(Protocol):
    """What is needed of a store of decoded images (`loading.image_store.Store`)."""

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
        self.place, self.memory = store.places(paths), BatchMemory()
        self.held = torch.from_numpy(store.pixels)
        self.whole = self._fits() if whole is None else whole
        if self.whole:
            self.held, self.place = self._moved(), np.arange(len(paths))

    def __call__(self, plan_BX: Tensor, how: Augment) -> Tensor:
        """The images of a plan (from `plans.draw`, on the CPU) -> float32 [B, 3, H, W] on the device.

        Plain views come channels last, those made of operations channels first.
        """
        image_B = torch.from_numpy(self.place[plan_BX[:, IMAGE].long().numpy()])
        if self.device.type == "cpu":
            return on_cpu(self.held, image_B, plan_BX, how, self.memory)
        if self.whole:
            return on_device(self.held, image_B, plan_BX, how)
        return on_device(self._sent(image_B), torch.arange(len(plan_BX)), plan_BX, how)

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


class BatchMemory:
    """Memory for batches on the CPU. A batch's comes back when the last tensor that lies in it is gone.

    Fresh memory costs a page fault every 4 KB: 250 us for an image of 384 x 128 where writing it costs 20.
    """

    KEPT = 8
    """Pieces of one shape that wait for use: two batches of four views."""

    def __init__(self) -> None:
        self.free: defaultdict[tuple[int, ...], deque[NDArray[np.float32]]] = defaultdict(
            lambda: deque(maxlen=self.KEPT)
        )

    def take(self, *shape: int) -> Tensor:
        """A tensor of any values."""
        free = self.free[shape]
        owned = free.pop() if free else np.empty(shape, np.float32)
        lent = owned.view()  # an array of its own over the same memory; the tensor and its views keep it alive
        weakref.finalize(lent, free.append, owned).atexit = False
        return torch.from_numpy(lent)


# A CPU: one image after the other, which its caches hold from the first operation to the last -----


def on_cpu(
    pixel_NHWC: Tensor, image_B: Tensor, plan_BX: Tensor, how: Augment, memory: BatchMemory | None = None
) -> Tensor:
    """[N, H, W, 3] bytes -> float32 [B, 3, H, W] after the plan and the view's normalisation.

    image_B: row of each image's bytes. memory: where the result may lie.
    """
    places_B = plan_BX[:, 1:].reshape(len(plan_BX), -1, PLACE).tolist()
    way = _plain_on_cpu if is_plain(how) else _operations_on_cpu
    return way(pixel_NHWC, image_B.tolist(), places_B, how, memory or BatchMemory())


def _plain_on_cpu(pixel_NHWC: Tensor, images: list[int], places_B: Places, how: Augment, memory: BatchMemory) -> Tensor:
    """A flip, a padded crop, normalising and erasing, in 95 us an image.

    An image is treated as H rows of 3 W numbers, so that each operation is one long loop; it is normalised by one
    product and one sum (within 1e-6 of the published division, which takes three passes). In one thread: with
    operations as small as these, two threads wait for the interpreter longer than they work.
    """
    height, width = pixel_NHWC.shape[1:3]
    image_BHWC = memory.take(len(images), height, width, 3)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (how.mean, how.std))
    scale_X, shift_X, fill_X = (
        row.float().repeat(width)
        for row in (1 / (255 * std), -mean / std, torch.tensor(fill_of(how), dtype=torch.float64))
    )
    with _one_thread():
        for row, image in enumerate(images):
            todo = {int(kind): numbers for kind, *numbers in places_B[row]}  # a plain view does each thing once
            pixel_HWC = pixel_NHWC[image].flip(1) if Kind.FLIP in todo else pixel_NHWC[image]
            pixel_HX, value_HX = pixel_HWC.view(height, 3 * width), image_BHWC[row].view(height, 3 * width)
            if Kind.SHIFT in todo:
                down, right, *_ = todo[Kind.SHIFT]
                pixel_HX = ops.shift(pixel_HX, down, 3 * right)  # a pixel is three numbers of its row
            torch.addcmul(shift_X, value_HX.copy_(pixel_HX), scale_X, out=value_HX)
            if Kind.FILL in todo:
                top, left, rows, columns = todo[Kind.FILL]
                ops.erase_(value_HX, top, 3 * left, rows, 3 * columns, fill_X[: 3 * int(columns)])
    return image_BHWC.permute(0, 3, 1, 2)


def _operations_on_cpu(
    pixel_NHWC: Tensor, images: list[int], places_B: Places, how: Augment, memory: BatchMemory
) -> Tensor:
    """Place by place of the plan; threads share out whole images.

    PyTorch's own threads would share every single operation, and waiting for each other took longer than working.
    """
    image_BCHW = memory.take(len(images), 3, *pixel_NHWC.shape[1:3])
    mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))

    def make(row: int) -> None:
        pixel_BCHW = _unit(pixel_NHWC[images[row], None])
        for kind, *numbers in places_B[row]:
            if kind != Kind.NOTHING:
                operation, count = OPERATIONS[Kind(int(kind))]
                pixel_BCHW = operation(pixel_BCHW, *numbers[:count])
        torch.sub(pixel_BCHW[0], mean, out=image_BCHW[row]).div_(std)

    with _one_thread() as threads, ThreadPoolExecutor(threads) as pool:
        list(pool.map(make, range(len(images))))
    return image_BCHW


@contextmanager
def _one_thread() -> Iterator[int]:
    """While open, PyTorch computes in the thread that calls it. Gives the number of threads that it used before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


# A device with many cores: an operation at once for all images that drew it at one place ----------


def on_device(pixel_NHWC: Tensor, image_B: Tensor, plan_BX: Tensor, how: Augment) -> Tensor:
    """`on_cpu` for a device. pixel_NHWC lies on it; image_B and plan_BX lie on the CPU."""
    device, (height, width) = pixel_NHWC.device, pixel_NHWC.shape[1:3]
    layout = torch.channels_last if is_plain(how) else torch.contiguous_format
    image_BCHW = torch.empty(len(image_B), 3, height, width, device=device, memory_format=layout)
    mean, std, fill = (torch.tensor(row, device=device)[:, None, None] for row in (how.mean, how.std, fill_of(how)))
    count = max(1, PIECE // (3 * height * width))
    for start in range(0, len(image_B), count):
        piece = slice(start, start + count)
        groups = _groups(plan_BX[piece, 1:], device)
        pixel_BCHW = _unit(pixel_NHWC.index_select(0, image_B[piece].to(device, non_blocking=True)), layout)
        for group in groups:
            if group.kind != Kind.FILL:
                pixel_BCHW = group.change(pixel_BCHW, *OPERATIONS[group.kind])
        torch.sub(pixel_BCHW, mean, out=image_BCHW[piece]).div_(std)
        for group in groups:  # erasing fills with normalised values, so it comes after all others
            if group.kind == Kind.FILL:
                group.change(image_BCHW[piece], partial(ops.erase_, fill=fill), 4)
    return image_BCHW


class _Group(NamedTuple):
    """The images that have one operation at one place of their plans."""

    kind: Kind
    rows: Tensor
    numbers: Tensor
    """[rows, 4]"""

    def change(self, pixel_BCHW: Tensor, operation: Callable[..., Tensor], count: int) -> Tensor:
        """All images, those of the group changed; writes into pixel_BCHW, which nobody may need any more."""
        numbers = self.numbers[:, :count, None, None, None].unbind(1)
        if len(self.rows) == len(pixel_BCHW):
            return operation(pixel_BCHW, *numbers)
        return pixel_BCHW.index_copy_(0, self.rows, operation(pixel_BCHW.index_select(0, self.rows), *numbers))


def _groups(plan_BX: Tensor, device: torch.device) -> list[_Group]:
    """In the order in which they are done; rows and numbers on the device, with one copy for all groups."""
    place_BSP = plan_BX.reshape(len(plan_BX), -1, PLACE)
    # Place by place, and at each place kind by kind: which images drew it.
    found = [
        (place, Kind(int(kind)), [row for row, drawn in enumerate(kinds) if drawn == kind])
        for place, kinds in enumerate(place_BSP[..., 0].T.tolist())
        for kind in sorted(set(kinds) - {Kind.NOTHING})
    ]
    rows_X = torch.tensor([row for *_, rows in found for row in rows], dtype=torch.int64)
    number_X4 = torch.cat([place_BSP[rows, place, 1:] for place, _, rows in found]) if found else place_BSP[:0, 0, 1:]
    if device.type == "mps":  # which has no float64
        number_X4 = number_X4.float()
    lengths = [len(rows) for *_, rows in found]
    rows_of, numbers_of = (numbers.to(device, non_blocking=True).split(lengths) for numbers in (rows_X, number_X4))
    return [_Group(kind, *both) for (_, kind, _), *both in zip(found, rows_of, numbers_of, strict=True)]


# Both -------------------------------------------------------------------------------------------


def _unit(pixel_BHWC: Tensor, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    """[B, H, W, 3] bytes -> float32 [B, 3, H, W] in [0, 1], a new tensor."""
    return pixel_BHWC.permute(0, 3, 1, 2).contiguous(memory_format=layout).float().div_(255)


def fill_of(how: Augment) -> Triple:
    """What the view's erasing after normalising fills with."""
    return next((step.value for step in how.steps if isinstance(step, Erase)), (0.0, 0.0, 0.0))
