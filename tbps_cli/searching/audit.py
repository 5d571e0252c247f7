"""The log of searches: who asked what of which gallery, when, and what came out; one JSON object a line.

A search that is to be logged gives no answer before its line is on the disk. Lines are appended under a lock, so that
several processes may share a file; a line that could not be written whole is taken back. The log is for those who
answer for a gallery, not against those who run it: whoever may write the file may also change it.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tbps_cli import files
from tbps_cli.escape import exact_bytes, json_text
from tbps_cli.features.rows import content_hash
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.ranking import Answer

try:
    import fcntl
except ImportError:  # Windows: one process at a time
    fcntl = None  # type: ignore[assignment]

HINT = "No search is answered without its line in the log. Name another file: --audit FILE"


class AuditLog:
    """A file of lines, made where it is missing (readable by its owner alone)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Raises TbpsError unless a line could be written now; nothing is written."""
        with self._opened():
            pass

    def append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Write a line for each entry, all or none, on the disk before this returns. Raises TbpsError."""
        text = "".join(json_text(entry, indent=None) + "\n" for entry in entries)
        with self._opened() as handle:
            before = os.fstat(handle).st_size
            try:
                data = exact_bytes(("" if _ends_a_line(handle, before) else "\n") + text)
                while data:
                    data = data[os.write(handle, data) :]
                os.fsync(handle)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle, before)
                raise

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The file for appending, locked."""
        with files.explained(f"--audit {self.path}", then=HINT):
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            try:
                if fcntl is not None:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                yield handle
            finally:
                os.close(handle)


def _ends_a_line(handle: int, size: int) -> bool:
    """Whether the file is empty or ends in a line break: a process that was killed may have left half a line."""
    return size == 0 or os.pread(handle, 1, size - 1) == b"\n"


def entries(
    answers: Sequence[Answer],
    gallery: Gallery,
    *,
    asked: Sequence[str],
    filtered: str | None = None,
    written: Sequence[Path] = (),
) -> list[dict[str, Any]]:
    """What the log says of these answers: a line a question.

    asked: the questions as they were typed. filtered: the filter that was stated. written: pages and folders that
    the hits go to.
    """
    who = {"when": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", "user": user()}
    return [
        {
            **who,
            "asked": question,
            "understood": _understood(answer),
            "gallery": gallery.name,
            "run": gallery.run,
            "where": filtered,
            "size": len(gallery),
            "candidates": answer.candidates,
            "written": [str(path.absolute()) for path in written],
            "hits": [hit.path for hit in answer.hits],
        }
        for question, answer in zip(asked, answers, strict=True)
    ]


def _understood(answer: Answer) -> list[dict[str, Any]]:
    """What was added up; an image file with the hash of its bytes, since the file may change."""
    return [
        {
            "text" if isinstance(term.what, str) else "image": str(term.what)
            if isinstance(term.what, Path)
            else term.name,
            **({"content": content_hash(term.what)} if isinstance(term.what, Path) else {}),
            "weight": term.weight,
        }
        for term in answer.query.terms
    ]


def user() -> str:
    """Who runs this process, as the system knows it; variables of the environment are not believed where it does."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):  # Windows; a container's user without a name
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else getpass.getuser()
