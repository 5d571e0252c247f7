"""Parquet files that hold images beside their captions, written out as files: what `--source` does for such sets.

The paths in a table come from strangers like those of an archive: none leads out of the folder, and no file is
written twice with different bytes. Some images are in memory at a time, whatever the size of the set.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tbps_cli.data.layouts import parquet, pretraining, records
from tbps_cli.errors import DataError
from tbps_cli.escape import json_text
from tbps_cli.prepare.unpack import Progress

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

ANNOTATION, IMAGES = "captions.jsonl", "images"
_ROWS = 64


def parquet_files(source: Path) -> list[Path]:
    """The Parquet files that a source is or holds, also in data/ below it, where the hub keeps them."""
    if source.is_dir():
        return sorted([*source.glob("*.parquet"), *source.glob("data/*.parquet")])
    return [source] if source.suffix.lower() == parquet.SUFFIX else []


def write_out(sources: list[Path], folder: Path, progress: Progress | None = None) -> None:
    """Write captions.jsonl and images/ into `folder`. Raises DataError naming file, row and column, MissingExtra.

    progress: called with (rows done, rows in all).
    """
    with (folder / ANNOTATION).open("w", encoding="utf-8") as annotation:
        for number, path in enumerate(sources):
            with parquet.opened(path) as file:
                total = file.metadata.num_rows
                for done, row in enumerate(_rows(file, path), start=1):
                    _write_row(row, folder / IMAGES, annotation, done, path)
                    if progress:
                        progress(number * total + done, len(sources) * total)


def _rows(file: ParquetFile, path: Path) -> Iterator[tuple[object, str, dict[str, object]]]:
    """(the image, its path, its captions by column) of each row."""
    schema = file.schema_arrow
    if "image" not in schema.names:
        raise DataError(
            f"{path} has no column of images (it has {', '.join(schema.names) or 'none'}).",
            "Expected image, which holds the bytes of an image file.",
        )
    where = parquet.image_column(path, schema, [name for name in pretraining.IMAGE_FIELDS if name != "image"])
    texts = parquet.caption_columns(path, schema, pretraining.CAPTION_FIELD)
    for row in parquet.rows(file, path, ["image", where, *texts], _ROWS):
        yield row["image"], str(row[where]), {name: row[name] for name in texts}


def _write_row(
    row: tuple[object, str, dict[str, object]], images: Path, annotation: IO[str], number: int, path: Path
) -> None:
    image, name, described = row
    where = records.as_path(name, number, path)
    content = image.get("bytes") if isinstance(image, dict) else image  # the hub's type, or plain bytes
    if not isinstance(content, bytes):
        raise DataError(f"{path}: record {number} has no bytes of an image in the column 'image'.")
    target = images / where
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(content)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        if not target.is_file() or target.read_bytes() != content:
            raise DataError(
                f"{path}: record {number} has another image under the path {where!r} of an earlier one."
            ) from None
    texts = pretraining.texts_of(described, number, path)
    annotation.write(json_text({"file_path": where, "captions": texts}, indent=None) + "\n")
