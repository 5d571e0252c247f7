"""A split as embeddings, for evaluation and for searching it: used as the papers use it.

Files that end early are taken as far as they go, with a count; images that are missing or cannot be read are an
error that says how many. Evaluation and search share the feature file of a data set's images.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.images import require_images
from tbps_cli.data.types import Split
from tbps_cli.errors import DataError
from tbps_cli.features.encoder import Encoder, ImageEncoder
from tbps_cli.features.pipeline import EmbedReport, Policy, Progress, Source, embed_images, embed_texts
from tbps_cli.features.rows import Array, Rows
from tbps_cli.features.store import FeatureFile, feature_path

logger = logging.getLogger("tbps")

AS_PUBLISHED = Policy(allow_truncated=True, smallest=1, all_needed=True, dated=False)


@dataclass(frozen=True)
class Embedded:
    """A split as embeddings: captions and images in file order, float32, unit rows."""

    text_QE: NDArray[np.float32]
    image_GE: NDArray[np.float32]
    report: EmbedReport


def embed_split(
    model: Encoder,
    split: Split,
    *,
    cache_dir: Path | None = None,
    batch: int = 64,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Embedded:
    """All captions, then all images of a split.

    cache_dir: the folder of caches; None embeds everything again and keeps nothing.
    progress: called with (done, total) over captions and images together.
    Raises DataError naming how many images are missing or cannot be read.
    """
    require_images(split.paths, split.root, split.dataset)
    captions, total = len(split.captions), len(split.captions) + len(split.paths)
    told = progress or (lambda done, total: None)
    texts = feature_file(model, split.root, "texts", batch, cache_dir)
    text_QE = embed_texts(
        model, split.captions, texts, batch=batch, progress=lambda done, todo: told(captions - todo + done, total)
    )
    told(captions, total)
    _, image_GE, report = embed_gallery(
        model,
        split,
        cache_dir=cache_dir,
        batch=batch,
        workers=workers,
        progress=lambda done, todo: told(total - todo + done, total),
    )
    told(total, total)
    return Embedded(text_QE, image_GE.astype(np.float32, copy=False), report)


def embed_gallery(
    model: Encoder,
    split: Split,
    *,
    cache_dir: Path | None = None,
    batch: int = 64,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Rows, Array, EmbedReport]:
    """The images of a split as rows and their embeddings, in file order. Arguments and errors as `embed_split`."""
    require_images(split.paths, split.root, split.dataset)
    file = feature_file(model, split.root, "images", batch, cache_dir)
    sources = sources_of(split)
    report = embed_images(model, sources, file, AS_PUBLISHED, batch=batch, workers=workers, progress=progress)
    require_all(report, len(sources))
    if report.truncated:
        logger.warning("%d images are truncated; the readable part is used, as in the papers", report.truncated)
    rows, image_GE = file.select([source.name for source in sources])
    file.compact()
    return rows, image_GE, report


def require_all(report: EmbedReport, total: int) -> None:
    """Raises DataError with the number of images that cannot be read, if there are any."""
    if report.unusable:
        first, count = report.unusable[0].error, len(report.unusable)
        raise DataError(
            f"{count:,} of {total:,} images cannot be read (first: {first.path}: {first.reason}).", first.hint
        )


def sources_of(split: Split) -> list[Source]:
    """The images of a split under the names that feature files give them: relative to its root."""
    return [
        Source(path, path.relative_to(split.root).as_posix(), camera, taken, person)
        for path, camera, taken, person in zip(split.paths, split.cameras, split.times, split.image_person, strict=True)
    ]


def feature_file(model: ImageEncoder, root: Path, part: str, batch: int, cache_dir: Path | None) -> FeatureFile:
    """Where the embeddings of a data set are kept: in the cache, or in memory alone without one.

    part: "texts", "images" or another kind of rows, each in a file of its own.
    """
    if cache_dir is None:
        return FeatureFile.in_memory()
    if model.batch_dependent:
        part = f"{part}-batch{batch}"
    path = feature_path("features", root, model.fingerprint, part, cache_dir)
    about = {"run": str(model.path), "gallery": str(root.resolve())}
    return FeatureFile.open(path, model.fingerprint, rebuild=True, lenient=True, about=about)
