"""Answers as other programs read them: JSON documents, CSV, bare paths."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from typing import Any

from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.query import StoredRow, Term
from tbps_cli.searching.ranking import Answer
from tbps_cli.types import Hit

COLUMNS = ("query", "rank", "path", "score", "person", "file")
GROUPED = ("group", "members")
DIGITS = 6


def document(answer: Answer, gallery: Gallery, run: str) -> dict[str, Any]:
    """One answer as JSON-able values; `score` is the cosine, `path` is relative to the gallery."""
    query = answer.query
    made: dict[str, Any] = {
        "query": str(query) if query.text is None and query.more else query.text,
        "gallery": gallery.name,
        "size": len(gallery),
        "run": run,
    }
    if query.image is not None:
        made["image"] = str(query.image)
    if query.minus is not None:
        made["minus"] = query.minus
    if query.more:
        made["terms"] = [_term(term) for term in query.terms]
    if answer.candidates != len(gallery):
        made["candidates"] = answer.candidates
    if answer.persons is not None:
        made["persons"] = sorted(answer.persons, key=str)
    if answer.groups is not None:
        made["groups"] = answer.groups
    return {**made, "hits": [_hit(answer, hit) for hit in answer.hits]}


def _term(term: Term) -> dict[str, Any]:
    """One part of a sum: what it is, and how much of it (below 0: what it should not be)."""
    kind = "text" if isinstance(term.what, str) else "image"
    return {kind: term.what.name if isinstance(term.what, StoredRow) else str(term.what), "weight": term.weight}


def _hit(answer: Answer, hit: Hit) -> dict[str, Any]:
    made: dict[str, Any] = {
        "rank": hit.rank,
        "path": hit.path,
        "score": round(hit.score, DIGITS),
        "person": hit.person,
        "file": str(hit.file),
    }
    made |= {key: value for key, value in (("camera", hit.camera), ("time", hit.time)) if value is not None}
    if hit.members is not None:
        made |= {"group": hit.group, "members": hit.members}
        made |= {key: value for key, value in (("first", hit.first), ("last", hit.last)) if value is not None}
    right = answer.is_right(hit)
    return made if right is None else {**made, "right": right}


def table(answers: Sequence[Answer]) -> str:
    """All hits as CSV, one a line, with a heading; with two columns more where they are grouped."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    grouped = any(hit.members is not None for answer in answers for hit in answer.hits)
    writer.writerow((*COLUMNS, *GROUPED) if grouped else COLUMNS)
    for answer in answers:
        for hit in answer.hits:
            place = hit.path, round(hit.score, DIGITS), hit.person, str(hit.file)
            writer.writerow((str(answer.query), hit.rank, *place, *((hit.group, hit.members) if grouped else ())))
    return text.getvalue()


def paths(answers: Sequence[Answer], end: bytes = b"\n") -> bytes:
    """The files of all hits as the system names them, each followed by `end`; each file once."""
    files = dict.fromkeys(hit.file for answer in answers for hit in answer.hits)
    return b"".join(os.fsencode(file) + end for file in files)
