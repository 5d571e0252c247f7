"""What can quietly falsify a score, looked for on a sample before the score is printed.

Embeddings that depend on what else is in the batch (attention over the batch, padding to the longest caption,
batch statistics, dynamic quantisation, and also a cache that no longer fits); scores that depend on which other
queries are asked, or on the order of the file (`retrieval.independence`); weights that change while they are
evaluated, adapted to what is scored; rows of the gallery that are bit for bit equal, which are either copies of one
image or a model that has collapsed; and ties that only the order of the file decides. The sample is embedded again,
shuffled among strangers and a few of them alone, so the check asks the model and does not trust what it declares.

That costs 0.5 % of a first evaluation of CUHK-PEDES (ViT-B/16 on a CPU), but would be most of one from the
cache; so its result lies beside the features, under a mark of the model and of the very rows checked. Of a model
that mixes a batch a larger part is embedded twice, in the order of the file and in another: data sets keep the images
of a person together, so a batch in this order tells who is in it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.data.types import Split
from tbps_cli.errors import TbpsError
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.fingerprint import fingerprint
from tbps_cli.features.pipeline import embed_images, embed_texts
from tbps_cli.features.rows import content_hash
from tbps_cli.features.store import FeatureFile, feature_path
from tbps_cli.retrieval import independence, metrics
from tbps_cli.retrieval.embed import AS_PUBLISHED, Embedded, require_all, sources_of
from tbps_cli.retrieval.independence import Dependence
from tbps_cli.retrieval.similarity import codes, product

logger = logging.getLogger("tbps")

ROWS = 16
"""Captions, and as many images, that are embedded again among others."""
ALONE = 4
"""As many of each also alone: a batch of one is slow, but padding to the longest shows there best."""
TOLERANCE = 1e-4
"""Largest difference of any entry of a unit row; float32 with other batch sizes stays below 1e-5."""
QUERIES = 64
"""Captions whose best right image is looked for among ties."""
COPIES = 64
"""Images with equal vectors whose files are read, to tell copies from a collapsed model."""
ORDERED = 1024
"""Captions that are embedded twice, in the order of the file and in another, where the batch matters; at most."""
SEED = 0
TOGETHER = "queries: together"
"""The label of scores that a single query would not have."""

Rows = NDArray[np.float32]
Index = NDArray[np.int64]
Remembered = tuple[float, float | None, float | None]
"""What embedding again showed: the largest difference, and R@1 in both orders where it was asked for."""


@dataclass(frozen=True)
class Guard:
    """What the checks found."""

    rows: int
    """Captions and images embedded again."""
    difference: float
    """The largest change of an entry of their unit rows."""
    tolerance: float
    duplicates: int
    """Images whose vector equals that of an earlier one."""
    alike: int
    """Those among the first of them whose file differs from the earlier one's."""
    queries: int
    """Captions looked at for ties."""
    tied: int
    """Those among them whose best right image ties with a wrong one."""
    together: float = 0.0
    """How far a query's scores move when other queries are asked, in standard deviations of them."""
    gallery: float = 0.0
    """The same when other images are in the gallery. Searching knows its gallery: this is a condition, no fault."""
    order: float = 0.0
    """The same when queries and gallery stand in another order."""
    adapted: bool = False
    """Whether the weights are no longer those that were opened."""
    in_order: float | None = None
    """R@1 of the first captions in batches that follow the file, where embeddings depend on the batch."""
    shuffled: float | None = None
    """R@1 of the same captions and images in another order."""

    @property
    def dependent(self) -> bool:
        """Whether embeddings change with the rest of the batch. NaN counts as a change."""
        return not self.difference <= self.tolerance

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the score; copies of an image do not."""
        return not self.troubles

    @property
    def warning(self) -> str | None:
        """Why the scores depend on the batch, or None."""
        if not self.dependent:
            return None
        return (
            f"embeddings depend on the rest of the batch (they change by up to {self.difference:.2g}, seen on "
            f"{self.rows} captions and images), so these scores hold for this batch size and this file order only"
        )

    @property
    def troubles(self) -> list[str]:
        """What speaks against the score, a few words each."""
        return troubles(asdict(self))

    @property
    def conditions(self) -> list[str]:
        """Those among them that make the score another measurement: single questions would not give it."""
        return _conditions(asdict(self))

    def document(self) -> dict[str, object]:
        """The findings as JSON-able values."""
        measured = {name: float(f"{value:.2g}") for name, value in self._measured().items()}
        return {**asdict(self), **measured, "ok": self.ok}

    def _measured(self) -> dict[str, float]:
        return {"difference": self.difference, "together": self.together, "gallery": self.gallery, "order": self.order}

    def __str__(self) -> str:
        return words(self.document())


def words(document: Mapping[str, Any]) -> str:
    """All findings, as `Guard.document` has them, in a few words."""
    found = troubles(document)
    if _same(document):
        found.insert(0, f"batch-independent ({_checked(document)})")
    if not document["tied"]:
        found.append(f"no ties in {document['queries']} captions")
    found.append(f"{document['duplicates']:,} duplicate image{'s' * (document['duplicates'] != 1)}")
    return f"guard: {', '.join(found)}"


def troubles(document: Mapping[str, Any]) -> list[str]:
    """What speaks against a score, a few words each; empty when all is well."""
    found = _conditions(document)
    if document["alike"]:
        found.append(f"{document['alike']} images with the embedding of another, different image")
    if document["tied"]:
        found.append(f"{document['tied']} of {document['queries']} captions tie with a wrong image")
    return found


def _conditions(document: Mapping[str, Any]) -> list[str]:
    found = []
    if not _same(document):
        found.append(f"embeddings depend on the rest of the batch ({_checked(document)}{_reordered(document)})")
    if document["together"]:
        found.append(f"{TOGETHER} (a query's ranking depends on which other queries are asked)")
    if document["order"]:
        found.append("scores depend on the order of the file")
    if document["adapted"]:
        found.append("adapted on what is scored (its weights are not those that were opened)")
    return found


def _same(document: Mapping[str, Any]) -> bool:
    return bool(document["difference"] <= document["tolerance"])


def _checked(document: Mapping[str, Any]) -> str:
    return f"{document['rows']} checked, max difference {document['difference']:.0e}"


def _reordered(document: Mapping[str, Any]) -> str:
    if document["in_order"] is None:
        return ""
    return f"; R@1 of a part {document['in_order']:.1f} in the order of the file, {document['shuffled']:.1f} shuffled"


def check(
    model: Encoder,
    split: Split,
    embedded: Embedded,
    *,
    dependence: Dependence | None = None,
    batch: int | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
    warn: bool = True,
    orders: bool = True,
) -> Guard:
    """Look at an embedded split; embeds about 40 rows again unless the same ones were checked before.

    dependence: what the scores depend on; left out, that of dot products is measured. batch: what was embedded at a
    time; default what the model says. cache_dir: the folder of caches; None remembers nothing. warn: log where a score
    would mislead. orders: also measure what the order of the file does to a model that mixes a batch.
    """
    rng = np.random.default_rng(SEED)
    caption_S = rng.permutation(len(split.captions))[:ROWS]
    image_S = rng.permutation(len(split.paths))[:ROWS]
    query_S = np.sort(rng.permutation(len(split.captions))[:QUERIES])
    memory = _memory(model, split, (embedded.text_QE[caption_S], embedded.image_GE[image_S]), cache_dir)
    remembered = _recalled(memory)
    if remembered is None:
        difference = _difference(model, split, embedded, (caption_S, image_S), workers)
        mixes = orders and bool(model.batch_dependent) and not difference <= TOLERANCE
        both = _in_two_orders(model, split, batch or model.batch, workers) if mixes else (None, None)
        remembered = difference, *both
        _remember(memory, remembered)
    difference, in_order, shuffled = remembered
    scores = dependence or independence.measure(product, embedded.text_QE, embedded.image_GE)
    pairs = equal_rows(embedded.image_GE)
    found = Guard(
        rows=len(caption_S) + len(image_S),
        difference=difference,
        tolerance=TOLERANCE,
        duplicates=len(pairs),
        alike=_different_files(split, pairs[:COPIES]),
        queries=len(query_S),
        tied=tied(embedded.text_QE[query_S], embedded.image_GE, *_persons(split, query_S)),
        together=scores.queries,
        gallery=scores.gallery,
        order=scores.order,
        adapted=model.weights_changed(),
        in_order=in_order,
        shuffled=shuffled,
    )
    if warn:
        _warn(found)
    return found


def _memory(model: Encoder, split: Split, rows: tuple[Rows, Rows], cache_dir: Path | None) -> Path | None:
    """Where the result for exactly these rows lies; they are what ties it to files and captions."""
    if cache_dir is None:
        return None
    mark = fingerprint(model.fingerprint, rows[0], rows[1])
    return feature_path("features", split.root, mark, "guard", cache_dir).with_suffix(".json")


def _recalled(memory: Path | None) -> Remembered | None:
    if memory is None:
        return None
    try:
        known = json.loads(memory.read_text("utf-8"))
        both = (known["in_order"], known["shuffled"])
        return float(known["difference"]), *((None, None) if None in both else (float(both[0]), float(both[1])))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(memory: Path | None, found: Remembered) -> None:
    if memory is not None and np.isfinite(found[0]):
        with suppress(OSError, TbpsError):  # only time is lost
            memory.parent.mkdir(parents=True, exist_ok=True)
            known = dict(zip(("difference", "in_order", "shuffled"), found, strict=True))
            files.write_text(memory, json.dumps(known))


def _difference(
    model: Encoder, split: Split, embedded: Embedded, sample: tuple[Index, Index], workers: int | None
) -> float:
    """The largest change of any entry when the sampled captions and images are embedded again."""
    texts = _moved(embedded.text_QE, sample[0], lambda index, batch: _texts(model, split, index, batch))
    images = _moved(embedded.image_GE, sample[1], lambda index, batch: _images(model, split, index, batch, workers))
    return float(np.max([texts, images]))  # keeps NaN, unlike max()


def _moved(row_NE: Rows, index_S: Index, embed: Callable[[Index, int], Rows]) -> float:
    """The largest change of the sample's rows among each other, and of the first ones alone."""
    together, alone = embed(index_S, len(index_S)), embed(index_S[:ALONE], 1)
    changes = [np.abs(together - row_NE[index_S]).max(), np.abs(alone - row_NE[index_S[:ALONE]]).max()]
    return float(np.max(changes))


def _in_two_orders(model: Encoder, split: Split, batch: int, workers: int | None) -> tuple[float, float]:
    """R@1 of the first captions and their images, embedded in the order of the file and in another."""
    caption_S = np.arange(min(len(split.captions), ORDERED, 16 * batch))
    image_S = np.unique(split.caption_image[caption_S]).astype(np.int64)
    rng = np.random.default_rng(SEED)
    return (
        _first_rank(model, split, caption_S, image_S, batch, workers),
        _first_rank(model, split, rng.permutation(caption_S), rng.permutation(image_S), batch, workers),
    )


def _first_rank(
    model: Encoder, split: Split, caption_S: Index, image_S: Index, batch: int, workers: int | None
) -> float:
    text_SE, image_SE = _texts(model, split, caption_S, batch), _images(model, split, image_S, batch, workers)
    person_Q, person_G = codes(split.caption_person, split.image_person)
    return metrics.scores(text_SE, image_SE, person_Q[caption_S], person_G[image_S]).R1


def _texts(model: Encoder, split: Split, index_S: Index, batch: int) -> Rows:
    texts = [split.captions[index] for index in index_S]
    return embed_texts(model, texts, FeatureFile.in_memory(), batch=batch)


def _images(model: Encoder, split: Split, index_S: Index, batch: int, workers: int | None) -> Rows:
    sources = sources_of(split)
    chosen = [sources[index] for index in index_S]
    file = FeatureFile.in_memory()
    require_all(embed_images(model, chosen, file, AS_PUBLISHED, batch=batch, workers=workers), len(chosen))
    return file.select([source.name for source in chosen])[1]


def equal_rows(row_GE: Rows) -> list[tuple[int, int]]:
    """(earlier row, later row) for every row that equals an earlier one bit for bit."""
    # Few rows share even their first entry, so few need to be compared whole.
    _, inverse_G, count = np.unique(row_GE[:, 0], return_inverse=True, return_counts=True)
    first: dict[bytes, int] = {}
    pairs = []
    for row in np.flatnonzero(count[inverse_G] > 1).tolist():
        earlier = first.setdefault(row_GE[row].tobytes(), row)
        if earlier != row:
            pairs.append((earlier, row))
    return pairs


def _different_files(split: Split, pairs: Sequence[tuple[int, int]]) -> int:
    return sum(content_hash(split.paths[one]) != content_hash(split.paths[other]) for one, other in pairs)


def _persons(split: Split, query_S: Index) -> tuple[Index, Index]:
    person_Q, person_G = codes(split.caption_person, split.image_person)
    return person_Q[query_S], person_G


def tied(query_SE: Rows, gallery_GE: Rows, person_S: Index, person_G: Index) -> int:
    """How many queries have a wrong image with exactly the score of their best right one."""
    score_SG = product(query_SE, gallery_GE)
    right_SG = person_S[:, None] == person_G
    best_S1 = np.where(right_SG, score_SG, -np.inf).max(axis=1, keepdims=True)
    return int(((score_SG == best_S1) & ~right_SG).any(axis=1).sum())


def _warn(found: Guard) -> None:
    if found.alike:
        logger.warning(
            "guard: the model gives %d images exactly the embedding of another, different image",
            found.alike,
        )
    if found.tied:
        logger.warning(
            "guard: %d of %d sampled captions tie with a wrong image, so the order of the file decides their rank",
            found.tied,
            found.queries,
        )
    if found.together:
        logger.warning(
            "guard: a query's ranking depends on which other queries are asked, which nobody who searches could repeat"
        )
    if found.order:
        logger.warning("guard: scores depend on the order of the file")
    if found.adapted:
        logger.warning("guard: the weights changed while they were evaluated, so these are scores of other weights")
