"""Counts in a question: `show 5`, `top 20`, `the first three women`; and "two men", which is none.

A count of hits stands at the beginning of a question or, behind a comma, at its end. Anywhere else a number belongs to
the description ("the top 2 buttons", "number 10 on his shirt").
"""

from __future__ import annotations

import re
from functools import cache

from tbps_cli.asking.lexicon import forms, pattern, plural
from tbps_cli.asking.understood import Passage

MOST = 10_000
"""A larger number is hardly a count of hits."""
NUMBERS = {word: number for number, word in enumerate((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
))}  # fmt: skip
NUMBER = rf"(?:\d{{1,5}}|{'|'.join(sorted(NUMBERS, key=len, reverse=True))})"

_HITS = (
    r"(?:(?:best|closest|nearest|top|matching)\s+)?"
    r"(?:results?|hits?|images?|photos?|pictures?|pics?|match|matches|crops?|shots?|answers?|candidates?|examples?)"
)
_ASK = (
    r"(?:please\s+)?(?:(?:can|could)\s+you\s+|i\s+)?(?:need|want|show|give|find|list|get|return|display|fetch|bring)"
    r"(?:\s+(?:me|us))?(?:\s+(?:only|just))?(?:\s+up\s+to)?"
)
_RANKED = r"(?:the\s+)?(?:very\s+)?(?:top|first|best)"
_ONLY = r"(?:only\s+|just\s+|limit(?:ed)?(?:\s+to)?\s+|max(?:imum|\.)?\s+|at\s+most\s+)"
_START = re.compile(
    rf"\s*(?:{_ASK}\s+(?:{_RANKED}\s+)?(?:the\s+)?|{_RANKED}[ -])(?P<number>{NUMBER})(?![\w%/'’-]|[.:]\d)"
    rf"(?:\s+{_HITS}(?![\w-])(?:\s+(?:of|for|with|showing|where))?)?(?:\s*[:,;]|(?=\s|$))",
    re.IGNORECASE,
)
_BARE = re.compile(
    rf"\s*(?P<number>{NUMBER})\s+(?:results|hits|matches|images|photos|pictures|crops)\s+(?:of|for|showing)(?=\s)",
    re.IGNORECASE,
)
_END = re.compile(
    rf"(?:[,;:.(]|\s[-–])\s*(?:{_ASK}\s+|{_ONLY})?(?:{_RANKED}\s+)?(?P<number>{NUMBER})(?:\s+{_HITS})?"
    r"(?:\s+(?:only|please|max))?\s*[).!]*\s*$",
    re.IGNORECASE,
)
_SIGNAL = re.compile(rf"{_ASK}|\b(?:top|first|best|limit|max|only|just|at most)\b|{_HITS}\b", re.IGNORECASE)


def counts(text: str) -> list[Passage]:
    """How many hits a sentence asks for, once at most, and whether it speaks of several persons."""
    asked = _start(text) or _end(text)
    found = [asked] if asked else []
    several = _several().search(text, asked.end if asked and asked.start == 0 else 0)
    if several and not re.match(r"one\b|1\b|zero\b|0\b", several[0], re.IGNORECASE):
        done = "a crop shows one person: describe one of them (the words stay in the sentence)"
        found.append(Passage(several.start(), several.end(), "persons", done, keep=True))
    return found


@cache
def _several() -> re.Pattern[str]:
    persons = pattern(forms("others", "several"))
    counted = rf"(?:{NUMBER}|several|some|many)\s+(?:(?!and\b|or\b)[\w-]+\s+){{0,2}}?{persons}\b"
    grouped = rf"(?:group|couple|pair|crowd)\s+of\s+(?:[\w-]+\s+)?{persons}\b"
    return re.compile(rf"\b(?:{counted}|{grouped})", re.IGNORECASE)


def _start(text: str) -> Passage | None:
    match = _START.match(text)
    if match and _describes(text, match.end()):
        return None
    match = match or _BARE.match(text)
    return _counted(match) if match else None


def _describes(text: str, place: int) -> bool:
    """Whether the count is one of buttons, of years or of what else a person shows."""
    after = re.match(r"\s*([\w'-]+)(?:\s+([\w'-]+))?", text[place:])
    if after is None:
        return False
    words = [word.lower() for word in after.groups() if word]
    if words[0] in forms("things") and plural(words[0]) != words[0] and not words[0].endswith("s"):
        return True  # "top 10 shirt": several would be shirts
    if words == ["a", "side"]:
        return True
    described = forms("parts") | forms("others", "measured")
    return words[0] in described or (len(words) == 2 and words[1] in ("buttons", "button"))


def _end(text: str) -> Passage | None:
    match = _END.search(text)
    if match is None or not _SIGNAL.search(match[0]) or not text[: match.start()].strip():
        return None
    return _counted(match)


def _counted(match: re.Match[str]) -> Passage | None:
    number = NUMBERS.get(match["number"].lower())
    number = int(match["number"]) if number is None else number
    if not 0 < number <= MOST:
        done = f"{match['number']} is no number of hits: the words stay in the sentence"
        return Passage(match.start("number"), match.end("number"), "left", done, keep=True)
    shown = "1 hit" if number == 1 else f"{number} hits"
    return Passage(match.start(), match.end(), "count", f"the first {shown} are shown", top=number)
