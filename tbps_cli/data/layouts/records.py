"""What every reader of an annotation shares: careful reading of files, records and their fields.

Annotation files come from strangers, mail attachments and converters. Each check names the file and
the record (counted from 1), and a path from a file never leads out of the image folder. What is odd
but usable (records without captions, repeated paths) becomes a note of the data set.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from tbps_cli.data.types import SPLITS, Caption, Dataset, ImageRecord, Person
from tbps_cli.errors import DataError

Record = Mapping[str, object]
IMAGE_FOLDERS = ("imgs", "images", "img")
SPLIT_NAMES = {"train": "train", "val": "val", "test": "test", "valid": "val", "validation": "val", "query": "test"}
_DRIVE = re.compile(r"^[A-Za-z]:")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 (a byte-order mark is understood). Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}).", "Save it again as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def parse_json(text: str, where: str) -> object:
    """JSON -> Python; the error names line and column."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.",
            "It may be cut short or a web page saved under this name: fetch it again.",
        ) from None
    except ValueError as error:  # a whole number of thousands of digits
        raise DataError(f"{where} is not JSON that can be used: {error}.") from None
    except RecursionError:
        raise DataError(f"{where} is nested too deeply to be an annotation.") from None


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
            raise DataError(f"{path}: record {number} is not an object but {_shown(record)}.")
        records.append(record)
    return records


def required(record: Record, key: str, number: int, path: Path) -> object:
    """A field that must be there. Raises DataError naming record and field."""
    if key not in record:
        raise DataError(
            f"{path}: record {number} has no field {key!r}.",
            f"It has {', '.join(map(repr, record)) or 'none'}.",
        )
    return record[key]


def as_split(value: object, number: int, path: Path) -> str:
    """train, val or test, in any case. Unknown values are refused, not sent to val."""
    name = value.strip().lower() if isinstance(value, str) else ""
    if name not in SPLIT_NAMES:
        raise DataError(
            f"{path}: record {number} has split {_shown(value)}.", f"A split is one of {', '.join(SPLITS)}."
        )
    return SPLIT_NAMES[name]


def as_person(value: object, number: int, path: Path) -> Person:
    """An identity of any JSON type: digits and whole numbers become int, other words stay."""
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,18}", text) else text
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else str(value)
    if isinstance(value, int):
        return int(value)
    raise DataError(f"{path}: record {number} has identity {_shown(value)}.", "An identity is a number or a name.")


def as_captions(value: object, number: int, path: Path) -> list[str]:
    """A list of sentences; one sentence alone counts as a list of one."""
    captions = [value] if isinstance(value, str) else value
    if isinstance(captions, list) and all(isinstance(caption, str) for caption in captions):
        return list(captions)
    raise DataError(f"{path}: record {number} has captions {_shown(value)}.", "Captions are a list of sentences.")


def as_path(value: object, number: int, path: Path) -> str:
    """An image's path below the image folder, with forward slashes. Nothing may lead out of it."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise DataError(f"{path}: record {number} has the image path {_shown(value)}.")
    text = value.strip().replace("\\", "/")
    if text.startswith("/") or _DRIVE.match(text) or ".." in text.split("/"):
        raise DataError(
            f"{path}: record {number} points outside the image folder: {_shown(value)}.",
            "Paths must be relative to the image folder and hold no '..'.",
        )
    return str(PurePosixPath(text))


def _shown(value: object) -> str:
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
        self._note(bare, "images have no caption")
        self._note(blank, "captions are empty")
        self._note(self._repeated, "records repeat an image path")
        return Dataset(self.name, root, self.images, self.captions, self.notes, self.source)

    def _note(self, paths: list[str], what: str) -> None:
        if paths:
            self.notes.append(f"{len(paths):,} {what} (first: {paths[0]})")


def image_root(folder: Path, images: Iterable[str], *, up: int = 2) -> Path:
    """The folder that image paths are relative to: the first under which an example exists.

    Looks in `folder`, its imgs/ and images/, and the same in up to `up` folders above. When no example
    exists anywhere it is `folder`/imgs or the folder itself: the later check then says what is missing.
    """
    examples = [path for path, _ in zip(images, range(5), strict=False)]
    bases = [folder, *list(folder.absolute().parents)[:up]]
    places = [place for base in bases for place in (*(base / name for name in IMAGE_FOLDERS), base)]
    for place in places:
        if any((place / path).is_file() for path in examples):
            return place
    existing = [place for place in places[: len(IMAGE_FOLDERS)] if place.is_dir()]
    return existing[0] if existing else folder
