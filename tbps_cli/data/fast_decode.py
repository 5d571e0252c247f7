"""JPEG and PNG files decoded by simplejpeg and pyspng where they are installed: Pillow's pixels, in half the time.

simplejpeg uses libjpeg-turbo, as Pillow does; pyspng uses libspng. Tests compare them. Only plain colour files are
taken: those that are turned by EXIF, grey, CMYK, transparent, of 16 bits, damaged or too large are left to Pillow,
whose messages stay the only ones.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_ENDINGS = ".jpg", ".jpeg", ".jfif", ".png"
_EXIF = b"Exif\0\0"
_HEAD = 1 << 16
"""Bytes in which a JPEG's EXIF data would begin."""
_RGB = bytes((8, 2, 0, 0, 0))
"""What a PNG's header ends in: 8 bits, colours, deflated, filtered, not interlaced."""
_PLAIN = frozenset({b"IHDR", b"IDAT", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs", b"bKGD", b"tIME", b"tEXt"})
"""Parts of a PNG that change nothing, in Pillow either."""
_SAYS_MORE = b"exif", b"Raw profile", b"XML:"
"""How texts of a PNG begin in which Pillow looks for how it is turned."""
_MOST = 1 << 26
"""Bytes; larger files are rare and are read by Pillow piece by piece."""


def decoded(source: Path | str | bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """RGB as uint8 [H, W, 3]; None for what is not a plain JPEG or PNG, or where its library is not installed."""
    content = source if isinstance(source, bytes) else _read(source)
    if len(content) > _MOST:
        return None
    if content.startswith(_JPEG):
        return _jpeg(content, max_pixels)
    return _png(content, max_pixels) if content.startswith(_PNG) else None


def _jpeg(content: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    library = _library("simplejpeg")
    if library is None or _EXIF in content[:_HEAD]:
        return None
    try:
        height, width, colours, _ = library.decode_jpeg_header(content)
        if colours != "YCbCr" or width * height > max_pixels:
            return None
        pixels: NDArray[np.uint8] = library.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, strict=True)
        return pixels
    except (ValueError, RuntimeError, MemoryError):
        return None


def _png(content: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    library = _library("pyspng")
    if library is None or content[24:29] != _RGB or not _is_plain(content):
        return None
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if width * height > max_pixels:
        return None
    try:
        pixels: NDArray[np.uint8] = library.load(content)
    except (ValueError, RuntimeError, MemoryError):
        return None
    return pixels if pixels.shape == (height, width, 3) and pixels.dtype == np.uint8 else None


def _is_plain(content: bytes) -> bool:
    """Whether a PNG is whole, and nothing in it says more of its pixels than the pixels do."""
    place = len(_PNG)
    while (kind := content[place + 4 : place + 8]) in _PLAIN:
        if kind == b"tEXt" and content.startswith(_SAYS_MORE, place + 8):
            return False
        place += 12 + int.from_bytes(content[place : place + 4], "big")  # its length, kind and check beside it
    return kind == b"IEND"


def _read(path: Path | str) -> bytes:
    """The bytes of a JPEG or PNG by its name; none where they cannot be read, which Pillow then explains."""
    if not str(path).lower().endswith(_ENDINGS):
        return b""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - called for every image
            return file.read(_MOST + 1) if os.fstat(file.fileno()).st_size > _MOST else file.readall()
    except (OSError, ValueError):
        return b""


@lru_cache(maxsize=2)
def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None
