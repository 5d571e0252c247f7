"""TextReID's annotation (Han et al., BMVC 2021): annotations/{train,val,test}.json, with the ids of words.

An object whose `annotations` hold one record per caption; the gallery is the first record of each
`image_id`. `onehot` is a list of word ids, made by `text.words`' rule over all three splits.
"""

from __future__ import annotations

from pathlib import Path

from tbps_cli.data.layouts import records
from tbps_cli.data.layouts.records import Builder
from tbps_cli.data.layouts.split_files import SplitFiles
from tbps_cli.data.types import Caption, ImageRecord
from tbps_cli.errors import DataError


def add(builder: Builder, split: str, path: Path) -> None:
    """Records of `file_path`, `id`, `image_id`, `sentence` and `onehot`."""
    content = records.parse_json(records.read_text(path), str(path))
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"{path} has no list under 'annotations'.")
    first: dict[object, int] = {}
    for number, record in enumerate(records.checked_records(entries, path), start=1):
        where = records.as_path(records.required(record, "file_path", number, path), number, path)
        person = records.as_person(records.required(record, "id", number, path), number, path)
        sentence = records.required(record, "sentence", number, path)
        if not isinstance(sentence, str):
            raise DataError(f"{path}: record {number} has a sentence that is not text.")
        image = records.as_person(record.get("image_id", where), number, path)
        if image not in first:
            first[image] = builder.image(ImageRecord(where, person, split))
        builder.captions.append(Caption(sentence, first[image], word_ids=_word_ids(record, number, path)))


def _word_ids(record: records.Record, number: int, path: Path) -> tuple[int, ...] | None:
    ids = record.get("onehot")
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(word, int) and word >= 0 for word in ids):
        raise DataError(f"{path}: record {number} has an 'onehot' that is not a list of word ids.")
    return tuple(ids)


def fits(content: object) -> bool:
    return isinstance(content, dict) and "annotations" in content


FILES = SplitFiles("TextReID", ("annotations/{split}.json", "{split}.json"), add, fits)
