"""The elements of annotation files that are too large to be held: one after the other, with their place.

Pre-training annotations are one JSON list or table of some gigabytes, or a JSON value a line. They are read in pieces
of a megabyte, and parsed by Python's own scanner one element at a time, so that memory does not depend on the size of
the file. Large downloads break off, and what came before is good: the elements before the break are given, and `cut`
then says where the file ends. Anything else that is wrong is refused with record and byte, as in the small files.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tbps_cli.data.layouts import records
from tbps_cli.data.layouts.tables import LINES
from tbps_cli.errors import DataError

PIECE = 1 << 20
LARGEST = 16 << 20
"""Characters of one element; a file that has a larger one is no list of records."""
_BLANKS = re.compile(r"[ \t\r\n]*")
_LITERAL = 16
"""Characters that a literal, an escape or a number may take: an error this close to the end may mean more follows."""
_BEGUN = re.compile(r"tr?u?|fa?l?s?|nu?l?|Na?|-?(I[a-z]*)?|[.eE][+-]?|")
"""What the end of a file may leave of a literal or a number."""


class JsonStream:
    """Iterate once: (key, value) of each element; the key is None but in a table. Then `cut` says how it ended."""

    def __init__(self, path: Path, piece: int = PIECE) -> None:
        self.path = path
        self.cut: str | None = None
        """Where and after how many elements the file breaks off; None when it is whole."""
        self.count = 0
        """Elements given so far."""
        self._piece = piece
        self._text, self._at = "", 0
        self._bytes_before = 0  # of the file, in front of the text at hand
        self._ended = False
        self._scan = json.JSONDecoder(object_pairs_hook=records.object_of).raw_decode

    def __iter__(self) -> Iterator[tuple[str | None, object]]:
        try:
            with self.path.open("rb") as file:
                self._file: IO[bytes] = file
                self._decoder = codecs.getincrementaldecoder("utf-8")()
                self._skip_mark()
                yield from self._lines() if self.path.suffix.lower() in LINES else self._collection()
        except FileNotFoundError:
            raise DataError(f"{self.path} does not exist.") from None
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror or error}.") from None

    @property
    def byte(self) -> int:
        """The byte of the file at which reading stands."""
        return self._bytes_before + len(self._text[: self._at].encode())

    # Shapes -------------------------------------------------------------------------------------

    def _collection(self) -> Iterator[tuple[str | None, object]]:
        """A list, or a table of keys and values."""
        opening = self._next()
        if opening not in ("[", "{"):
            raise DataError(
                f"{self.path} is not JSON: it begins with {opening!r}." if opening else f"{self.path} is empty.",
                "It may be a web page saved under this name: download it again.",
            )
        self._at += 1
        closing = "]" if opening == "[" else "}"
        while (mark := self._next()) != closing:
            if self.count and mark == ",":
                self._at += 1
                mark = self._next()
            elif self.count and mark:
                raise self._broken(f"expected ',' or {closing!r}")
            element = self._element(table=opening == "{") if mark else None
            if element is None:
                self._note_cut()
                return
            self.count += 1
            yield element
        self._at += 1
        if self._next():
            raise self._broken("there is text behind its end")

    def _lines(self) -> Iterator[tuple[str | None, object]]:
        """A value a line, as in JSONL."""
        while self._next():
            element = self._element(table=False)
            if element is None:
                self._note_cut()
                return
            self.count += 1
            yield element

    def _element(self, table: bool) -> tuple[str | None, object] | None:
        """The next element; None when the file ends before it does."""
        key: str | None = None
        if table:
            if self._next() != '"':
                raise self._broken("expected a name in quotes")
            found = self._value()
            if found is None:
                return None
            key = str(found[0])
            mark = self._next()
            if mark != ":":
                if mark:
                    raise self._broken("expected ':'")
                return None
            self._at += 1
            if not self._next():
                return None
        found = self._value()
        return None if found is None else (key, found[0])

    def _value(self) -> tuple[object] | None:
        """The JSON value at hand, in a tuple because null is one; None when the file ends first."""
        while True:
            try:
                value, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                zero = self._text.find("\0", self._at)
                if 0 <= zero <= error.pos + _LITERAL and self._unwritten_from(zero):
                    return None
                if self._may_go_on(error) and self._read():
                    continue
                if self._ended and self._is_cut(error):
                    return None
                raise self._broken(error.msg, error.pos) from None
            except ValueError as error:
                raise self._broken(str(error)) from None
            except RecursionError:
                raise self._broken("it is nested too deeply to be an annotation") from None
            # a number at the very end may go on in the next piece
            if end == len(self._text) and self._read():
                continue
            self._at = end
            return (value,)

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Whether the next piece of the file may mend the error."""
        near_the_end = error.pos >= len(self._text) - _LITERAL or error.msg.startswith("Unterminated string")
        return near_the_end and len(self._text) - self._at <= LARGEST

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the end of the file explains the error."""
        unfinished = error.msg.startswith(("Unterminated string", "Invalid \\"))
        return unfinished or _BEGUN.fullmatch(self._text, error.pos) is not None

    # Bytes --------------------------------------------------------------------------------------

    def _next(self) -> str:
        """The next character that is no blank, which stays; nothing at the end of the file or where it is unwritten."""
        while True:
            self._at = _BLANKS.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing too
            if self._at < len(self._text):
                return "" if self._unwritten_from(self._at) else self._text[self._at]
            if not self._read():
                return ""

    def _read(self) -> bool:
        """Append a piece of the file to the text at hand, after dropping what has been used; false at its end."""
        if self._ended:
            return False
        raw = self._file.read(self._piece)
        if not raw:
            self._ended = True
            return False
        start = self._bytes_before + len(self._text.encode())
        self._bytes_before += len(self._text[: self._at].encode())
        try:
            more = self._decoder.decode(raw)
        except UnicodeDecodeError as error:
            byte = start + error.start
            more, self._ended = error.object[: error.start].decode(), self._is_begun(error.object[error.start :])
            if not self._ended:
                raise self._no_text(byte, error.object[error.start]) from None
            self._decoder.reset()
        self._text, self._at = self._text[self._at :] + more, 0
        return True

    def _is_begun(self, raw: bytes) -> bool:
        """Whether bytes that are no UTF-8 are a character that was begun, and zero bytes up to the end of the file."""
        begun = raw.rstrip(b"\0")
        return len(begun) <= 3 and len(begun) < len(raw) and self._zero_to_the_end()

    def _zero_to_the_end(self) -> bool:
        """Whether the rest of the file is zero bytes."""
        while piece := self._file.read(self._piece):
            if piece.strip(b"\0"):
                return False
        return True

    def _no_text(self, byte: int, value: int) -> DataError:
        return DataError(
            f"{self.path} is not UTF-8 text: byte {byte:,} is 0x{value:02x} (record {self.count + 1:,}).",
            records.SAVE_AS_UTF_8,
        )

    def _skip_mark(self) -> None:
        """Take a UTF-8 byte-order mark away; refuse those of other encodings."""
        first = self._file.read(4)
        records.refuse_other_marks(first, str(self.path))
        skipped = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
        self._file.seek(skipped)
        self._bytes_before = skipped

    def _unwritten_from(self, place: int) -> bool:
        """Whether zero bytes follow up to the end, as in a download for which room had been made."""
        if not self._text.startswith("\0", place) or self._text[place:].strip("\0"):
            return False
        if not self._zero_to_the_end():
            raise self._broken("there are zero bytes", place)
        self._text, self._ended = self._text[:place].rstrip("\0"), True
        return True

    def _note_cut(self) -> None:
        """Say where the file ends: behind a record, or within one."""
        start, end = self.byte, self._bytes_before + len(self._text.encode()) + len(self._decoder.getstate()[0])
        where = f"in the middle of record {self.count + 1:,}" if start < end else f"behind record {self.count:,}"
        self.cut = f"{self.path} breaks off at byte {end:,}, {where}"

    def _broken(self, reason: str, at: int | None = None) -> DataError:
        place = self._at if at is None else at
        byte = self._bytes_before + len(self._text[:place].encode())
        return DataError(
            f"{self.path} is not JSON: {reason.lower().removesuffix(' at')} at byte {byte:,} "
            f"(record {self.count + 1:,}).",
            "It may be damaged, or a web page saved under this name: download it again.",
        )
