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

COLUMNS = "query", "rank", "path", "score", "person", "file", "camera", "time", "source", "seconds", "box", "track"
WORTH = "percentile", "z", "probability"
"""What a score is worth; the last columns."""
GROUPED = "group", "members"
DIGITS = 6


def document(answer: Answer, gallery: Gallery, run: str) -> dict[str, Any]:
    """One answer as JSON-able values; `score` is the cosine, `path` is relative to the gallery.

    `time` is when a hit was seen: a date, or seconds into the video where nobody knows the date.
    """
    query, asked = answer.query, answer.asked or answer.query
    made: dict[str, Any] = {
        "query": str(asked) if asked.text is None and asked.more else asked.text,
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
    if answer.sure is not None:
        made["sure"] = answer.sure.document()
    if answer.understood is not None and answer.understood.says:
        made["understood"] = answer.understood.document()
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
    facts: dict[str, object] = {
        "camera": hit.camera,
        "time": hit.seconds if hit.time is None else hit.time,
        "source": hit.source,
        "seconds": hit.seconds,
        "box": hit.box,
        "track": hit.track,
        "detection": None if hit.detection is None else round(hit.detection, 4),
        **dict(zip(WORTH, _worth(hit), strict=True)),
        "right": answer.is_right(hit),
    }
    if hit.members is not None:
        made |= {"group": hit.group, "members": hit.members}
        facts |= {"first": hit.first, "last": hit.last}
    if hit.explain:
        facts["explain"] = [word._asdict() for word in hit.explain]
    return made | {key: value for key, value in facts.items() if value is not None}


def _worth(hit: Hit) -> list[float | None]:
    values = hit.percentile, hit.z, hit.probability
    return [None if value is None else round(value, 4) for value in values]


def table(answers: Sequence[Answer]) -> str:
    """All hits as CSV, one a line, with a heading; with two columns more where they are grouped."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    grouped = any(hit.members is not None for answer in answers for hit in answer.hits)
    writer.writerow((*COLUMNS, *(GROUPED if grouped else ()), *WORTH))
    for answer in answers:
        for hit in answer.hits:
            place = hit.path, round(hit.score, DIGITS), hit.person, str(hit.file)
            box = None if hit.box is None else ",".join(map(str, hit.box))
            seen = hit.camera, hit.time, hit.source, hit.seconds, box, hit.track
            group = (hit.group, hit.members) if grouped else ()
            writer.writerow((answer.question, hit.rank, *place, *seen, *group, *_worth(hit)))
    return text.getvalue()


def paths(answers: Sequence[Answer], end: bytes = b"\n") -> bytes:
    """The files of all hits as the system names them, each followed by `end`; each once, a video too."""
    files = dict.fromkeys(hit.file for answer in answers for hit in answer.hits)
    return b"".join(os.fsencode(file) + end for file in files)
