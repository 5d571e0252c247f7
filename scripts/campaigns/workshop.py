"""What the runs of a campaign work on, made once: a data set, recipes, runs, an official folder, images, an archive."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from support.runs import golden_state, irra_folder, tiny_run
from support.sets import save_image
from support.training import tiny_recipe, write_data

from campaigns.trials import Result, isolated


@dataclass(frozen=True)
class Workshop:
    """Where things lie. Nothing here is changed by a run; what it changes, it gets as a copy."""

    folder: Path

    @property
    def data(self) -> Path:
        """A data root with CUHK-PEDES."""
        return self.folder / "data"

    @property
    def archive(self) -> Path:
        """The same set as its authors would send it."""
        return self.folder / "CUHK-PEDES.zip"

    @property
    def recipe(self) -> Path:
        return self.folder / "tiny-clip.toml"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "a"

    @property
    def official(self) -> Path:
        return self.folder / "official"

    @property
    def photos(self) -> Path:
        """60 images, two of which are broken."""
        return self.folder / "photos"

    @contextmanager
    def bench(self) -> Iterator[Path]:
        """A new folder for one trial."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            yield Path(name)


@contextmanager
def workshop() -> Iterator[Workshop]:
    """Make it, in a fork: making the runs computes, and whoever forks later must not have computed."""
    with tempfile.TemporaryDirectory(prefix="tbps-campaign-") as name:
        place = Workshop(Path(name))
        made = isolated(lambda: _make(place), 300)
        if made.faults:
            raise RuntimeError(made.faults[0])
        yield place


def _make(place: Workshop) -> Result:
    write_data(place.data)
    tiny_recipe(place.folder)
    tiny_run(place.run)
    irra_folder(place.official, golden_state())
    for number in range(58):
        size = 12 + number % 5, 30 + number % 7
        save_image(place.photos / f"c{number % 3}" / f"{number:02d}.png", seed=number, size=size)
    (place.photos / "c0" / "empty.jpg").touch()
    (place.photos / "c1" / "text.png").write_text("no image\n")
    Image.new("RGB", (20, 40), "red").save(place.photos / "red.jpg")
    with zipfile.ZipFile(place.archive, "w") as archive:
        for path in sorted((place.data / "CUHK-PEDES").rglob("*")):
            archive.write(path, path.relative_to(place.data))
    return Result()


def tree(folder: Path, *leave_out: str, bench: Path | None = None) -> dict[str, str]:
    """Every file and folder below one, and what is in it. bench: reports name their place, which is not compared."""
    name_of_place = os.fsencode(bench or folder)
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not any(part in leave_out for part in path.relative_to(folder).parts):
            found[name] = (
                str(path.readlink())
                if path.is_symlink()
                else hashlib.blake2b(path.read_bytes().replace(name_of_place, b""), digest_size=8).hexdigest()
                if path.is_file()
                else "folder"
            )
    return found


def differing(wanted: dict[str, str], found: dict[str, str]) -> str | None:
    """In a few words how two trees differ; None when they do not."""
    parts = {
        "missing": sorted(wanted.keys() - found.keys()),
        "too many": sorted(found.keys() - wanted.keys()),
        "different": sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name]),
    }
    told = [f"{len(names)} {what} ({', '.join(names[:3])})" for what, names in parts.items() if names]
    return "; ".join(told) or None


def copy(source: Path, target: Path) -> Path:
    """A copy that shares no file with its source; times are kept."""
    shutil.copytree(source, target)
    return target
