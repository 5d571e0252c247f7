"""Which of the known layouts a folder or a file is.

Users of other papers' code keep other annotation files. Names alone do not decide (TextReID and RaSa both
have train.json), so the content is looked at too, and what was found is said in the data set's notes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tbps_cli.data.layouts import LAYOUTS, aptm, folder, pairs, rasa, records, tbps_clip, textreid
from tbps_cli.data.layouts import benchmark as official
from tbps_cli.data.layouts.benchmark import Layout
from tbps_cli.data.layouts.split_files import SplitFiles, first_record
from tbps_cli.data.types import Dataset
from tbps_cli.errors import DataError

PAPERS: tuple[SplitFiles, ...] = (tbps_clip.FILES, textreid.FILES, rasa.FILES, aptm.FILES)


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
        return official.read_file(layout, complete)
    found = _paper_files(place, aptm.PREFIXES.get(layout.name))
    if found is None:
        raise official.missing_annotation(layout, place)
    paper, files = found
    return paper.read(files, layout.name, place)


def read_path(path: Path) -> Dataset:
    """The data set that a path means: own pairs, an annotation of any known kind, or a folder."""
    return _read_folder(path) if path.is_dir() else _read_file(path)


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
    if path.suffix.lower() in pairs.SUFFIXES:
        return pairs.read(path)
    if path.suffix.lower() != ".json":
        raise DataError(f"{path} is not an annotation.", "Known are JSON, JSONL and CSV files, and folders.")
    content = records.parse_json(records.read_text(path), str(path))
    for paper in PAPERS:
        split = _split_in(path.name)
        if split and paper.fits(content) and "split" not in first_record(content):
            return paper.read(_siblings(path, split), path.absolute().parent.name.lower(), path.parent)
    return official.read_file(_layout_of_file(path), path)


def _split_in(name: str) -> str | None:
    return next((split for split in ("train", "val", "test") if split in name.lower()), None)


def _siblings(path: Path, split: str) -> dict[str, Path]:
    """The same file name for every split that lies beside it."""
    names = {other: path.with_name(path.name.replace(split, other)) for other in ("train", "val", "test")}
    return {other: sibling for other, sibling in names.items() if sibling.is_file()}


def _layout_of_file(path: Path) -> Layout:
    """The official layout whose file this is by name; any other list of such records takes its folder's name."""
    for layout in LAYOUTS.values():
        if path.name in layout.annotations and path.absolute().parent.name == layout.folder:
            return layout
    for layout in LAYOUTS.values():
        if path.name in layout.annotations[:2] and path.name != "reid_raw.json":
            return layout
    return replace(LAYOUTS["cuhk-pedes"], name=path.absolute().parent.name.lower() or path.stem)
