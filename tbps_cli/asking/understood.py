"""What a question was understood as: the objects that the readers make and that terminal, JSON and page show.

Nothing is ever changed but by cutting: a reader names spans of the sentence, and each span that was taken out stands in
a `Remark`. So the sentence less these spans is exactly the text that the model gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tbps_cli.filtering.tree import And, Tree, render

Span = tuple[int, int]


@dataclass(frozen=True)
class Askable:
    """What a gallery knows of its images, as far as a question can ask for it."""

    cameras: tuple[str, ...] = ()
    first: str | None = None
    """The earliest time of an image, as 2026-01-31T18:05:00; None where no image has one."""
    last: str | None = None
    clocks: bool = True
    """Whether these times say more than the day."""


@dataclass(frozen=True)
class Remark:
    """One thing that was read in a question, or is missing in it."""

    kind: str
    """camera, time, count, minus: understood. left, persons, length, language, spelling, missing: said only."""
    words: str
    """As they stand in the question; "" where nothing stands there."""
    done: str
    """What was done, or what to do, in words."""
    offer: str | None = None
    """The whole question as it could be asked instead."""
    cut: Span | None = None
    """What was taken out of the question, from character to character."""

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        made: dict[str, Any] = {"kind": self.kind, "words": self.words, "done": self.done}
        return made | ({"offer": self.offer} if self.offer else {}) | ({"cut": list(self.cut)} if self.cut else {})


@dataclass(frozen=True)
class Passage:
    """What a reader found: a span of the sentence and what it means, before it is cut."""

    start: int
    end: int
    kind: str
    done: str
    tree: Tree | None = None
    minus: tuple[str, ...] = ()
    top: int | None = None
    keep: bool = False
    """Said only: the words stay where they are."""


@dataclass(frozen=True)
class Understood:
    """A question taken apart. `text` is what the model reads: the question less the cuts of `remarks`."""

    question: str
    text: str
    minus: tuple[str, ...] = ()
    conditions: Tree | None = None
    top: int | None = None
    remarks: tuple[Remark, ...] = ()
    suggestions: tuple[Remark, ...] = ()
    """Misspelt words, each with the whole question as it could be asked instead; none is applied."""

    @property
    def changed(self) -> bool:
        """Whether anything of it goes elsewhere than to the model."""
        return self.text != self.question or bool(self.minus) or self.conditions is not None or self.top is not None

    @property
    def says(self) -> bool:
        """Whether there is anything to say of it."""
        return self.changed or bool(self.remarks or self.suggestions)

    @property
    def lines(self) -> list[tuple[str, str]]:
        """What a person is told, as name and value; the words of the question stand in quotes."""
        said = [
            (_NAMES.get(remark.kind, "Understood"), f'"{remark.words}": {remark.done}' if remark.words else remark.done)
            for remark in self.remarks
        ]
        if self.changed:
            said.append(
                ("Searched for", f"{self.text.strip() or 'the image'} (--plain-query takes the sentence as it is)")
            )
        if self.suggestions:
            words = ", ".join(f'"{offer.words}" ({offer.done})' for offer in self.suggestions)
            said.append(("Misspelt", f"{words}: searched as it stands. Corrected: {self.suggestions[0].offer}"))
        return said

    def document(self) -> dict[str, Any]:
        """As `tbps search --json` has it under `understood`."""
        return {
            "question": self.question,
            "text": self.text,
            "minus": list(self.minus),
            "where": render(self.conditions) if self.conditions is not None else None,
            "top": self.top,
            "remarks": [remark.document() for remark in self.remarks],
            "suggestions": [remark.document() for remark in self.suggestions],
        }


_NAMES = {
    "left": "Not understood",
    "persons": "Note",
    "length": "Note",
    "language": "Note",
    "missing": "Not named",
    "empty": "Note",
}
"""Kind of a remark -> the name of its line; all others were understood."""


def joined(trees: Iterable[Tree]) -> Tree | None:
    """All of these conditions at once."""
    parts = tuple(part for tree in trees for part in (tree.parts if isinstance(tree, And) else (tree,)))
    return None if not parts else parts[0] if len(parts) == 1 else And(parts)


def without(text: str, spans: Iterable[Span]) -> str:
    """A text less some spans, which do not overlap."""
    parts, at = [], 0
    for start, end in sorted(spans):
        parts.append(text[at:start])
        at = end
    return "".join([*parts, text[at:]])


_WAS = r"(?:who|that|which) (?:was|were|is|are)"
_SEEN = (
    rf"(?:\b(?:{_WAS} |(?:was|were|is|are) )?(?:(?:last|first|only) )?"
    rf"(?:seen|recorded|filmed|captured|spotted|caught|photographed|visible)(?: there)?\s+|\b{_WAS}\s+)?"
)
_BEFORE = re.compile(rf"(?:\s*[,;]?\s*(?:\band\s+)?|\s+[-–]\s+){_SEEN}$", re.IGNORECASE)
_AFTER = re.compile(r"\s*[,.;:]?\s*(?:(?:and|[-–])\s+)?", re.IGNORECASE)


def cuts(text: str, found: Sequence[Passage]) -> list[Passage]:
    """The findings with spans widened by the blanks, commas, brackets and "seen" that belong to nothing else.

    They come sorted and do not overlap; those that only say something keep their spans.
    """
    done: list[Passage] = []
    floor, kept = 0, False
    for entry in found:
        if entry.keep:
            done.append(entry)
            continue
        start, end = _bracketed(text, entry.start, entry.end)
        before = _BEFORE.search(text, floor, start)
        start = before.start() if before else start
        kept = kept or bool(text[floor:start].strip())
        if not kept:
            start = floor
            after = _AFTER.match(text, end)
            end = after.end() if after else end
        done.append(replace(entry, start=start, end=end))
        floor = end
    return done


def _bracketed(text: str, start: int, end: int) -> Span:
    """The span with the brackets that hold nothing but it."""
    opened, closed = text[:start].rstrip(), text[end:].lstrip()
    if opened.endswith("(") and closed.startswith(")"):
        return len(opened) - 1, len(text) - len(closed) + 1
    return start, end
