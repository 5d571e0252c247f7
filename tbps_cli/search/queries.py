"""Many queries in one file: a sentence a line, JSON, JSONL or CSV, with the person where it is known."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tbps_cli.errors import DataError
from tbps_cli.search.query import Query

TEXT_KEYS = ("query", "caption", "text", "sentence")
PERSON_KEYS = ("person", "id", "identity")
HINT = "A sentence a line; or JSON, JSONL or CSV with `query` and, where known, `person`."


def read_queries(path: Path) -> list[Query]:
    """The queries of a file; `-` is standard input, a sentence a line. Raises DataError."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(f"--queries {path} cannot be read ({reason}).", HINT) from None
    queries = [query for query in _entries(path, text) if query is not None]
    if not queries:
        raise DataError(f"--queries {path} holds no query.", HINT)
    return queries


def _entries(path: Path, text: str) -> Iterable[Query | None]:
    kind = path.suffix.lower()
    if kind == ".json":
        content = _json(path, text, 1)
        if not isinstance(content, list):
            raise DataError(f"--queries {path} is not a list.", HINT)
        return [_query(path, number, entry) for number, entry in enumerate(content, 1)]
    if kind == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        return [_query(path, number, _json(path, line, number)) for number, line in lines]
    if kind in (".csv", ".tsv"):
        table = csv.DictReader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ",")
        return [_query(path, number, row) for number, row in enumerate(table, 2)]
    return [Query(line.strip()) for line in text.splitlines() if line.strip()]


def _json(path: Path, text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        at = getattr(error, "lineno", 1) + number - 1
        raise DataError(
            f"--queries {path}:{at}: not JSON ({getattr(error, 'msg', 'nested too deep')}).", HINT
        ) from None


def _query(path: Path, number: int, entry: Any) -> Query | None:
    """One entry; None for a line of a table without any value."""
    if isinstance(entry, str):
        entry = {"query": entry}
    if not isinstance(entry, Mapping):
        raise DataError(f"--queries {path}: entry {number} is neither a sentence nor a record.", HINT)
    text = next((entry[key] for key in TEXT_KEYS if key in entry), None)
    if not any(entry.values()):
        return None
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"--queries {path}: entry {number} has no {TEXT_KEYS[0]}.", HINT)
    return Query(text.strip(), persons=_persons(entry))


def _persons(entry: Mapping[str, Any]) -> frozenset[int | str] | None:
    found = next((entry[key] for key in PERSON_KEYS if entry.get(key) not in (None, "")), None)
    if isinstance(found, bool) or not isinstance(found, int | str):
        return None
    # Tables know no numbers: an identity that looks like one is one, as in the official files.
    return frozenset((int(found) if isinstance(found, str) and found.isdecimal() else found,))
