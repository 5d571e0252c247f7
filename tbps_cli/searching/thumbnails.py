"""Small JPEGs of what a search found, kept in the cache: whole images, boxes of frames, whole frames.

An entry is named by the content of its file, the moment and box that it shows, its size and whether heads
are blurred; so equal images share one, an image that changed gets another, and nothing lies beside the user's
files. Entries carry a checksum: a damaged one is made again. The cache holds `LIMIT` bytes at most; what was
not used for the longest time goes first. Several processes may use it at once.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tbps_cli.data.images import check_size, read_image
from tbps_cli.errors import DataError
from tbps_cli.features.rows import Box, content_hash
from tbps_cli.footage.crops import cut
from tbps_cli.places import cache_dir
from tbps_cli.searching.blur import CELLS, HEAD, without_head, without_strangers
from tbps_cli.searching.gallery import crop_of

LIMIT = 512 << 20
"""Bytes of all entries; about 100,000 thumbnails."""
QUALITY = 72
_MAGIC = b"tbps thumbnail 1"
_HEAD = struct.Struct(f"<{len(_MAGIC)}s16sII")
"""Of an entry: what it is, the checksum of the rest, width and height of the original."""


@dataclass(frozen=True)
class Excerpt:
    """What is shown of a file: all of it or a box; of a video its frame at a time, or a box of that."""

    file: Path
    box: Box | None = None
    seconds: float | None = None
    content: str = field(default="", compare=False)
    """What its file holds, where that is known: a video is not read for the sake of a thumbnail."""
    persons: tuple[Box, ...] | None = None
    """Set for a whole frame with persons in it: who may be seen there when others are blurred."""

    def pixels(self, content: bytes | None = None, *, blur: bool = False) -> Image.Image:
        """The image as RGB, blurred as asked. content: the bytes of the file, if read already.

        Raises DataError.
        """
        if content is None or self.seconds is not None:
            image = crop_of(self.file, self.seconds, self.box)
        else:
            image = cut(read_image(self.file, content=content, allow_truncated=True), self.box)
        if not blur:
            return image
        return without_head(image) if self.persons is None else without_strangers(image, self.persons)


class Thumbnail(NamedTuple):
    """A small JPEG, and the size of what it shows; no bytes for an image that cannot be read."""

    jpeg: bytes
    width: int = 0
    height: int = 0


NONE = Thumbnail(b"")


class ThumbnailCache:
    """The folder of all entries. Whatever goes wrong with it costs time only."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        self.folder = folder or cache_dir() / "thumbnails" / "images"
        self.limit = limit

    def get(self, name: str) -> Thumbnail | None:
        """A kept thumbnail; None for one that is not there or damaged."""
        path = self.folder / name
        try:
            data = path.read_bytes()
            magic, checksum, width, height = _HEAD.unpack_from(data)
        except (OSError, struct.error):
            return None
        jpeg = data[_HEAD.size :]
        if magic != _MAGIC or checksum != _checksum(width, height, jpeg):
            return None
        with suppress(OSError):
            os.utime(path)  # what is used stays
        return Thumbnail(jpeg, width, height)

    def put(self, name: str, made: Thumbnail) -> None:
        """Keep a thumbnail, whole or not at all."""
        head = _HEAD.pack(_MAGIC, _checksum(made.width, made.height, made.jpeg), made.width, made.height)
        temporary = self.folder / f".{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                temporary.write_bytes(head + made.jpeg)
                temporary.replace(self.folder / name)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError:  # full, or read-only: it is made again next time
            return

    def trim(self) -> None:
        """Delete the entries that were not used for longest, and what killed processes left, down to the limit."""
        entries = sorted((state.st_mtime, state.st_size, path) for path, state in self._entries())
        left = sum(size for _, size, _ in entries)
        goal = self.limit if left <= self.limit else self.limit * 9 // 10
        for _, size, path in entries:
            if left <= goal:
                return
            path.unlink(missing_ok=True)
            left -= size

    def forget(self, contents: set[str]) -> int:
        """Delete all thumbnails of files with these hashes; how many there were."""
        gone = [path for path, _ in self._entries() if path.name.partition("-")[0] in contents]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        with suppress(OSError), os.scandir(self.folder) as listing:
            for entry in listing:
                with suppress(OSError):  # another process may delete it
                    yield Path(entry.path), entry.stat()


def thumbnails(
    excerpts: Sequence[Excerpt],
    size: tuple[int, int],
    *,
    blur: bool = False,
    cache: ThumbnailCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Thumbnail]:
    """A thumbnail of each, at most `size` (width, height) in pixels. progress: called with (done, total)."""
    made = []
    with ThreadPoolExecutor() as pool:
        for number, one in enumerate(pool.map(lambda excerpt: thumbnail(excerpt, size, blur, cache), excerpts), 1):
            made.append(one)
            if progress:
                progress(number, len(excerpts))
    if cache is not None:
        cache.trim()
    return made


def thumbnail(excerpt: Excerpt, size: tuple[int, int], blur: bool, cache: ThumbnailCache | None) -> Thumbnail:
    """One, from the cache, or made and kept there; a video of unknown content is never kept."""
    try:
        content = None if excerpt.seconds is not None else _read(excerpt.file)
        holds = excerpt.content if content is None else content_hash(content)
        name = _name(holds, excerpt, size, blur)
        if cache is not None and holds and (kept := cache.get(name)):
            return kept
        image = excerpt.pixels(content, blur=blur)
    except (OSError, DataError):
        return NONE
    made = Thumbnail(_jpeg(image, size), image.width, image.height)
    if cache is not None and holds:
        cache.put(name, made)
    return made


def _read(file: Path) -> bytes:
    check_size(file)
    return file.read_bytes()


def _name(content: str, excerpt: Excerpt, size: tuple[int, int], blur: bool) -> str:
    """The name of an entry: the content, so that all of a file can be found, and a hash of what is shown of it."""
    shown = excerpt.box, excerpt.seconds, size, (excerpt.persons, HEAD, CELLS) if blur else None
    return f"{content}-{hashlib.blake2b(repr(shown).encode(), digest_size=12).hexdigest()}"


def _jpeg(image: Image.Image, size: tuple[int, int]) -> bytes:
    small = image.copy()
    small.thumbnail(size)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _checksum(width: int, height: int, jpeg: bytes) -> bytes:
    return hashlib.blake2b(b"%d %d " % (width, height) + jpeg, digest_size=16).digest()
