"""Slow, plain retrieval in float64: the words of the definitions, one loop after another."""

from __future__ import annotations

import math
from collections.abc import Sequence


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def similarity(query: Sequence[Sequence[float]], gallery: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[dot(q, g) for g in gallery] for q in query]


def order(row: Sequence[float]) -> list[int]:
    """Gallery indices, best first; equal scores in index order."""
    return sorted(range(len(row)), key=lambda index: (-row[index], index))


def scores(rows: Sequence[Sequence[float]], query: Sequence[object], gallery: Sequence[object]) -> dict[str, float]:
    """R1, R5, R10, mAP and mINP in percent, as retrieval.metrics defines them."""
    hit = {1: 0, 5: 0, 10: 0}
    precisions, penalties = [], []
    for row, person in zip(rows, query, strict=True):
        match = [gallery[index] == person for index in order(row)]
        for k in hit:
            hit[k] += any(match[:k])
        ranks = [place for place, right in enumerate(match, 1) if right]
        if ranks:
            precisions.append(sum(found / rank for found, rank in enumerate(ranks, 1)) / len(ranks))
            penalties.append(len(ranks) / ranks[-1])
    judged = max(1, len(precisions))
    return {f"R{k}": 100 * hits / len(rows) for k, hits in hit.items()} | {
        "mAP": 100 * sum(precisions) / judged,
        "mINP": 100 * sum(penalties) / judged,
    }


def overlap(query_row: Sequence[float], gallery_row: Sequence[float], neighbours: int) -> float:
    """Jaccard overlap of the best items of a query and of a gallery item."""
    ours, theirs = set(order(query_row)[:neighbours]), set(order(gallery_row)[:neighbours])
    return len(ours & theirs) / len(ours | theirs)
