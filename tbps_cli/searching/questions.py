"""Questions as people type them: understood before they are ranked, as far as the gallery can be asked for it.

`asking` reads the sentence; here its conditions join the filter, what is not there joins `--minus`, and a count becomes
the number of hits where none was given. A caption of the data set is searched as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from tbps_cli.amounts import amount
from tbps_cli.asking.understand import may_say_where_or_when, understand
from tbps_cli.asking.understood import Askable, Remark, Understood, joined
from tbps_cli.filtering.columns import Texts
from tbps_cli.filtering.parse import Where
from tbps_cli.filtering.tree import And, Tree, looks_at, render
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.query import MINUS, Query, Term
from tbps_cli.searching.ranking import TOP, Answer

SPOKEN = 3
"""Captions that have a word before its spelling is not doubted."""


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
    if not answer.candidates and found.conditions is not None and tree is not None and len(gallery):
        found = _noted(found, "empty", _why_nothing_passes(tree, gallery))
    return replace(answer, understood=found, asked=query)


def understanding(gallery: Gallery, query: Query, *, today: date) -> Understood | None:
    """What the sentence of a query means in this gallery; None without a sentence, and for captions of its data set."""
    text = query.text
    if text is None or not text.strip() or text.strip() in gallery.truth:
        return None
    alone = not any(term.weight > 0 and term.what != text for term in query.terms)
    known = askable(gallery) if may_say_where_or_when(text) else Askable()
    found = understand(text, today=today, known=known, alone=alone, spoken=partial(_is_spoken, gallery.truth))
    if alone:
        return found
    # an image or another sentence says more: what this one does not name is not missing
    return replace(found, remarks=tuple(remark for remark in found.remarks if remark.kind != "missing"))


def _is_spoken(captions: Iterable[str], word: str) -> bool:
    """Whether several captions of the data set have a word: one alone may be misspelt itself."""
    having = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
    return next(islice(filter(having.search, captions), SPOKEN - 1, None), None) is not None


def understood_query(query: Query, found: Understood) -> Query:
    """The query that is ranked. All that is not there is one term: several would outweigh the description."""
    text = found.text if found.text.strip() else None
    if not found.minus:
        return replace(query, text=text)
    minus = ", ".join(found.minus)
    if query.minus is None:
        return replace(query, text=text, minus=minus)
    return replace(query, text=text, more=(*query.more, Term(minus, -MINUS)))


def askable(gallery: Gallery) -> Askable:
    """The cameras and times that a question can ask for; looked for once a gallery."""
    if "askable" not in gallery.kept:
        gallery.kept["askable"] = _askable(gallery)
    found: Askable = gallery.kept["askable"]
    return found


def _askable(gallery: Gallery) -> Askable:
    cameras, times = gallery.columns.column("camera"), gallery.columns.column("time")
    named = sorted(cameras.text_V[cameras.known_V].tolist()) if isinstance(cameras, Texts) else []
    days = _edges(times) if isinstance(times, Texts) else []
    return Askable(
        tuple(dict.fromkeys(name.decode("utf-8", "replace") for name in named)),
        days[0].decode() if days else None,
        days[-1].decode() if days else None,
        gallery.columns.knows("clock"),
    )


def _edges(times: Texts) -> list[bytes]:
    """The earliest and the latest time among those that are written as dates."""
    byte_VW = np.ascontiguousarray(times.text_V).view(np.uint8).reshape(len(times.text_V), -1)
    if byte_VW.shape[1] < len("2026-01-31"):
        return []
    digit_VW = (byte_VW[:, :10] >= ord("0")) & (byte_VW[:, :10] <= ord("9"))
    dash_VW = byte_VW[:, :10] == ord("-")
    dated = np.flatnonzero(np.where([place in (4, 7) for place in range(10)], dash_VW, digit_VW).all(axis=1))
    return [_extreme(times.text_V, byte_VW, dated, pick) for pick in (np.min, np.max)] if len(dated) else []


def _extreme(
    text_V: NDArray[np.bytes_], byte_VW: NDArray[np.uint8], places: NDArray[np.int64], pick: Callable[..., np.uint8]
) -> bytes:
    """The first or the last of these texts in byte order, letter by letter: numpy has no minimum of texts."""
    for letter_V in byte_VW.T:
        letters = letter_V[places]
        places = places[letters == pick(letters)]
    return bytes(text_V[places[0]])


def _why_nothing_passes(tree: Tree, gallery: Gallery) -> str:
    """How many images pass each part of a filter that none passes as a whole: what it says of camera, of time, ..."""
    parts = tree.parts if isinstance(tree, And) else (tree,)
    of_fields: dict[frozenset[str], list[Tree]] = {}
    for part in parts:
        of_fields.setdefault(looks_at(part), []).append(part)
    if len(of_fields) == 1 or "score" in looks_at(tree):
        return f"no image passes {render(tree)}"
    said = []
    for listed in of_fields.values():
        whole = listed[0] if len(listed) == 1 else And(tuple(listed))
        said.append(f"{render(whole)} ({amount(gallery.count(whole), 'image')})")
    return f"no image passes all of {', '.join(said)}"


def _noted(found: Understood, kind: str, done: str) -> Understood:
    return replace(found, remarks=(*found.remarks, Remark(kind, "", done)))
