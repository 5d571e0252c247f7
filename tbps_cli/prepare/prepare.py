"""What `tbps prepare-data` does: bring a data set into place or draw it, then look at every file of it.

The outcome is a `CheckReport`: counts beside the official ones, what is missing, unreadable or there twice, what
the audit found, where the pre-decoded images are. It is also written beside the data set's folder, so that
somebody else can be shown what one has.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from tbps_cli import files
from tbps_cli.data import exclusions
from tbps_cli.data.layouts.benchmark import Layout
from tbps_cli.data.open import find_layout, home_of, open_dataset
from tbps_cli.data.types import Dataset
from tbps_cli.errors import DataError, MissingExtra, TbpsError, UsageError
from tbps_cli.escape import json_text
from tbps_cli.prepare.audit import Finding, audit, copies_elsewhere, exclusion_list, near_copies
from tbps_cli.prepare.check import CheckReport, Phase, check
from tbps_cli.prepare.copies import Appearances, copies_between, copies_within
from tbps_cli.prepare.decode import build_store
from tbps_cli.prepare.install import install

logger = logging.getLogger("tbps")
ALTERNATIVES = """\
While you wait, without any request:
  tbps prepare-data synthetic     drawn here within a minute, any size (--identities 13003 is as large as CUHK-PEDES)
  your own images               a CSV or JSONL file with image and caption: tbps train own --set data.name=FILE
Other data sets that need no request (read their terms first): webperson (web images; tbps prepare-data webperson)
and SynTBPR (generated images; Hugging Face, Junesnow/SynTBPR)."""

NO_COPIES = "near-duplicate images were not looked for: that needs ImageHash, pip install 'tbps[audit]'"


class AbsentData(DataError):
    """A data set that is not here; `access` says whom to ask, what to sign and what to expect."""

    def __init__(self, layout: Layout, data_root: Path, found: DataError) -> None:
        hint = f"When you have it: tbps prepare-data {layout.name} --source ARCHIVE-FOLDER-OR-ANNOTATION"
        explained = (data_root / layout.folder / "caption_all.json").is_file()
        super().__init__(found.message, found.hint if explained else hint)
        self.layout = layout
        self.access = f"{layout.access}\n\nExpected below {data_root}:\n{layout.tree}\n\n{ALTERNATIVES}"


def prepare(
    name: str,
    data_root: Path,
    *,
    source: Path | None = None,
    audited: bool = False,
    against: str | None = None,
    decode: tuple[int, int] | None = None,
    identities: int | None = None,
    seed: int | None = None,
    phase: Phase = lambda title: nullcontext(),
) -> CheckReport:
    """Bring a data set into place if asked to, check it, and write the report beside it.

    audited: look for what teaches or tests the wrong thing; against: another data set whose images it must not share.
    decode: height and width of the pre-decoded images to make.
    Raises AbsentData when it is not there, DataError when it is broken.
    """
    layout = find_layout(name)
    _check_options(name, layout, source, identities, seed)
    _check_against(name, against, audited)
    if layout and layout.name == "synthetic":
        _draw(data_root / layout.folder, identities, seed, phase)
    elif layout and source:
        with phase(f"unpacking {source.name}") as progress:
            install(layout, source, data_root, progress)
    if layout:
        _require(layout, data_root)
    dataset = open_dataset(name, data_root)
    other = _other(against, data_root) if against else None
    looks = _appearances(dataset, needed=other is not None) if audited else None
    report, hash_of = check(dataset, layout.counts if layout else {}, phase, looks.add if looks else None)
    base = home_of(layout, data_root).absolute() if layout else data_root.absolute() / _own_name(dataset)
    if audited:
        report.findings = audit(dataset, hash_of)
        if looks:
            report.findings += _copies(dataset, other, looks, hash_of, phase)
        else:
            report.notes.append(NO_COPIES)
        _write_exclusions(report, base)
    if decode:
        with phase(f"decoding to {decode[0]} x {decode[1]}") as progress:
            paths = [dataset.path_of(image) for image in dataset.images]
            report.store = build_store(dataset.root, paths, decode, progress=progress)[0].folder
    _write_report(report, base)
    return report


def _check_options(
    name: str, layout: Layout | None, source: Path | None, identities: int | None, seed: int | None
) -> None:
    drawn = layout is not None and layout.name == "synthetic"
    if source and (drawn or layout is None):
        raise UsageError(
            f"--source does not go with {name}.", "It brings a published data set into place, such as cuhk-pedes."
        )
    if not drawn and (identities is not None or seed is not None):
        raise UsageError(f"--identities and --seed do not go with {name}.", "They are for: tbps prepare-data synthetic")


def _check_against(name: str, against: str | None, audited: bool) -> None:
    if against and not audited:
        raise UsageError("--against goes with --audit.", f"tbps prepare-data {name} --audit --against {against}")
    if against and (against == name or (find_layout(against) or against) == find_layout(name)):
        raise UsageError(f"--against {against} is the data set itself.", "Copies within it are looked for anyway.")


def _require(layout: Layout, data_root: Path) -> None:
    try:
        home_of(layout, data_root)
    except DataError as error:
        raise AbsentData(layout, data_root, error) from None


def _draw(folder: Path, identities: int | None, seed: int | None, phase: Phase) -> None:
    """Draw the synthetic set, unless it is there; stated numbers other than its own draw it anew."""
    from tbps_cli.synthetic import build

    stated = identities is not None or seed is not None
    wanted = {"identities": build.DEFAULT_IDENTITIES if identities is None else identities, "seed": seed or 0}
    if build.is_built(folder, **wanted) or (not stated and (folder / "reid_raw.json").is_file()):
        return
    with phase("drawing persons") as progress:
        build.build(folder, **wanted, progress=progress)


# Near-duplicates --------------------------------------------------------------------------------


def _other(against: str, data_root: Path) -> Dataset:
    """The data set that another is compared with, called as the user calls it."""
    dataset = open_dataset(against, data_root)
    return dataset if find_layout(against) else replace(dataset, name=Path(against).name)


def _appearances(dataset: Dataset, needed: bool) -> Appearances | None:
    """What collects how images look; None without the library for it, unless copies were asked for."""
    try:
        return Appearances(dataset.root)
    except MissingExtra:
        if needed:
            raise
        return None


def _copies(
    dataset: Dataset, other: Dataset | None, looks: Appearances, hash_of: dict[str, str], phase: Phase
) -> list[Finding]:
    """The findings of near-duplicates, within the data set and against another."""
    with phase("comparing images") as progress:
        findings = [near_copies(dataset, copies_within(looks, progress), hash_of)]
    if other is None:
        return findings
    others = Appearances(other.root)
    report, other_hash_of = check(other, {}, phase, others.add)
    if report.broken:
        logger.warning("data: %s images of %s are missing or unreadable", f"{report.broken:,}", other.name)
    with phase(f"comparing with {other.name}") as progress:
        pairs = copies_between(looks, others, progress)
    return [*findings, copies_elsewhere(dataset, other, pairs, hash_of, other_hash_of)]


# Writing ----------------------------------------------------------------------------------------


def _own_name(dataset: Dataset) -> str:
    """What files about one's own data are called: two tables of one name, in two folders, have two names."""
    source = (dataset.source or dataset.root).resolve()
    return f"{source.name}-{hashlib.blake2b(os.fsencode(source), digest_size=4).hexdigest()}"


def _write_exclusions(report: CheckReport, base: Path) -> None:
    listed = exclusion_list(report.findings or [])
    report.excluded = len(listed)
    place = base.with_name(f"{base.name}.exclude.jsonl")
    if _write(place, exclusions.text_of(listed), "the list of what to exclude"):
        report.exclude = place


def _write_report(report: CheckReport, base: Path) -> None:
    """DATA_ROOT/FOLDER.report.json, which names itself."""
    place = base.with_name(f"{base.name}.report.json")
    report.file = place
    if not _write(place, json_text(report.document()) + "\n", "the report"):
        report.file = None


def _write(place: Path, text: str, what: str) -> bool:
    """Write a file beside the data set. A data root that cannot be written to costs the file, not the check."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(place, text)
    except (OSError, TbpsError) as error:
        logger.warning("data: %s was not written: %s", what, error)
        return False
    return True
