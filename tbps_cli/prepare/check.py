"""Looking at every file of a data set once: what is missing, unreadable, cut short or there twice.

Images are decoded by threads (PIL lets go of Python's lock while it does); files that fail are tried again one
at a time with PIL's leniency, which tells truncated ones from unreadable ones.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tbps_cli.data.images import UnreadableImage, check_size, find_missing, read_image
from tbps_cli.data.types import Dataset
from tbps_cli.prepare.audit import Finding
from tbps_cli.prepare.decode import THREADS, Progress, in_turn

Phase = Callable[[str], AbstractContextManager[Progress | None]]
"""Opens a progress bar of that title; the value is called with (done, total)."""
See = Callable[[str, str, Image.Image], None]
"""Shown an image: (path below the root, hash of the file's content, the image); by several threads."""
EXAMPLES = 5


@dataclass
class Trouble:
    """How many images have one kind of trouble, and which come first."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if self.count <= EXAMPLES:
            self.examples.append(example)


@dataclass
class CheckReport:
    """Everything that was found; `document()` is its JSON form."""

    name: str
    source: Path
    root: Path
    splits: dict[str, tuple[int, int, int]]
    official: dict[str, tuple[int, int, int]]
    notes: list[str]
    missing: Trouble = field(default_factory=Trouble)
    unreadable: Trouble = field(default_factory=Trouble)
    truncated: Trouble = field(default_factory=Trouble)
    duplicates: Trouble = field(default_factory=Trouble)
    empty_captions: Trouble = field(default_factory=Trouble)
    width: tuple[int, int] = (0, 0)
    height: tuple[int, int] = (0, 0)
    findings: list[Finding] | None = None
    exclude: Path | None = None
    excluded: int = 0
    store: Path | None = None
    file: Path | None = None

    @property
    def counts_agree(self) -> bool | None:
        """Whether the splits are the official ones; None where there are no official counts."""
        return self.splits == self.official if self.official else None

    @property
    def broken(self) -> int:
        """Images that cannot be used."""
        return self.missing.count + self.unreadable.count

    def document(self) -> dict[str, object]:
        """The report as JSON."""
        kinds = ("missing", "unreadable", "truncated", "duplicates", "empty_captions")
        return {
            "data": self.name,
            "annotation": str(self.source),
            "pictures": str(self.root),
            "splits": {name: _named(counts) for name, counts in self.splits.items()},
            "official": {name: _named(counts) for name, counts in self.official.items()} or None,
            "counts_agree": self.counts_agree,
            **{kind: vars(getattr(self, kind)) for kind in kinds},
            "width": list(self.width),
            "height": list(self.height),
            "notes": self.notes,
            "audit": None if self.findings is None else [finding.document() for finding in self.findings],
            "exclude": self.exclude and {"file": str(self.exclude), "entries": self.excluded},
            "store": self.store and str(self.store),
            "report": self.file and str(self.file),
            "ok": self.broken == 0,
        }


def _named(counts: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("identities", "pictures", "captions"), counts, strict=True))


@dataclass
class _Look:
    """What one image file turned out to be."""

    path: Path
    hash: str = ""
    size: tuple[int, int] | None = None
    trouble: UnreadableImage | None = None


def check(
    dataset: Dataset,
    official: dict[str, tuple[int, int, int]],
    phase: Phase = lambda title: nullcontext(),
    see: See | None = None,
) -> tuple[CheckReport, dict[str, str]]:
    """Decode every image once: (the report, path below the root -> hash of the file's content).

    see: shown every image that can be read.
    """
    report = CheckReport(
        dataset.name, dataset.source or dataset.root, dataset.root, dataset.splits, dict(official), list(dataset.notes)
    )
    paths = list(dict.fromkeys(dataset.path_of(image) for image in dataset.images))
    missing = find_missing(paths)
    for path in missing:
        report.missing.add(_below(dataset, path))
    gone = set(missing)
    hash_of: dict[str, str] = {}
    troubled: list[_Look] = []
    with phase("reading images") as progress:
        for look in _look_at_all(dataset, [path for path in paths if path not in gone], see, progress):
            if look.trouble:
                troubled.append(look)
            elif look.size:
                _note_size(report, *look.size)
            if look.hash:
                hash_of[_below(dataset, look.path)] = look.hash
    for look in troubled:
        _classify(report, dataset, look)
    _note_duplicates(report, hash_of)
    for caption in dataset.captions:
        if not caption.text.strip():
            report.empty_captions.add(dataset.images[caption.image].path)
    return report, hash_of


def _below(dataset: Dataset, path: Path) -> str:
    return path.relative_to(dataset.root).as_posix()


def _look_at_all(dataset: Dataset, paths: list[Path], see: See | None, progress: Progress | None) -> Iterator[_Look]:
    with ThreadPoolExecutor(THREADS) as pool:
        for done, look in enumerate(in_turn(pool, lambda path: _look_at(dataset, path, see), paths), start=1):
            yield look
            if progress:
                progress(done, len(paths))


def _look_at(dataset: Dataset, path: Path, see: See | None) -> _Look:
    look = _Look(path)
    try:
        check_size(path)
        look.hash = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        image = read_image(path)
        look.size = image.size
        if see:
            see(_below(dataset, path), look.hash, image)
    except UnreadableImage as error:
        look.trouble = error
    except OSError as error:
        look.trouble = UnreadableImage(path, error.strerror or str(error))
    return look


def _classify(report: CheckReport, dataset: Dataset, look: _Look) -> None:
    """A file that PIL's leniency makes usable is truncated; any other is unreadable. One at a time: see images."""
    try:
        read_image(look.path, allow_truncated=True)
    except UnreadableImage as error:
        report.unreadable.add(f"{_below(dataset, look.path)} ({error.reason})")
    else:
        report.truncated.add(_below(dataset, look.path))


def _note_size(report: CheckReport, width: int, height: int) -> None:
    report.width = min(report.width[0] or width, width), max(report.width[1], width)
    report.height = min(report.height[0] or height, height), max(report.height[1], height)


def _note_duplicates(report: CheckReport, hash_of: dict[str, str]) -> None:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for path, content in hash_of.items():
        groups[content].append(path)
    for paths in groups.values():
        for path in paths[1:]:
            report.duplicates.add(f"{path} = {paths[0]}")
