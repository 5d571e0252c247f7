"""Decodes every image of a data set once, into a store that `loading/image_store.py` reads.

The store is written under a temporary name and put in place only when it is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tbps_cli import files
from tbps_cli.augment.transform import Resample, resized
from tbps_cli.data.images import UnreadableImage, read_image
from tbps_cli.errors import DataError
from tbps_cli.loading.image_store import MANIFEST, PIXELS, VERSION, Store, checksum, read_store, stamp_of, store_folder
from tbps_cli.machine import available_cpus

Progress = Callable[[int, int], None]
RESAMPLE: Resample = "bilinear"
"""What every published training resizes with."""
Found = TypeVar("Found")
THREADS = min(16, 2 * available_cpus())


def build_store(
    root: Path,
    paths: Sequence[Path],
    size: tuple[int, int],
    *,
    progress: Progress | None = None,
) -> tuple[Store, list[UnreadableImage]]:
    """Decode all images into a store, put in place only when whole.

    Returns it with the images that could not be read, which it leaves out. Raises DataError when the
    disk is too small.
    """
    folder = store_folder(root, size, RESAMPLE)
    paths = list(dict.fromkeys(paths))
    bytes_each = size[0] * size[1] * 3
    _check_space(folder.parent, len(paths) * bytes_each)
    with files.new_folder(folder, folder, DataError, replace=True) as temporary:
        written, failed = _write_pixels(temporary / PIXELS, root, paths, size, progress)
        manifest: dict[str, Any] = {"version": VERSION, "size": list(size), "resample": RESAMPLE, **written}
        manifest["checksum"] = checksum(manifest)
        (temporary / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    store = read_store(folder, root)
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
    progress: Progress | None,
) -> tuple[dict[str, list[Any]], list[UnreadableImage]]:
    """Writes the bytes; returns what the manifest says of each image, and the unreadable ones."""
    written: dict[str, list[Any]] = {"pictures": [], "shapes": []}
    failed: list[UnreadableImage] = []

    def decode(path: Path) -> _Decoded | UnreadableImage:
        stamp = stamp_of(path)  # before the pixels: a file that changes meanwhile makes its row stale
        if stamp is None:
            return UnreadableImage(path, "it is gone")
        try:
            image = read_image(path, allow_truncated=True)
        except UnreadableImage as error:
            return error
        return _Decoded(path, stamp, (image.height, image.width), resized(image, size, RESAMPLE).tobytes())

    with target.open("wb") as out, ThreadPoolExecutor(THREADS) as pool:
        for done, result in enumerate(in_turn(pool, decode, paths), start=1):
            if isinstance(result, UnreadableImage):
                failed.append(result)
            else:
                out.write(result.pixels)
                written["pictures"].append((result.path.relative_to(root).as_posix(), *result.stamp))
                written["shapes"].append(result.shape)
            if progress:
                progress(done, len(paths))
    return written, failed


def in_turn(pool: ThreadPoolExecutor, decode: Callable[[Path], Found], paths: Sequence[Path]) -> Iterator[Found]:
    """`map` in bounded pieces, so that decoded images do not pile up in memory."""
    for start in range(0, len(paths), 512):
        yield from pool.map(decode, paths[start : start + 512])


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free * 0.98:
        raise DataError(
            f"the store needs {needed / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB free.",
            "Free some space, or decode to a smaller size.",
        )
