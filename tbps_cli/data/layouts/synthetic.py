"""The synthetic pedestrians of `synthetic/`: licence-free, in the layout of CUHK-PEDES, made on this machine."""

from __future__ import annotations

import re

from tbps_cli.data.layouts import records
from tbps_cli.data.layouts.benchmark import Layout
from tbps_cli.data.types import Dataset
from tbps_cli.synthetic import oracle

_CAMERA = re.compile(r"^cam_([^/]+)/")


def about(path: str) -> tuple[str | None, str | None]:
    """The camera, which is the folder that an image lies in."""
    match = _CAMERA.match(path)
    return (match[1] if match else None), None


def ceiling(dataset: Dataset, split: str) -> dict[str, float] | None:
    """R1, R5, R10 and mAP in percent of a reader of the true attributes; None when they are not recorded.

    Images that were left out of the data set (`data.exclude`) are left out here too.
    """
    if dataset.source is None or not dataset.source.is_file():
        return None
    there = {image.path for image in dataset.images if image.split == split}
    chosen = [
        record
        for record in records.read_records(dataset.source)
        if record.get("split") == split and record.get("file_path") in there
    ]
    if not chosen or not all(record.get("attributes") and record.get("named") for record in chosen):
        return None
    try:
        return oracle.ceiling(chosen, split)
    except (KeyError, TypeError):  # edited by hand: scores do not depend on it
        return None


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
)
