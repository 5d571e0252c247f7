"""RSTPReid (Zhu et al., ACM MM 2021): five MSMT17 images a person, from fifteen cameras, two captions each."""

from __future__ import annotations

import re

from tbps_cli.data.layouts.benchmark import Layout

_NAME = re.compile(r"^\d+_c(\d+)_\d+")


def about(path: str) -> tuple[str | None, str | None]:
    """The camera, from names such as 0000_c14_0031.jpg."""
    match = _NAME.match(path.rsplit("/", 1)[-1])
    return (match[1] if match else None), None


LAYOUT = Layout(
    name="rstpreid",
    title="RSTPReid",
    aliases=("rstp", "rstp-reid"),
    folder="RSTPReid",
    annotations=("data_captions.json",),
    image_key="img_path",
    counts={"train": (3_701, 18_505, 37_010), "val": (200, 1_000, 2_000), "test": (200, 1_000, 2_000)},
    access="""\
Whom to ask: the links stand in the README of NjtechCVLab/RSTPReid-Dataset on GitHub (DSSL, ACM MM 2021);
  when they are dead, write to its authors.
What you agree to: the page states no licence. The images come from MSMT17, whose release agreement binds
  you: research use only, no redistribution. Sign it first.
What arrives: an archive with imgs/ and data_captions.json.""",
    tree="""\
RSTPReid/
  data_captions.json
  imgs/0000_c14_0031.jpg ...""",
    about=about,
)
