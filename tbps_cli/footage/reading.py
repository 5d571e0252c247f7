"""A video file, opened safely, and its decoded frames with their times.

The file is read through a handle that we opened, and FFmpeg may open nothing else: no address, no playlist and no file
that another names. Only formats that hold their own pixels are accepted, playlists (hls, dash, concat) are not.

Times count from the first frame that the file states; where frames have no times, they count on by the frame rate. A
clock that is set back in the middle (recordings that were joined) goes on from where it was.
"""

from __future__ import annotations

import errno
import logging
import math
import stat
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from tbps_cli.amounts import amount
from tbps_cli.footage.video import UnreadableVideo

logger = logging.getLogger("tbps")

_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,asf,ogg,dhav,h264,hevc,mjpeg,"
    "mpjpeg,yuv4mpegpipe,nut,ivf,obu,av1,mxf,dv,gxf,rm,wtv,mp3,wav,flac,aac"
)
"""FFmpeg's readers that are used; the last four only so that a file of sound is called one."""
_JUMPS, _JUMPS_BY_TIME = (
    frozenset(("mov", "matroska", "avi", "mpegts", "flv")),
    frozenset(("matroska", "mpegts", "flv")),
)
"""Formats in which frames have the same times after a jump as when all are read. In MPEG program streams they have not;
in AVI frames have none where they are decoded in another order than shown. The first ones need no index for it."""
_NO_PROTOCOL = "none"
"""The list of protocols that FFmpeg may open files by: no protocol has this name."""

MAX_PIXELS = 50_000_000
"""Larger frames are refused; 8K has 33 million."""
_BUFFER = 1 << 17
_RETRIES = 8
"""Damaged places in a row that are skipped before the rest of a file is given up."""
_SET_BACK = 1.0
"""Seconds; frames that are out of order by less are left out."""
_FAILURES = (FFmpegError, OSError, ValueError)

_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
"""By degrees against the clock."""


class Timed(NamedTuple):
    """A decoded frame and when it is shown, in seconds."""

    seconds: float
    frame: VideoFrame


class OpenVideo:
    """An open video, and what was noticed while it was read."""

    def __init__(self, path: Path, handle: IO[bytes]) -> None:
        self.path = path
        self.handle = handle
        self.container, self.stream = _container(path, handle)
        self.damaged = 0
        """Places that could not be decoded."""
        self.end = 0.0
        """The latest time that was seen."""
        self._fresh = True

    @property
    def duration(self) -> float | None:
        """Seconds, as the file states them."""
        base, own, whole = self.stream.time_base, self.stream.duration, self.container.duration
        if own and own > 0 and base:
            return float(own * base)
        return whole / 1e6 if whole and whole > 0 else None

    @property
    def rate(self) -> float | None:
        """Frames a second, on the average."""
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(rate) if rate else None

    @property
    def recorded(self) -> str | None:
        """When the recording began, or was written, by the container."""
        facts = {**self.stream.metadata, **self.container.metadata}
        for key in ("com.apple.quicktime.creationdate", "creation_time", "date", "DATE_RECORDED"):
            with suppress(ValueError):
                when = datetime.fromisoformat(facts.get(key, "").strip().replace(" UTC", "+00:00"))
                if len(facts[key].strip()) > len("2026-01-05") and when.year > 1980:  # 1904 and 1970: no clock was set
                    return when.isoformat(timespec="seconds")
        return None

    @cached_property
    def keys(self) -> tuple[float, ...]:
        """Times at which decoding can begin, rising; none where it can begin at the start alone."""
        state = self.path.stat()
        return _key_times(self.path, state.st_size, state.st_mtime_ns)

    def key_before(self, seconds: float) -> float:
        """The last key frame at or before a time; 0 where none is known."""
        place = bisect_right(self.keys, seconds)
        return self.keys[place - 1] if place else 0.0

    def decoded(self, key: float | None = None) -> Iterator[Timed]:
        """Decode from the start, or from a key frame, to the end. What is damaged is skipped and counted."""
        self._go_to(key)
        step = 1 / (self.rate or 25.0)
        last, shift = -math.inf, 0.0
        for frame in self._frames():
            stated = _seconds(frame.pts if frame.pts is not None else frame.dts, self.stream)
            seconds = max(last, -step) + step if stated is None else stated + shift
            if seconds < last - _SET_BACK and key is None and not self.keys:
                shift += last + step - seconds
                seconds = last + step
            if seconds < 0 or seconds <= last:  # before the start that the file states, or damaged
                continue
            last = seconds
            self.end = max(self.end, seconds)
            yield Timed(seconds, frame)

    def _go_to(self, key: float | None) -> None:
        if key is None and not self._fresh:
            self.container.close()
            self.container, self.stream = _container(self.path, self.handle)
        if key is not None:
            assert self.stream.time_base is not None  # whoever has key frames has times
            tick = round(key / self.stream.time_base) + (self.stream.start_time or 0)
            with suppress(*_FAILURES):  # what is decoded next shows where it went
                self.container.seek(tick, stream=self.stream, backward=True)
        self._fresh = False

    def _frames(self) -> Iterator[VideoFrame]:
        failed = 0
        while failed < _RETRIES:
            try:
                for packet in self.container.demux(self.stream):
                    try:
                        found = packet.decode()
                    except _FAILURES:
                        self.damaged += 1
                        continue
                    failed = 0
                    yield from found
                return
            except _FAILURES:
                failed += 1
                self.damaged += 1

    def shown(self, frame: VideoFrame) -> Image.Image:
        """A decoded frame as a viewer shows it: upright, with square pixels, in RGB with 8 bits."""
        aspect = float(self.stream.sample_aspect_ratio or 1)
        stretched = 0.1 < aspect < 10 and abs(aspect - 1) > 0.01
        width = max(1, round(frame.width * aspect)) if stretched else frame.width
        image = Image.fromarray(frame.to_ndarray(format="rgb24", width=width, height=frame.height))
        turn = _TURNS.get(frame.rotation % 360)
        return image if turn is None else image.transpose(turn)

    def tell(self, slack: float = 1.0) -> None:
        """Log one line where the file turned out to be damaged or cut off. slack: seconds that may be missing."""
        stated = self.duration
        if not self.stream.duration:  # then it is that of the longest stream, which may be sound
            slack += 10
        troubles = []
        if stated is not None and self.end + slack < stated:
            troubles.append(f"it ends at {self.end:.1f} s of {stated:.1f} s")
        if self.damaged:
            troubles.append(f"{amount(self.damaged, 'damaged place was', 'damaged places were')} skipped")
        if troubles:
            logger.warning("%s: %s; what it holds is used.", self.path, ", and ".join(troubles))


@contextmanager
def opened(path: Path) -> Iterator[OpenVideo]:
    """Open a video for reading. Raises UnreadableVideo."""
    with _handle(path) as handle:
        source = OpenVideo(path, handle)
        try:
            yield source
        finally:
            source.container.close()


def _handle(path: Path) -> IO[bytes]:
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            raise UnreadableVideo(path, "it is a folder", lasting=False)
        if not stat.S_ISREG(state.st_mode):  # a pipe or a device may be read for ever
            raise UnreadableVideo(path, "it is no file but a device or a pipe", lasting=False)
        if state.st_size == 0:
            raise UnreadableVideo(path, "the file is empty")
        return path.open("rb")
    except FileNotFoundError:
        raise UnreadableVideo(path, "it does not exist", lasting=False) from None
    except (OSError, ValueError) as error:
        raise UnreadableVideo(path, _reason(error), lasting=False) from None


def _container(path: Path, handle: IO[bytes]) -> tuple[InputContainer, VideoStream]:
    """FFmpeg's view of an open file, and its stream of images. Raises UnreadableVideo."""
    handle.seek(0)
    try:
        container = av.open(
            handle,
            mode="r",
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": _NO_PROTOCOL},
            metadata_errors="replace",
            buffer_size=_BUFFER,
        )
    except Exception as error:  # whatever escapes from the library on a damaged file is that file's own reason
        raise UnreadableVideo(path, _why(path, error)) from None
    try:
        return container, _stream(path, container)
    except UnreadableVideo:
        container.close()
        raise


def _stream(path: Path, container: InputContainer) -> VideoStream:
    """The first stream of moving images; the cover of a song is none."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        sound = bool(container.streams.audio)
        raise UnreadableVideo(path, "it holds no images, only sound" if sound else "it has no video stream")
    stream = streams[0]
    if stream.codec_context is None:
        raise UnreadableVideo(path, "nothing here decodes the format of its images")
    if stream.width * stream.height > MAX_PIXELS:
        size = f"{stream.width:,} x {stream.height:,}"
        raise UnreadableVideo(path, f"its frames have {size} pixels, more than {MAX_PIXELS:,} together")
    stream.thread_type = "AUTO"
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # a stream may change its size in the middle
    return stream


def _why(path: Path, error: Exception) -> str:
    """Why FFmpeg could not open a file, as far as its first bytes tell."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return _reason(error)
    if head[4:8] == b"ftyp" and isinstance(error, InvalidDataError):
        return "it is cut off before the index at its end, or damaged"
    if head.lstrip().startswith((b"#EXTM3U", b"ffconcat")):
        return "it is a list of other files, and only files that hold their own images are opened"
    if isinstance(error, InvalidDataError) or getattr(error, "errno", 0) == errno.EINVAL:
        return "no known video format"
    return _reason(error)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().rstrip(".").splitlines()[0]


def _seconds(tick: int | None, stream: VideoStream) -> float | None:
    """A time in the units of a stream, counted from its start, in seconds."""
    if tick is None or stream.time_base is None:
        return None
    return float((tick - (stream.start_time or 0)) * stream.time_base)


@lru_cache(maxsize=16)
def _key_times(path: Path, size: int, changed: int) -> tuple[float, ...]:
    """Times at which decoding can begin, from the file's index, or from its packets where it has none.

    size, changed: what tells one state of the file from the next. Empty where times are missing or go back.
    """
    with _handle(path) as handle:
        container, stream = _container(path, handle)
        try:
            kind = container.format.name
            if not _JUMPS & set(kind.split(",")) or (kind == "avi" and stream.codec_context.has_b_frames):
                return ()
            if "matroska" in kind:
                container.seek(0)  # the index stands at the end, and is read at the first jump
            ticks = [entry.timestamp for entry in stream.index_entries if entry.is_keyframe]
            if len(ticks) < 2 and _JUMPS_BY_TIME & set(kind.split(",")):
                ticks = _key_packets(container, stream)
            times = [seconds for tick in ticks if (seconds := _seconds(tick, stream)) is not None]
        except _FAILURES:
            return ()
        finally:
            container.close()
    if not times or not all(a < b for a, b in pairwise(times)):
        return ()
    # Indexes may have the times of decoding, which are earlier by a few frames; the first key frame is shown at 0.
    shift = max(0.0, -times[0])
    return tuple(time + shift for time in times)


def _key_packets(container: InputContainer, stream: VideoStream) -> list[int]:
    """The times of all packets that hold key frames; none where a packet lacks its time or the clock is set back."""
    found: list[int] = []
    last = -math.inf
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        if packet.pts is None or packet.dts is None or packet.dts < last:
            return []
        last = packet.dts
        if packet.is_keyframe:
            found.append(packet.pts)
    return found
