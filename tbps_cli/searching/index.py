"""A folder of images as a gallery: each image is embedded once, and again only when it changes.

The vectors lie in a feature file in the cache (never in the folder itself), keyed by the folder's
real path and the model's fingerprint. Every use lists the folder and compares sizes and times: new
and changed images are embedded, vanished ones dropped, equal contents share one embedding. New
vectors reach the disk every few seconds, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tbps_cli.errors import CacheError, DataError, TbpsError, UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.pipeline import EmbedReport, Policy, Progress, Source, embed_images
from tbps_cli.features.snapshot import read_about
from tbps_cli.features.store import FeatureFile, feature_path
from tbps_cli.models.checkpoint import Checkpoint, opened
from tbps_cli.searching.gallery import Gallery, Roots, Skipped, Update
from tbps_cli.searching.scan import Scan, check_folder, scan
from tbps_cli.searching.skipped import SkippedList, warn_of_skipped

logger = logging.getLogger("tbps")
BATCH = 64
_TRIED = 20
"""Images of an index that are looked for, to find out where its folder is now."""
LEAVE_OUT = Policy(allow_truncated=False, smallest=8, all_needed=False, dated=True)


def index(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    folder: str | Path,
    path: str | Path | None = None,
    *,
    workers: int | None = None,
    batch: int = BATCH,
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    progress: Progress | None = None,
) -> Gallery:
    """Embed the images of a folder, as far as that has not been done, and open them as a gallery.

    checkpoint: an open model, or what `models.open_model` opens (then device, sets, words and data_root count).
    path: the index file; default one in the cache that belongs to this folder and this model.
    workers: threads that decode images; default one a core, at most eight.
    progress: called with (images done, images to do), when there are any.
    Raises DataError without a usable image, CacheError when `path` was made by another model,
    TbpsError for a model whose embeddings depend on the rest of the batch.
    """
    folder = Path(folder).expanduser()
    check_folder(folder)
    model = opened(checkpoint, device=device, sets=sets, words=words, data_root=data_root)
    refuse_batch_dependent(model)
    # The index first: a row of it without an image in the folder is then one whose image is gone, and never
    # one of an image that came after the folder was listed, which another process has embedded meanwhile.
    file = _open(model, folder, path)
    seen = scan(folder)
    skipped = SkippedList(file.path)
    sources = [
        Source(folder / found.path, found.path, state=found.state) for found in seen.images if not skipped.knows(found)
    ]
    report = embed_images(model, sources, file, LEAVE_OUT, batch=batch, workers=workers, progress=progress)
    update = _settle(file, seen, skipped, report)
    for inside, reason in seen.unreadable.items():
        logger.warning("%s: the folder %s cannot be read (%s).", folder, inside, reason)
    warn_of_skipped(folder, update.skipped)
    if 2 * report.wide > len(file):
        logger.warning(
            "%s: %s of %s images are wider than high. tbps expects crops of one person: whole scenes are squeezed, "
            "and what is ranked is the scene.",
            folder,
            f"{report.wide:,}",
            f"{len(file):,}",
        )
    file.compact()
    if not len(file):
        raise DataError(f"{folder} holds no usable images.", _no_images_hint(skipped))
    return Gallery(str(folder), Roots(folder), file.known(), file.matrix(), run=str(model.path), update=update)


def open_index(model: Encoder, path: Path, *, root: Path | None = None) -> Gallery:
    """An index file made by `index`, as it is: its folder is not brought up to date. Raises CacheError.

    root: where its images lie now; left out, a folder that was moved together with its index, or away from under
    it, is found where the paths fit. Raises UsageError when none of them is below `root`.
    """
    refuse_batch_dependent(model)
    about = read_index(path)
    folder = about["folder"]
    try:
        file = FeatureFile.open(path, model.fingerprint)
    except CacheError as error:
        raise CacheError(error.message, f"Search with --ckpt {about.get('run')}, or: tbps index {folder}") from None
    file.compact()
    place = _root(path, Path(str(folder)), file.known().paths, root)
    return Gallery(str(path), Roots(place), file.known(), file.matrix(), run=str(model.path))


def _root(index_file: Path, folder: Path, paths: Sequence[str], given: Path | None) -> Path:
    """Where the images of an index lie now: as given, its own folder, or one near the file that has the same images.

    Says once when they are nowhere: an index can be searched without them, but not shown or copied.
    """
    if given is not None:
        if not _holds_some(given, paths):
            first = f" (for example {paths[0]})" if paths else ""
            raise UsageError(
                f"--root {given}: none of the images of {index_file} is there{first}.",
                "Name the folder to which the paths in the index are relative.",
            )
        return given
    beside = index_file.absolute().parent
    for root in (folder, beside, beside / folder.name):
        if _holds_some(root, paths):
            if root != folder:
                logger.info("%s: its images are taken from %s (%s does not have them).", index_file, root, folder)
            return root
    logger.warning(
        "%s: its images are not in %s; hits are named, but cannot be shown or copied. "
        "If they were moved, name their folder: --root DIR",
        index_file,
        folder,
    )
    return folder


def _holds_some(root: Path, paths: Sequence[str]) -> bool:
    """Whether any of a sample of images is below a folder."""
    return any((root / path).is_file() for path in paths[:: max(1, len(paths) // _TRIED)][:_TRIED])


def read_index(path: Path) -> Mapping[str, object]:
    """What an index file says of itself: `folder` and `run`. Raises CacheError for any other file."""
    about = read_about(path) or {}
    if about.get("folder") is None:
        raise CacheError(
            f"--in {path} holds features, but is not an index.", "Make one: tbps index FOLDER --index FILE"
        )
    return about


def refuse_batch_dependent(model: Encoder) -> None:
    """Raises TbpsError when an image's vector would depend on its neighbours in a batch."""
    if model.batch_dependent:
        raise TbpsError(f"search: {model.batch_dependent}")


def _open(model: Encoder, folder: Path, path: str | Path | None) -> FeatureFile:
    real = str(folder.resolve())
    about = {"run": str(model.path), "folder": real}
    if path is None:
        place = feature_path("indexes", folder, model.fingerprint)
        return FeatureFile.open(place, model.fingerprint, about=about, rebuild=True, lenient=True)
    place = Path(path).expanduser()
    if place.is_dir():
        raise UsageError(f"--index {place} is a folder.", "Give the file to write, for example people.h5")
    try:
        there = read_about(place)
        file = FeatureFile.open(place, model.fingerprint, about=about)
        made_of = real if there is None else there.get("folder", "something else")
        if made_of != real:
            if Path(str(made_of)).exists() or not _holds_some(folder, file.known().paths):
                raise UsageError(f"--index {place} is an index of {made_of}, not of {folder}.", "Choose another file.")
            logger.info("%s: its folder %s is gone; %s has its images and takes its place.", place, made_of, folder)
            file.renewed = True
        return file
    except CacheError as error:
        raise CacheError(error.message, f"Delete {place} to rebuild it, or choose another --index file.") from None


def _no_images_hint(skipped: SkippedList) -> str:
    if skipped.entries:
        entry = next(iter(skipped.entries.values()))
        return f"{len(skipped.entries):,} were left out, the first: {entry.path} ({entry.reason})."
    return "Images end in .jpg, .png, .bmp, .webp and the like; hidden folders are passed over."


def _settle(file: FeatureFile, seen: Scan, skipped: SkippedList, report: EmbedReport) -> Update:
    """Drop the rows of what is gone or unusable now, and note what was left out."""
    # what has vanished since the folder was listed is gone, not unusable
    failed = [one for one in report.unusable if os.path.lexists(one.source.file)]
    new = {one.source.name: Skipped(one.source.name, *one.state, one.error.reason) for one in failed}
    skipped.keep(seen.images, [new[one.source.name] for one in failed if one.error.lasting])
    usable = {found.path for found in seen.images} - skipped.entries.keys()
    usable -= {one.source.name for one in report.unusable}
    kept = np.array([path in usable or seen.hides(path) for path in file.known().paths], bool)
    if not kept.all():
        file.keep(kept)
    in_all = len(skipped.entries.keys() | new.keys())
    return Update(report.added, report.embedded, int((~kept).sum()), list(new.values()), in_all)
