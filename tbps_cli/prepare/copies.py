"""Near-duplicate images, within a data set and between two: files that were saved again, resized or cropped.

Three steps, each on what the one before left over: hashes within some bits (`perceptual`), mean colours, and the image
files themselves, laid over each other (`align`). Only the last decides, so images that are merely alike, such as two
persons in front of one wall, are not taken for copies. Files with equal bytes are one image here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tbps_cli.data.images import UnreadableImage, read_image
from tbps_cli.prepare import align, perceptual
from tbps_cli.prepare.decode import THREADS, Progress
from tbps_cli.prepare.perceptual import Appearance

MOST = 32
"""Images with which one is compared in full; only blank ones are like more."""
SAME = 0.18
"""Share of the variance that differs, below which it is a copy. Of 400 copies (see docs/data.md) the furthest had 0.15;
of ten thousand drawn pedestrians the two most alike, one person in one pose before two like walls, 0.22."""
_TRIES = 3
"""Windows from which laying one over the other begins, the likeliest first."""
_OPEN = 256
"""Images that are held decoded."""
_LARGEST = 256
"""Pixels of the longer side at which they are held."""
Paths = tuple[str, str]


@dataclass
class Appearances:
    """How the images of one data set look. `add` may be called by several threads."""

    root: Path
    observe: Callable[[Image.Image], Appearance] = field(default_factory=perceptual.observer)
    _seen: dict[str, tuple[str, Appearance]] = field(default_factory=dict)

    def add(self, path: str, content: str, image: Image.Image) -> None:
        """Note an image by its path below the root; of those with equal content the first by name counts."""
        appearance = self.observe(image)
        with _LOCK:
            known = self._seen.get(content)
            if known is None or path < known[0]:
                self._seen[content] = path, appearance

    def columns(self) -> tuple[list[str], Appearance]:
        """(paths, hash_W [images, windows] and tile_WC [images, windows, colours]) in the order of paths."""
        found = sorted(self._seen.values(), key=lambda seen: seen[0])
        if not found:
            return [], Appearance(np.empty((0, 1), np.uint64), np.empty((0, 1, 1), np.uint8))
        hash_NW = np.stack([appearance.hash_W for _, appearance in found])
        return [path for path, _ in found], Appearance(
            hash_NW, np.stack([appearance.tile_WC for _, appearance in found])
        )


def copies_within(images: Appearances, progress: Progress | None = None) -> list[Paths]:
    """(path, path of another) of all pairs of images that show the same, each pair once; either may be the crop."""
    return sorted({(min(pair), max(pair)) for pair in _copies(images, images, progress)})


def copies_between(images: Appearances, others: Appearances, progress: Progress | None = None) -> list[Paths]:
    """(path in the first set, path in the second) of all pairs that show the same; either may be the crop."""
    found = {*_copies(images, others, progress)}
    return sorted(found | {(image, other) for other, image in _copies(others, images, progress)})


def _copies(images: Appearances, others: Appearances, progress: Progress | None) -> Iterator[Paths]:
    """Pairs of which the second shows a window of the first."""
    paths, columns = images.columns()
    other_paths, other_columns = (paths, columns) if others is images else others.columns()
    shelf = _Shelf()

    def same(pair: _Candidate) -> bool:
        first, second = images.root / paths[pair.image], others.root / other_paths[pair.other]
        return _is_copy(shelf.image(first), shelf.image(second), pair.windows)

    candidates = list(_candidates(columns, other_columns, progress, itself=others is images))
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(candidates), 1_000):
            part = candidates[start : start + 1_000]
            for pair, copied in zip(part, pool.map(same, part), strict=True):
                if copied:
                    yield paths[pair.image], other_paths[pair.other]


class _Candidate(NamedTuple):
    image: int
    other: int
    windows: list[int]


def _candidates(
    images: Appearance, others: Appearance, progress: Progress | None, *, itself: bool
) -> Iterator[_Candidate]:
    """The pairs worth laying over each other: at most `MOST` for an image, from the likeliest windows."""
    blocks = [block for block in perceptual.alike(images, others, progress) if len(block.image_P)]
    if not blocks:
        return
    image_P, window_P, other_P, apart_P = map(np.concatenate, zip(*blocks, strict=True))
    order = np.lexsort((apart_P, image_P))
    if itself:
        order = order[image_P[order] != other_P[order]]
    windows: defaultdict[int, list[int]] = defaultdict(list)
    owner = -1
    for place in order.tolist():
        if image_P[place] != owner:
            yield from (_Candidate(owner, other, found[:_TRIES]) for other, found in windows.items())
            windows.clear()
            owner = int(image_P[place])
        if len(windows) < MOST or int(other_P[place]) in windows:
            windows[int(other_P[place])].append(int(window_P[place]))
    yield from (_Candidate(owner, other, found[:_TRIES]) for other, found in windows.items())


def _is_copy(image: Image.Image | None, other: Image.Image | None, windows: list[int]) -> bool:
    if image is None or other is None:
        return False
    return any(align.difference(image, other, perceptual.box_of(window)) < SAME for window in windows)


class _Shelf:
    """Images that were opened last, small; several threads take from it."""

    def __init__(self) -> None:
        self._images: OrderedDict[Path, Image.Image | None] = OrderedDict()

    def image(self, path: Path) -> Image.Image | None:
        """An image, or None when it can no longer be read."""
        with _LOCK:
            if path in self._images:
                self._images.move_to_end(path)
                return self._images[path]
        image: Image.Image | None = None
        with suppress(UnreadableImage):
            image = read_image(path)
            image.thumbnail((_LARGEST, _LARGEST))
        with _LOCK:
            self._images[path] = image
            while len(self._images) > _OPEN:
                self._images.popitem(last=False)
        return image


_LOCK = threading.Lock()
