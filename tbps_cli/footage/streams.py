"""A camera's stream, recorded in pieces of some seconds, so that it is looked at like any other video.

An address is opened only when a person named it as a source, and only through the protocols of its kind: `rtsp://` and
`http://` cannot lead to a file, to a playlist or, but for redirections of a web server, to another address. What comes
is copied, not encoded again, into Matroska files that begin with a key frame; each gets its name when it is whole, so
a piece is never seen half written. Certificates are not checked, since cameras sign their own. Names of user and
password in an address are neither shown nor stored.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tbps_cli import files, interrupts
from tbps_cli.errors import UsageError
from tbps_cli.footage.video import UnreadableVideo

try:
    import fcntl
except ImportError:  # Windows: two processes may record one stream
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tbps")
PIECE = 10.0
"""Seconds of a piece; it goes on to the next key frame."""
WAITS = 1.0, 60.0
"""Seconds until a lost stream is opened again: twice as long after each failure, up to the second."""
TIMEOUT = 15.0
"""Seconds in which a stream must open, and between two packets."""
_HALF = ".part"

_VIDEO = "mpegts,flv,live_flv,mov,mp4,matroska,webm,mpjpeg,mjpeg,h264,hevc,mpeg,nut,asf,ogg"
_ALLOWED = {
    "rtsp": ("rtsp,rtp,sdp", "rtsp,rtp,udp,tcp"),
    "rtsps": ("rtsp,rtp,sdp", "rtsps,rtsp,rtp,udp,tcp,tls"),
    "http": (_VIDEO, "http,tcp"),
    "https": (_VIDEO, "https,tcp,tls"),
}
"""By the kind of address: FFmpeg's readers and protocols that may be used."""
_NAME = re.compile(r"(?P<camera>.+)_(?P<time>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3})(?:-\d+)?")


class PieceName(NamedTuple):
    """What the name of a piece says: the stream, and when it began, on this machine's clock (ISO 8601)."""

    camera: str
    time: str


def is_stream(source: str) -> bool:
    """Whether a source is an address rather than a path."""
    return "://" in source


def check_stream(address: str) -> None:
    """Raises UsageError for an address of a kind that is not opened."""
    parts = _split(address)
    if parts.scheme.lower() not in _ALLOWED or not parts.hostname:
        raise UsageError(
            f"{shown(address)}: streams of this kind are not opened.",
            f"Known: {', '.join(f'{kind}://' for kind in _ALLOWED)}. Playlists (HLS, DASH) are not among them.",
        )


def shown(address: str) -> str:
    """An address without user, password and what stands behind a question mark."""
    parts = _split(address)
    return f"{parts.scheme}://{_host(address)}{parts.path}"


def stream_name(address: str) -> str:
    """A name for files and cameras: host and path, and a few digits that tell addresses apart."""
    parts = _split(address)
    digits = hashlib.blake2b(f"{_host(address)}{parts.path}?{parts.query}".encode("utf-8", "replace"), digest_size=3)
    readable = re.sub(r"[^\w.]+", "-", f"{parts.hostname or 'stream'}{parts.path}").strip("-.")[:60]
    return f"{readable}-{digits.hexdigest()}"


def _split(address: str) -> Any:
    try:
        return urlsplit(address)
    except ValueError:
        raise UsageError(f"{address.partition('://')[0]}://...: not an address.", "rtsp://HOST/PATH") from None


def _host(address: str) -> str:
    parts = _split(address)
    return parts.netloc.rpartition("@")[2]


def piece_of(path: Path) -> PieceName | None:
    """What the name of a recorded piece says; None for any other file."""
    found = _NAME.fullmatch(path.stem)
    if found is None:
        return None
    day, _, clock = found["time"].partition("T")
    return PieceName(found["camera"], f"{day}T{clock.replace('-', ':')}")


class StreamRecorder:
    """Records one stream into a folder, in a thread, until it is stopped."""

    def __init__(self, address: str, folder: Path, *, piece: float = PIECE) -> None:
        """Raises UsageError for an address of a kind that is not opened, TbpsError where no folder can be made."""
        check_stream(address)
        self.address, self.folder, self.piece = address, folder, piece
        self.name = stream_name(address)
        self.trouble: str | None = None
        """Why nothing comes at the moment."""
        self.ended = False
        """Whether the stream was a file with an end, which has been reached."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"record {self.name}")
        self._lock: int | None = None
        self._last = datetime.min

        with files.explained(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def start(self) -> None:
        """Begin, unless another process records into the same folder. Raises TbpsError when nothing can be written."""
        with files.explained(self.folder):
            self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("%s is recorded by another process.", shown(self.address))
                return
            except OSError:
                pass  # a disk without locks
        for half in self.folder.glob(f".*{_HALF}"):  # a killed process was writing it
            self._keep(half)
        with interrupts.held():
            self._thread.start()

    def stop(self) -> None:
        """End, and keep the piece that is being written."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=5)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove_before(self, moment: float, kept: set[str]) -> int:
        """Delete pieces that were written before a time (seconds since 1970), but for those named; how many."""
        removed = 0
        for path in self.folder.glob("*.mkv"):
            with suppress(OSError):
                if path.name not in kept and path.stat().st_mtime < moment:
                    path.unlink()
                    removed += 1
        return removed

    def _work(self) -> None:
        import av

        wait = WAITS[0]
        while not self._stop.is_set() and not self.ended:
            began = time.monotonic()
            try:
                self.ended = self._record()
                if self.ended:
                    logger.info("%s has ended.", shown(self.address))
                trouble = "it ended"
            except UnreadableVideo as error:
                trouble = error.reason
            except (av.FFmpegError, OSError, ValueError) as error:
                trouble = self._reason(error)
            if time.monotonic() - began > 10 * WAITS[0]:
                wait = WAITS[0]
            if not self._stop.is_set() and not self.ended:
                if self.trouble is None:
                    logger.warning("%s: %s; it is opened again.", shown(self.address), trouble)
                self.trouble = trouble
                self._stop.wait(wait)
                wait = min(WAITS[1], 2 * wait)

    def _reason(self, error: BaseException) -> str:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return text.replace(self.address, shown(self.address)).strip().rstrip(".").splitlines()[0].lower()

    def _record(self) -> bool:
        """Record until the stream ends or fails; whether it was one with an end."""
        with self._opened() as source:
            stream = next(iter(source.streams.video), None)
            if stream is None:
                raise UnreadableVideo(shown(self.address), "it has no video stream")
            finite = bool(source.duration and source.duration > 0)
            writing: _Piece | None = None
            try:
                for packet in source.demux(stream):
                    if self._stop.is_set():
                        break
                    if packet.dts is None or not packet.size:
                        continue
                    if packet.is_keyframe and (writing is None or writing.seconds >= self.piece):
                        if writing:
                            self._keep(writing.close())
                        writing = _Piece(self.folder / self._new_name(), stream, packet.dts)
                    if writing:
                        writing.add(packet)
                    if self.trouble is not None:
                        logger.info("%s is there again.", shown(self.address))
                        self.trouble = None
            finally:
                if writing:
                    self._keep(writing.close())
            return finite and not self._stop.is_set()

    def _opened(self) -> Any:
        """The stream, opened; one of single JPEG images with the times at which they come, since it states none."""
        import av

        readers, protocols = _ALLOWED[_split(self.address).scheme.lower()]
        options = {"format_whitelist": readers, "protocol_whitelist": protocols}
        if readers.startswith("rtsp"):
            options["rtsp_transport"] = "tcp"
        made = av.open(self.address, container_options=options, timeout=(TIMEOUT, TIMEOUT), metadata_errors="replace")
        if "jpeg" not in made.format.name:
            return made
        made.close()
        options["use_wallclock_as_timestamps"] = "1"
        return av.open(self.address, container_options=options, timeout=(TIMEOUT, TIMEOUT), metadata_errors="replace")

    def _new_name(self) -> str:
        now = max(datetime.now(), self._last + timedelta(milliseconds=1))  # so that names tell the order
        self._last = now
        return f".{self.name}_{now:%Y-%m-%dT%H-%M-%S}.{now.microsecond // 1000:03d}.mkv{_HALF}"

    def _keep(self, half: Path) -> None:
        """Give a piece its name; an empty one goes."""
        with suppress(OSError):
            if half.stat().st_size < 256:
                half.unlink()
                return
            stem, number = half.name.removeprefix(".").removesuffix(f".mkv{_HALF}"), 1
            name = f"{stem}.mkv"
            while (self.folder / name).exists():
                number += 1
                name = f"{stem}-{number}.mkv"
            half.rename(self.folder / name)


class _Piece:
    """A Matroska file that is being written."""

    def __init__(self, path: Path, stream: Any, first: int) -> None:
        import av

        self.path, self.first, self.base = path, first, stream.time_base
        self.seconds = 0.0
        self.began = time.monotonic()
        self.container = av.open(str(path), "w", format="matroska")
        self.stream = self.container.add_stream_from_template(stream)

    def add(self, packet: Any) -> None:
        packet.dts -= self.first
        if packet.pts is not None:
            packet.pts -= self.first
        self.seconds = max(float(packet.dts * self.base), time.monotonic() - self.began)
        packet.stream = self.stream
        self.container.mux(packet)

    def close(self) -> Path:
        self.container.close()
        return self.path
