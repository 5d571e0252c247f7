"""What is searched, as people name it: folders, files, patterns, lists, tables and galleries with a name.

Each of them becomes a list of files with the names that they have in the gallery, and with what is known of
them: from a table, else from a file's own name. Nothing is opened here but lists and tables.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tbps_cli.databases.urls import is_url, shown, shown_place
from tbps_cli.errors import DataError, UsageError
from tbps_cli.features.rows import Box, change_time, texts
from tbps_cli.files import expanded
from tbps_cli.footage.video import is_video
from tbps_cli.searching.gallery import Roots
from tbps_cli.searching.listed import HINT, NOTHING, FileFacts, Listed
from tbps_cli.searching.scan import Found, FoundFiles, Looked, is_image, scan

LISTS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".lst")
STDIN = "-"
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Item:
    """A file to index: where it lies, what it is called in the gallery, and what is known of it."""

    file: Path
    found: Found
    facts: FileFacts = NOTHING

    @property
    def path(self) -> str:
        return self.found.path


@dataclass(frozen=True, eq=False)
class Items(Sequence[Item]):
    """The files of a source as columns; indexing gives an `Item`."""

    roots: Roots
    """Where the files lie."""
    found: FoundFiles
    facts: Mapping[int, FileFacts] = field(default_factory=dict)
    """Place -> what is stated of that file."""

    @classmethod
    def of(cls, items: Sequence[Item], roots: Roots) -> Items:
        """The same items as columns."""
        if isinstance(items, Items):
            return items
        found = FoundFiles.of([item.found for item in items])
        video_N = np.array([is_video(item.file) for item in items], bool)
        facts = {place: item.facts for place, item in enumerate(items) if item.facts != NOTHING}
        return cls(roots, replace(found, video_N=video_N), facts)

    @cached_property
    def box_N(self) -> NDArray[np.bool_]:
        """Which are a part of an image."""
        box_N = np.zeros(len(self), bool)
        box_N[[place for place, facts in self.facts.items() if facts.box]] = True
        return box_N

    def only(self, index_K: NDArray[np.int64]) -> Items:
        """The items at these places, as columns."""
        stated = index_K.tolist() if self.facts else []
        facts = {at: self.facts[place] for at, place in enumerate(stated) if place in self.facts}
        return Items(self.roots, self.found.take(index_K), facts)

    def take(self, index_K: NDArray[np.int64]) -> list[Item]:
        """The items at these places."""
        return [self[place] for place in index_K.tolist()]

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        found, facts = self.found[index], self.facts.get(index % len(self), NOTHING)
        name = found.path.rpartition("#xywh=")[0] if facts.box else found.path
        return Item(self.roots.file_of(name), found, facts)


@dataclass
class Listing:
    """The files of a source as they were when it was listed."""

    items: Sequence[Item]
    unreadable: dict[str, str] = field(default_factory=dict)
    """Folder or file, as it is called in the gallery -> why it could not be listed."""

    def hides(self, path: str) -> bool:
        """Whether a file may be there unseen: a folder above it could not be read."""
        return any(path.startswith(folder + "/") for folder in self.unreadable)


class Lister(Protocol):
    """Lists the files of a source; `looked` is told now and then how many were found."""

    def __call__(self, looked: Looked | None = None) -> Listing: ...


@dataclass(frozen=True)
class Sources:
    """One or several sources, found but not listed yet."""

    title: str
    """As shown."""
    roots: Roots
    list: Lister
    part: str = ""
    """What tells their index from that of the whole folder `roots.folder`."""
    complete: bool = True
    """Whether files that are not listed have no place in the index; not so for single files, patterns and lists."""
    single: str | None = None
    """The name of the file that is all there is."""


def find_sources(given: Sequence[str | Path], *, gallery: str | None = None) -> Sources:
    """What the sources are. Raises DataError or UsageError for one that is not there or lists nothing.

    gallery: its name, when it has one; paths then begin with the name of their source, as with several sources.
    """
    if not given:
        raise UsageError("no source is given.", "Name a folder, a video, a file or a list: tbps index photos")
    if len(given) == 1 and gallery is None:
        return _one(str(given[0]))
    named: dict[str, Sources] = {}
    for source in given:
        one = _one(str(source))
        named[_unused(_short(one), named)] = one
    roots = Roots(_common(one.roots.folder for one in named.values()), {key: _root(one) for key, one in named.items()})
    places = repr([str(path) for path in roots.named.values()])
    part = gallery or "sources-" + hashlib.blake2b(places.encode("utf-8", "replace"), digest_size=4).hexdigest()
    title = gallery or ", ".join(one.title for one in named.values())
    return Sources(title, roots, lambda looked=None: _joined(named, roots, looked), part)


def _joined(named: Mapping[str, Sources], roots: Roots, looked: Looked | None) -> Listing:
    parts: list[FoundFiles] = []
    facts: dict[int, FileFacts] = {}
    unreadable: dict[str, str] = {}
    count = 0
    for key, one in named.items():
        try:
            listing = one.list(None if looked is None else _after(count, looked))
        except DataError as error:  # gone by now: the others go on
            unreadable[key] = error.message
            continue
        items = Items.of(listing.items, one.roots)
        facts |= {count + place: stated for place, stated in items.facts.items()}
        before = texts([key if one.single else f"{key}/"])
        parts.append(items.found.renamed(np.strings.add(before, b"" if one.single else items.found.name_N)))
        count += len(items)
        unreadable |= {f"{key}/{at}" if at else key: why for at, why in listing.unreadable.items()}
    return Listing(Items(roots, FoundFiles.joined(parts), facts), unreadable)


def _after(count: int, looked: Looked) -> Looked:
    """Counts on from what other sources have."""
    return lambda found: looked(count + found)


def _one(source: str) -> Sources:
    if source == STDIN:
        from tbps_cli.searching.lists import of_lines

        return _listed("standard input", of_lines(_stdin(), Path()))
    if not source.strip():
        raise UsageError(
            "a source is empty: no folder or file is named.", "Is a variable of the shell unset? For this folder: ."
        )
    if is_url(source):
        raise UsageError(
            f"{shown(source)} is a gallery in a database, and not where images come from.",
            "It is searched with --in URL, and filled from folders and videos: tbps index FOLDER --gallery URL",
        )
    path = expanded(Path(source))
    if os.path.isdir(path):  # noqa: PTH112 - False for a name that no file system allows, where Path raises
        return Sources(str(path), Roots(path), lambda looked=None: _folder(path, looked))
    if os.path.isfile(path):  # noqa: PTH113
        return _file(path)
    if _PATTERN.search(source):
        return _pattern(path)
    hint = "Give a folder, a video, an image, a list or a pattern."
    if shown_place(source) != source or "://" in source:
        hint = "Galleries in databases are named postgresql://USER@HOST/DATABASE or milvus://HOST/COLLECTION."
    raise DataError(f"{shown_place(source)}: there is no such file or folder.", hint)


def _folder(folder: Path, looked: Looked | None) -> Listing:
    seen = scan(folder, looked)
    return Listing(Items(Roots(folder), seen.files), seen.unreadable)


def _file(path: Path) -> Sources:
    if is_image(path.name) or is_video(path.name):
        return replace(_some(path.parent, [path.name], str(path)), single=path.name)
    if path.suffix.lower() in LISTS:
        from tbps_cli.searching.lists import of_file  # and with it what reads tables: a folder needs none

        return _listed(str(path), of_file(path))
    raise DataError(
        f"{path} is neither an image nor a video nor a list, by its name.",
        "Images end in .jpg, .png and the like, videos in .mp4, .mkv, .avi, ..., lists in .txt, .csv, .json or .jsonl.",
    )


def _pattern(path: Path) -> Sources:
    fixed = Path(*_before_pattern(path.parts))
    names: list[str] = []
    for match in map(Path, sorted(glob.glob(str(path), recursive=True))):  # noqa: PTH207 - may be absolute
        inside = match.relative_to(fixed).as_posix()
        if match.is_dir():
            names += [f"{inside}/{path}" for path in scan(match).files.paths]
        elif is_image(match.name) or is_video(match.name):
            names.append(inside)
    if not names:
        raise DataError(
            f"{path}: no image or video fits this pattern.", "Put it into quotes, so that no shell reads it."
        )
    return _some(fixed, list(dict.fromkeys(names)), str(path))


def _before_pattern(parts: Sequence[str]) -> Iterator[str]:
    """The leading parts of a path that hold no pattern."""
    for part in parts[:-1]:
        if _PATTERN.search(part):
            return
        yield part


def _some(folder: Path, names: Sequence[str], title: str) -> Sources:
    """Some files below a folder."""

    def listing(looked: Looked | None = None) -> Listing:
        return Listing([item for name in names if (item := _item(folder / name, name)) is not None])

    return Sources(title, Roots(folder), listing, "files", complete=False)


def _item(file: Path, name: str, facts: FileFacts = NOTHING) -> Item | None:
    """A file by its path; None when it is gone."""
    try:
        state = file.stat()
    except (OSError, ValueError):
        return None
    return Item(file, Found(name, state.st_size, change_time(state)), facts)


# Lists and tables -----------------------------------------------------------------------------


def _listed(title: str, entries: Iterable[Listed]) -> Sources:
    listed = [one._replace(file=Path(os.path.abspath(one.file))) for one in entries]  # noqa: PTH100 - keeps links
    if not listed:
        raise DataError(f"{title} lists no files.", HINT)
    strange = next((one for one in listed if not is_image(one.file.name) and not is_video(one.file.name)), None)
    if strange:
        raise DataError(f"{title}: {strange.place}: {strange.file} is neither an image nor a video, by its name.", HINT)
    folder = _common(one.file.parent for one in listed)

    def listing(looked: Looked | None = None) -> Listing:
        items: list[Item] = []
        unreadable: dict[str, str] = {}
        for one in listed:
            name = one.file.relative_to(folder).as_posix()
            if (item := _item(one.file, name + _fragment(one.facts.box), one.facts)) is None:
                unreadable[name] = f"listed in {one.place}, but not there"
            else:
                items.append(item)
        if not items:
            raise DataError(
                f"{title}: none of its {len(listed):,} files is there (first: {listed[0].file}, {listed[0].place}).",
                HINT,
            )
        return Listing(items, unreadable)

    return Sources(title, Roots(folder), listing, "files", complete=False)


def _fragment(box: Box | None) -> str:
    """A part of an image behind its path, as media fragments (W3C) name it."""
    return "#xywh=" + ",".join(map(str, box)) if box else ""


def _stdin() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "-: a list of paths is read from standard input.", "For example: find . -name '*.jpg' | tbps index -"
        )
    return os.fsdecode(sys.stdin.buffer.read())  # names of files need not be UTF-8


# Several sources ------------------------------------------------------------------------------


def _short(source: Sources) -> str:
    """What a source is called among others."""
    return (source.single or source.roots.folder.absolute().name or "root").replace("/", "_")


def _root(source: Sources) -> Path:
    folder = source.roots.folder.absolute()
    return folder / source.single if source.single else folder


def _unused(name: str, taken: Mapping[str, object]) -> str:
    """The name, with a number when it is taken."""
    number, made = 1, name
    while made in taken:
        number += 1
        made = f"{name}-{number}"
    return made


def _common(folders: Iterable[Path]) -> Path:
    """The deepest folder above all of them. Raises UsageError when there is none (several drives)."""
    try:
        return Path(os.path.commonpath([folder.absolute() for folder in folders]))
    except ValueError:
        raise UsageError("the sources lie on several drives.", "Index them one by one.") from None
