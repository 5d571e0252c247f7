"""Folders, videos and lists as a gallery: each image is embedded once, and again only when it changes.

The vectors lie in a feature file in the cache (never beside the images), keyed by where the sources lie
and the model's fingerprint. Every use lists the sources and compares sizes and times: new and changed
files are embedded, vanished ones dropped, equal contents share one embedding. New vectors reach the
disk every few seconds, so an interrupted run goes on where it stopped. What earlier runs have left beside a large file
is merged into it meanwhile.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tbps_cli.amounts import amount
from tbps_cli.data.file_names import NamePattern
from tbps_cli.data.images import UnreadableImage
from tbps_cli.errors import CacheError, DataError, UsageError
from tbps_cli.features.encoder import Encoder, ImageEncoder
from tbps_cli.features.image_ways import ImagesBy
from tbps_cli.features.lookup import coded
from tbps_cli.features.pipeline import EmbedReport, Policy, Progress, Source, embed_images
from tbps_cli.features.rows import Rows
from tbps_cli.features.snapshot import Snapshot, read_about
from tbps_cli.features.store import SHARE, FeatureFile, feature_path
from tbps_cli.footage.video import UnreadableVideo
from tbps_cli.models.checkpoint import Checkpoint, find, ready_encoder
from tbps_cli.searching.coding import write_codes_of
from tbps_cli.searching.gallery import Gallery, Skipped, Update
from tbps_cli.searching.index_file import as_it_is, holds_some, index_file_of, refuse_batch_dependent
from tbps_cli.searching.index_state import FootageSettings, IndexState
from tbps_cli.searching.index_way import choose
from tbps_cli.searching.naming import with_names
from tbps_cli.searching.persons import PersonReport, embed_persons
from tbps_cli.searching.scan import FoundFiles
from tbps_cli.searching.share import ShareNotes, WorkShare
from tbps_cli.searching.skipped import SkippedList, warn_of_skipped
from tbps_cli.searching.sources import Item, Items, Listing, Sources, find_sources
from tbps_cli.searching.withheld import Withheld

logger = logging.getLogger("tbps")
NARROW = 256
"""Numbers of an embedding below which new indexes are float32: few numbers round to other lengths, and take no room."""
LEAVE_OUT = Policy(allow_truncated=False, smallest=8, all_needed=False, dated=True)


def index(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    sources: str | Path | Sequence[str | Path] | Sources,
    path: str | Path | None = None,
    *,
    gallery: str | None = None,
    footage: FootageSettings = FootageSettings(),
    download: bool = False,
    expire: float | None = None,
    refresh: bool = True,
    workers: int | None = None,
    batch: int | None = None,
    precision: str = "auto",
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    progress: Progress | None = None,
    grown: Callable[[Gallery], None] | None = None,
    codes: bool = True,
    share: WorkShare | None = None,
    single: bool = False,
) -> Gallery:
    """Embed the images of a source, as far as that has not been done, and open them as a gallery.

    checkpoint: an open model, or what `models.open_model` opens (then device, sets, words and data_root count).
    sources: a folder, a video, an image, a pattern, a list or table of paths, or several of them.
    path: the index file; default one in the cache that belongs to these sources and this model.
    gallery: the name of a gallery of these sources (see `galleries`); it tells their index from others.
    footage: how persons are found in videos and whole frames; download: whether a detector's weights may be fetched.
    expire: after how many seconds images go from the index, from now on; infinity: never. None: as it was.
    refresh: False takes an index that has images as it is, without a look at the sources.
    workers: threads that decode images; default one a core, at most eight.
    batch: how many images are embedded at a time; default what the device does best.
    precision: fp32, bf16 or int8; auto goes on as the index was begun, and begins one in the fastest way that agrees
    with float32 here (`features.fastest_way`).
    progress: called with (images and frames done, those to do), when there are any; while a large source is listed,
    with (files found so far, 0).
    grown: called every few seconds, while images are embedded, with the gallery as far as it is.
    codes: whether a large gallery gets codes, with which searches are quicker (`retrieval.cascade`); False where
    somebody waits for an answer: then its parts are also merged later. Merging goes on in the background from the
    start, but for parts that this very call has written and that hold a good share of the rows.
    share: look at this share of the files alone; other processes do the others. The gallery is the index as far as it
    is then. Only the first share drops the rows of files that are gone, and merges what all have written.
    single: whether the vectors of a new index are kept in float32, and not in half precision.
    Raises DataError without a usable image, CacheError when `path` was made by another model,
    TbpsError for a model whose embeddings depend on the rest of the batch.
    """
    if isinstance(sources, Sources):
        given = sources
    else:
        given = find_sources([sources] if isinstance(sources, str | Path) else sources, gallery=gallery)
    if footage.pattern:
        NamePattern(footage.pattern)  # a mistake in it is told before weights are read
    model = ready_encoder(find(checkpoint, sets), device=device, words=words, data_root=data_root)
    refuse_batch_dependent(model)
    way = choose(model, given, path, precision, footage, shared=share is not None)
    encoder, batch = ImagesBy(model, way), batch or way.batch
    # The index first: a row of it without a file in the source is then one whose file is gone, and never
    # one of a file that came after the source was listed, which another process has embedded meanwhile.
    file = _open(encoder, given, path, single, np.float32 if single or model.embed < NARROW else np.float16)
    file.appends_only = share is not None and not share.first
    opened_as = file.snapshot
    if not refresh:
        there = as_it_is(file, given.title, given.roots, str(model.path))
        if not given.complete:
            there = _only(there, Items.of(given.list().items, given.roots))
        if len(there):
            return there
    file.merge_meanwhile(SHARE if codes else 1)
    state = IndexState(file.path)
    footage = footage.after(state.footage)
    if share and len(file) and (footage.pattern, footage.detect) != (state.footage.pattern, state.footage.detect):
        raise UsageError(
            "--share: --pattern or --detect differ from how this index was made, which changes rows of every share.",
            "Run tbps index once without --share.",
        )
    shares = ShareNotes(file.path)
    if share is not None:
        shares.begun(share)
    listing = given.list(None if progress is None else lambda found: progress(found, 0))
    items = Items.of(listing.items, given.roots)
    skipped = SkippedList(file.path)
    withheld = Withheld(file.path, given.roots)
    if expire is not None:
        withheld.expiry.after(expire)
    left_out_N = skipped.knows(items.found) | withheld.knows(items)
    share_N = np.ones(len(items), np.int64) if share is None else share.share_of(items)
    mine_N = share_N == (1 if share is None else share.number)
    todo = _Division(given.title, items, ~left_out_N, mine_N, footage, file, names_as_now=state.names_as_now(footage))
    if share is not None:
        shares.nothing_to_do(share, todo.others_without_work(share, share_N, state))

    def so_far() -> None:
        if grown is not None:
            grown(Gallery(given.title, given.roots, file.known(), file.matrix(), run=str(model.path)))

    written = so_far if grown is not None else None
    images = embed_images(
        encoder, todo.images, file, LEAVE_OUT, batch=batch, workers=workers, progress=progress, written=written
    )
    persons = embed_persons(
        encoder, todo.footage, file, state, footage, batch=batch, download=download, progress=progress, written=written
    )
    state.remember(footage)
    outcome = _Outcome(given, listing, todo, opened_as, images, persons, share)
    update = outcome.settle(file, skipped)
    if not file.appends_only:
        update.removed += withheld.remove(file)
        state.forget_others({*(item.path for item in todo.footage), *todo.others} | outcome.unlisted(state.done))
    for inside, reason in listing.unreadable.items():
        logger.warning("%s: %s cannot be read (%s).", given.title, inside, reason)
    warn_of_skipped(given.title, update.skipped)
    if 2 * images.wide > len(file) and footage.detect is None:
        logger.warning(
            "%s: %s of %s images are wider than high. tbps expects crops of one person: whole scenes are squeezed, "
            "and what is ranked is the scene. To find the persons in them: --detect",
            given.title,
            f"{images.wide:,}",
            f"{len(file):,}",
        )
    file.settle(share=SHARE if codes else 1)
    if share is not None or given.complete:
        shares.finished(share)
    update.kept, update.expired = not file.unwritten, withheld.expiry.gone
    rows, vector_GE = outcome.wanted(file)
    if not len(rows) and mine_N.all():
        left_out = list({**skipped.entries, **{entry.path: entry for entry in update.skipped}}.values())
        hint = _no_images_hint(left_out, len(outcome.footage), int(left_out_N.sum()))
        raise DataError(f"{given.title} holds no usable images.", hint)
    where = index_file_of(file) if given.complete else None
    made = Gallery(given.title, given.roots, rows, vector_GE, run=str(model.path), update=update, file=where)
    if codes and share is None:
        write_codes_of(made)
    return made


class _Division:
    """The files of a source by what becomes of them: images that are embedded whole, and footage.

    Only what is not in the index as it is becomes an object; arrays tell of the others that nothing is to be done.
    """

    def __init__(
        self,
        title: str,
        items: Items,
        wanted_N: NDArray[np.bool_],
        mine_N: NDArray[np.bool_],
        footage: FootageSettings,
        file: FeatureFile,
        *,
        names_as_now: bool,
    ) -> None:
        found, pattern = items.found, NamePattern(footage.pattern) if footage.pattern else None
        frames_N = (found.video_N | bool(footage.detect)) & ~items.box_N & (footage.detect is not False)
        self.items, self.mine_N = items, mine_N
        self.image_N = wanted_N & ~found.video_N & ~frames_N
        """Which are images that are embedded whole, here or as the share of another process."""
        same_N = _as_before(found, file)
        same_N[list(items.facts)] = False  # what a table states may be something else by now
        self.outdated_N = self.image_N & ~(same_N & names_as_now)
        """Which are to be looked at, here or as the share of another process."""
        self.new_K = np.flatnonzero(self.outdated_N & mine_N)
        """The places of those that are to be looked at here."""
        self.images = [_source(item) for item in with_names(items.take(self.new_K), pattern, title)]
        frames_N &= wanted_N
        self.footage = with_names(items.take(np.flatnonzero(frames_N & mine_N)), pattern, title)
        self.others_K = np.flatnonzero(frames_N & ~mine_N)
        self.others = found.take(self.others_K).paths
        """Footage that other processes look at."""

    def others_without_work(self, share: WorkShare, share_N: NDArray[np.int64], state: IndexState) -> list[int]:
        """The other shares of which all files are in the index as they are now. share_N: which each file is in."""
        of = self.items.found.take(self.others_K)
        busy_N = self.outdated_N.copy()
        for place, path, *now in zip(self.others_K, self.others, of.size_N.tolist(), of.mtime_N.tolist(), strict=True):
            done = state.done.get(path)
            busy_N[place] |= done is None or [done.size, done.mtime] != now
        busy = {share.number, *share_N[busy_N].tolist()}
        return [number for number in range(1, share.count + 1) if number not in busy]


def _as_before(found: FoundFiles, file: FeatureFile) -> NDArray[np.bool_]:
    """Which files have a row of their size and time of change."""
    place_N = file.snapshot.places(found.name_N)
    same_N = place_N >= 0
    columns, there = file.known().columns, place_N[same_N]
    same_N[same_N] = (columns["size"][there] == found.size_N[same_N]) & (
        columns["mtime"][there] == found.mtime_N[same_N]
    )
    return same_N


def _source(item: Item) -> Source:
    facts = item.facts
    of = item.path.rpartition("#")[0] if facts.box else None
    return Source(
        item.file, item.path, facts.camera, facts.time, facts.person, item.found.state, facts.track, facts.box, of
    )


def _only(gallery: Gallery, wanted: Items) -> Gallery:
    """The part of a gallery that is of these files, or of crops of them."""
    columns, listed = gallery.rows.columns, wanted.found.lookup
    of_V, of_G = coded(columns["source"])
    wanted_G = (listed.find(columns["path"]) >= 0) | (listed.find(of_V) >= 0)[of_G]
    places = np.flatnonzero(wanted_G)
    return replace(gallery, rows=gallery.rows.take(places), vector_GE=gallery.vector_GE[places], file=None)


def _open(model: ImageEncoder, given: Sources, path: str | Path | None, single: bool, dtype: DTypeLike) -> FeatureFile:
    file = _opened(model, given, path, dtype)
    if single and file.dtype != np.float32:
        raise UsageError(
            f"--float32: {path or f'the index of {given.title}'} has its vectors in half precision already.",
            "Choose another file for this one with --index FILE.",
        )
    return file


def _opened(model: ImageEncoder, given: Sources, path: str | Path | None, dtype: DTypeLike) -> FeatureFile:
    folder = given.roots.folder
    real = str(folder.resolve())
    about: dict[str, object] = {"run": str(model.path), "folder": real}
    if given.roots.named:
        about["sources"] = {name: str(place.resolve()) for name, place in given.roots.named.items()}
    if path is None:
        place = feature_path("indexes", folder, model.fingerprint, given.part)
        return FeatureFile.open(place, model.fingerprint, dtype=dtype, about=about, rebuild=True, lenient=True)
    place = Path(path).expanduser()
    if place.is_dir():
        raise UsageError(f"--index {place} is a folder.", "Give the file to write, for example people.h5")
    try:
        there = read_about(place)
        file = FeatureFile.open(place, model.fingerprint, dtype=dtype, about=about)
        made_of = real if there is None else there.get("folder", "something else")
        if made_of != real:
            if Path(str(made_of)).exists() or not holds_some(given.roots, file.known()):
                raise UsageError(f"--index {place} is an index of {made_of}, not of {folder}.", "Choose another file.")
            logger.info("%s: its folder %s is gone; %s has its images and takes its place.", place, made_of, folder)
            file.renewed = True
        return file
    except CacheError as error:
        raise CacheError(error.message, f"Delete {place} to rebuild it, or choose another --index file.") from None


def _no_images_hint(left_out: Sequence[Skipped], footage: int, passed_over: int) -> str:
    if footage:
        return f"No person was found in {amount(footage, 'video or frame', 'videos and frames')}."
    if left_out:
        first = left_out[0]
        return f"{amount(len(left_out), 'file was', 'files were')} left out, the first: {first.path} ({first.reason})."
    if passed_over:
        return f"{amount(passed_over, 'file was', 'files were')} forgotten (--forget) or are too old (--expire)."
    return (
        "Images end in .jpg, .png, .bmp, .webp and the like, videos in .mp4 and the like; hidden folders are left out."
    )


class _Outcome:
    """What became of the files of a source: which rows stay, and which the gallery shows."""

    def __init__(
        self,
        given: Sources,
        listing: Listing,
        todo: _Division,
        before: Snapshot,
        images: EmbedReport,
        persons: PersonReport,
        share: WorkShare | None,
    ) -> None:
        """before: the index as it was before the source was listed."""
        self.given, self.listing, self.images, self.persons = given, listing, images, persons
        self.items, self.before, self.share, self.mine_N = todo.items, before, share, todo.mine_N
        unusable = {one.source.name for one in images.unusable} | {item.path for item, _ in persons.unusable}
        usable_N = todo.image_N.copy()
        usable_N[todo.new_K[[source.name in unusable for source in todo.images]]] = False
        self.usable = todo.items.found.name_N[usable_N]
        self.footage = {item.path for item in todo.footage} - unusable | set(todo.others)

    def settle(self, file: FeatureFile, skipped: SkippedList) -> Update:
        """Drop the rows of what is gone or unusable now, and note what was left out."""
        new: dict[str, Skipped] = {}
        lasting: list[Skipped] = []
        for name, where, state, error in self._failures():
            if os.path.lexists(where):  # what has vanished since the folder was listed is gone, not unusable
                new[name] = Skipped(name, *state, error.reason)
                lasting += [new[name]] * error.lasting
        skipped.keep(self.items.found, lasting)
        kept = self._stays(file)
        if not kept.all():
            file.drop(~kept)
        added, embedded = self.images.added + self.persons.added, self.images.embedded + self.persons.embedded
        in_all = len(skipped.entries.keys() | new.keys())
        return Update(added, embedded, int((~kept).sum()), list(new.values()), in_all)

    def wanted(self, file: FeatureFile) -> tuple[Rows, NDArray[Any]]:
        """The rows and vectors of the gallery: all of an index of whole folders, else those that are listed."""
        if self.given.complete:
            return file.known(), file.matrix()
        listed = np.flatnonzero(self._listed(file))
        return file.known().take(listed), file.vectors(listed)

    def _failures(self) -> Iterator[tuple[str, Path, tuple[int, int], UnreadableImage | UnreadableVideo]]:
        for one in self.images.unusable:
            yield one.source.name, one.source.file, one.state, one.error
        for item, error in self.persons.unusable:
            yield item.path, item.file, item.found.state, error

    def _stays(self, file: FeatureFile) -> NDArray[np.bool_]:
        """Which rows stay: those of what is listed, of what may be there unseen, and what others added meanwhile."""
        stays_G = self._listed(file)
        others = np.flatnonzero(~stays_G)
        rows = file.known().take(others)
        files = [of or path for path, of in zip(rows.paths, rows.sources, strict=True)]
        there, place_R = self.unlisted(files), self.before.places(rows.columns["path"]).tolist()
        stays_G[others] = [
            name in there
            or self.listing.hides(name)
            or place < 0
            or self.before.rows[place] != row
            or not self._ours(name, row.path)
            for name, place, row in zip(files, place_R, rows, strict=True)
        ]
        return stays_G

    def _ours(self, file: str, path: str) -> bool:
        """Whether a row may be dropped here: of a file of this share; if it is the first, also of one that is gone."""
        if self.share is None:
            return True
        return not self._mine.isdisjoint((file, path)) or (self.share.first and self._all.isdisjoint((file, path)))

    def unlisted(self, paths: Iterable[str]) -> set[str]:
        """Those that are there although not listed: an index of single files holds what other lists named as well."""
        if self.given.complete:
            return set()
        file_of = self.given.roots.file_of
        return {path for path in paths if path not in self._all and os.path.lexists(file_of(path))}

    def _listed(self, file: FeatureFile) -> NDArray[np.bool_]:
        """Which rows are of files that are listed and usable, or of persons in them."""
        rows = file.known()
        listed_G = np.zeros(len(rows), bool)
        place_N = file.snapshot.places(self.usable)
        listed_G[place_N[place_N >= 0]] = True
        if not self.footage:
            return listed_G
        of_V, of_G = coded(rows.columns["source"])
        names = [of.decode("utf-8", "surrogateescape") for of in of_V.tolist()]
        listed_G |= np.array([name in self.footage for name in names], bool)[of_G]
        looked_at = np.array([name in self.persons.found for name in names], bool)[of_G] & listed_G
        for place in np.flatnonzero(looked_at).tolist():  # persons who were found before are perhaps not found again
            row = rows[place]
            listed_G[place] = row.path in self.persons.found[row.source]
        return listed_G

    @cached_property
    def _mine(self) -> set[str]:
        return set(self.items.found.take(self.mine_N).paths)

    @cached_property
    def _all(self) -> set[str]:
        return set(self.items.found.paths)
