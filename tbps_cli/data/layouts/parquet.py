"""Annotations in Parquet, as the Hugging Face hub keeps large sets; read through pyarrow, an extra of the package.

Only the columns that are needed are read, some thousand rows at a time: the images in such files stay on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbps_cli.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SUFFIX = ".parquet"
ROWS = 4096
OTHERS = ("id", "person", "split")
_MAGIC = b"PAR1"


def read(path: Path, images: Sequence[str], captions: re.Pattern[str]) -> Iterator[dict[str, object]]:
    """The rows of a file: the first of the columns `images` that holds text, and all columns like `captions`.

    Persons and splits (`OTHERS`) are read where a file has them.
    Raises DataError naming the columns when these are not there, and the byte at which the file breaks off.
    """
    with opened(path) as file:
        columns = file.schema_arrow
        image = image_column(path, columns, images)
        texts = caption_columns(path, columns, captions)
        others = [name for name in OTHERS if name in columns.names]
        yield from rows(file, path, [image, *texts, *others], ROWS)


def rows(file: ParquetFile, path: Path, columns: list[str], size: int) -> Iterator[dict[str, object]]:
    """The rows of some columns, `size` at a time in memory."""
    from pyarrow.lib import ArrowException

    try:
        for batch in file.iter_batches(size, columns=columns):
            yield from batch.to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: {_said(error)}.", "Download it again.") from None


def caption_columns(path: Path, columns: Any, like: re.Pattern[str]) -> list[str]:
    """The columns that hold captions."""
    found = [name for name in columns.names if like.fullmatch(name)]
    if not found:
        raise DataError(
            f"{path} has no column of captions (it has {', '.join(columns.names) or 'none'}).",
            "Expected caption, captions or caption1, caption2.",
        )
    return found


def image_column(path: Path, columns: Any, names: Sequence[str]) -> str:
    """The column that holds the paths of images."""
    from pyarrow import types

    for name in names:
        place = columns.get_field_index(name)
        if place >= 0 and (types.is_string(columns.types[place]) or types.is_large_string(columns.types[place])):
            return name
    raise DataError(
        f"{path} has no column of image paths (it has {', '.join(columns.names) or 'none'}).",
        f"Expected one of {', '.join(names)}.",
    )


def opened(path: Path) -> ParquetFile:
    """The file, its table of contents read. Raises DataError when it is none or breaks off, MissingExtra."""
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", f"reading {path.name}") from None
    try:
        with path.open("rb") as file:
            first, size = file.read(4), file.seek(0, 2)
            file.seek(max(0, size - 4))
            last = file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if first != _MAGIC:
        raise DataError(
            f"{path} is not a Parquet file.", "It may be a web page or a pointer of Git LFS: download it again."
        )
    if last != _MAGIC:
        raise BrokenOff(path, size)
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged: {_said(error)}.", "Download it again.") from None


class BrokenOff(DataError):
    """A Parquet file without its end, where its table of contents is: nothing of it can be read."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(
            f"{path} breaks off at byte {size:,}, before its table of contents, so nothing of it can be read.",
            "Download it again.",
        )


def _said(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
