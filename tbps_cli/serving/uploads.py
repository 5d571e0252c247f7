"""Images that clients send to search by: read within limits, embedded at once, and kept in memory for a while."""

from __future__ import annotations

import io
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_cli.data.images import read_image
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder

MOST_BYTES = 20 << 20
MOST_PIXELS = 50_000_000
KEPT = 200
KEPT_BYTES = 256 << 20
"""Of the pixels of all that is kept."""
SIDE = 2000
"""Longest side of what is kept, so that a box of it can be searched by later."""


@dataclass(frozen=True)
class Upload:
    """An image that somebody sent."""

    id: str
    image: Image.Image
    vector_E: NDArray[np.float32]


class Uploads:
    """The last images that were sent; the oldest go first."""

    def __init__(self, kept: int = KEPT) -> None:
        self.kept = kept
        self._known: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, model: Encoder, content: bytes) -> Upload:
        """Read and embed an image. Raises UnreadableImage for what is none, or holds too many pixels."""
        image = read_image(Path("the upload"), content=content, max_pixels=MOST_PIXELS)
        image.thumbnail((SIDE, SIDE))
        made = Upload(secrets.token_hex(8), image, model.encode_images([image])[0])
        with self._lock:
            self._known[made.id] = made
            while len(self._known) > self.kept or (len(self._known) > 1 and self._bytes() > KEPT_BYTES):
                self._known.popitem(last=False)
        return made

    def _bytes(self) -> int:
        return sum(3 * upload.image.width * upload.image.height for upload in self._known.values())

    def get(self, id: str) -> Upload:
        """Raises UsageError for one that is not there, or not any more."""
        with self._lock:
            if id not in self._known:
                raise UsageError(f"upload {id}: there is no such image any more.", "Send it again.")
            self._known.move_to_end(id)
            return self._known[id]


def jpeg_of(image: Image.Image, quality: int = 85) -> bytes:
    """An image as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()
