"""Many queries in one file: a sentence a line, JSON, JSONL or CSV, with the person where it is known.

A JSON object of ids is read too, as the AI City Challenge has its queries: several sentences of one id are added up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from tbps_cli.data.layouts import pairs, records, tables
from tbps_cli.errors import DataError
from tbps_cli.searching.query import Query, Term

FIELDS: tables.Fields = {
    "query": ("query", *pairs.FIELDS["caption"]),
    **{field: names for field, names in pairs.FIELDS.items() if field != "caption"},
}
"""Besides `query` and `person` the fields of pairs are known, so that a data set's own file can be asked."""
HINT = "A sentence a line; or JSON, JSONL or CSV with `query` and, where known, `person`."


def read_queries(path: Path) -> list[Query]:
    """The queries of a file; `-` is standard input, a sentence a line. Raises DataError."""
    queries = list(_queries(path, _text(path)))
    if not queries:
        raise DataError(f"--queries {path} has no query in it.", HINT)
    return queries


def _text(path: Path) -> str:
    if str(path) != "-":
        try:
            return records.read_text(path)
        except DataError as error:
            raise DataError(f"--queries {error.message}", HINT) from None
    if sys.stdin is None:
        raise DataError("--queries -: standard input is closed.", HINT)
    # bytes: standard input may have any encoding set, files of queries are UTF-8
    return records.decode(sys.stdin.buffer.read(), "--queries -")


def _queries(path: Path, text: str) -> Iterator[Query]:
    kind, name = path.suffix.lower(), f"--queries {path}"
    if kind in tables.TABLES:
        for place, row in tables.csv_rows(text, FIELDS, name, sentence="query", required=("query",)):
            yield _query(row, name, place)
    elif kind == ".json" and _is_of_ids(content := records.parse_json(text, name)):
        for id, value in content.items():
            yield _named(id, value, name)
    elif kind == ".json" or kind in tables.LINES:
        for place, entry in tables.entries(path, text, name):
            record = {"query": entry} if isinstance(entry, str) else entry
            if not isinstance(record, dict):
                raise DataError(f"{name}: {place} is neither a sentence nor a record.", HINT)
            yield _query(tables.fields_of(record, FIELDS, name, place), name, place)
    else:
        for line in tables.split_lines(text):
            if line.strip():
                yield Query(line.strip())


def _is_of_ids(content: object) -> TypeGuard[dict[str, object]]:
    """Whether a JSON value is an object of ids, and not one record that should stand in a list."""
    return isinstance(content, dict) and content.keys().isdisjoint(name for names in FIELDS.values() for name in names)


def _named(id: str, value: object, name: str) -> Query:
    """A query of an object of ids: a sentence or several, which are added up, or an object that has them as `nl`."""
    said = value.get("nl") if isinstance(value, dict) else value
    sentences = [said] if isinstance(said, str) else said if isinstance(said, list) else []
    if not sentences or not all(isinstance(one, str) and one.strip() for one in sentences):
        raise DataError(f"{name}: {id:.60} is not a list of sentences.", '{"id": ["a man in a white shirt", ...], ...}')
    first, *others = (records.whole_text(one.strip()) for one in sentences)
    return Query(first, more=tuple(map(Term, others)), id=id)


def _query(row: tables.Row, name: str, place: str) -> Query:
    text = row.get("query")
    if not isinstance(text, str) or not text.strip():
        what = "has no query" if text is None else f"has a query that is not a sentence ({text!r:.60})"
        raise DataError(f"{name}: {place} {what}.", HINT)
    person = row.get("person", "")
    known = None if person == "" else frozenset((records.as_person(person, place, name),))
    return Query(records.whole_text(text.strip()), persons=known)
