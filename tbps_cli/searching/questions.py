"""Questions as people type them: understood before they are ranked, as far as the gallery can be asked for it.

`asking` reads the sentence; here its conditions join the filter, what is not there joins `--minus`, and a count becomes
the number of hits where none was given. A caption of the data set is searched as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date

import numpy as np

from tbps_cli.asking.understand import understand
from tbps_cli.asking.understood import Askable, Remark, Understood, joined
from tbps_cli.filtering.columns import Texts
from tbps_cli.filtering.parse import Where
from tbps_cli.filtering.tree import render
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.query import MINUS, Query, Term
from tbps_cli.searching.ranking import TOP, Answer

_A_DAY = re.compile(rb"\d{4}-\d{2}-\d{2}")


def ask(
    rank: Callable[..., list[Answer]],
    gallery: Gallery,
    query: Query,
    *,
    today: date,
    top: int | None,
    where: Where | None,
) -> Answer:
    """The answer to a question, with what it was understood as.

    rank: `ranking.answers` for this gallery, to be called with queries, top and where.
    top: the number of hits that was given; None: what the sentence says, else `TOP`.
    """
    found = understanding(gallery, query, today=today)
    if found is None:
        return rank([query], top=top or TOP, where=where)[0]
    if top is not None and found.top not in (None, top):
        found = _noted(found, "count", f"--top {top} counts, and not the {found.top} of the sentence")
    trees = [tree for tree in (where.tree if where else None, found.conditions) if tree is not None]
    tree = joined(trees)
    answer = rank(
        [understood_query(query, found)], top=top or found.top or TOP, where=Where.of(tree) if tree else None
    )[0]
    if not answer.candidates and found.conditions is not None:
        found = _noted(found, "empty", f"no image passes {render(found.conditions)}")
    return replace(answer, understood=found)


def understanding(gallery: Gallery, query: Query, *, today: date) -> Understood | None:
    """What the sentence of a query means in this gallery; None without a sentence, and for captions of its data set."""
    text = query.text
    if text is None or not text.strip() or text.strip() in gallery.truth:
        return None
    alone = not any(term.weight > 0 and term.what != text for term in query.terms)
    return understand(text, today=today, known=askable(gallery), alone=alone)


def understood_query(query: Query, found: Understood) -> Query:
    """The query that is ranked. All that is not there is one term: a long list would drown the description."""
    text = found.text if found.text.strip() else None
    if not found.minus:
        return replace(query, text=text)
    minus = ", ".join(found.minus)
    if query.minus is None:
        return replace(query, text=text, minus=minus)
    return replace(query, text=text, more=(*query.more, Term(minus, -MINUS)))


def askable(gallery: Gallery) -> Askable:
    """The cameras and times that a question can ask for."""
    cameras, times = gallery.columns.column("camera"), gallery.columns.column("time")
    named = sorted(cameras.text_V[cameras.known_V].tolist()) if isinstance(cameras, Texts) else []
    days = [text for text in _edges(times) if _A_DAY.match(text)] if isinstance(times, Texts) else []
    return Askable(
        tuple(dict.fromkeys(name.decode("utf-8", "replace") for name in named)),
        days[0].decode() if days else None,
        days[-1].decode() if days else None,
        gallery.columns.knows("clock"),
    )


def _edges(times: Texts) -> list[bytes]:
    """The earliest and the latest time; those that do not begin with a year sort elsewhere and are no days."""
    known_V = times.text_V[times.known_V]
    dated_V = known_V[(known_V >= b"0") & (known_V < b":")]
    return [bytes(text) for text in np.sort(dated_V)[[0, -1]]] if len(dated_V) else []


def _noted(found: Understood, kind: str, done: str) -> Understood:
    return replace(found, remarks=(*found.remarks, Remark(kind, "", done)))
