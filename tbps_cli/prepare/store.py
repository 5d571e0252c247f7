"""Pictures decoded once: every picture of a data set at one size, as bytes that training maps into memory.

Decoding and resizing are most of the work of reading a batch. The store holds exactly what
`EvalTransform.pixels` gives, so training from it is bit-identical to training from the files. It lies
beside the data set's folder and is used only while path, size and modification time of every picture that
is asked for are what they were; anything else is a log line and the slow way.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_cli.augment.exact import Resample, resized
from tbps_cli.data.images import MAX_PIXELS, UnreadableImage, read_image
from tbps_cli.data.layouts.records import PICTURE_FOLDERS
from tbps_cli.errors import DataError

log = logging.getLogger("tbps")
Progress = Callable[[int, int], None]
VERSION = 1
PIXELS, MANIFEST = "pixels.u8", "manifest.json"
THREADS = min(16, 2 * (os.cpu_count() or 1))


def store_folder(root: Path, size: tuple[int, int], resample: Resample) -> Path:
    """Where the store of the pictures below `root` lies: beside the data set's folder."""
    home = root.parent if root.name in PICTURE_FOLDERS else root
    return home.with_name(f"{home.name}.{size[0]}x{size[1]}-{resample}.store")


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
    """[rows, 2] height and width of each picture before it was resized; None in stores of older versions."""

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

    def picture(self, path: Path) -> Image.Image:
        """One picture at the store's size, as it was resized from its file."""
        row = self.rows[self._key(path)][0]
        return Image.fromarray(np.array(self.pixels[row]))

    def places(self, paths: Sequence[Path]) -> NDArray[np.int64]:
        """The row of each picture."""
        return np.array([self.rows[self._key(path)][0] for path in paths], dtype=np.int64)

    def shapes_of(self, paths: Sequence[Path]) -> NDArray[np.int64] | None:
        """[B, 2] height and width of each picture before it was resized, where the store knows them."""
        return None if self.shapes is None else self.shapes[self.places(paths)]

    def stale(self, paths: Sequence[Path]) -> list[Path]:
        """Those pictures that the store lacks, or whose file has changed since."""
        return [path for path in paths if self.rows.get(self._key(path), (0, 0, 0))[1:] != _stamp(path)]

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def open_store(root: Path, size: tuple[int, int], resample: Resample, paths: Sequence[Path]) -> Store | None:
    """The store that holds all of these pictures unchanged, or None; why not is logged."""
    folder = store_folder(root, size, resample)
    if not (folder / MANIFEST).is_file():
        return None
    store = _read(folder, root)
    stale = list(paths) if store is None else store.stale(paths)
    if store is None or stale:
        log.warning(
            "store: %s does not fit (%s pictures are new or changed): decoding as we go. "
            "Make it again: tbps prepare-data NAME --decode %dx%d",
            folder,
            f"{len(stale):,}",
            *size,
        )
        return None
    return store


def _read(folder: Path, root: Path) -> Store | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        height, width = manifest["size"]
        rows = {path: (row, int(size), int(time)) for row, (path, size, time) in enumerate(manifest["pictures"])}
        shapes = _shapes(manifest.get("shapes"), len(rows))
        store = Store(folder, root, (int(height), int(width)), manifest["resample"], rows, shapes)
        whole = (folder / PIXELS).stat().st_size == len(rows) * int(height) * int(width) * 3
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return store if whole and manifest.get("version") == VERSION else None


def _shapes(found: object, count: int) -> NDArray[np.int64] | None:
    """Raises ValueError for anything but nothing, or one height and width a picture."""
    if not found:
        return None
    shapes = np.array(found)
    if shapes.dtype != np.int64 or shapes.shape != (count, 2) or (shapes < 1).any():
        raise ValueError("not the shapes of pictures")
    return shapes


def build_store(
    root: Path,
    paths: Sequence[Path],
    size: tuple[int, int],
    resample: Resample = "bilinear",
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> tuple[Store, list[UnreadableImage]]:
    """Decode all pictures into a store, put in place only when whole.

    Returns it with the pictures that could not be read, which it leaves out. Raises DataError when the
    disk is too small.
    """
    folder = store_folder(root, size, resample)
    paths = list(dict.fromkeys(paths))
    bytes_each = size[0] * size[1] * 3
    _check_space(folder.parent, len(paths) * bytes_each)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        written, failed = _write_pixels(temporary / PIXELS, root, paths, size, resample, max_pixels, progress)
        manifest = {"version": VERSION, "size": list(size), "resample": resample, **written}
        (temporary / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    store = _read(folder, root)
    assert store is not None
    return store, failed


class _Decoded(NamedTuple):
    path: Path
    stamp: tuple[int, int]
    shape: tuple[int, int]
    pixels: bytes


def _write_pixels(
    target: Path,
    root: Path,
    paths: list[Path],
    size: tuple[int, int],
    resample: Resample,
    max_pixels: int,
    progress: Progress | None,
) -> tuple[dict[str, list[Any]], list[UnreadableImage]]:
    """Writes the bytes; returns what the manifest says of each picture, and the unreadable ones."""
    written: dict[str, list[Any]] = {"pictures": [], "shapes": []}
    failed: list[UnreadableImage] = []

    def decode(path: Path) -> _Decoded | UnreadableImage:
        stamp = _stamp(path)  # before the pixels: a file that changes meanwhile makes its row stale
        if stamp is None:
            return UnreadableImage(path, "it is gone")
        try:
            image = read_image(path, allow_truncated=True, max_pixels=max_pixels)
        except UnreadableImage as error:
            return error
        return _Decoded(path, stamp, (image.height, image.width), resized(image, size, resample).tobytes())

    with target.open("wb") as out, ThreadPoolExecutor(THREADS) as pool:
        for done, result in enumerate(_in_turn(pool, decode, paths), start=1):
            if isinstance(result, UnreadableImage):
                failed.append(result)
            else:
                out.write(result.pixels)
                written["pictures"].append((result.path.relative_to(root).as_posix(), *result.stamp))
                written["shapes"].append(result.shape)
            if progress:
                progress(done, len(paths))
        out.flush()
        os.fsync(out.fileno())
    return written, failed


def _in_turn(
    pool: ThreadPoolExecutor,
    decode: Callable[[Path], _Decoded | UnreadableImage],
    paths: list[Path],
) -> Iterator[_Decoded | UnreadableImage]:
    """`map` in bounded pieces, so that decoded pictures do not pile up in memory."""
    for start in range(0, len(paths), 512):
        yield from pool.map(decode, paths[start : start + 512])


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free * 0.98:
        raise DataError(
            f"the store needs {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free.",
            "Free some space, or decode to a smaller size.",
        )
