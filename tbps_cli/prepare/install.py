"""Puts a data set that its authors sent into the data root: an archive, a folder, or the annotation alone.

The archives that circulate nest the data set at different depths and sometimes come without annotation;
both are found out before anything appears under the final name.
"""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

from tbps_cli import files
from tbps_cli.data.layouts.benchmark import Layout
from tbps_cli.data.layouts.pretraining import PretrainingLayout
from tbps_cli.data.layouts.records import IMAGE_FOLDERS
from tbps_cli.errors import DataError
from tbps_cli.prepare import unpack
from tbps_cli.prepare.unpack import Progress
from tbps_cli.prepare.write_out import parquet_files, write_out

DEPTH = 4


def install(layout: Layout, source: Path, data_root: Path, progress: Progress | None = None) -> Path:
    """Bring `source` under DATA_ROOT/FOLDER and return that folder. Raises DataError; then nothing has changed."""
    if not source.exists():
        raise DataError(f"--source {source} does not exist.")
    if not (source.is_file() or source.is_dir()):  # a device or a pipe never ends
        raise DataError(f"--source {source} is neither a file nor a folder.")
    target = data_root / layout.folder
    if source.is_file() and source.suffix.lower() in (".json", ".jsonl"):
        return _install_annotation(layout, source, target)
    _check_places(source, target)
    tables = parquet_files(source) if isinstance(layout, PretrainingLayout) else []
    with files.explained(target, DataError), files.staging(target) as folder:
        if tables:
            write_out(tables, folder, progress)
        else:
            unpack.unpack(source, folder, progress)
        home = find_home(layout, folder)
        if home is None:
            raise DataError(
                f"{source} does not hold {layout.title}: neither {layout.annotations[0]} nor imgs/ (it has "
                f"{_listing(folder)}).",
                f"To see what it should hold: tbps prepare-data {layout.name}",
            )
        _check_annotation(layout, home, source)
        if target.is_dir():
            target.rmdir()  # empty, as checked
        home.rename(target)
    return target


def _check_places(source: Path, target: Path) -> None:
    here, there = source.resolve(), target.resolve()
    if source.is_dir() and (there == here or there.is_relative_to(here)):
        raise DataError(
            f"--source {source} is or contains {target}, where the data set belongs.",
            "It is already in the right place: omit --source." if there == here else "Name its own folder.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} already exists.", "To check it, omit --source; to replace it, move it away first.")


def find_home(layout: Layout, folder: Path) -> Path | None:
    """The folder of the data set in an unpacked tree: that of the annotation, else of imgs/."""
    levels = [folder]
    found: list[Path] = []
    for _ in range(DEPTH):
        with_annotation = [place for place in levels if layout.annotation_in(place, certain=True)]
        if with_annotation:
            return with_annotation[0]
        found += [place for place in levels if any((place / name).is_dir() for name in IMAGE_FOLDERS)]
        levels = [entry for place in levels for entry in sorted(place.iterdir()) if entry.is_dir()]
    return found[0] if found else None


def _check_annotation(layout: Layout, home: Path, source: Path) -> None:
    """Read the annotation before the tree gets its name; errors speak of the source, not of our folder."""
    if layout.annotation_in(home, certain=True) is None:
        return
    try:
        layout.read(home)
    except DataError as error:
        raise DataError(error.message.replace(str(home), str(source)), error.hint) from None


def _install_annotation(layout: Layout, source: Path, target: Path) -> Path:
    layout.read_file(source)
    place = layout.place_of(source, target)
    there = next((path for path in (place, *(target / name for name in layout.annotations)) if path.is_file()), None)
    if there and not filecmp.cmp(there, source, shallow=False):
        raise DataError(f"{there} already exists and differs from {source}.", "Move one of them away.")
    if there is None:
        with files.explained(target, DataError):
            place.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(place, DataError) as temporary:
            shutil.copyfile(source, temporary)
    return target


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
