"""A model on a split: both directions, the protocol they were measured under, and what is kept of it.

Scores mean little without their protocol (`retrieval.protocol`), which travels with every one of them. Scores are dot
products, TextReID's re-ranking of them, or what a function of your own gives, which the guard asks for parts too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tbps_cli.choices import Choices
from tbps_cli.data.open import ceiling, find_layout
from tbps_cli.data.types import Dataset, Person, Split
from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder, warn_of_cut
from tbps_cli.models.checkpoint import Checkpoint, find, open_data, ready_encoder
from tbps_cli.retrieval import guard, independence, metrics, rank
from tbps_cli.retrieval.embed import Embedded, embed_split
from tbps_cli.retrieval.independence import ScoreFunction
from tbps_cli.retrieval.protocol import Protocol
from tbps_cli.retrieval.rerank import NeighbourBonus, with_bonus
from tbps_cli.retrieval.similarity import Array, array, product
from tbps_cli.text.long_captions import Cutting
from tbps_cli.types import Scores

if TYPE_CHECKING:
    from tbps_cli.recipe.schema import Stated

Progress = Callable[[int, int], None]
Watch = Callable[[str], AbstractContextManager[Progress]]
Direction = Literal["text_to_image", "image_to_text"]
TASKS: dict[Direction, str] = {"text_to_image": "t2i", "image_to_text": "i2t"}
"""The field's short names."""
CHUNKS = "--set method.long_captions=chunk embeds them in pieces"


@dataclass(frozen=True)
class Side:
    """One direction: what is asked, what is searched, and the identities of both."""

    query_QE: NDArray[np.float32]
    gallery_GE: NDArray[np.float32]
    person_Q: Sequence[Person]
    person_G: Sequence[Person]
    bonus: NeighbourBonus | None
    details: metrics.Details
    score_QG: Array | None = None
    """All scores, where a function of the caller's made them."""

    def top(self, k: int = 10) -> tuple[Array, NDArray[np.int64]]:
        """(score_QK, index_QK) as ranked, with the re-ranking bonus where there is one."""
        if self.bonus is None and self.score_QG is None:
            return rank.topk(self.query_QE, self.gallery_GE, k)
        found = []
        for start in range(0, len(self.query_QE), 256):
            index_B = np.arange(start, min(start + 256, len(self.query_QE)))
            best = rank.Best(len(index_B), min(k, len(self.gallery_GE)), np.dtype(np.float32))
            best.add(self._rows(index_B), 0)
            found.append(best.sorted())
        return np.concatenate([score for score, _ in found]), np.concatenate([index for _, index in found])

    def _rows(self, index_B: NDArray[np.int64]) -> Array:
        if self.score_QG is not None:
            return self.score_QG[index_B]
        dots_BG = product(self.query_QE[index_B], self.gallery_GE)
        return dots_BG if self.bonus is None else dots_BG + self.bonus(index_B)


@dataclass(frozen=True)
class Evaluation:
    """Everything that evaluating one model on one split gave."""

    run: str
    method: str
    data: str
    split: Split
    embedded: Embedded
    sides: dict[Direction, Side]
    protocol: Protocol
    seconds: float
    ceiling: dict[str, float] | None = None
    """What a perfect reader of attributes would reach, where a data set knows the truth."""
    published: dict[str, object] | None = None
    """R1, mAP and venue of the recipe's paper on these very images, and the sampling error of that R1."""

    @property
    def warning(self) -> str | None:
        """Why scores of this form depend on the batch, or None."""
        return self.protocol.declared or self.protocol.guard.warning

    @property
    def scores(self) -> Scores:
        """Text to image, in percent."""
        return self.sides["text_to_image"].details.scores()

    def origin(self) -> dict[str, object]:
        """What was evaluated on what: the first lines of every document."""
        return {
            "run": self.run,
            "method": self.method,
            "data": self.data,
            "split": self.split.name,
            "queries": len(self.split.captions),
            "gallery": len(self.split.paths),
        }

    def document(self) -> dict[str, object]:
        """The evaluation as `tbps eval --json` prints it."""
        return {
            **self.origin(),
            **{name: side.details.scores()._asdict() for name, side in self.sides.items()},
            "protocol": self.protocol.document(),
            "seconds": round(self.seconds, 3),
            **({"ceiling": self.ceiling} if self.ceiling else {}),
            **({"published": self.published} if self.published else {}),
        }


def evaluate(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    data: Dataset | str | None = None,
    split: str = "test",
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    batch: int | None = None,
    rerank: bool = False,
    score: ScoreFunction | None = None,
    choices: Choices | None = None,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Embed a split and rank it in both directions.

    checkpoint: an open model, or what `models.open_model` opens (then device, sets and words count).
    data: an open data set, or the name or path of one below `data_root`; left out, the checkpoint's own.
    batch: captions or images embedded at a time; default what the model's recipe says.
    rerank: add TextReID's neighbour bonus to the similarities (`retrieval.rerank`).
    score: what ranks instead of the dot product, given (query_QE, gallery_GE) and giving score_QG; it is called with
    sentences as queries, then with images, and by the guard with parts of both.
    choices: what was chosen by scores beyond what the weights say of themselves (`retrieval.choose` has them).
    cache_dir: the folder of caches (`places.cache_dir()`); None embeds everything again and keeps nothing.
    progress: called with (done, total) over captions and images together.
    Raises DataError for a split that is empty or whose images are missing or unreadable, UsageError for scores of the
    wrong shape.
    """
    owner, data = find_with_data(checkpoint, data, split, sets=sets, data_root=data_root)
    part = data.split(split)
    if rerank and score is not None:
        raise UsageError("evaluate: rerank and score exclude each other.", "Re-rank inside your function.")
    model = ready_encoder(owner, device=device, words=words, data_root=data_root)
    started = time.perf_counter()
    if model is checkpoint and model.weights_changed():
        cache_dir = None  # kept embeddings are those of the weights that were opened
    size = batch or model.batch
    warn_of_cut(model, part.captions, "captions", CHUNKS if _could_embed_pieces(model) else "")
    embedded = embed_split(model, part, cache_dir=cache_dir, batch=size, workers=workers, progress=progress)
    text, image = (embedded.text_QE, part.caption_person), (embedded.image_GE, part.image_person)
    sides: dict[Direction, Side] = {
        "text_to_image": _side(*text, *image, rerank=rerank, score=score),
        "image_to_text": _side(*image, *text, rerank=rerank, score=score),
    }
    asked = score or (with_bonus if rerank else product)
    first, second = (
        independence.measure(asked, side.query_QE, side.gallery_GE, side.score_QG) for side in sides.values()
    )
    found = guard.check(
        model, part, embedded, dependence=first.worst(second), batch=size, cache_dir=cache_dir, workers=workers
    )
    protocol = Protocol(
        data=part.dataset,
        split=part.name,
        precision=model.precision,
        choices=model.choices.and_also(choices or Choices()),
        guard=found,
        settings=model.settings,
        reranked=rerank,
        declared=model.batch_dependent,
    )
    return Evaluation(
        run=str(model.path),
        method=model.name,
        data=part.dataset,
        split=part,
        embedded=embedded,
        sides=sides,
        protocol=protocol,
        seconds=time.perf_counter() - started,
        ceiling=ceiling(data, split),
        published=_published(model.recipe, part),
    )


def find_with_data(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    data: Dataset | str | None,
    split: str,
    *,
    sets: Sequence[str] = (),
    data_root: str | Path | None = None,
) -> tuple[Encoder | Checkpoint, Dataset]:
    """What is to be evaluated, and on what; the data set chooses where a folder holds a file for each of several."""
    owner = find(checkpoint, sets, data if isinstance(data, str) else data.name if data else None)
    if data is None or isinstance(data, str):
        (data,) = open_data(owner, [data] if data else (), split=split, data_root=data_root)
    return owner, data


def evaluate_all(
    checkpoint: Encoder | Checkpoint | str | Path | None,
    data: Sequence[str] = (),
    split: str = "test",
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    batch: int | None = None,
    rerank: bool = False,
    cache_dir: Path | None = None,
    workers: int | None = None,
    watch: Watch | None = None,
) -> list[Evaluation]:
    """Evaluate on several data sets, by name or path; without any, on the checkpoint's own.

    Cheap checks come first: the checkpoint, then every data set, and only then weights are read.
    watch: gives the progress callback of a data set, whose name it is called with. Else as `evaluate`.
    """
    owner = find(checkpoint, sets, data[0] if data else None)
    datasets = open_data(owner, data, split=split, data_root=data_root)
    model = ready_encoder(owner, device=device, words=words, data_root=data_root)
    evaluations = []
    for dataset in datasets:
        with watch(dataset.name) if watch else nullcontext() as progress:
            made = evaluate(
                model,
                dataset,
                split,
                batch=batch,
                rerank=rerank,
                cache_dir=cache_dir,
                workers=workers,
                progress=progress,
            )
        evaluations.append(made)
    return evaluations


def _published(recipe: Stated | None, part: Split) -> dict[str, object] | None:
    """What the recipe's paper reports, when this is its data set's whole test split."""
    layout = find_layout(recipe.data.name) if recipe else None
    if recipe is None or recipe.published is None or layout is None or layout.name != part.dataset:
        return None
    if part.name != "test" or layout.counts.get("test", ())[2:] != (len(part.captions),):
        return None
    paper = recipe.published
    known = {"venue": f"{paper.venue} {paper.year}", "R1": paper.R1, "mAP": paper.mAP}
    return {**known, "R1_chance": round(paper.chance(len(part.captions)), 2)}


def _could_embed_pieces(model: Encoder) -> bool:
    """Whether `method.long_captions=chunk` can be set: not of an export, nor where a batch's pieces would mix."""
    return model.recipe is not None and isinstance(model.tokenizer, Cutting) and not model.batch_dependent


def _side(
    query_QE: NDArray[np.float32],
    person_Q: Sequence[Person],
    gallery_GE: NDArray[np.float32],
    person_G: Sequence[Person],
    *,
    rerank: bool,
    score: ScoreFunction | None,
) -> Side:
    if score is not None:
        return _side_of(score, query_QE, person_Q, gallery_GE, person_G)
    bonus = NeighbourBonus(query_QE, gallery_GE) if rerank else None
    details = metrics.details(query_QE, gallery_GE, person_Q, person_G, bonus)
    return Side(query_QE, gallery_GE, person_Q, person_G, bonus, details)


def _side_of(
    score: ScoreFunction,
    query_QE: NDArray[np.float32],
    person_Q: Sequence[Person],
    gallery_GE: NDArray[np.float32],
    person_G: Sequence[Person],
) -> Side:
    """One direction ranked by the scores of a function. Raises UsageError where they are not one for every pair."""
    score_QG = array(score(query_QE, gallery_GE))
    wanted = (len(query_QE), len(gallery_GE))
    if score_QG.shape != wanted or not np.isfinite(score_QG).all():
        raise UsageError(
            f"evaluate: score gave an array of shape {score_QG.shape} for {wanted[0]} queries and {wanted[1]} images, "
            "or numbers that are not finite.",
            "It must give one finite number for every query (row) and item of the gallery (column).",
        )
    details = metrics.details_of_similarity(score_QG, person_Q, person_G)
    return Side(query_QE, gallery_GE, person_Q, person_G, None, details, score_QG)
