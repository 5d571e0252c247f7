"""APTM's annotation (Yang et al., ACM MM 2023): data/finetune/{cuhk,icfg,rstp}_{train,val,test}.json.

Train has one record per caption, whose `caption` is a sentence; val and test have one per image, with a
list. `image_id` is the identity. Captions of one image need not stand together.
"""

from __future__ import annotations

from pathlib import Path

from tbps_cli.data.layouts import records
from tbps_cli.data.layouts.records import Builder
from tbps_cli.data.layouts.split_files import SplitFiles, first_record
from tbps_cli.data.types import Caption, ImageRecord

PREFIXES = {"cuhk-pedes": "cuhk", "icfg-pedes": "icfg", "rstpreid": "rstp"}


def add(builder: Builder, split: str, path: Path) -> None:
    """Records of `image`, `caption` and `image_id`; an image named again gains captions."""
    for number, record in enumerate(records.read_records(path), start=1):
        where = records.as_path(records.required(record, "image", number, path), number, path)
        person = records.as_person(records.required(record, "image_id", number, path), number, path)
        texts = records.as_captions(records.required(record, "caption", number, path), number, path)
        index = builder.known(split, where)
        if index is None:
            index = builder.image(ImageRecord(where, person, split))
        builder.captions += [Caption(text, index) for text in texts]


def fits(content: object) -> bool:
    record = first_record(content)
    return {"image", "caption", "image_id"} <= set(record)


FILES = SplitFiles(
    "APTM",
    ("data/finetune/{prefix}_{split}.json", "finetune/{prefix}_{split}.json", "{prefix}_{split}.json"),
    add,
    fits,
)
