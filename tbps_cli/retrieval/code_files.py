"""8-bit codes beside a feature file, for `cascade`: how they are written, added to, checked and thrown away.

`people.h5.codes/` holds an array of bytes a group of axes (`0123abcd.0`, `0123abcd.1`, ...), the frame in which they
are coded (`0123abcd.frame`), and `head.json`, which says how many rows count and which rows these are. Writing goes:
frame, synced; arrays, synced; then the head, renamed into place. Rows that came since are written behind those that
count before the head says so. So whatever is killed, the head names bytes that are whole, and what it does not name
is overwritten or removed by the next writer. One writes at a time; whoever comes meanwhile leaves it to him. Readers
take no lock: what they mapped stays as it is when its name is gone.

**Codes only ever say where to look**: scores come from the vectors. So wrong codes can lose a hit, never make one, and
are looked for when codes are opened: the head and the frame have a checksum, arrays must be as long as the head
says, a sample of rows must have the codes that its vectors give, and the rows that were coded must be the first of
the gallery: those of the same file (its inode, time and size), or with the same paths and contents.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tbps_cli import files
from tbps_cli.errors import CacheError
from tbps_cli.features.lookup import hashes
from tbps_cli.features.parts import ROOM, codes_folder
from tbps_cli.features.rows import Rows
from tbps_cli.retrieval.cascade import GROUP, Cascade, CodeFrame
from tbps_cli.retrieval.integers import Codes, quickest
from tbps_cli.retrieval.similarity import Array

try:
    import fcntl
except ImportError:  # Windows: two that write codes at the same moment are not kept apart there
    fcntl = None  # type: ignore[assignment]

FORMAT = "tbps-codes-1"
HEAD, LOCK = "head.json", "lock"
CHECKED = 32
"""Rows whose codes are compared with their vectors when codes are opened."""
REFIT = 4
"""A gallery that has grown so many times since its axes were found gets new ones."""
ROWS_A_SECOND = 20e6
"""A processor that multiplies fewer rows of 128 bytes has no instructions for it: floats are quicker there."""


class UnusableCodes(Exception):
    """Why codes that are there cannot be used."""


@dataclass(frozen=True)
class Coded:
    """Rows whose codes are meant."""

    path: Path
    """Of their feature file."""
    fingerprint: str
    """Of what made the vectors."""
    identity: tuple[int, ...]
    """Which files they were read from (`features.snapshot.Snapshot.identity`)."""
    rows: Rows
    vector_GE: Array


@dataclass(frozen=True)
class Head:
    """What `head.json` says."""

    fingerprint: str
    identity: tuple[int, ...]
    count: int
    """Rows that have codes: the first of the gallery."""
    digest: str
    """Of their paths and contents."""
    fitted: int
    """How many rows there were when the axes were found."""
    width: int
    groups: int
    name: str
    """How the names of the arrays begin."""
    frame: str
    """Checksum of the frame."""


def open_codes(coded: Coded) -> Cascade | None:
    """The codes of a gallery, mapped; None where there are none. Raises UnusableCodes."""
    folder = codes_folder(coded.path)
    for _ in range(3):
        try:
            _, frame, groups = _checked(folder, coded)
            break
        except FileNotFoundError as error:
            if not (folder / HEAD).exists():
                return None
            gone = error  # written anew between two of these lines
        except OSError as error:
            raise UnusableCodes(f"they cannot be read: {error.strerror}") from None
    else:
        raise UnusableCodes(f"{Path(str(gone.filename)).name} is missing")
    try:
        product, speed = quickest(GROUP)
    except ArithmeticError as error:
        raise UnusableCodes(str(error)) from None
    if speed < ROWS_A_SECOND:
        raise UnusableCodes("this processor has no quick product of 8-bit integers")
    return Cascade(frame, groups, product)


def write_codes(coded: Coded, told: Callable[[int], None] | None = None) -> int:
    """Bring the codes of a gallery up to date; how many rows were coded now.

    Rows that came behind those with codes are coded in the same frame; everything is coded anew where rows have gone or
    changed, where codes are damaged, or where the gallery is `REFIT` times as large as when its axes were found.
    Nothing is done where another process is writing them. told: called with the number of rows, before they are coded.
    Raises CacheError where they cannot be written.
    """
    folder = codes_folder(coded.path)
    with files.explained(folder, CacheError, then=ROOM):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder) as alone:
            if not alone:
                return 0
            head = _usable_head(folder, coded)
            start = head.count if head else 0
            if head is None or start < len(coded.rows):
                if told is not None:
                    told(len(coded.rows) - start)
                head = _written(folder, coded, head)
            elif head.identity != coded.identity:
                _write_head(folder, coded, head)
            _tidy(folder, head.name)
            return len(coded.rows) - start


def belongs(head: Head, coded: Coded) -> bool:
    """Whether the rows that were coded are the first of a gallery."""
    if head.count > len(coded.rows):
        return False
    return head.identity == coded.identity or head.digest == digest(coded.rows, head.count)


def digest(rows: Rows, count: int) -> str:
    """A checksum of which images the first rows are."""
    found = hashlib.sha256()
    for name in ("path", "content"):
        found.update(hashes(rows.columns[name][:count]).tobytes())
    return found.hexdigest()


# Reading ------------------------------------------------------------------------------------------


def _checked(folder: Path, coded: Coded) -> tuple[Head, CodeFrame, list[Codes]]:
    """Codes that are those of a gallery. Raises UnusableCodes, OSError."""
    head = _read_head(folder)
    frame, groups = _frame(folder, head), _mapped(folder, head)
    if head.fingerprint != coded.fingerprint or head.width != coded.vector_GE.shape[1]:
        raise UnusableCodes("they were made from another model's vectors")
    if not belongs(head, coded):
        raise UnusableCodes("images have gone or changed since they were written")
    place_N = np.unique(np.linspace(0, head.count - 1, CHECKED).astype(np.int64))
    there = np.stack([group[place_N] for group in groups]).astype(np.int16)
    if np.abs(there - frame.encode(coded.vector_GE[place_N])).max() > 1:
        raise UnusableCodes("they are damaged: they are not the codes of the images' vectors")
    return head, frame, groups


def _read_head(folder: Path) -> Head:
    """Raises UnusableCodes, FileNotFoundError."""
    try:
        text = json.loads((folder / HEAD).read_text("utf-8"))
        facts = text["codes"]
        if text["format"] != FORMAT or text["checksum"] != _checksum(facts):
            raise ValueError
        head = Head(**{**facts, "identity": tuple(facts["identity"])})
        if head.count < 1 or head.groups != -(-head.width // GROUP) or Path(head.name).name != head.name:
            raise ValueError
        return head
    except (ValueError, TypeError, KeyError):
        raise UnusableCodes(f"{HEAD} is damaged, or of another version of tbps") from None


def _checksum(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _frame(folder: Path, head: Head) -> CodeFrame:
    content = (folder / f"{head.name}.frame").read_bytes()
    if hashlib.sha256(content).hexdigest() != head.frame:
        raise UnusableCodes(f"{head.name}.frame is damaged")
    values = np.frombuffer(content, np.float32)
    axes = head.groups * GROUP
    ends = np.cumsum([head.width, axes * head.width, head.groups, axes * GROUP])
    if len(values) != ends[-1]:
        raise UnusableCodes(f"{head.name}.frame is damaged")
    mean_E, axis, scale_H, covariance = np.split(values, ends[:-1])
    return CodeFrame(mean_E, axis.reshape(axes, head.width), scale_H, covariance.reshape(head.groups, GROUP, GROUP))


def _mapped(folder: Path, head: Head) -> list[Codes]:
    """Mapped copy-on-write: torch takes only arrays that may be written."""
    found: list[Codes] = []
    for group in range(head.groups):
        path = folder / f"{head.name}.{group}"
        if path.stat().st_size < head.count * GROUP:
            raise UnusableCodes(f"{path.name} is cut off")
        found.append(np.memmap(path, np.int8, "c", shape=(head.count, GROUP)))
    return found


# Writing ------------------------------------------------------------------------------------------


def _usable_head(folder: Path, coded: Coded) -> Head | None:
    """The head whose codes can be kept."""
    try:
        head, _, _ = _checked(folder, coded)
    except (UnusableCodes, OSError):
        return None
    return head if len(coded.rows) < REFIT * head.fitted else None


def _written(folder: Path, coded: Coded, head: Head | None) -> Head:
    """Code the rows that have no codes yet, or all of them."""
    count, width = coded.vector_GE.shape
    try:
        frame = _frame(folder, head) if head else CodeFrame.fit(coded.vector_GE)
        if head is None:
            content = b"".join(
                part.astype(np.float32).tobytes()
                for part in (frame.mean_E, frame.axis_AE, frame.scale_H, frame.covariance_HDD)
            )
            name, checksum = uuid.uuid4().hex[:8], hashlib.sha256(content).hexdigest()
            (folder / f"{name}.frame").write_bytes(content)
            files.sync(folder / f"{name}.frame")
            head = Head(coded.fingerprint, coded.identity, 0, "", count, width, frame.groups, name, checksum)
        _append(folder, head, frame.encoded(coded.vector_GE, head.count))
    except ValueError as error:
        raise CacheError(f"{coded.path}: no codes were written: {error}.", "Rebuild the index.") from None
    return _write_head(folder, coded, head)


def _append(folder: Path, head: Head, blocks: Iterator[Codes]) -> None:
    """Write codes behind those that count."""
    handles = [(folder / f"{head.name}.{group}").open("ab") for group in range(head.groups)]
    try:
        for handle in handles:
            handle.truncate(head.count * GROUP)
        for block in blocks:
            for handle, codes in zip(handles, block, strict=True):
                handle.write(codes)
        for handle in handles:
            handle.flush()
            os.fsync(handle.fileno())
    finally:
        for handle in handles:
            handle.close()


def _write_head(folder: Path, coded: Coded, head: Head) -> Head:
    count = len(coded.rows)
    kept = {"identity": coded.identity, "count": count, "digest": digest(coded.rows, count)}
    facts: dict[str, Any] = {**asdict(head), **kept}
    files.write_text(
        folder / HEAD, json.dumps({"format": FORMAT, "checksum": _checksum(facts), "codes": facts}), CacheError
    )
    return Head(**facts)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else writes codes here, and nobody will as long as this goes on."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        free = True
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
            except OSError:  # a disk without locks
                pass
        yield free
    finally:
        os.close(handle)


def _tidy(folder: Path, name: str) -> None:
    """Remove what an earlier head named, and what killed writers left."""
    for path in folder.iterdir():
        if path.name not in (HEAD, LOCK) and not path.name.startswith(f"{name}."):
            with suppress(OSError):
                path.unlink()
