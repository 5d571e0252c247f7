"""`tbps index --forget PATH`: a file, folder or person leaves every index at once, and stays out.

First the lists are written that keep it out (see `withheld`), then rows, thumbnails and detections go. So whatever is
killed in between, the next use of an index drops what is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import CacheError, DataError, UsageError
from tbps_cli.features.lookup import coded
from tbps_cli.features.rows import Rows, content_hash
from tbps_cli.features.snapshot import read_about, read_fingerprint
from tbps_cli.features.store import FeatureFile
from tbps_cli.footage import seen
from tbps_cli.footage.video import is_video
from tbps_cli.places import cache_dir
from tbps_cli.retrieval.code_files import remove_stale_codes
from tbps_cli.searching.gallery import Roots
from tbps_cli.searching.index_state import IndexState
from tbps_cli.searching.thumbnails import ThumbnailCache
from tbps_cli.searching.withheld import Forgotten, list_beside, list_in_cache, remember, split


@dataclass
class ForgetReport:
    """What has gone."""

    images: int = 0
    indexes: int = 0
    thumbnails: int = 0
    detections: int = 0
    lists: list[Path] = field(default_factory=list)
    """Where it is remembered."""
    failed: list[CacheError] = field(default_factory=list)
    """Indexes that could not be opened; what was forgotten goes from them when they are used."""

    def document(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        counts = {"images": self.images, "indexes": self.indexes, "thumbnails": self.thumbnails}
        return {**counts, "detections": self.detections, "lists": [str(path) for path in self.lists]}


class _Index(NamedTuple):
    file: FeatureFile
    roots: Roots


def forget(given: Sequence[str], index_file: Path | None = None) -> ForgetReport:
    """Remove files, folders or crops (`street.mp4#t=12.480&xywh=...`) from all indexes of the cache, for good.

    index_file: an index elsewhere that forgets them too. Raises DataError for a path that nobody knows, before anything
    is removed, and TbpsError when a list cannot be written.
    """
    if not all(path.strip() for path in given):  # from a variable of the shell that is not set: not the whole folder
        raise UsageError("--forget is empty: no file is named.", "To forget all that is in this folder: --forget .")
    report = ForgetReport()
    indexes = list(_indexes(index_file, report))
    asked, contents = Forgotten(), set[str]()
    for path in given:
        one = Forgotten()
        one.add({"path": _absolute(path)})
        found = _contents(one, path, indexes)
        if not found and not os.path.lexists(split(path)[0]):
            raise DataError(f"--forget {path}: there is no such file, and no index has it.", "See: tbps cache")
        asked.paths |= one.paths
        contents |= found
    videos = {content for index in indexes for content in _videos(index, asked)}
    _remember([_absolute(path) for path in given], contents | videos, index_file, report)
    asked.contents = contents
    shown = {content for index in indexes for content in _beside(index, asked)}
    for index in indexes:
        _drop(index, asked, report)
    report.thumbnails = ThumbnailCache().forget(contents | videos | shown)
    report.detections = seen.drop(contents | videos)
    return report


def _absolute(path: str) -> str:
    file, fragment = split(path)
    return os.path.abspath(os.path.expanduser(file)) + fragment  # noqa: PTH100, PTH111 - links stay, files may be gone


def _indexes(index_file: Path | None, report: ForgetReport) -> Iterator[_Index]:
    """Every index in the cache, and the one elsewhere; one that cannot be opened is in the report."""
    folder = cache_dir() / "indexes"
    files = (path for ending in ("h5", "h5.parts") for path in folder.glob(f"*.{ending}"))
    there = {path.with_name(path.name.removesuffix(".parts")) for path in files}
    for path in [*sorted(there), *([index_file] if index_file else [])]:
        try:
            about, fingerprint = read_about(path), read_fingerprint(path)
            if about is None or fingerprint is None or about.get("folder") is None:
                raise CacheError(f"{path} is not an index.", "Make one: tbps index FOLDER --index FILE")
            named = about.get("sources") or {}
            places = {str(name): Path(str(place)) for name, place in named.items()} if isinstance(named, dict) else {}
            yield _Index(FeatureFile.open(path, fingerprint), Roots(Path(str(about["folder"])), places))
        except CacheError as error:
            if path == index_file:
                raise
            report.failed.append(error)


def _contents(asked: Forgotten, path: str, indexes: Sequence[_Index]) -> set[str]:
    """What the indexes say that these files hold, and what an image that is there holds now."""
    found = set[str]()
    for index in indexes:
        rows, unused = index.file.known(), index.file.unused()
        found |= _different(rows.columns["content"][asked.covers(rows, index.roots)])
        vanished_K = asked.covers(unused, index.roots) & (index.file.snapshot.places(unused.columns["path"]) < 0)
        columns = unused.take(np.flatnonzero(vanished_K)).columns
        last = dict(zip(columns["path"].tolist(), columns["content"].tolist(), strict=True))
        found |= {content.decode() for content in last.values()}
    file = Path(path).expanduser()
    if file.is_file() and not is_video(file):
        found.add(content_hash(file))
    return found - {""}


def _videos(index: _Index, asked: Forgotten) -> Iterator[str]:
    """The contents of whole videos and frames that are forgotten, as detections are kept under them."""
    for name, done in IndexState(index.file.path).done.items():
        if asked.covers_file(os.path.realpath(index.roots.file_of(name))):
            yield done.content


def _beside(index: _Index, asked: Forgotten) -> Iterator[str]:
    """The contents of crops of the same videos and frames: a thumbnail of a whole frame is kept under any of them."""
    rows = index.file.known()
    of_V, of_G = coded(rows.columns["source"])
    asked_V = np.isin(np.arange(len(of_V)), of_G[asked.covers(rows, index.roots)]) & (of_V != b"")
    yield from _different(rows.columns["content"][asked_V[of_G]])


def _different(content_K: NDArray[np.bytes_]) -> set[str]:
    return {content.decode() for content in set(content_K.tolist())}


def _remember(paths: Sequence[str], contents: set[str], index_file: Path | None, report: ForgetReport) -> None:
    when = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    entries: list[dict[str, Any]] = [{"when": when, "path": path} for path in paths]
    entries += [{"when": when, "content": content} for content in sorted(contents)]
    report.lists = [list_in_cache(), *([list_beside(index_file)] if index_file else [])]
    for path in report.lists:
        remember(entries, path)


def _drop(index: _Index, asked: Forgotten, report: ForgetReport) -> None:
    def covers(rows: Rows) -> NDArray[np.bool_]:
        return asked.covers(rows, index.roots)

    mask = covers(index.file.known())
    if mask.any() or index.file.still_holds(covers):  # also what vanished, and is there until the next merge
        index.file.keep(~mask)
    else:
        remove_stale_codes(index.file.path)
    report.images += int(mask.sum())
    report.indexes += bool(mask.any())
    state = IndexState(index.file.path)
    state.forget_others(
        name for name in state.done if not asked.covers_file(os.path.realpath(index.roots.file_of(name)))
    )
