"""A few seconds of video around a hit, as WebM that every browser plays."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from tbps_cli.footage.frames import frames
from tbps_cli.footage.video import UnreadableVideo

AROUND = 3.0
"""Seconds before and after."""
RATE = 10
"""Frames a second."""
WIDTH, HEIGHT = 854, 480
"""A frame fits within these."""


def clip_of(file: Path, seconds: float, around: float = AROUND, stopped: Callable[[], bool] = lambda: False) -> bytes:
    """The frames from `around` before to `around` after a moment. Raises UnreadableVideo.

    stopped: whether nobody waits for it any more; then it ends early.
    """
    import av  # tbps-lite serves images without it

    start, end = max(0.0, seconds - around), seconds + around
    target = io.BytesIO()
    first: float | None = None
    with av.open(target, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=RATE, options={"deadline": "realtime", "cpu-used": "8"})
        stream.pix_fmt, stream.bit_rate = "yuv420p", 1_500_000
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1  # those of libvpx wait for each other at full speed: ten times the work
        for frame in frames(file, every=1 / RATE, start=start):
            if frame.seconds > end or stopped():
                break
            image = frame.image
            image.thumbnail((WIDTH, HEIGHT))
            if first is None:
                first = frame.seconds
                stream.width, stream.height = image.width - image.width % 2, image.height - image.height % 2
            cropped = image.crop((0, 0, stream.width, stream.height))
            shown = av.VideoFrame.from_ndarray(np.asarray(cropped), format="rgb24")
            shown.pts, shown.time_base = round(1000 * (frame.seconds - first)), Fraction(1, 1000)
            container.mux(stream.encode(shown))
        if first is None:
            raise UnreadableVideo(file, f"it has no frame near {seconds:.1f} s", lasting=False)
        container.mux(stream.encode())
    return target.getvalue()
