"""A search as a dialogue: what was asked so far, and what each further line makes of it. Nothing is drawn here.

A line is a new query, or a command that refines the present one. It is a command only where it looks like one as a
whole: `more 3` and `top 20` are, "more than three people" and "top hat" are sentences. A line in quotes is always a
sentence, and searched for as it is. `undo` goes back by one line that changed something.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.filtering.parse import parse, require
from tbps_cli.searching import sums
from tbps_cli.searching.database_gallery import DatabaseGallery
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.grouping import Grouping, grouping
from tbps_cli.searching.orders import GroupedBy, SortedBy
from tbps_cli.searching.query import MINUS, Query, StoredRow, Term
from tbps_cli.searching.questions import ask
from tbps_cli.searching.ranking import TOP, Answer, check_limits
from tbps_cli.searching.remote import answers
from tbps_cli.types import Hit

HELP = (
    ("TEXT", "a new query; + and - as words of their own join terms: a red coat + ./image.jpg - 0.8:a bag"),
    ("plus TERM", "add a sentence or ./image.jpg, with a weight if it begins with one (0.5:TERM)"),
    ("minus TERM", "steer away from it"),
    ("more N", "more like hit N; several numbers may follow"),
    ("not N", "less like hit N"),
    ("where EXPR", "only images for which this is true; where alone takes the filter away"),
    ("top N", "how many hits are shown"),
    ("group KIND", f"one hit for each {', '.join(GroupedBy)}; group alone shows images again"),
    ("sort KIND", "score or time"),
    ("open N", "show hit N in the program of your system"),
    ("copy DIR", "copy the hits into a new folder"),
    ("html FILE", "write the hits to a page"),
    ("undo, reset", "go back by one line; begin anew"),
    ("help, quit", "this page; the end (also Ctrl-D). Ctrl-C forgets the line that is being typed"),
)

_COMMAND = re.compile(
    r"""(?P<name>plus|minus|where|\+|-)\s+(?P<text>\S.*)
    |(?P<hits>more|not|open)\s+(?P<ranks>\d+(?:[\s,]+\d+)*)
    |top\s+(?P<top>\d+)
    |group\s+(?P<group>person|track|source|near-duplicate)
    |sort\s+(?P<sort>score|time)
    |(?P<save>copy|html)\s+(?P<path>\S+)
    |(?P<alone>where|group|undo|reset|help|\?)""",
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_FILTER = re.compile(r".*[=<>]|\W*(?:not\s+)?\w+\s+(?:not\s+)?(?:like|in|between)\b", re.IGNORECASE | re.DOTALL)
"""What follows `where` in a filter: "where is a man in red" is a sentence."""
_ALIASES = {"+": "plus", "-": "minus", "?": "help"}
ENDS = ("quit", "exit")
"""Lines that end a dialogue."""


@dataclass(frozen=True)
class Dialogue:
    """What is searched for at one moment of the dialogue."""

    terms: tuple[Term, ...] = ()
    where: str | None = None
    top: int | None = None
    """None: what the sentence says, else `ranking.TOP`."""
    group: GroupedBy | None = None
    per_group: int = 1
    sort: SortedBy = SortedBy.score
    min_score: float | None = None
    with_self: bool = False
    sure: float | None = None
    literal: bool = False
    """Whether the sentence stood in quotes: it is searched for as it is."""
    explain: bool = False
    """Whether hits say which words they support, as long as there are words."""

    @property
    def query(self) -> Query | None:
        """The sum of the terms; None before anything is asked."""
        return sums.of_terms(self.terms) if self.terms else None


@dataclass(frozen=True)
class Wish:
    """What a line asks for beyond an answer: help, open, copy or html, and of which hits or into which file."""

    name: str
    hits: tuple[Hit, ...] = ()
    path: Path | None = None


@dataclass
class Session:
    """A model and a gallery that are open, and the dialogue about them."""

    model: Encoder
    gallery: Gallery
    start: Dialogue = field(default_factory=Dialogue)
    read: Callable[[str], Query] = lambda text: sums.query([word.strip('"') for word in text.split()])
    """What a line means that is no command: a sentence, or a sum with + and - as words of their own."""
    today: Callable[[], date] | None = None
    """The date that "yesterday" is the day before of; None: sentences are taken as they are."""
    record: Callable[[str, Answer, str | None], None] = lambda line, answer, where: None
    """Called with the line and the filter before an answer is given; if it fails, there is none."""
    now: Dialogue = field(init=False)
    answer: Answer | None = field(init=False, default=None)
    """What was shown last."""
    _before: list[Dialogue] = field(init=False, default_factory=list)
    _line: str = field(init=False, default="")
    _groupings: dict[GroupedBy, Grouping] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UsageError for a filter or a group that the gallery has no values of."""
        if self.start.where:
            self._filter(self.start.where)
        if self.start.group:
            self._grouping(self.start.group)
        self.now = self.start

    def said(self, line: str) -> Answer | Wish | None:
        """What a line leads to: an answer, a wish that is to be fulfilled, or nothing to show.

        Raises TbpsError where it makes no sense; everything then stays as it was.
        """
        text = self._line = line.strip()
        match = _COMMAND.fullmatch(text)
        if match is None or (match["name"] and match["name"].lower() == "where" and not _FILTER.match(match["text"])):
            return self._sentence(text) if text else None
        part = match.groupdict()
        name = (part["name"] or part["alone"] or "").lower()
        name = _ALIASES.get(name, name)
        if name == "help":
            return Wish(name)
        if part["hits"]:
            return self._hits(part["hits"].lower(), [int(rank) for rank in re.findall(r"\d+", part["ranks"])])
        if part["save"]:
            self._shown()
            return Wish(part["save"].lower(), path=Path(part["path"]).expanduser())
        if name == "undo":
            return self._undo()
        if name in ("plus", "minus"):
            return self._add(sums.term(part["text"], minus=name == "minus", name=name))
        return self._ask(self._changed(name, part))

    def refresh(self) -> Answer | None:
        """The answer to what is asked now; None before anything is asked."""
        query = self.now.query
        self.answer = self._answer(query, self.now) if query else None
        return self.answer

    def _changed(self, name: str, part: dict[str, str | None]) -> Dialogue:
        """What is asked after a command that changes no term."""
        if name == "reset":
            return replace(self.start, terms=())
        if name == "where":
            return replace(self.now, where=self._filter(part["text"]) if part["text"] else None)
        if part["top"]:
            return replace(self.now, top=int(part["top"]))
        if part["sort"]:
            return replace(self.now, sort=SortedBy(part["sort"].lower()))
        group = GroupedBy(part["group"].lower()) if part["group"] else None
        return replace(self.now, group=group, per_group=self.now.per_group if group else 1)

    def _filter(self, text: str) -> str:
        require(parse(text), self.gallery.columns.knows)
        return text

    def _sentence(self, text: str) -> Answer | None:
        quoted = len(text) > 1 and text[0] == text[-1] == '"'
        words = [text[1:-1]] if quoted else [text]
        query = sums.query(words) if quoted else self.read(text)
        return self._ask(replace(self.now, terms=query.terms, literal=quoted))

    def _hits(self, name: str, ranks: list[int]) -> Answer | Wish | None:
        hits = [self._hit(rank) for rank in ranks]
        if name == "open":
            return Wish("open", tuple(hits))
        weight = 1.0 if name == "more" else -MINUS
        return self._add(*(Term(StoredRow(hit.path, self._row_of(hit)), weight) for hit in hits))

    def _hit(self, rank: int) -> Hit:
        """The hit of this rank in the answer that was shown last."""
        found = next((hit for hit in self._shown().hits if hit.rank == rank), None)
        if found is None:
            raise UsageError(f"there is no hit {rank}.", f"Hits shown: {len(self._shown().hits)}.")
        return found

    def _row_of(self, hit: Hit) -> NDArray[np.float32]:
        return self.gallery.vector_of(hit.path)

    def _shown(self) -> Answer:
        if self.answer is None:
            raise UsageError("nothing was searched for yet.", "Type a sentence: a man in a white shirt")
        return self.answer

    def _add(self, *terms: Term) -> Answer | None:
        return self._ask(replace(self.now, terms=(*self.now.terms, *terms)))

    def _undo(self) -> Answer | None:
        if not self._before:
            raise UsageError("there is nothing to undo.")
        asked = self._before[-1]
        answer = self._answer(asked.query, asked) if asked.query else None
        self.now, self.answer = self._before.pop(), answer
        return answer

    def _ask(self, asked: Dialogue) -> Answer | None:
        """Ask it; only what can be answered becomes the present state."""
        check_limits(TOP if asked.top is None else asked.top, asked.min_score, asked.group, asked.per_group, asked.sort)
        answer = self._answer(asked.query, asked) if asked.query else None
        if asked != self.now:
            self._before.append(self.now)
        self.now, self.answer = asked, answer
        return answer

    def _grouping(self, by: GroupedBy) -> Grouping | GroupedBy:
        """How the gallery is grouped, made once; what a database found is grouped for each answer."""
        if by not in self._groupings:
            made = grouping(self.gallery, by)
            if isinstance(self.gallery, DatabaseGallery):
                return by
            self._groupings[by] = made
        return self._groupings[by]

    def _answer(self, query: Query, asked: Dialogue) -> Answer:
        rank = partial(
            answers,
            self.model,
            self.gallery,
            min_score=asked.min_score,
            with_self=asked.with_self,
            group=self._grouping(asked.group) if asked.group else None,
            per_group=asked.per_group,
            sort=asked.sort,
            sure=asked.sure,
            explain=asked.explain and query.text is not None,
        )
        where = parse(asked.where) if asked.where else None
        if self.today is None or asked.literal:
            answer = rank([query], top=TOP if asked.top is None else asked.top, where=where)[0]
        else:
            answer = ask(rank, self.gallery, query, today=self.today(), top=asked.top, where=where)
        self.record(self._line or str(query), answer, asked.where)
        return answer
