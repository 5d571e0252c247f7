"""The log of searches: who asked what of which gallery, when, and what came out; one JSON object a line.

A search that is to be logged gives no answer before its line is on the disk. Lines are appended under a lock, so that
several processes may share a file; a line that could not be written whole is taken back. The log is for those who
answer for a gallery, not against those who run it: whoever may write the file may also change it.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tbps_cli.features.rows import content_hash
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.line_log import LineLog
from tbps_cli.searching.ranking import Answer

HINT = "No search is answered without its line in the log. Name another file: --audit FILE"


class AuditLog(LineLog):
    """The file of a log."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, f"--audit {path}", HINT)


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


def _understood(answer: Answer) -> dict[str, Any]:
    """What was added up, and what the question was read as besides; an image file with the hash of its bytes."""
    terms: list[dict[str, Any]] = []
    for term in answer.query.terms:
        if isinstance(term.what, Path):
            part = {"image": str(term.what), "content": content_hash(term.what)}
        else:
            part = {"text" if isinstance(term.what, str) else "image": term.name}
        terms.append({**part, "weight": term.weight})
    read = {"read": answer.understood.document()} if answer.understood and answer.understood.says else {}
    return {"terms": terms, **read}


def user() -> str:
    """Who runs this process, as the system knows it; variables of the environment are not believed where it does."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):  # Windows; a container's user without a name
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else getpass.getuser()
