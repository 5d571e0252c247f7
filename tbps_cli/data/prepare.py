"""What `tbps prepare-data` does: bring a data set into place or draw it, then look at every file of it.

The outcome is a `Report`: counts beside the official ones, what is missing, unreadable or there twice, what
the audit found, where the pre-decoded pictures are. It is also written beside the data set's folder, so that
somebody else can be shown what one has.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tbps_cli.data import exclusions
from tbps_cli.data.audit import Finding, audit, exclusion_list
from tbps_cli.data.images import UnreadableImage, find_missing, read_image
from tbps_cli.data.install import install
from tbps_cli.data.layouts import find_layout, home_of, open_dataset
from tbps_cli.data.layouts.official import Layout
from tbps_cli.data.store import THREADS, Progress, build_store
from tbps_cli.data.types import Dataset
from tbps_cli.errors import DataError, UsageError

log = logging.getLogger("tbps")
Phase = Callable[[str], AbstractContextManager[Progress | None]]
"""Opens a progress bar of that title; the value is called with (done, total)."""
EXAMPLES = 5
ALTERNATIVES = """\
While you wait, without asking anybody:
  tbps prepare-data synthetic     drawn here in a minute, any size (--identities 13003 is as large as CUHK-PEDES)
  your own pictures               a CSV or JSONL file with image and caption: tbps train own --set data.name=FILE
Sets by others that need no letter (read their terms first): SynTBPR (generated pictures; Hugging Face,
Junesnow/SynTBPR) and WebPerson-5M (web pictures; Hugging Face, Kaichengalex/WebPerson-5M)."""


class AbsentData(DataError):
    """A data set that is not here; `access` says whom to ask, what to sign and what to expect."""

    def __init__(self, layout: Layout, data_root: Path) -> None:
        super().__init__(
            f"{layout.title} is not in {data_root}.",
            f"When you have it: tbps prepare-data {layout.name} --source ARCHIVE-OR-FOLDER",
        )
        self.layout = layout
        self.access = f"{layout.access}\n\nExpected below {data_root}:\n{layout.tree}\n\n{ALTERNATIVES}"


@dataclass
class Trouble:
    """How many pictures have one kind of trouble, and which come first."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if self.count <= EXAMPLES:
            self.examples.append(example)


@dataclass
class Report:
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
        """Pictures that cannot be used."""
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


def prepare(
    name: str,
    data_root: Path,
    *,
    source: Path | None = None,
    audited: bool = False,
    decode: tuple[int, int] | None = None,
    identities: int | None = None,
    seed: int | None = None,
    phase: Phase = lambda title: nullcontext(),
) -> Report:
    """Bring a data set into place if asked to, check it, and write the report beside it.

    decode: height and width of the pre-decoded pictures to make.
    Raises AbsentData when it is not there, DataError when it is broken.
    """
    layout = find_layout(name)
    _check_options(name, layout, source, identities, seed)
    if layout and layout.name == "synthetic":
        _draw(data_root / layout.folder, identities, seed, phase)
    elif layout and source:
        with phase(f"unpacking {source.name}") as progress:
            install(layout, source, data_root, progress)
    if layout:
        _require(layout, data_root)
    dataset = open_dataset(name, data_root)
    report, hash_of = check(dataset, layout.counts if layout else {}, phase)
    base = home_of(layout, data_root).absolute() if layout else data_root.absolute() / dataset.name
    if audited:
        _audit(report, dataset, hash_of, base)
    if decode:
        with phase(f"decoding to {decode[0]} x {decode[1]}") as progress:
            paths = [dataset.path_of(picture) for picture in dataset.pictures]
            report.store = build_store(dataset.root, paths, decode, progress=progress)[0].folder
    _write_report(report, base)
    return report


def _check_options(
    name: str, layout: Layout | None, source: Path | None, identities: int | None, seed: int | None
) -> None:
    drawn = layout is not None and layout.name == "synthetic"
    if source and (drawn or layout is None):
        raise UsageError(
            f"--source does not go with {name}.", "It brings cuhk-pedes, icfg-pedes or rstpreid into place."
        )
    if not drawn and (identities is not None or seed is not None):
        raise UsageError(f"--identities and --seed do not go with {name}.", "They are for: tbps prepare-data synthetic")


def _require(layout: Layout, data_root: Path) -> None:
    try:
        home_of(layout, data_root)
    except DataError:
        if (data_root / layout.folder).is_dir():
            raise
        raise AbsentData(layout, data_root) from None


def _draw(folder: Path, identities: int | None, seed: int | None, phase: Phase) -> None:
    """Draw the synthetic set, unless it is there; stated numbers other than its own draw it anew."""
    from tbps_cli.data.draw import build

    stated = identities is not None or seed is not None
    wanted = {"identities": build.DEFAULT_IDENTITIES if identities is None else identities, "seed": seed or 0}
    if build.is_built(folder, **wanted) or (not stated and (folder / "reid_raw.json").is_file()):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with phase("drawing persons") as progress:
        build.build(folder, **wanted, progress=progress)


# Looking at every file ------------------------------------------------------------------------


@dataclass
class _Look:
    """What one picture file turned out to be."""

    path: Path
    hash: str = ""
    size: tuple[int, int] | None = None
    trouble: UnreadableImage | None = None


def check(
    dataset: Dataset, official: dict[str, tuple[int, int, int]], phase: Phase = lambda title: nullcontext()
) -> tuple[Report, dict[str, str]]:
    """Decode every picture once: (the report, path below the root -> hash of the file's content)."""
    report = Report(
        dataset.name, dataset.source or dataset.root, dataset.root, dataset.splits, dict(official), list(dataset.notes)
    )
    paths = list(dict.fromkeys(dataset.path_of(picture) for picture in dataset.pictures))
    missing = find_missing(paths)
    for path in missing:
        report.missing.add(_below(dataset, path))
    gone = set(missing)
    with phase("reading pictures") as progress:
        looks = list(_look_at_all([path for path in paths if path not in gone], progress))
    for look in looks:
        if look.trouble:
            _classify(report, dataset, look)
    _note_sizes(report, [look.size for look in looks if look.size])
    hash_of = {_below(dataset, look.path): look.hash for look in looks if look.hash}
    _note_duplicates(report, hash_of)
    for caption in dataset.captions:
        if not caption.text.strip():
            report.empty_captions.add(dataset.pictures[caption.picture].path)
    return report, hash_of


def _below(dataset: Dataset, path: Path) -> str:
    return path.relative_to(dataset.root).as_posix()


def _look_at_all(paths: list[Path], progress: Progress | None) -> Iterator[_Look]:
    with ThreadPoolExecutor(THREADS) as pool:
        for done, look in enumerate(pool.map(_look_at, paths), start=1):
            yield look
            if progress:
                progress(done, len(paths))


def _look_at(path: Path) -> _Look:
    look = _Look(path)
    try:
        look.hash = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        look.size = read_image(path).size
    except UnreadableImage as error:
        look.trouble = error
    except OSError as error:
        look.trouble = UnreadableImage(path, error.strerror or str(error))
    return look


def _classify(report: Report, dataset: Dataset, look: _Look) -> None:
    """A file that PIL's leniency makes usable is truncated; any other is unreadable. One at a time: see images."""
    try:
        read_image(look.path, allow_truncated=True)
    except UnreadableImage as error:
        report.unreadable.add(f"{_below(dataset, look.path)} ({error.reason})")
    else:
        report.truncated.add(_below(dataset, look.path))


def _note_sizes(report: Report, sizes: list[tuple[int, int]]) -> None:
    if sizes:
        widths, heights = [size[0] for size in sizes], [size[1] for size in sizes]
        report.width, report.height = (min(widths), max(widths)), (min(heights), max(heights))


def _note_duplicates(report: Report, hash_of: dict[str, str]) -> None:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for path, content in hash_of.items():
        groups[content].append(path)
    for paths in groups.values():
        for path in paths[1:]:
            report.duplicates.add(f"{path} = {paths[0]}")


# Writing ----------------------------------------------------------------------------------------


def _audit(report: Report, dataset: Dataset, hash_of: dict[str, str], base: Path) -> None:
    report.findings = audit(dataset, hash_of)
    listed = exclusion_list(report.findings)
    report.exclude = base.with_name(f"{base.name}.exclude.jsonl")
    report.excluded = len(listed)
    report.exclude.parent.mkdir(parents=True, exist_ok=True)
    exclusions.write(report.exclude, listed)


def _write_report(report: Report, base: Path) -> None:
    """DATA_ROOT/FOLDER.report.json; a data root that cannot be written to costs the file, not the check."""
    place = base.with_name(f"{base.name}.report.json")
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    report.file = place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(report.document(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(place)
    except OSError as error:
        report.file = None
        log.warning("data: the report was not written: %s", error)
