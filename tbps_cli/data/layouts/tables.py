"""Rows of CSV, TSV, JSON and JSONL files, for a user's own pairs and for files of queries alike.

People write these by hand or let a spreadsheet or pandas write them. So the delimiter is found in the header,
names may be spelled in several ways, and a row that does not fit is refused with its line and the header shown:
a caption must never be cut at a comma, lose its neighbour to a stray quote, or land in another column.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from tbps_cli.data.layouts import records
from tbps_cli.errors import DataError

Fields = Mapping[str, tuple[str, ...]]
"""Our name for a field -> the names that users give it, in lower case; the first that is there counts."""
Row = dict[str, object]
"""Our name for a field -> its value; fields without a value are missing."""

TABLES = (".csv", ".tsv")
LINES = (".jsonl", ".ndjson")
_DELIMITERS = "\t;,"
_NO_DELIMITER = "\x1f"
"""For a table of one column: there every comma belongs to the sentence."""
_LIKENESS = 0.81
"""How similar an unknown name must be to a known one to be taken for a slip: "persn", but not "idx" for "id"."""
_QUOTES = 'Put a sentence that holds the delimiter into "quotes"; a quote inside it is written twice.'
_NUMBER = re.compile(r"\s*[-+]?[0-9.]+\s*")
_LIST = re.compile(r"\s*\[\s*(['\"]).*\1\s*\]\s*", re.DOTALL)
"""A list as pandas writes one into a cell: "['a man', 'a tall man']"."""


def entries(path: Path, text: str, name: str) -> Iterator[tuple[str, object]]:
    """(place, value) of each entry of a JSON list or of a file with a JSON value a line.

    name: what messages call the file. Raises DataError naming the place.
    """
    if path.suffix.lower() in LINES:
        for number, line in enumerate(split_lines(text), start=1):
            if line.strip():
                yield f"line {number}", records.parse_json(line, name, line=number)
        return
    content = records.parse_json(text, name)
    if not isinstance(content, list):
        raise DataError(f"{name} is not a list.", "Write a JSON list: [ ..., ... ]")
    for number, entry in enumerate(content, start=1):
        yield f"entry {number}", entry


def split_lines(text: str) -> list[str]:
    r"""Lines that end in \n, \r\n or \r. Form feeds, U+2028 and the like, which str.splitlines counts, are text."""
    return re.split(r"\r\n|\n|\r", text)


def fields_of(record: Mapping[str, object], fields: Fields, name: str, place: str) -> Row:
    """The values of a JSON object under our names; null counts as missing."""
    columns = assign(list(record), fields, f"{name}: {place}")
    values = list(record.values())
    return {field: values[column] for field, column in columns.items() if values[column] is not None}


def csv_rows(
    text: str, fields: Fields, name: str, *, sentence: str, required: Iterable[str]
) -> Iterator[tuple[str, Row]]:
    """(place, row) of each line of a table, its first line being the header; lines without any value are passed over.

    sentence: the field that holds free text. required: fields that must have a column.
    """
    table = _Table(text, fields, name, sentence)
    table.require(required)
    yield from table.rows()


def assign(keys: Sequence[str], fields: Fields, place: str) -> dict[str, int]:
    """Field -> position of the key that stands for it. Raises DataError for a key that is there twice or misspelt."""
    spelled = [re.sub(r"[\s-]+", "_", key.strip().lower()) for key in keys]
    twice = [key for number, key in enumerate(spelled) if key and key in spelled[:number]]
    if twice:
        raise DataError(
            f"{place} has {twice[0]!r} twice: {_listed(keys)}.",
            "Give each a name of its own; a second caption of an image goes on a line of its own.",
        )
    found = {}
    for field, names in fields.items():
        there = [name for name in names if name in spelled]
        if there:
            found[field] = spelled.index(there[0])
    known = {name for names in fields.values() for name in names}
    missing = [name for field, names in fields.items() if field not in found for name in names]
    for key in spelled:
        near = [] if key in known else get_close_matches(key, missing, n=1, cutoff=_LIKENESS)
        if near:
            raise DataError(
                f"{place} has {key!r}, which is not known: {_listed(keys)}.",
                f"Did you mean {near[0]}? Rename it, or remove it if it means something else.",
            )
    return found


class _Table:
    """A table with a header, read strictly."""

    def __init__(self, text: str, fields: Fields, name: str, sentence: str) -> None:
        self.name = name
        self.sentence = sentence
        self.lines = io.StringIO(text, newline="").readlines()
        first = next((line for line in self.lines if line.strip()), "")
        self.delimiter = _delimiter(first, fields)
        # "a, b" style: then blanks after delimiters belong to no value
        self.blanks = f"{self.delimiter} " in first
        self.raw = self._raw_rows()
        self.header: list[str] = []
        self.place, self.header = next(self.raw, ("line 1", []))
        self.fields = fields
        self.columns = assign(self.header, fields, f"{name}: {self.place}")

    def require(self, needed: Iterable[str]) -> None:
        for field in needed:
            if field not in self.columns:
                raise DataError(
                    f"{self.name}: {self.place} should name the columns, but {field} is missing; "
                    f"it has {_listed(self.header)}.",
                    f"It may be called {', '.join(self.fields[field])}.",
                )

    def rows(self) -> Iterator[tuple[str, Row]]:
        for place, cells in self.raw:
            if not any(cell.strip() for cell in cells):
                continue
            self._check(place, cells)
            yield place, {field: cells[column] for field, column in self.columns.items() if cells[column].strip()}

    def _raw_rows(self) -> Iterator[tuple[str, list[str]]]:
        """The cells of each record that is not empty, with the line that it begins in."""
        reader = csv.reader(self.lines, delimiter=self.delimiter, strict=True, skipinitialspace=self.blanks)
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise self._broken(start, str(error)) from None
            if cells is None:
                return
            if cells:
                yield f"line {start}", cells

    def _broken(self, start: int, reason: str) -> DataError:
        unclosed = "end of data" in reason or "field limit" in reason
        what = "opens a quote that is not closed" if unclosed else f"is not CSV ({reason})"
        return DataError(f"{self.name}: line {start} {what}: {_shown(self.lines[start - 1])}.", _QUOTES)

    def _check(self, place: str, cells: list[str]) -> None:
        if len(cells) != len(self.header):
            raise DataError(
                f"{self.name}: {place} has {len(cells)} field{'s' * (len(cells) != 1)} where the header has "
                f"{len(self.header)} ({_listed(self.header)}): {_shown(self.delimiter.join(cells))}.",
                _QUOTES,
            )
        for cell in cells:
            # a quote that is never meant to open swallows the rows up to the next one, delimiters included
            if re.search(r"[\r\n]", cell.strip()) and (self.delimiter in cell or len(cells) == 1):
                raise DataError(
                    f"{self.name}: {place} begins a value of several lines that looks like several rows: "
                    f"{_shown(cell)}.",
                    f"{_QUOTES} Write a blank for a line break inside a sentence.",
                )
        column = self.columns[self.sentence]
        after = cells[column + 1] if column + 1 < len(cells) else ""
        # "a man in red, with a bag" without quotes and without a person has as many fields as the header
        if self.delimiter == "," and after.startswith(" ") and after.strip() and not _NUMBER.fullmatch(after):
            raise DataError(
                f"{self.name}: {place} has {_shown(after)} as {self.header[column + 1]!r}, "
                "which reads like the end of the sentence before it.",
                f"{_QUOTES} If it is meant, remove the blank before it.",
            )
        if _LIST.fullmatch(cells[column]):
            raise DataError(
                f"{self.name}: {place} holds a list in the column {self.header[column]!r}: {_shown(cells[column])}.",
                "Write one sentence a line (in pandas: explode the column before to_csv).",
            )


def _delimiter(header: str, fields: Fields) -> str:
    """The delimiter under which a header names most fields; of equals, the one that is there most often."""
    known = {name for names in fields.values() for name in names}

    def merit(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip(' "\r\n').lower() for cell in header.split(delimiter)]
        return sum(cell in known for cell in cells), header.count(delimiter)

    best = max(_DELIMITERS, key=merit)
    return best if best in header else _NO_DELIMITER


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(key.strip() or '""' for key in keys) or "nothing"


def _shown(text: str) -> str:
    text = text.rstrip("\r\n")
    return repr(text if len(text) <= 80 else text[:77] + "...")
