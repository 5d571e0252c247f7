"""Images decoded once: every image of a data set at one size, as bytes that training maps into memory.

Decoding and resizing are most of the work of reading a batch. The store holds exactly what
`EvalTransform.pixels` gives, so training from it is bit-identical to training from the files. It lies
beside the data set's folder and is used only while path, size and modification time of every image that
is asked for are what they were; anything else is a log line and the slow way.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.amounts import amount
from tbps_cli.augment.transform import Resample
from tbps_cli.data.layouts.records import IMAGE_FOLDERS

logger = logging.getLogger("tbps")
VERSION = 1
PIXELS, MANIFEST = "pixels.u8", "manifest.json"


def store_folder(root: Path, size: tuple[int, int], resample: Resample) -> Path:
    """Where the store of the images below `root` lies: beside the data set's folder."""
    home = root.parent if root.name in IMAGE_FOLDERS else root
    if home.name in ("", ".."):  # the present folder has no name until it is asked for
        home = home.resolve()
    return home.parent / f"{home.name}.{size[0]}x{size[1]}-{resample}.store"


@dataclass
class Store:
    """An open store. Maps its bytes anew in each worker process, so that nothing is copied."""

    folder: Path
    root: Path
    size: tuple[int, int]
    resample: Resample
    rows: dict[str, tuple[int, int, int]]
    """Path below the root -> (row, bytes of the file, its modification time in ns)."""
    shapes: NDArray[np.int64] | None = None
    """[rows, 2] height and width of each image before it was resized; None in stores of older versions."""

    def __post_init__(self) -> None:
        self._pixels: NDArray[np.uint8] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pixels": None}

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [rows, H, W, 3], read from disk where it is touched."""
        if self._pixels is None:
            shape = (len(self.rows), *self.size, 3)
            # "c": writable for torch's sake, which shares no read-only memory; nothing reaches the file
            self._pixels = np.memmap(self.folder / PIXELS, dtype=np.uint8, mode="c", shape=shape)
        return self._pixels

    def image(self, path: Path) -> NDArray[np.uint8]:
        """One image at the store's size, as it was resized from its file: [H, W, 3], read where it is touched."""
        return np.asarray(self.pixels[self.rows[self._key(path)][0]])

    def places(self, paths: Sequence[Path]) -> NDArray[np.int64]:
        """The row of each image."""
        return np.array([self.rows[self._key(path)][0] for path in paths], dtype=np.int64)

    def shapes_of(self, paths: Sequence[Path]) -> NDArray[np.int64] | None:
        """[B, 2] height and width of each image before it was resized, where the store knows them."""
        return None if self.shapes is None else self.shapes[self.places(paths)]

    def stale(self, paths: Sequence[Path]) -> list[Path]:
        """Those images that the store lacks, or whose file has changed since."""
        return [path for path in paths if self.rows.get(self._key(path), (0, 0, 0))[1:] != stamp_of(path)]

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def open_store(root: Path, size: tuple[int, int], resample: Resample, paths: Sequence[Path]) -> Store | None:
    """The store that holds all of these images unchanged, or None; why not is logged."""
    folder = store_folder(root, size, resample)
    if not (folder / MANIFEST).is_file():
        return None
    store = read_store(folder, root)
    stale = list(paths) if store is None else store.stale(paths)
    if store is None or stale:
        logger.warning(
            "store: %s is out of date (%s new or changed); decoding the image files instead. "
            "Rebuild it: tbps prepare-data NAME --decode %dx%d",
            folder,
            amount(len(stale), "image is", "images are"),
            *size,
        )
        return None
    return store


def read_store(folder: Path, root: Path) -> Store | None:
    """The store in a folder; None when it is damaged or of another version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        height, width = manifest["size"]
        rows = {path: (row, int(size), int(time)) for row, (path, size, time) in enumerate(manifest["pictures"])}
        shapes = _shapes(manifest.get("shapes"), len(rows))
        store = Store(folder, root, (int(height), int(width)), manifest["resample"], rows, shapes)
        if manifest.pop("checksum", None) not in (None, checksum(manifest)):  # stores of older versions have none
            return None
        whole = (folder / PIXELS).stat().st_size == len(rows) * int(height) * int(width) * 3
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return store if whole and manifest.get("version") == VERSION else None


def checksum(manifest: Mapping[str, object]) -> str:
    """Of everything that a manifest says; a single wrong digit would give an image the shape of another."""
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16).hexdigest()


def _shapes(found: object, count: int) -> NDArray[np.int64] | None:
    """Raises ValueError for anything but nothing, or one height and width an image."""
    if not found:
        return None
    shapes = np.array(found)
    if shapes.dtype != np.int64 or shapes.shape != (count, 2) or (shapes < 1).any():
        raise ValueError("not the shapes of images")
    return shapes


def stamp_of(path: Path) -> tuple[int, int] | None:
    """(bytes, modification time in ns) of a file; None when it is gone."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns
