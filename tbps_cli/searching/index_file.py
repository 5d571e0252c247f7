"""An index file as a gallery, as it is: nothing is embedded, no source is looked at, and little is imported."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from tbps_cli.errors import CacheError, TbpsError, UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.image_ways import SUFFIXES
from tbps_cli.features.parts import part_paths
from tbps_cli.features.rows import Rows
from tbps_cli.features.separate import SIGNATURE
from tbps_cli.features.snapshot import read_about, read_fingerprint
from tbps_cli.features.store import FeatureFile
from tbps_cli.models.run import WEIGHTS
from tbps_cli.searching.gallery import Gallery, IndexFile, Roots
from tbps_cli.searching.share import ShareNotes
from tbps_cli.searching.withheld import Withheld

logger = logging.getLogger("tbps")

_TRIED = 20
"""Images of an index that are looked for, to find out where its folder is now."""


def open_index(model: Encoder, path: Path, *, root: Path | None = None) -> Gallery:
    """An index file made by `index`, as it is: its folder is not brought up to date. Raises CacheError.

    root: where its images lie now; left out, a folder that was moved together with its index, or away from under
    it, is found where the paths fit. Raises UsageError when none of them is below `root`.
    """
    refuse_batch_dependent(model)
    about = read_index(path)
    folder = about["folder"]
    try:
        file = FeatureFile.open(path, fingerprint_of(path, model))
    except CacheError as error:
        if (hint := other_weights(about.get("run"), model)) is not None and read_fingerprint(path) != model.fingerprint:
            said = f"--in {path} was made with other weights of {model.path}, so its vectors cannot be compared."
            raise CacheError(said, hint) from None
        raise CacheError(error.message, f"Search with --ckpt {about.get('run')}, or: tbps index {folder}") from None
    named = about.get("sources", {})
    places = {str(name): Path(str(place)) for name, place in named.items()} if isinstance(named, dict) else {}
    roots = _roots(path, Roots(Path(str(folder)), places), file.known(), root)
    if (missing := ShareNotes(path).missing()) is not None:
        _say_once(f"{path}: {missing}; images may be missing.")
    return as_it_is(file, str(path), roots, str(model.path))


@cache
def _say_once(text: str) -> None:
    """A server opens its index again whenever that has grown."""
    logger.warning("%s", text)


def is_index_file(path: Path) -> bool:
    """Whether there is an index under a path: told by its name, or by how it begins, or by parts that lie beside it
    until somebody joins them."""
    if not path.exists():
        return bool(part_paths(path))
    if not path.is_file() or path.suffix.lower() in (".h5", ".hdf5"):
        return path.is_file()
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def fingerprint_of(path: Path, model: Encoder) -> str:
    """The fingerprint of an index file if this model made it, in whatever way; else the model's own."""
    made_by = read_fingerprint(path)
    return next((mark for suffix in SUFFIXES if (mark := model.fingerprint + suffix) == made_by), model.fingerprint)


def other_weights(run: object, model: Encoder) -> str | None:
    """What to do where the run that made something is the model's own, with other weights; None: it is another one."""
    folder = model.path
    if str(run) not in (str(folder), str(folder.absolute())):
        return None
    kept = [str(folder / name) for name in WEIGHTS.values() if (folder / name).is_file()]
    again = "Index it again with these."
    return f"Use its other weights ({' or '.join(f'--ckpt {path}' for path in kept)}). {again}" if kept[1:] else again


def as_it_is(file: FeatureFile, name: str, roots: Roots, run: str) -> Gallery:
    """What an index holds, less what must not be shown."""
    rows, vector_GE, where = file.known(), file.matrix(), index_file_of(file)
    hidden = Withheld(file.path, roots).covers(rows)
    if hidden.any():  # the file stays as it is: it may lie where nobody can write
        shown = np.flatnonzero(~hidden)
        rows, vector_GE, where = rows.take(shown), file.vectors(shown), None
    return Gallery(name, roots, rows, vector_GE, run=run, file=where)


def index_file_of(file: FeatureFile) -> IndexFile | None:
    """Which files the rows of an index lie in; None where some are in memory alone."""
    identity = file.snapshot.identity
    return IndexFile(file.path, file.fingerprint, identity) if identity and not file.unwritten else None


def _roots(index_file: Path, made_of: Roots, rows: Rows, given: Path | None) -> Roots:
    """Where the images of an index lie now: as given, its own folder, or one near the file that has the same images.

    Says once when they are nowhere: an index can be searched without them, but not shown or copied.
    """
    if given is not None:
        if not holds_some(Roots(given), rows):
            first = f" (for example {rows[0].path})" if len(rows) else ""
            raise UsageError(
                f"--root {given}: none of the images of {index_file} is there{first}.",
                "Name the folder to which the paths in the index are relative.",
            )
        return Roots(given)
    beside, folder = index_file.absolute().parent, made_of.folder
    for roots in (made_of, Roots(beside), Roots(beside / folder.name)):
        if holds_some(roots, rows):
            if roots is not made_of:
                logger.info(
                    "%s: its images are taken from %s (%s does not have them).", index_file, roots.folder, folder
                )
            return roots
    logger.warning(
        "%s: its images are not in %s; hits are named, but cannot be shown or copied. "
        "If they were moved, name their folder: --root DIR",
        index_file,
        folder,
    )
    return made_of


def holds_some(roots: Roots, rows: Rows) -> bool:
    """Whether any of a sample of images is where it should be."""
    sample = range(0, len(rows), max(1, len(rows) // _TRIED))[:_TRIED]
    return any(roots.file_of(row.source or row.path).is_file() for row in map(rows.__getitem__, sample))


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
