"""ICFG-PEDES (Ding et al., arXiv 2107.12666): MSMT17 images with one fine-grained caption each; no val split.

The folders train and test below imgs come from MSMT17 and do not decide the split: the record does.
The published readers open ICFG-PEDES.json while their documentation writes ICFG_PEDES.json.
"""

from __future__ import annotations

import re

from tbps_cli.data.layouts.benchmark import Layout

_MSMT17 = re.compile(r"^\d+_\d+_(\d+)_(\d+(?:morning|noon|afternoon))")


def about(path: str) -> tuple[str | None, str | None]:
    """Camera and time of day, where the file still has its MSMT17 name."""
    match = _MSMT17.match(path.rsplit("/", 1)[-1])
    return (match[1], match[2]) if match else (None, None)


LAYOUT = Layout(
    name="icfg-pedes",
    title="ICFG-PEDES",
    aliases=("icfg", "icfgpedes"),
    folder="ICFG-PEDES",
    annotations=("ICFG-PEDES.json", "ICFG_PEDES.json"),
    image_key="file_path",
    counts={"train": (3_102, 34_674, 34_674), "test": (1_000, 19_848, 19_848)},
    access="""\
Whom to ask: the authors of "Semantically Self-Aligned Network for Text-to-Image Part-aware Person
  Re-identification" (SSAN), by e-mail from your university address (the project page zifyloo/SSAN on GitHub
  names chxding at scut.edu.cn).
What you agree to: research use only; no redistribution. The images come from MSMT17, whose release
  agreement also binds you: sign that one too.
What arrives: an archive with imgs/ and ICFG-PEDES.json (sometimes spelled ICFG_PEDES.json).""",
    tree="""\
ICFG-PEDES/
  ICFG-PEDES.json          (or ICFG_PEDES.json)
  imgs/{train,test}/...""",
    about=about,
)
