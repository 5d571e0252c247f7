"""What every reader of an annotation shares: careful reading of files, records and their fields.

Annotation files come from strangers, mail attachments and converters. Each check names the file and
the record (counted from 1), and a path from a file never leads out of the image folder. What is odd
but usable (records without captions, repeated paths) becomes a note of the data set.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from tbps_cli.amounts import amount
from tbps_cli.data.types import SPLITS, Caption, Dataset, ImageRecord, Person
from tbps_cli.errors import DataError

Record = Mapping[str, object]
Place = int | str
"""Where in a file: the number of a record, from 1, or words such as "line 3"."""
IMAGE_FOLDERS = ("imgs", "images", "img")
SPLIT_NAMES = {"train": "train", "val": "val", "test": "test", "valid": "val", "validation": "val", "query": "test"}
SAVE_AS_UTF_8 = "Save it again as UTF-8."
_DRIVE = re.compile(r"^[A-Za-z]:")
_WHOLE = re.compile(r"([+-]?[0-9]{1,18})(?:\.0+)?")
"""A whole number; spreadsheets and pandas write 17.0 for 17 when another row of the column is empty."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_NAME, _LONGEST_PATH = 255, 3_000
"""Bytes; systems answer longer ones with an error instead of "it does not exist"."""
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte-order marks of encodings that are not read. UTF-32 comes first: its mark begins with that of UTF-16."""


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 (a byte-order mark is understood). Raises DataError."""
    try:
        if path.is_char_device():
            raise DataError(f"{path} is a device, not a file.")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except MemoryError:
        raise DataError(f"{path} is too large to be read into memory.", "Split it into several files.") from None
    return decode(raw, str(path))


def decode(raw: bytes, name: str) -> str:
    """UTF-8 -> text. Raises DataError naming another encoding, or the first line that is not UTF-8."""
    refuse_other_marks(raw, name)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name} is not UTF-8 text: line {line} has the byte 0x{raw[error.start]:02x}.", SAVE_AS_UTF_8
        ) from None
    if "\0" in text:
        raise DataError(
            f"{name} is not UTF-8 text: line {text.count(chr(10), 0, text.index(chr(0))) + 1} has a zero byte.",
            SAVE_AS_UTF_8,
        )
    return text


def refuse_other_marks(start: bytes, name: str) -> None:
    """Raise DataError for a file that begins with the byte-order mark of another encoding than UTF-8."""
    for mark, encoding in _OTHER_MARKS.items():
        if start.startswith(mark):
            raise DataError(f"{name} is {encoding} text, not UTF-8.", SAVE_AS_UTF_8)


def parse_json(text: str, where: str, *, line: int | None = None) -> object:
    """JSON -> Python; the error names line and column.

    line: the line of the file that the text is, for files with a value a line.
    """
    named = where if line is None else f"{where}: line {line}"
    try:
        return json.loads(text, object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}" if line is None else f"column {error.colno}"
        raise DataError(
            f"{named} is not JSON: {error.msg} at {at}.",
            "It may be truncated, or a web page saved under this name: download it again.",
        ) from None
    except ValueError as error:  # a whole number of thousands of digits, or a field twice
        raise DataError(f"{named} is not JSON that can be used: {error}.") from None
    except RecursionError:
        raise DataError(f"{named} is nested too deeply to be an annotation.") from None


def object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Python would keep the last of two equal keys, and lose a caption without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"one object has the field {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return made


def read_records(path: Path) -> list[Record]:
    """An annotation that is one JSON list of objects."""
    content = parse_json(read_text(path), str(path))
    if not isinstance(content, list):
        kind = "an object" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise DataError(f"{path} holds {kind} where a list of records was expected.", "One record per image.")
    return checked_records(content, path)


def checked_records(content: Iterable[object], path: Path) -> list[Record]:
    """The same list, once every entry is known to be an object."""
    records: list[Record] = []
    for number, record in enumerate(content, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{path}: record {number} is not an object but {shown(record)}.")
        records.append(record)
    return records


def required(record: Record, key: str, number: Place, path: Path | str) -> object:
    """A field that must be there. Raises DataError naming record and field."""
    if key not in record:
        raise DataError(
            f"{path}: {_at(number)} has no field {key!r}.",
            f"It has {', '.join(map(repr, record)) or 'none'}.",
        )
    return record[key]


def as_split(value: object, number: Place, path: Path | str) -> str:
    """train, val or test, in any case. Unknown values are refused, not sent to val."""
    name = value.strip().lower() if isinstance(value, str) else ""
    if name not in SPLIT_NAMES:
        raise DataError(f"{path}: {_at(number)} has split {shown(value)}.", f"A split is one of {', '.join(SPLITS)}.")
    return SPLIT_NAMES[name]


def as_person(value: object, number: Place, path: Path | str) -> Person:
    """A person of any JSON type: whole numbers, also spelled "17", "+17" or "17.0", become int, other words stay.

    Data sets and files of queries use this one function: otherwise right hits would be marked wrong.
    """
    if isinstance(value, str) and value.strip():
        text = whole_text(value.strip())
        number_there = _WHOLE.fullmatch(text)
        if text[0] in "[{" and _is_json(text):
            raise DataError(f"{path}: {_at(number)} names several persons: {shown(value)}.", "Name one.")
        return int(number_there[1]) if number_there else text
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise DataError(f"{path}: {_at(number)} has person {shown(value)}.", "A person is a number or a name.")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def as_captions(value: object, number: Place, path: Path | str) -> list[str]:
    """A list of sentences; one sentence alone counts as a list of one."""
    captions = [value] if isinstance(value, str) else value
    if isinstance(captions, list) and all(isinstance(caption, str) for caption in captions):
        return [whole_text(caption) for caption in captions]
    raise DataError(f"{path}: {_at(number)} has captions {shown(value)}.", "Captions are a list of sentences.")


def whole_text(text: str) -> str:
    r"""The text with U+FFFD for halves of characters: JSON can spell them (\ud83d), and no file can hold them."""
    return _SURROGATE.sub("\ufffd", text)


def as_path(value: object, number: Place, path: Path | str) -> str:
    """An image's path below the image folder, with forward slashes. Nothing may lead out of it."""
    if not isinstance(value, str) or not value.strip() or "\0" in value or not _can_be_a_name(value):
        raise DataError(f"{path}: {_at(number)} has the image path {shown(value)}.", "No file can have this name.")
    text = value.strip().replace("\\", "/")
    if text.startswith("/") or _DRIVE.match(text) or ".." in text.split("/"):
        raise DataError(
            f"{path}: {_at(number)} points outside the image folder: {shown(value)}.",
            "Paths must be relative to the image folder and hold no '..'.",
        )
    return str(PurePosixPath(text))


def _can_be_a_name(text: str) -> bool:
    """Whether a file may have this path: the system can spell it, and no part is longer than file systems allow."""
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return len(raw) <= _LONGEST_PATH and max(map(len, re.split(rb"[\\/]", raw))) <= _LONGEST_NAME


def _at(number: Place) -> str:
    return f"record {number}" if isinstance(number, int) else number


def shown(value: object) -> str:
    """A value of a file as messages quote it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Builder:
    """Collects records into a `Dataset`, in order, and counts what is odd."""

    def __init__(self, name: str, source: Path) -> None:
        self.name = name
        self.source = source
        self.images: list[ImageRecord] = []
        self.captions: list[Caption] = []
        self.notes: list[str] = []
        self._seen: dict[tuple[str, str], int] = {}
        self._repeated: list[str] = []

    def image(self, image: ImageRecord) -> int:
        """Add an image; returns its number."""
        key = image.split, image.path
        if key in self._seen:
            self._repeated.append(image.path)
        self._seen.setdefault(key, len(self.images))
        self.images.append(image)
        return len(self.images) - 1

    def known(self, split: str, path: str) -> int | None:
        """The number of an image that this split already has, for files with a record per caption."""
        return self._seen.get((split, path))

    def finish(self, root: Path) -> Dataset:
        """The data set, with notes on records without captions, blank captions and repeated paths."""
        described = {caption.image for caption in self.captions}
        bare = [image.path for number, image in enumerate(self.images) if number not in described]
        blank = [self.images[caption.image].path for caption in self.captions if not caption.text.strip()]
        self._note(bare, "image has no caption", "images have no caption")
        self._note(blank, "caption is empty", "captions are empty")
        self._note(self._repeated, "record repeats an image path", "records repeat an image path")
        return Dataset(self.name, root, self.images, self.captions, self.notes, self.source)

    def _note(self, paths: list[str], one: str, several: str) -> None:
        if paths:
            self.notes.append(f"{amount(len(paths), one, several)} (first: {paths[0]})")


def image_root(folder: Path, images: Iterable[str], *, up: int = 2, more: Iterable[str] = ()) -> Path:
    """The folder that image paths are relative to: the first under which an example exists.

    Looks in `folder`, its imgs/ and images/, in those named by `more`, and the same in up to `up` folders above. When
    no example exists anywhere it is `folder`/imgs or the folder itself: the later check then says what is missing.
    """
    examples = [path for path, _ in zip(images, range(5), strict=False)]
    bases = [folder, *list(folder.absolute().parents)[:up]]
    places = [place for base in bases for place in (*(base / name for name in (*IMAGE_FOLDERS, *more)), base)]
    for place in places:
        if any((place / path).is_file() for path in examples):
            return place
    existing = [place for place in places[: len(IMAGE_FOLDERS)] if place.is_dir()]
    return existing[0] if existing else folder
