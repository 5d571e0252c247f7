"""The synthetic pedestrians of `data.draw`: licence-free, in the layout of CUHK-PEDES, made on this machine."""

from __future__ import annotations

import re

from tbps_cli.data.layouts.official import Layout

_CAMERA = re.compile(r"^cam_([^/]+)/")


def about(path: str) -> tuple[str | None, str | None]:
    """The camera, which is the folder that a picture lies in."""
    match = _CAMERA.match(path)
    return (match[1] if match else None), None


LAYOUT = Layout(
    name="synthetic",
    title="synthetic pedestrians",
    aliases=("toy", "synth"),
    folder="synthetic",
    annotations=("reid_raw.json",),
    picture_key="file_path",
    counts={},
    access="Nobody: it is drawn on this machine. Type: tbps prepare-data synthetic",
    tree="""\
synthetic/
  reid_raw.json
  imgs/...""",
    about=about,
)
