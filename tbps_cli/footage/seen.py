"""What a detector found, kept in the cache, so that a frame is looked at once whatever is killed or asked again.

One folder a detector (its fingerprint), one file a video (the hash of its content), and 256 files for all images. A
line holds what one frame showed, behind a checksum. Lines are appended with a lock and one call, so several processes
may write at once; a line that a killed process left unfinished is passed over, and the next begins on one of its own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections.abc import Collection, Sequence
from contextlib import suppress

from tbps_cli import files
from tbps_cli.errors import CacheError
from tbps_cli.footage.boxes import Detection
from tbps_cli.places import cache_dir

try:
    import fcntl
except ImportError:  # Windows: two processes in one video may spoil a line, which is then made again
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("tbps")

FOLDER = "detections"
MOST_BYTES = 1 << 30
"""The files that were not written for longest go when all together are larger: some weeks at a frame a second."""


class SeenFrames:
    """What one detector found in one video, or in the images whose hashes begin alike."""

    def __init__(self, fingerprint: str, content: str, *, video: bool) -> None:
        """content: the hash of the file's bytes, in hex digits."""
        name = content if video else f"images-{content[:2]}"
        folder = cache_dir() / FOLDER / re.sub(r"[^\w.-]", "_", fingerprint)[:100]
        self.path = folder / f"{re.sub(r'[^0-9a-zA-Z-]', '_', name)}.jsonl"
        self._known: dict[str, list[Detection]] = {}
        self._read = 0
        self._writable = True

    def get(self, key: str) -> list[Detection] | None:
        """What a frame showed; None where nobody looked yet."""
        if key not in self._known:
            self._read_on()
        return self._known.get(key)

    def add(self, key: str, found: Sequence[Detection]) -> None:
        """Remember what a frame showed. A cache that cannot be written is said once, and the work goes on."""
        self._known[key] = list(found)
        if not self._writable:
            return
        text = json.dumps([key, [[*detection.box, detection.score] for detection in found]], separators=(",", ":"))
        try:
            self._append(_line(text))
        except OSError as error:
            self._writable = False
            trouble = CacheError(f"{self.path} cannot be written: {files.reason(error)}.")
            logger.warning("%s What is detected now is detected again the next time.", trouble.message)

    def _append(self, line: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if fcntl is not None:
                with suppress(OSError):  # a disk without locks
                    fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, b"\n" * torn + line)
        finally:
            os.close(handle)

    def _read_on(self) -> None:
        """Take up the lines that were added since."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except OSError:
            return
        whole = new.rpartition(b"\n")[0] + b"\n"
        if len(whole) > len(new):
            return
        self._read += len(whole)
        for line in whole.splitlines():
            entry = _entry(line)
            if entry is not None:
                self._known.setdefault(*entry)


def _line(text: str) -> bytes:
    content = text.encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _entry(line: bytes) -> tuple[str, list[Detection]] | None:
    """What a line says; None for one that is damaged."""
    stated, _, content = line.partition(b" ")
    if stated != b"%08x" % zlib.crc32(content):
        return None
    try:
        key, found = json.loads(content)
        return str(key), [Detection((int(x), int(y), int(w), int(h)), float(score)) for x, y, w, h, score in found]
    except (ValueError, TypeError):
        return None


def make_room() -> None:
    """Remove the files that were not used for longest while all together are larger than `MOST_BYTES`."""
    found = []
    for file in (cache_dir() / FOLDER).glob("*/*.jsonl"):
        with suppress(OSError):
            state = file.stat()
            found.append((state.st_mtime, state.st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= MOST_BYTES:
            return
        with suppress(OSError):
            file.unlink()
        total -= size


def drop(contents: Collection[str]) -> int:
    """Remove what any detector found in files with these hashes; how many files and lines that were."""
    gone = 0
    for path in (cache_dir() / FOLDER).glob("*/*.jsonl"):
        if not path.name.startswith("images-"):
            if path.stem in contents:
                path.unlink(missing_ok=True)
                gone += 1
            continue
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if (entry := _entry(line.rstrip(b"\n"))) is None or entry[0] not in contents]
        if len(kept) < len(lines):  # a line that another process adds meanwhile is found again
            files.write_bytes(path, b"".join(kept), CacheError)
            gone += len(lines) - len(kept)
    return gone
