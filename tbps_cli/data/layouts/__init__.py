"""Data sets by name or path: each layout on disk is one reader, and all give a `Dataset`.

`open_dataset` is the only entry. A name is looked for below the data root, as the official tree has it,
and in the other papers' annotation files; the data root may also be the data set's own folder. A path may
be one's own JSONL, CSV or folder, or any annotation that `recognise` knows.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from tbps_cli.data.layouts import cuhk_pedes, icfg_pedes, rstpreid, synthetic
from tbps_cli.data.layouts.benchmark import Layout, missing_annotation
from tbps_cli.data.types import Dataset
from tbps_cli.errors import DataError

LAYOUTS: dict[str, Layout] = {
    module.LAYOUT.name: module.LAYOUT for module in (cuhk_pedes, icfg_pedes, rstpreid, synthetic)
}


def find_layout(name: str) -> Layout | None:
    """The layout that a name or one of its spellings means, in any case; None for a path."""
    plain = name.lower().replace("_", "-")
    return next((layout for layout in LAYOUTS.values() if plain in (layout.name, *layout.aliases)), None)


def open_dataset(name: str, data_root: Path, *, exclude: Path | None = None) -> Dataset:
    """Read a data set.

    name: cuhk-pedes, icfg-pedes, rstpreid, synthetic (any spelling), or a path to one's own.
    data_root: the folder that data sets lie in, or the data set's folder itself.
    exclude: a list of images and captions to leave out, as the audit writes it.
    Raises DataError when it is not there or broken.
    """
    from tbps_cli.data import recognise
    from tbps_cli.data.exclusions import leave_out

    layout = find_layout(name)
    if layout:
        dataset = recognise.read_named(layout, home_of(layout, data_root))
    else:
        dataset = recognise.read_path(_own_path(name, data_root))
    return leave_out(dataset, exclude) if exclude else dataset


def ceiling(dataset: Dataset, split: str) -> dict[str, float] | None:
    """The best scores (percent, by name) that a split allows; None where a data set cannot know them."""
    layout = LAYOUTS.get(dataset.name)
    return layout.ceiling(dataset, split) if layout and layout.ceiling else None


def home_of(layout: Layout, data_root: Path) -> Path:
    """The folder of a data set: below the data root in any spelling, or the data root itself."""
    from tbps_cli.data import recognise

    for folder in _candidates(layout, data_root):
        if recognise.holds(layout, folder):
            return folder
    there = [folder for folder in _candidates(layout, data_root)[:-1] if folder.is_dir()]
    if there:
        raise missing_annotation(layout, there[0])
    raise DataError(
        f"{layout.title} is not in {data_root}.",
        f"Type: tbps prepare-data {layout.name}"
        + (
            " (it draws one)." if layout.name == "synthetic" else " (it says whom to ask), or name another --data-root."
        ),
    )


def _candidates(layout: Layout, data_root: Path) -> list[Path]:
    spellings = {layout.folder.lower().replace("_", "-"), layout.name, *layout.aliases}
    below = [data_root / layout.folder]
    if data_root.is_dir():
        others = (entry for entry in sorted(data_root.iterdir()) if entry.name != layout.folder)
        below += [entry for entry in others if entry.name.lower().replace("_", "-") in spellings and entry.is_dir()]
    return [*below, data_root]


def _own_path(name: str, data_root: Path) -> Path:
    for path in (Path(name).expanduser(), data_root / name):
        if path.exists():
            return path
    near = difflib.get_close_matches(name.lower(), LAYOUTS, n=1, cutoff=0.5)
    raise DataError(
        f"{name!r} is neither a known data set nor a path that exists.",
        (f"Did you mean {near[0]}? " if near else "") + f"Known: {', '.join(LAYOUTS)}; or a JSONL, CSV or folder.",
    )
