"""JPEG files decoded by simplejpeg where it is installed: the same pixels as Pillow's, in half the time.

Both use libjpeg-turbo, and a test compares them. Only plain colour files are taken: those that are turned by EXIF,
grey, CMYK, damaged or too large are left to Pillow, whose messages stay the only ones.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_START = b"\xff\xd8\xff"
_EXIF = b"Exif\0\0"
_HEAD = 1 << 16
"""Bytes in which a file's EXIF data would begin."""
_MOST = 1 << 26
"""Bytes; larger files are rare and are read by Pillow piece by piece."""


def decoded(source: Path | str | bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """RGB as uint8 [H, W, 3]; None for what is not a plain JPEG, or where simplejpeg is not installed."""
    library = _library()
    if library is None:
        return None
    content = source if isinstance(source, bytes) else _read(source)
    if not content.startswith(_START) or len(content) > _MOST or _EXIF in content[:_HEAD]:
        return None
    try:
        height, width, colours, _ = library.decode_jpeg_header(content)
        if colours != "YCbCr" or width * height > max_pixels:
            return None
        pixels: NDArray[np.uint8] = library.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, strict=True)
        return pixels
    except (ValueError, RuntimeError, MemoryError):
        return None


@lru_cache(maxsize=1)
def _library() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _read(path: Path | str) -> bytes:
    """The bytes of a JPEG by its name; none where they cannot be read, which Pillow then explains."""
    if not str(path).lower().endswith((".jpg", ".jpeg", ".jfif")):
        return b""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - called for every image
            return file.read(_MOST + 1) if os.fstat(file.fileno()).st_size > _MOST else file.readall()
    except (OSError, ValueError):
        return b""
