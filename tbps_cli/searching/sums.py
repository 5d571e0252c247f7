"""Sums of sentences and images as people type them: `"a red coat" + ./pool.jpg - "0.8:a bag"`.

A term may begin with a weight and a colon: `2:a red coat`. It is one only where it is below 10 and no digit follows,
so that "10:30 at the gate", "9:15 in the morning" and "16:9" are sentences; a number that is neither (`12:a coat`, `0:a
coat`) is an error rather than a guess. A term that begins with `./`, `../`, `/` or `~/` is an image file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tbps_cli.errors import UsageError
from tbps_cli.files import expanded
from tbps_cli.searching.query import MINUS, Query, Term

HEAVIEST = 10.0
"""Weights are below it."""
SIGNS = ("+", "-")
"""Words of their own on the command line that begin the next term."""

_WEIGHTED = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+):(?!\s*\d)(.*)", re.DOTALL | re.ASCII)
_FILE = re.compile(r"\.{0,2}/|~/")


def term(text: str, *, minus: bool = False, name: str = "the query") -> Term:
    """What one term means; name: the option that it comes from, for messages. Raises UsageError."""
    match = _WEIGHTED.fullmatch(text)
    weight, rest = (float(match[1]), match[2]) if match else (MINUS if minus else 1.0, text)
    if not 0 < weight < HEAVIEST:
        raise UsageError(
            f"{name}: {text.strip()!r:.80} begins with a weight that is not between 0 and {HEAVIEST:g}.",
            'For example: "0.5:a red coat". A sentence that begins with this number: put a word before it.',
        )
    if not rest.strip():
        raise UsageError(f"{name} is empty.", f'For example: {"--minus" if minus else "--plus"} "a backpack"')
    return Term(image(rest.strip(), name) if _FILE.match(rest.strip()) else rest.strip(), -weight if minus else weight)


def image(path: str | Path, name: str) -> Path:
    """An image file of a query. Raises UsageError where there is none."""
    found = expanded(Path(path))
    if not found.is_file():
        raise UsageError(f"{name} {path}: there is no such file.")
    return found


def query(
    words: Sequence[str] = (),
    images: Sequence[Path] = (),
    plus: Sequence[str] = (),
    minus: Sequence[str] = (),
) -> Query:
    """The sum that a command line asks for. words: a sentence, whole or in words, with + and - between terms."""
    terms = [*_terms(words)]
    terms += [Term(image(path, "--image")) for path in images]
    terms += [term(text, name="--plus") for text in plus]
    terms += [term(text, minus=True, name="--minus") for text in minus]
    return of_terms(terms)


def of_terms(terms: Sequence[Term]) -> Query:
    """The query with these terms: the first plain sentence, image and minus in their own fields, the rest in `more`."""
    text = next((one for one in terms if isinstance(one.what, str) and one.weight == 1), None)
    shown = next((one for one in terms if isinstance(one.what, Path) and one.weight == 1), None)
    less = next((one for one in terms if isinstance(one.what, str) and one.weight == -MINUS), None)
    return Query(
        str(text.what) if text else None,
        Path(str(shown.what)) if shown else None,
        str(less.what) if less else None,
        more=tuple(one for one in terms if one is not text and one is not shown and one is not less),
    )


def _terms(words: Sequence[str]) -> list[Term]:
    """The terms of a command line: `a man in red + ./pool.jpg - "a bag"`."""
    parts: list[tuple[str, list[str]]] = [("+", [])]
    for word in words:
        if word in SIGNS:
            parts.append((word, []))
        else:
            parts[-1][1].append(word)
    found = []
    for place, (sign, part) in enumerate(parts):
        text = " ".join(part)
        if text.strip():
            found.append(term(text, minus=sign == "-"))
        elif place:
            raise UsageError(f"the query: nothing follows {sign}.", 'For example: "a man in red" - "a backpack"')
    return found
