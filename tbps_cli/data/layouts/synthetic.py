"""The synthetic pedestrians of `synthetic/`: licence-free, in the layout of CUHK-PEDES, made on this machine."""

from __future__ import annotations

import re

from tbps_cli.data.layouts import records
from tbps_cli.data.layouts.benchmark import Layout
from tbps_cli.data.types import Dataset, Truth
from tbps_cli.synthetic import oracle
from tbps_cli.synthetic.statements import statements

_CAMERA = re.compile(r"^cam_([^/]+)/")


def about(path: str) -> tuple[str | None, str | None]:
    """The camera, which is the folder that an image lies in."""
    match = _CAMERA.match(path)
    return (match[1] if match else None), None


def ceiling(dataset: Dataset, split: str) -> dict[str, float] | None:
    """R1, R5, R10 and mAP in percent of a reader of the true attributes; None when they are not recorded.

    Images that were left out of the data set (`data.exclude`) are left out here too.
    """
    chosen = _drawn(dataset, split)
    if chosen is None:
        return None
    try:
        return oracle.ceiling(chosen, split)
    except (KeyError, TypeError):  # edited by hand: scores do not depend on it
        return None


def truths(dataset: Dataset, split: str) -> dict[str, Truth] | None:
    """What is known of the images of a split, by path; None when it is not recorded."""
    chosen = _drawn(dataset, split)
    if chosen is None:
        return None
    try:
        return {str(record["file_path"]): _truth(record) for record in chosen}
    except (KeyError, TypeError, ValueError):  # edited by hand
        return None


def _truth(record: records.Record) -> Truth:
    facts, sides = _facts(record["attributes"]), record.get("sides")
    own = {str(slot): str(side) for slot, side in sides.items()} if isinstance(sides, dict) else {}
    return Truth(facts, statements(facts, _facts(record["visible"]), own))


def _facts(items: object) -> dict[str, str]:
    """["upper=coat", ...] as a mapping. Raises TypeError or ValueError for anything else."""
    if not isinstance(items, list):
        raise TypeError("not a list of attributes")
    return dict(str(item).split("=", 1) for item in items)


def _drawn(dataset: Dataset, split: str) -> list[records.Record] | None:
    """The records of the images of a split, when they say what was drawn."""
    if dataset.source is None or not dataset.source.is_file():
        return None
    there = {image.path for image in dataset.images if image.split == split}
    chosen = [
        record
        for record in records.read_records(dataset.source)
        if record.get("split") == split and record.get("file_path") in there
    ]
    known = bool(chosen) and all(record.get("attributes") and record.get("named") for record in chosen)
    return chosen if known else None


LAYOUT = Layout(
    name="synthetic",
    title="synthetic pedestrians",
    aliases=("toy", "synth"),
    folder="synthetic",
    annotations=("reid_raw.json",),
    image_key="file_path",
    counts={},
    access="No request is needed, it is drawn on this machine: tbps prepare-data synthetic",
    tree="""\
synthetic/
  reid_raw.json
  imgs/...""",
    about=about,
    ceiling=ceiling,
    truths=truths,
)
