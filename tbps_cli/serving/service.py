"""Answers requests from open galleries: what the API does, without HTTP.

Each method takes a checked request and gives JSON-able values or bytes; what is wrong is a TbpsError, as everywhere.
"""

from __future__ import annotations

import csv
import io
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from tbps_cli.asking.understood import joined
from tbps_cli.data.images import UnreadableImage
from tbps_cli.errors import DataError, TbpsError, UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.filtering.moments import moment
from tbps_cli.filtering.parse import Where, parse
from tbps_cli.filtering.tree import Compare, In, Tree
from tbps_cli.footage.crops import cut
from tbps_cli.footage.video import UnreadableVideo
from tbps_cli.searching.audit import AuditLog, entries
from tbps_cli.searching.document import document, table
from tbps_cli.searching.explaining import explanations
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.hits import copy_hits, excerpts, page
from tbps_cli.searching.query import MINUS, Query, StoredRow, Term
from tbps_cli.searching.questions import ask
from tbps_cli.searching.ranking import TOP, Answer, hit_of
from tbps_cli.searching.remote import answers
from tbps_cli.searching.thumbnails import Excerpt, ThumbnailCache, thumbnail
from tbps_cli.serving.batching import TextBatches
from tbps_cli.serving.clips import clip_of
from tbps_cli.serving.picture_ids import split_id
from tbps_cli.serving.requests import ExplainRequest, ExportForm, ExportRequest, QueryPart, SearchRequest
from tbps_cli.serving.served import ServedGallery, View, names_of
from tbps_cli.serving.uploads import Uploads, jpeg_of
from tbps_cli.trust.calibration import calibration_of
from tbps_cli.types import Hit

THUMBNAIL = 240, 480
"""Width and height that a thumbnail fits within, in pixels."""
FRAME = 1600, 1200
FORMULA = tuple("=+-@\t\r")
"""With what spreadsheets begin a formula."""
WHERE_HINT = 'For example: camera == "c1" and path like "night/*"'


class NotThereError(DataError):
    """A gallery or image that there is not (any more): 404."""


class ForbiddenError(TbpsError):
    """Something that this server does not give: 403."""


@dataclass(frozen=True)
class _Pointed:
    """An image of a gallery, by its id."""

    served: ServedGallery
    gallery: Gallery
    """All of it, which knows who else was in a frame."""
    part: Gallery
    """What has the row: the same, or the row alone."""
    place: int

    @property
    def hit(self) -> Hit:
        return hit_of(self.part, 0.0, self.place)


@dataclass
class Service:
    """A model, the galleries that it embedded, and what clients have sent."""

    model: Encoder
    galleries: Sequence[ServedGallery]
    texts: TextBatches
    uploads: Uploads = field(default_factory=Uploads)
    thumbnails: ThumbnailCache = field(default_factory=ThumbnailCache)
    audit: AuditLog | None = None
    blur: bool = False
    """No heads in what is shown, as --blur-heads; then there are no clips."""
    today: Callable[[], date] = date.today
    ending: threading.Event = field(default_factory=threading.Event)
    """Set when the server is stopped: work that takes long ends early."""

    def gallery(self, name: str | None) -> ServedGallery:
        """By its name; the first where none is given. Raises NotThereError."""
        if name is None:
            return self.galleries[0]
        found = next((served for served in self.galleries if served.name == name), None)
        if found is None:
            raise NotThereError(f"gallery {name}: there is no such gallery.", f"There are: {names_of(self.galleries)}.")
        return found

    def overview(self) -> dict[str, Any]:
        """What GET /v1/galleries says."""
        return {
            "model": str(self.model.path),
            "calibrated": self.calibrated,
            "blurred": self.blur,
            "galleries": [served.document() for served in self.galleries],
        }

    @property
    def calibrated(self) -> bool:
        """Whether `sure` can be asked for."""
        return calibration_of(self.model) is not None

    # Search -------------------------------------------------------------------------------------

    def search(self, request: SearchRequest, client: str = "") -> dict[str, Any]:
        """The document of `tbps search --json`, with an id for each hit. client: who asks, for the audit log."""
        if not request.text.strip() and not request.plus:
            raise UsageError("the query is empty.", 'For example: {"text": "a woman in a red coat"}')
        served = self.gallery(request.gallery)
        view = served.ready()
        gallery = view.gallery
        query = self._query(request)
        rank = partial(
            answers,
            self.model,
            gallery,
            min_score=request.min_score,
            group=request.group,
            per_group=request.per_group,
            sort=request.sort.value,
            sure=request.sure,
            quiet=True,
            embed=self.texts,
        )
        where = _where(request, view)
        with served.asked():
            if request.plain or query.text is None:
                answer = rank([query], top=request.top or TOP, where=where)[0]
            else:
                answer = ask(rank, gallery, query, today=self.today(), top=request.top, where=where)
        self._record(answer, gallery, answer.question, client, filtered=request.where)
        made = document(answer, gallery, gallery.run)
        for told, hit in zip(made["hits"], answer.hits, strict=True):
            told["id"] = view.id_of(served.number, hit.path)
        return made | {"gallery": served.name, "indexing": served.busy and served.grows}

    def _record(
        self, answer: Answer, gallery: Gallery, asked: str, client: str, *, filtered: str | None = None
    ) -> None:
        if self.audit:
            lines = entries([answer], gallery, asked=[asked], filtered=filtered)
            self.audit.append([line | {"client": client} for line in lines])

    def _query(self, request: SearchRequest) -> Query:
        plus = [self._term(part) for part in request.plus]
        minus = [self._term(part, minus=True) for part in request.minus]
        return Query(request.text.strip() or None, more=(*plus, *minus))

    def _term(self, part: str | QueryPart, *, minus: bool = False) -> Term:
        stated = part.weight if isinstance(part, QueryPart) else None
        weight = (MINUS if minus else 1.0) if stated is None else stated
        signed = -weight if minus else weight
        if isinstance(part, str) or part.text is not None:
            return Term(part if isinstance(part, str) else str(part.text), signed)
        return Term(self._row(part), signed)

    def _row(self, part: QueryPart) -> StoredRow:
        """The embedding of an image of the gallery, of a box of its frame, or of what was sent."""
        if part.upload is not None:
            upload = self.uploads.get(part.upload)
            if part.box is None:
                return StoredRow("an image", upload.vector_E)
            return StoredRow("a part of an image", self._embedded(cut(upload.image, part.box)))
        pointed = self._pointed(str(part.picture))
        if part.box is not None:
            with pointed.served.asked(), _read(pointed):
                whole = replace(self._excerpt(pointed, "frame"), persons=None)
                frame = whole.pixels()
            name = f"a part of {pointed.hit.source or pointed.hit.path}"
            return StoredRow(name, self._embedded(cut(frame, part.box)))
        return StoredRow(pointed.hit.path, np.asarray(pointed.part.vector_GE[pointed.place], np.float32))

    def _embedded(self, image: Image.Image) -> np.ndarray[Any, Any]:
        return self.model.encode_images([image])[0]

    # Images -------------------------------------------------------------------------------------

    def _pointed(self, id: str) -> _Pointed:
        """The row that an id means. Raises NotThereError, and NotReadyError while nobody can know."""
        parts, served = split_id(id), self.owner(id)
        if served is not None and parts is not None:
            view = served.ready()
            with served.asked():
                found = view.find(parts[1])
            if found is not None:
                return _Pointed(served, view.gallery, *found)
        raise NotThereError(f"picture {id:.80}: it is not in a gallery (any more).", "Search again.")

    def owner(self, id: str) -> ServedGallery | None:
        """The gallery that an id is of."""
        parts = split_id(id)
        return next((one for one in self.galleries if parts and one.number == parts[0]), None)

    def _excerpt(self, pointed: _Pointed, view: str) -> Excerpt:
        image, frame = excerpts(pointed.hit, pointed.gallery, blur=self.blur)
        return frame or replace(image, box=None) if view == "frame" else image

    def picture(self, id: str, view: str) -> tuple[bytes, str]:
        """(bytes, media type) of an image: its thumbnail, itself, the frame it was seen in, or seconds of video.

        Raises NotThereError, and DataError for a file that cannot be read (any more).
        """
        pointed = self._pointed(id)
        hit = pointed.hit
        if view == "clip":
            with _read(pointed):
                return self._clip(hit), "video/webm"
        with pointed.served.asked():
            excerpt = self._excerpt(pointed, view)
        if view == "thumbnail":
            made = thumbnail(excerpt, THUMBNAIL, self.blur, self.thumbnails)
            if not made.jpeg:
                raise _unreadable(pointed)
            return made.jpeg, "image/jpeg"
        with _read(pointed):
            pixels = excerpt.pixels(blur=self.blur)
        pixels.thumbnail(FRAME)
        return jpeg_of(pixels, 90), "image/jpeg"

    def _clip(self, hit: Hit) -> bytes:
        if hit.seconds is None:
            raise NotThereError(f"{hit.path} is no part of a video, so there is no clip.")
        if self.blur:
            raise ForbiddenError("clips are not shown with --blur-heads: nobody is blurred in them.")
        return clip_of(hit.file, hit.seconds, stopped=self.ending.is_set)

    def facts(self, id: str) -> dict[str, Any]:
        """What is known of an image, with the size of its frame and who else was found in it."""
        pointed = self._pointed(id)
        hit, gallery = pointed.hit, pointed.gallery
        known: dict[str, Any] = {
            "id": id,
            "gallery": pointed.served.name,
            "path": hit.path,
            "person": hit.person,
            "camera": hit.camera,
            "time": hit.time,
            "source": hit.source,
            "seconds": hit.seconds,
            "box": hit.box,
            "track": hit.track,
            "detection": None if hit.detection is None else round(hit.detection, 4),
        }
        made = {name: value for name, value in known.items() if value is not None}
        with pointed.served.asked():
            excerpt = self._excerpt(pointed, "frame")
            if hit.source is not None:
                made["others"] = [list(box) for box in gallery.boxes_in(hit.source, hit.seconds) if box != hit.box]
        with _read(pointed):
            whole = excerpt.pixels()
        return made | {"frame": {"width": whole.width, "height": whole.height}}

    def explain(self, request: ExplainRequest) -> dict[str, Any]:
        """Which words of a sentence an image supports, each with a grid of where, where the model can say it."""
        pointed = self._pointed(request.picture)
        place = np.array([pointed.place])
        words = explanations(self.model, pointed.part, Query(request.text), place)[0]
        return {"picture": request.picture, "words": [word._asdict() for word in words]}

    def export(self, request: ExportRequest, client: str = "") -> tuple[bytes, str]:
        """(bytes, media type) of hits that were chosen, of one gallery: CSV, a page, or a ZIP of the crops."""
        pointed = [self._pointed(id) for id in request.pictures]
        served, gallery = pointed[0].served, pointed[0].gallery
        if any(one.served is not served for one in pointed):
            raise UsageError("the pictures are of several galleries.", "Export them one by one.")
        hits = [replace(one.hit, rank=rank) for rank, one in enumerate(pointed, 1)]
        answer = Answer(Query(request.title.strip() or "chosen hits"), hits, None, len(gallery))
        self._record(answer, gallery, f"export {request.form}: {answer.question}", client)
        if request.form is ExportForm.csv:
            return _for_spreadsheets(table([answer])).encode("utf-8", "replace"), "text/csv; charset=utf-8"
        with served.asked():
            if request.form is ExportForm.html:
                made = page([answer], gallery, gallery.run, blur=self.blur, cache=self.thumbnails)
                return made.encode("utf-8", "replace"), "text/html; charset=utf-8"
            gone = next((one for one in pointed if not one.hit.file.exists()), None)
            if gone is not None:
                raise _unreadable(gone)
            return self._zipped(answer, gallery), "application/zip"

    def _zipped(self, answer: Answer, gallery: Gallery) -> bytes:
        with TemporaryDirectory() as folder:
            copy_hits([answer], gallery, Path(folder) / "hits", blur=self.blur)
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for path in sorted((Path(folder) / "hits").iterdir()):
                    archive.write(path, f"hits/{path.name}".encode("utf-8", "replace").decode())
        return file.getvalue()

    def upload(self, content: bytes) -> dict[str, Any]:
        """Take an image to search by."""
        try:
            made = self.uploads.add(self.model, content)
        except UnreadableImage as error:
            hint = "Send a smaller one." if "pixels" in error.reason else "Send a JPEG, PNG or WebP file."
            raise UsageError(error.message, hint) from None
        return {"id": made.id, "width": made.image.width, "height": made.image.height}

    def uploaded(self, id: str) -> bytes:
        """A small JPEG of an upload."""
        image = self.uploads.get(id).image.copy()
        image.thumbnail(THUMBNAIL)
        return jpeg_of(image)


@contextmanager
def _read(pointed: _Pointed) -> Iterator[None]:
    """Around the reading of an image's file, which may be gone since it was indexed. Raises NotThereError."""
    try:
        yield
    except (UnreadableImage, UnreadableVideo):
        raise _unreadable(pointed) from None


def _unreadable(pointed: _Pointed) -> NotThereError:
    return NotThereError(f"{pointed.hit.path} cannot be read any more.", "Was it moved or deleted?")


def _for_spreadsheets(text: str) -> str:
    """A table whose texts no spreadsheet takes for a formula, whatever files are called: these get an apostrophe."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    for line in csv.reader(io.StringIO(text)):
        writer.writerow([f"'{cell}" if cell[:1] in FORMULA and not _is_number(cell) else cell for cell in line])
    return made.getvalue()


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _where(request: SearchRequest, view: View) -> Where | None:
    """The filter, and what cameras and times were chosen besides."""
    trees: list[Tree] = []
    if request.where and request.where.strip():
        try:
            trees.append(parse(request.where).tree)
        except UsageError as error:  # whoever asks has no command line
            raise UsageError(error.message.removeprefix("--"), WHERE_HINT) from None
    if request.cameras:
        named = [view.cameras[name][0] if name in view.cameras else name for name in request.cameras]
        trees.append(In("camera", tuple(named)))
    if request.since:
        trees.append(Compare("time", ">=", _moment("since", request.since)))
    if request.until:
        trees.append(Compare("time", "<=", _moment("until", request.until)))
    tree = joined(trees)
    return None if tree is None else Where.of(tree)


def _moment(name: str, text: str) -> str:
    try:
        found = moment(text.strip())
    except ValueError:  # the 31st of February
        found = None
    if found is None:
        raise UsageError(f"{name} {text}: no day or moment.", "For example: 2026-01-05 or 2026-01-05T08:00")
    return found
