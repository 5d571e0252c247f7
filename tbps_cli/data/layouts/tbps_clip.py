"""TBPS-CLIP's annotation (Cao et al., AAAI 2024): {train,test}_reid.json, with back-translated captions.

Its released code pairs captions with back-translations and silently drops captions when there are fewer
of these; here that is an error. RSTPReid's `img_path` is called `file_path` in these files.
"""

from __future__ import annotations

from pathlib import Path

from tbps_cli.data.layouts import benchmark, records
from tbps_cli.data.layouts.records import Builder
from tbps_cli.data.layouts.split_files import SplitFiles, first_record
from tbps_cli.data.types import ImageRecord


def add(builder: Builder, split: str, path: Path) -> None:
    """One record per image: file_path, id, captions and perhaps captions_bt."""
    for number, record in enumerate(records.read_records(path), start=1):
        key = "file_path" if "file_path" in record or "img_path" not in record else "img_path"
        where = records.as_path(records.required(record, key, number, path), number, path)
        person = records.as_person(records.required(record, "id", number, path), number, path)
        texts = records.as_captions(records.required(record, "captions", number, path), number, path)
        index = builder.image(ImageRecord(where, person, split))
        builder.captions += benchmark.captions_of(texts, index, record.get("captions_bt"), number, path)


def fits(content: object) -> bool:
    record = first_record(content)
    return "captions" in record and "id" in record


FILES = SplitFiles("TBPS-CLIP", ("{split}_reid.json", "annotations/{split}_reid.json"), add, fits)
