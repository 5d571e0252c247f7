"""The rank sheet of an evaluation: what every query found, worst and best first, on one page."""

from __future__ import annotations

import numpy as np

from tbps_cli.data.types import Person
from tbps_cli.retrieval.evaluate import Evaluation
from tbps_cli.retrieval.metrics import Details
from tbps_cli.searching.sheet import Progress, SheetAnswer, SheetImage, SheetSection, sheet
from tbps_cli.searching.thumbnails import Excerpt, ThumbnailCache

SHOWN = 10
"""Images beside each query."""
GROUP = 50
"""Queries in each of the groups best and worst."""
MOST = 2000
"""Queries on one sheet; beyond that browsers become slow."""


def of_evaluation(
    evaluation: Evaluation, *, cache: ThumbnailCache | None = None, progress: Progress | None = None
) -> str:
    """The rank sheet of an evaluation, text to image: worst and best queries first, then the others."""
    side, split = evaluation.sides["text_to_image"], evaluation.split
    score_QK, index_QK = side.top(SHOWN)
    details = side.details

    def answer(query: int) -> SheetAnswer:
        person = side.person_Q[query]
        places = [
            SheetImage(
                Excerpt(split.paths[index]),
                f"{score:.3f}\nperson {side.person_G[index]}",
                side.person_G[index] == person,
            )
            for score, index in zip(score_QK[query], index_QK[query], strict=True)
        ]
        own = SheetImage(Excerpt(split.paths[int(split.caption_image[query])]), "described")
        return SheetAnswer(split.captions[query], places, _remark(details, query, person), own)

    order = np.argsort(np.nan_to_num(details.ap_Q, nan=-1.0), kind="stable")
    worst, best, others = _parts(order.tolist())
    hidden = len(order) - len(worst) - len(best) - len(others)
    rest = "The others, in file order" + (f" ({hidden:,} more are not shown)" if hidden else "")
    groups = [
        SheetSection(heading, [answer(query) for query in queries])
        for heading, queries in (("Worst", worst), ("Best", best), (rest, others))
    ]
    facts = [
        ("run", str(evaluation.run)),
        ("data", f"{evaluation.data} {split.name}"),
        ("captions", f"{len(split.captions):,}"),
        ("images", f"{len(split.paths):,}"),
        ("protocol", evaluation.protocol.line.removeprefix("Protocol: ")),
    ]
    return sheet(
        f"Rank sheet: {evaluation.method}",
        facts,
        groups,
        kind="Evaluation, text to image",
        figures=[(name, f"{value:.2f}") for name, value in details.scores()._asdict().items()],
        cache=cache,
        progress=progress,
    )


def _parts(order: list[int]) -> tuple[list[int], list[int], list[int]]:
    """(worst, best, others) of queries ordered from worst to best; every query stands in one of them."""
    size = min(GROUP, len(order) // 2)
    middle = sorted(order[size : len(order) - size])
    return order[:size], order[::-1][:size], middle[: MOST - 2 * size]


def _remark(details: Details, query: int, person: Person) -> str:
    if not details.relevant_Q[query]:
        return f"person {person} · not in the gallery"
    return f"person {person} · first right at {details.first_Q[query]} · AP {100 * details.ap_Q[query]:.1f}"
