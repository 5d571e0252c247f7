"""8-bit codes beside a feature file, for `cascade`: how they are written, added to, checked and thrown away.

`people.h5.codes/` holds an array of bytes a group of axes (`0123abcd.0`, `0123abcd.1`, ...), 64 bits a row that say
which image it was coded of (`0123abcd.rows`), the frame in which they are coded (`0123abcd.frame`), and `head.json`,
which says how many rows count. Writing goes: frame, synced; arrays, synced; then the head, renamed into place. Rows
that came since are written behind those that count before the head says so. So whatever is killed, the head names
bytes that are whole, and what it does not name is overwritten or removed by the next writer. One writes at a time;
whoever comes meanwhile leaves it to him. Readers take no lock: what they mapped stays as it is when its name is gone.

Rows that come are coded in the frame that is there as long as they are like those that it was found for: in the frame
of others their best may be dropped. Where they are not, everything is coded anew, or, while they are few, they have no
codes, and whoever searches reads their vectors.

Where an image has changed, or another has taken the place of one that has gone, the array keeps what it has: the new
codes lie in a small file (`0123abcd.changed-4567cdef`), and whoever opens the codes lays them over what is mapped, in
memory of his own. When the rows themselves are merged, what the arrays have of images that are not there any more goes.

**Codes only ever say where to look**: scores come from the vectors. So wrong codes can lose a hit, never make one, and
are looked for when codes are opened: the head and the frame have a checksum, arrays must be as long as the head
says, a sample of rows must have the codes that its vectors give, and the rows that were coded must be the first of
the gallery: those of the same file (its inode, time and size), or with the same paths and contents, but for a few that
are coded again in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.errors import CacheError
from tbps_cli.features.lookup import hashes
from tbps_cli.features.parts import ROOM, codes_folder, remove_codes
from tbps_cli.features.rows import Rows
from tbps_cli.retrieval.cascade import GROUP, Cascade, CodeFrame
from tbps_cli.retrieval.integers import Codes, quickest
from tbps_cli.retrieval.similarity import Array

try:
    import fcntl
except ImportError:  # Windows: two that write codes at the same moment are not kept apart there
    fcntl = None  # type: ignore[assignment]

FORMAT = "tbps-codes-2"
HEAD, LOCK = "head.json", "lock"
CHECKED = 32
"""Rows whose codes are compared with their vectors when codes are opened."""
MANY = 128
"""Where more than one row in so many has changed or gone, all are coded anew."""
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

    @cached_property
    def sign_N(self) -> NDArray[np.int64]:
        """64 bits of each row that say which image it is."""
        columns = self.rows.columns
        with np.errstate(over="ignore"):
            mixed: NDArray[np.int64] = hashes(columns["path"]) * np.int64(1_000_003) + hashes(columns["content"])
        return mixed


@dataclass(frozen=True)
class Head:
    """What `head.json` says."""

    fingerprint: str
    identity: tuple[int, ...]
    count: int
    """Rows that have codes: the first of the gallery."""
    rows: int
    """Rows of the gallery: fewer than have codes where some have gone."""
    changed: int
    """Rows whose codes lie in a file of their own."""
    patch: str
    """How the name of that file ends; empty where there is none."""
    patched: str
    """Checksum of that file."""
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
            found = _checked(folder, coded)
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
    return Cascade(found.frame, found.groups, product)


def write_codes(coded: Coded, told: Callable[[int], None] | None = None) -> int:
    """Bring the codes of a gallery up to date; how many rows were coded now.

    Rows that came behind those with codes are coded in the same frame, as are a few that have changed. Everything is
    coded anew where many have, where codes are damaged, where many that came are of another kind, or where the gallery
    is `REFIT` times as large as when its axes were found. A few of another kind are left without codes. Nothing is done
    where another process is writing them.

    told: called with the number of rows, before they are coded. Raises CacheError where they cannot be written.
    """
    folder, told = codes_folder(coded.path), told or (lambda count: None)
    with files.explained(folder, CacheError, then=ROOM):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder) as alone:
            if not alone:
                return 0
            there, count = _usable(folder, coded), len(coded.rows)
            try:
                if there is None:
                    told(count)
                    head = _append(folder, coded, _begun(folder, coded), count)
                elif there.head.identity == coded.identity and there.head.count >= count:
                    head, count = there.head, 0
                else:
                    stop = count if _fit(coded, there) else there.head.count
                    count = max(0, stop - there.head.count) + len(there.differs_K)
                    if count:
                        told(count)
                    merged = there.head.identity[:4] != coded.identity[:4]
                    if merged and there.stale:
                        there = _cleaned(folder, coded, there)
                    head = _append(folder, coded, there, stop)
            except ValueError as error:
                raise CacheError(f"{coded.path}: no codes were written: {error}.", "Rebuild the index.") from None
            _tidy(folder, head)
            return count


def remove_stale_codes(path: Path) -> None:
    """Throw the codes of a feature file away if they have some of images that changed or are not there any more."""
    folder = codes_folder(path)
    try:
        head = _read_head(folder)
    except FileNotFoundError:
        return
    except (UnusableCodes, OSError):
        head = None
    if head is None or head.changed or head.count > head.rows:
        remove_codes(path)


# Reading ------------------------------------------------------------------------------------------


@dataclass
class _Opened:
    """Codes that are those of a gallery."""

    head: Head
    frame: CodeFrame
    groups: list[Codes]
    """Of the rows that have codes, with those that have changed."""
    sign_N: NDArray[np.int64]
    """What the arrays say of which images they are, without those that have changed."""
    differs_K: NDArray[np.int64]
    """Rows that had no codes before they were opened."""

    @property
    def stale(self) -> bool:
        """Whether the arrays have codes of what is no row of the gallery."""
        return self.head.changed > 0 or len(self.differs_K) > 0 or len(self.groups[0]) < self.head.count


def _checked(folder: Path, coded: Coded) -> _Opened:
    """Codes that are those of a gallery; a few rows are coded now, in memory. Raises UnusableCodes, OSError."""
    head = _read_head(folder)
    frame, used = _frame(folder, head), min(head.count, len(coded.rows))
    sign_N, groups = _mapped(folder, head, used)
    if head.fingerprint != coded.fingerprint or head.width != coded.vector_GE.shape[1]:
        raise UnusableCodes("they were made from another model's vectors")
    place_K, changed_K, codes_HKD = _changed(folder, head)
    here = place_K < used
    for group, codes_KD in zip(groups, codes_HKD, strict=True):
        group[place_K[here]] = codes_KD[here]
    differs_K = np.empty(0, np.int64)
    if head.identity != coded.identity or head.rows != len(coded.rows):
        right_N = np.array(sign_N)
        right_N[place_K[here]] = changed_K[here]
        differs_K = np.flatnonzero(right_N != coded.sign_N[:used])
        if MANY * max(len(differs_K), head.count - used) > head.count:
            raise UnusableCodes("images have gone or changed since they were written")
        try:
            for group, codes_KD in zip(groups, frame.encode(coded.vector_GE[differs_K]), strict=True):
                group[differs_K] = codes_KD
        except ValueError as error:
            raise UnusableCodes(str(error)) from None
    place_N = np.unique(np.linspace(0, used - 1, CHECKED).astype(np.int64))
    there = np.stack([group[place_N] for group in groups]).astype(np.int16)
    if np.abs(there - frame.encode(coded.vector_GE[place_N])).max() > 1:
        raise UnusableCodes("they are damaged: they are not the codes of the images' vectors")
    return _Opened(head, frame, groups, sign_N, differs_K)


def _read_head(folder: Path) -> Head:
    """Raises UnusableCodes, FileNotFoundError."""
    try:
        text = json.loads((folder / HEAD).read_text("utf-8"))
        facts = text["codes"]
        if text["format"] != FORMAT or text["checksum"] != _checksum(facts):
            raise ValueError
        head = Head(**{**facts, "identity": tuple(facts["identity"])})
        if (
            head.count < 1
            or head.rows < 1
            or head.changed < 0
            or head.groups != -(-head.width // GROUP)
            or Path(head.name).name != head.name
        ):
            raise ValueError
        if "/" in head.patch:
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


def _mapped(folder: Path, head: Head, used: int) -> tuple[NDArray[np.int64], list[Codes]]:
    """Which images they are of, and the codes, mapped copy-on-write: what is laid over them stays in memory."""

    def array(ending: str, kind: type[np.generic], *width: int) -> NDArray[Any]:
        path, shape = folder / f"{head.name}.{ending}", (used, *width)
        if path.stat().st_size < head.count * np.dtype(kind).itemsize * max(1, *width, 1):
            raise UnusableCodes(f"{path.name} is cut off")
        return np.memmap(path, kind, "c", shape=shape)

    return array("rows", np.int64), [array(str(group), np.int8, GROUP) for group in range(head.groups)]


def _changed(folder: Path, head: Head) -> tuple[NDArray[np.int64], NDArray[np.int64], Codes]:
    """Rows whose codes lie in a file of their own: their places, which images they are, and the codes [H, K, D]."""
    content = (folder / f"{head.name}.{head.patch}").read_bytes() if head.changed else b""
    count, width = head.changed, head.groups * GROUP
    if len(content) != count * (16 + width) or (count and hashlib.sha256(content).hexdigest() != head.patched):
        raise UnusableCodes(f"{head.name}.{head.patch} is damaged")
    number_2K = np.frombuffer(content, np.int64, 2 * count).reshape(2, count)
    codes_HKD = np.frombuffer(content, np.int8, count * width, 16 * count).reshape(head.groups, count, GROUP)
    return number_2K[0], number_2K[1], codes_HKD


# Writing ------------------------------------------------------------------------------------------


def _usable(folder: Path, coded: Coded) -> _Opened | None:
    """The codes that are there, if they can be kept."""
    try:
        there = _checked(folder, coded)
    except (UnusableCodes, OSError):
        return None
    fits = len(coded.rows) < REFIT * there.head.fitted
    if MANY * (len(coded.rows) - there.head.count) >= there.head.count and not _fit(coded, there):
        return None
    return there if fits and MANY * (there.head.changed + len(there.differs_K)) <= there.head.count else None


def _fit(coded: Coded, there: _Opened) -> bool:
    """Whether the rows that came behind those with codes are of the kind that the axes were found for."""
    return len(coded.rows) <= there.head.count or there.frame.fits(coded.vector_GE[there.head.count :])


def _begun(folder: Path, coded: Coded) -> _Opened:
    """A new frame, in which nothing is coded yet."""
    count, width = coded.vector_GE.shape
    frame = CodeFrame.fit(coded.vector_GE)
    parts = frame.mean_E, frame.axis_AE, frame.scale_H, frame.covariance_HDD
    content = b"".join(part.astype(np.float32).tobytes() for part in parts)
    name, checksum = uuid.uuid4().hex[:8], hashlib.sha256(content).hexdigest()
    _write(folder / f"{name}.frame", content)
    head = Head(coded.fingerprint, coded.identity, 0, count, 0, "", "", count, width, frame.groups, name, checksum)
    nothing = np.empty(0, np.int64)
    return _Opened(head, frame, [np.empty((0, GROUP), np.int8)] * frame.groups, nothing, nothing)


def _cleaned(folder: Path, coded: Coded, there: _Opened) -> _Opened:
    """The same codes in other files, which have nothing of what is no row of the gallery."""
    name, count = uuid.uuid4().hex[:8], len(there.groups[0])
    _write(folder / f"{name}.frame", (folder / f"{there.head.name}.frame").read_bytes())
    head = replace(there.head, name=name, count=count, changed=0, patch="", patched="")
    sign_N = coded.sign_N[:count]
    arrays: dict[str, NDArray[Any]] = {
        "rows": sign_N,
        **{str(place): group for place, group in enumerate(there.groups)},
    }
    for ending, array in arrays.items():
        _write(folder / f"{name}.{ending}", np.ascontiguousarray(array).data)
    return _Opened(head, there.frame, there.groups, sign_N, np.empty(0, np.int64))


def _append(folder: Path, coded: Coded, there: _Opened, stop: int) -> Head:
    """Write codes behind those that count up to a row, and those of rows that have changed; then the head."""
    head, right_N = there.head, coded.sign_N
    handles = [(folder / f"{head.name}.{ending}").open("ab") for ending in ("rows", *map(str, range(head.groups)))]
    try:
        for handle, width in zip(handles, (8, *[GROUP] * head.groups), strict=True):
            handle.truncate(head.count * width)  # what a writer left that was killed
        handles[0].write(right_N[head.count : stop].data)
        for block in there.frame.encoded(coded.vector_GE[:stop], head.count):
            for handle, codes in zip(handles[1:], block, strict=True):
                handle.write(codes)
        for handle in handles:
            handle.flush()
            os.fsync(handle.fileno())
    finally:
        for handle in handles:
            handle.close()
    used = len(there.sign_N)
    changed_K = np.flatnonzero(np.asarray(there.sign_N) != right_N[:used])
    content = b""
    if len(changed_K):
        codes_HKD = np.stack([group[changed_K] for group in there.groups])
        content = changed_K.tobytes() + right_N[changed_K].tobytes() + codes_HKD.tobytes()
    patch = f"changed-{uuid.uuid4().hex[:8]}" if content else ""
    if content:
        _write(folder / f"{head.name}.{patch}", content)
    made = replace(
        head,
        identity=coded.identity,
        count=max(head.count, stop),
        rows=len(coded.rows),
        changed=len(changed_K),
        patch=patch,
        patched=hashlib.sha256(content).hexdigest() if content else "",
    )
    facts = asdict(made)
    text = json.dumps({"format": FORMAT, "checksum": _checksum(facts), "codes": facts})
    files.write_text(folder / HEAD, text, CacheError)
    return made


def _write(path: Path, content: bytes | memoryview) -> None:
    path.write_bytes(content)
    files.sync(path)


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


def _tidy(folder: Path, head: Head) -> None:
    """Remove what an earlier head named, and what killed writers left."""
    endings = "frame", "rows", head.patch, *map(str, range(head.groups))
    named = {HEAD, LOCK, *(f"{head.name}.{ending}" for ending in endings)}
    for path in folder.iterdir():
        if path.name not in named:
            with suppress(OSError):
                path.unlink()
