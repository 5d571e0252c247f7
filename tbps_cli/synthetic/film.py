"""Writes frames as an MP4 whose bytes depend on the frames alone.

The codec is MPEG-4 part 2: FFmpeg's own encoder, which every build has and no licence or patent burdens. One thread,
fixed quantiser, exact arithmetic and no name of an encoder in the file; colours are turned into luma and chroma here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

_QUALITY = 5
"""Quantiser, 1 (best) to 31."""

_OPTIONS = {"flags": "+bitexact", "qmin": str(_QUALITY), "qmax": str(_QUALITY), "idct": "simple", "dct": "int"}

_LUMA = (
    *(0.257, 0.504, 0.098, 16),
    *(-0.148, -0.291, 0.439, 128),
    *(0.439, -0.368, -0.071, 128),
)
"""RGB to Y, Cb, Cr of BT.601, in the range of video."""


class Film(Protocol):
    """Takes frames one after the other."""

    def __call__(self, image: Image.Image) -> None:
        """Append a frame."""


@contextmanager
def filming(path: Path, size: tuple[int, int], rate: int) -> Iterator[Film]:
    """Open `path` for frames of `size`, `rate` a second."""
    import av

    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=rate, options=_OPTIONS)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 2 * rate
        stream.codec_context.thread_count = 1
        count = 0

        def add(image: Image.Image) -> None:
            nonlocal count
            frame = av.VideoFrame.from_ndarray(_planes(image), format="yuv420p")
            frame.pts, frame.time_base = count, Fraction(1, rate)
            container.mux(stream.encode(frame))
            count += 1

        yield add
        container.mux(stream.encode())


def _planes(image: Image.Image) -> np.ndarray:
    """Luma, then both chroma planes at half the size, as one array of one and a half times the height."""
    luma, *chroma = image.convert("RGB", _LUMA).split()
    halves = [np.asarray(plane.reduce(2)).reshape(-1, image.width) for plane in chroma]
    return np.concatenate([np.asarray(luma), *halves])
