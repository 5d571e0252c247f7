"""Small videos in which every frame can be told by its colours, and a detector that finds coloured blocks in them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tbps_cli.footage.boxes import Detection

WIDTH, HEIGHT = 128, 96


def number_of(image: Image.Image) -> int:
    """The number that `numbered` drew: eight blocks, black or white, along the upper edge."""
    row = np.asarray(image.convert("L"))[8]
    step = image.width // 8
    return sum(1 << bit for bit in range(8) if row[bit * step + step // 2] > 127)


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A frame that says its number, with a red upper left and a blue lower right corner below it."""
    pixels = np.full((height, width, 3), 90, np.uint8)
    step = width // 8
    for bit in range(8):
        pixels[:16, bit * step : (bit + 1) * step] = 255 if number >> bit & 1 else 0
    pixels[24:48, : width // 4] = (220, 20, 20)
    pixels[height - 24 :, -width // 4 :] = (20, 20, 220)
    return Image.fromarray(pixels)


def write_video(
    path: Path,
    frames: Sequence[Image.Image],
    *,
    rate: int = 10,
    codec: str = "libx264",
    keys: int = 10,
    times: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    change: Callable[[av.VideoStream], None] | None = None,
    format: str | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode frames. keys: frames from one key frame to the next. times: seconds of each frame instead of a rate."""
    with av.open(str(path), "w", format=format, container_options=container_options) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = keys
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if change:
            change(stream)
        for place, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image)
            if times is not None:
                frame.pts, frame.time_base = round(times[place] * 1000), Fraction(1, 1000)
            else:
                frame.pts, frame.time_base = place, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path, degrees: int) -> None:
    """Say in an MP4 file that it is to be shown turned by this much clockwise."""
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = [cosine, sine, 0, -sine, cosine, 0, 0, 0, 0x4000]
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # version 0: 40 bytes from its flags to the matrix
    content[start : start + 36] = b"".join(struct.pack(">i", value << 16) for value in matrix)
    path.write_bytes(content)


class Blocks:
    """A detector of red blocks of at least 8 pixels; counts how often it was asked."""

    name = "blocks"

    def __init__(self, fingerprint: str = "blocks-1") -> None:
        self.fingerprint = fingerprint
        self.asked = 0

    def __call__(self, frame: Image.Image) -> list[Detection]:
        self.asked += 1
        pixels = np.asarray(frame).astype(int)
        red = (pixels[..., 0] > 150) & (pixels[..., 1] < 100) & (pixels[..., 2] < 100)
        columns = np.flatnonzero(red.any(axis=0))
        if len(columns) == 0:
            return []
        found = []
        for part in np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1):
            rows = np.flatnonzero(red[:, part].any(axis=1))
            box = int(part[0]), int(rows[0]), len(part), int(rows[-1] - rows[0] + 1)
            if min(box[2:]) >= 8:
                found.append(Detection(box, 0.9))
        return found
