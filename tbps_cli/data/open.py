"""Data sets by name or path: what lies there is recognised, read by its layout, and given as a `Dataset`.

`open_dataset` is the only entry. A name is looked for below the data root, as the official tree has it,
and in the other papers' annotation files; the data root may also be the data set's own folder. A path may
be one's own JSONL, CSV or folder, or an annotation of any known layout. Names of files alone do not decide
(TextReID and RaSa both have train.json), so the content is looked at too, and what was found is said in the
data set's notes. The readers in `data/layouts/` know nothing of each other's names; this module is above them.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import replace
from pathlib import Path

from tbps_cli.data.exclusions import leave_out
from tbps_cli.data.layouts import (
    aptm,
    benchmark,
    cuhk_pedes,
    folder,
    icfg_pedes,
    pairs,
    parquet,
    pretraining_sets,
    rasa,
    records,
    rstpreid,
    synthetic,
    tables,
    tbps_clip,
    textreid,
)
from tbps_cli.data.layouts.benchmark import Layout
from tbps_cli.data.layouts.pretraining import PretrainingLayout
from tbps_cli.data.layouts.split_files import SplitFiles, first_record
from tbps_cli.data.types import SPLITS, Dataset, Truth
from tbps_cli.errors import DataError

logger = logging.getLogger("tbps")

BENCHMARKS = [module.LAYOUT for module in (cuhk_pedes, icfg_pedes, rstpreid, synthetic)]
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (*BENCHMARKS, *pretraining_sets.LAYOUTS)}
"""The data sets that have a name."""

PAPERS: tuple[SplitFiles, ...] = (tbps_clip.FILES, textreid.FILES, rasa.FILES, aptm.FILES)
"""How other papers' code writes the same data sets, in the order in which they are tried."""


def find_layout(name: str) -> Layout | None:
    """The layout that a name or one of its spellings means, in any case; None for a path."""
    plain = name.lower().replace("_", "-")
    return next((layout for layout in LAYOUTS.values() if plain in (layout.name, *layout.aliases)), None)


def open_dataset(name: str, data_root: Path, *, exclude: Path | None = None) -> Dataset:
    """Read a data set.

    name: cuhk-pedes or another of `LAYOUTS` (any spelling), or a path to one's own.
    data_root: the folder that data sets lie in, or the data set's folder itself.
    exclude: a list of images and captions to leave out, as the audit writes it.
    Raises DataError when it is not there or broken.
    """
    layout = find_layout(name)
    dataset = read_named(layout, home_of(layout, data_root)) if layout else read_path(_own_path(name, data_root))
    if exclude:
        dataset = leave_out(dataset, exclude)
    _warn_of_shared_persons(dataset)
    return dataset


def _warn_of_shared_persons(dataset: Dataset) -> None:
    shared = dataset.persons_in_several_splits()
    if shared:
        person, splits = next(iter(shared.items()))
        logger.warning(
            "%s: %s in several splits (first: person %s in %s), so the scores will be too good. "
            "tbps prepare-data %s --audit lists them.",
            dataset.name,
            f"{len(shared):,} persons are" if len(shared) > 1 else "1 person is",
            person,
            " and ".join(splits),
            dataset.source or dataset.name,
        )


def ceiling(dataset: Dataset, split: str) -> dict[str, float] | None:
    """The best scores (percent, by name) that a split allows; None where a data set cannot know them."""
    layout = LAYOUTS.get(dataset.name)
    return layout.ceiling(dataset, split) if layout and layout.ceiling else None


def truths(dataset: Dataset, split: str) -> list[Truth] | None:
    """What is known of each image of a split, in file order; None where a data set cannot know it."""
    layout = LAYOUTS.get(dataset.name)
    known = layout.truths(dataset, split) if layout and layout.truths else None
    return None if known is None else [known[image.path] for image in dataset.images if image.split == split]


# A name: where its folder is, and which annotation lies there ----------------------------------


def home_of(layout: Layout, data_root: Path) -> Path:
    """The folder of a data set: below the data root in any spelling, or the data root itself."""
    candidates = _candidates(layout, data_root)
    for place in candidates:
        if holds(layout, place):
            return place
    there = [place for place in candidates[:-1] if place.is_dir()]
    if there:
        raise benchmark.missing_annotation(layout, there[0])
    command = f"tbps prepare-data {layout.name}"
    hint = f"How to request it: {command}. If it is somewhere else, name another --data-root."
    raise DataError(
        f"{layout.title} is not in {data_root}.", f"Draw it: {command}" if layout.name == "synthetic" else hint
    )


def _candidates(layout: Layout, data_root: Path) -> list[Path]:
    spellings = {layout.folder.lower().replace("_", "-"), layout.name, *layout.aliases}
    below = [data_root / layout.folder]
    if data_root.is_dir():
        others = (entry for entry in sorted(data_root.iterdir()) if entry.name != layout.folder)
        below += [entry for entry in others if entry.name.lower().replace("_", "-") in spellings and entry.is_dir()]
    return [*below, data_root]


def holds(layout: Layout, place: Path) -> bool:
    """Whether a folder has an annotation of this data set, official or another paper's."""
    return place.is_dir() and (
        layout.annotation_in(place) is not None
        or _complete_caption_all(layout, place) is not None
        or _paper_files(place, aptm.PREFIXES.get(layout.name)) is not None
    )


def read_named(layout: Layout, place: Path) -> Dataset:
    """The data set of a known name in its folder; the official annotation is preferred."""
    if layout.annotation_in(place):
        return layout.read(place)
    complete = _complete_caption_all(layout, place)
    if complete:
        return benchmark.read_file(layout, complete)
    found = _paper_files(place, aptm.PREFIXES.get(layout.name))
    if found is None:
        raise benchmark.missing_annotation(layout, place)
    paper, files = found
    return paper.read(files, layout.name, place)


def _complete_caption_all(layout: Layout, place: Path) -> Path | None:
    """caption_all.json, in the rare case that its records do have splits."""
    path = place / "caption_all.json"
    if layout.name != "cuhk-pedes" or not path.is_file():
        return None
    found = first_record(records.parse_json(records.read_text(path), str(path)))
    return path if "split" in found else None


def _paper_files(place: Path, prefix: str | None) -> tuple[SplitFiles, dict[str, Path]] | None:
    for paper in PAPERS:
        files = paper.find(place, prefix)
        if files:
            return paper, files
    return None


# A path: one's own pairs, an annotation of any known kind, or a folder --------------------------


def _own_path(name: str, data_root: Path) -> Path:
    for path in (Path(name).expanduser(), data_root / name):
        if path.exists():
            return path
    near = difflib.get_close_matches(name.lower(), LAYOUTS, n=1, cutoff=0.5)
    raise DataError(
        f"{name!r} is neither a known data set nor a path that exists.",
        (f"Did you mean {near[0]}? " if near else "") + f"Known: {', '.join(LAYOUTS)}; or a JSONL, CSV or folder.",
    )


def read_path(path: Path) -> Dataset:
    """The data set that a path means: own pairs, an annotation of any known kind, or a folder."""
    return _read_folder(path) if path.is_dir() else _read_file(path)


def _read_folder(place: Path) -> Dataset:
    for layout in LAYOUTS.values():
        if layout.annotation_in(place):
            named = next((other for other in LAYOUTS.values() if other.folder == place.absolute().name), layout)
            return (named if named.annotation_in(place) else layout).read(place)
    found = _paper_files(place, None) or _one_prefix(place)
    if found:
        return found[0].read(found[1], place.absolute().name.lower(), place)
    tables = sorted(path for path in place.iterdir() if path.suffix.lower() in pairs.SUFFIXES)
    if len(tables) == 1:
        return pairs.read(tables[0])
    if tables:
        raise DataError(
            f"{place} has {len(tables)} tables ({', '.join(path.name for path in tables[:4])}).", "Name one of them."
        )
    return folder.read(place)


def _one_prefix(place: Path) -> tuple[SplitFiles, dict[str, Path]] | None:
    """APTM keeps three data sets in one folder: a path may mean it only when one of them is there."""
    found = {name: aptm.FILES.find(place, prefix) for name, prefix in aptm.PREFIXES.items()}
    there = [name for name, files in found.items() if files]
    if len(there) > 1:
        raise DataError(f"{place} holds {' and '.join(there)}.", f"Say which: data.name = {there[0]!r}.")
    return (aptm.FILES, found[there[0]]) if there else None


def _read_file(path: Path) -> Dataset:
    large = _pretraining_layout(path)
    if large and path.suffix.lower() not in tables.TABLES:
        return large.read_file(path)
    if path.suffix.lower() in pairs.SUFFIXES:
        return pairs.read(path)
    if path.suffix.lower() != ".json":
        raise DataError(
            f"{path} is not an annotation file.", "Known are JSON, JSONL, CSV and Parquet files, and folders."
        )
    content = records.parse_json(records.read_text(path), str(path))
    split = next((split for split in SPLITS if split in path.name.lower()), None)
    for paper in PAPERS:
        if split and paper.fits(content) and "split" not in first_record(content):
            return paper.read(_siblings(path, split), path.absolute().parent.name.lower(), path.parent)
    return benchmark.read_file(_layout_of_file(path), path)


def _pretraining_layout(path: Path) -> PretrainingLayout | None:
    """The pre-training set in whose folder a file lies, or whose name it has; any set for a Parquet file."""
    for place in list(path.absolute().parents)[:4]:
        for layout in pretraining_sets.LAYOUTS:
            if layout.is_called(place):
                return layout
    for layout in pretraining_sets.LAYOUTS:
        if layout.telling and any(path.match(pattern) for pattern in layout.annotations):
            return layout
    if path.suffix.lower() != parquet.SUFFIX:
        return None
    return replace(pretraining_sets.OWN, name=path.absolute().parent.name.lower() or path.stem)


def _siblings(path: Path, split: str) -> dict[str, Path]:
    """The same file name for every split that lies beside it."""
    names = {other: path.with_name(path.name.replace(split, other)) for other in SPLITS}
    return {other: sibling for other, sibling in names.items() if sibling.is_file()}


def _layout_of_file(path: Path) -> Layout:
    """The official layout whose file this is by name; any other list of such records takes its folder's name."""
    for layout in BENCHMARKS:
        if path.name in layout.annotations and path.absolute().parent.name == layout.folder:
            return layout
    for layout in BENCHMARKS:
        if path.name in layout.annotations[:2] and path.name != "reid_raw.json":
            return layout
    return replace(LAYOUTS["cuhk-pedes"], name=path.absolute().parent.name.lower() or path.stem)
