"""Cameras in a question: `on cam3`, `cameras 1 and 2`, `on the platform camera`, `not on cam3`.

Only a camera that the gallery has becomes a condition. One that it lacks is named, and its words stay in the sentence.
The gallery's own names count behind "camera" (`on camera north-gate`, `cameras left and right`), however they are
parted (`Gate 2`, `gate-2`). A bare name counts only where it looks like no English word (`on gate-2`, `on cam_b`), so
that "on the platform" stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

from tbps_cli.asking.counts import NUMBERS
from tbps_cli.asking.lexicon import forms
from tbps_cli.asking.understood import Askable, Passage
from tbps_cli.escape import printable
from tbps_cli.filtering.tree import Compare, In, Not, Tree

SHOWN = 8
"""So many cameras are named where one is not there."""

_NOT = r"(?P<not>(?:but )?(?:not|except(?: for)?|excluding|other than)\s+)?"
_CAMERA = r"(?:cameras?|cams?|webcams?)"
_NO_CLOCK = r"(?!\s*(?:[ap]\.?m\b|:\d|years|men|women|people|o'clock))"
_NUMBERS = "|".join(word for word in NUMBERS if word != "zero")
_ONE_BY_ONE = "man|men|woman|women|person|people|boy|girl|guy|lady|child|kid"
_AND_MORE = (
    r"(?:\s*(?:,|&|/|\bor\b|\band\b|,\s*or\b|,\s*and\b)\s*(?:(?:on|from|at)\s+)?(?:the\s+)?"
    rf"(?:cameras?|cams?)?[ _-]?(?:\#\s?)?\d+\b{_NO_CLOCK})*"
)
_NUMBERED = re.compile(
    rf"(?<![\w-]){_NOT}(?:(?:on|from|at|by|in|via|through|under)\s+)?(?:the\s+)?"
    rf"{_CAMERA}(?:[ _-]|:\s?)?(?:\#\s?|no\.?\s?|nr\.?\s?|number\s)?"
    rf"(?P<name>[a-z]?\d+[a-z]?|(?:{_NUMBERS})\b(?!\s+(?:of|{_ONE_BY_ONE}))|[a-z](?![\w'’]))(?![\w'’])"
    rf"(?:\s*(?:-|–|to|through)\s*(?P<last>\d+)\b{_NO_CLOCK})?(?P<more>{_AND_MORE})(?:\s+only\b)?",
    re.IGNORECASE,
)
_NAMED = re.compile(
    rf"(?<![\w-]){_NOT}(?:on|from|by|at|via)\s+the\s+(?P<name>[\w-]+(?:\s[\w-]+)?)\s+{_CAMERA}(?![\w-])", re.IGNORECASE
)
_LEADING = rf"(?:(?:on|from|at|by|in|via)\s+(?:the\s+)?(?:{_CAMERA}\s+)?|{_CAMERA}\s+|(?<=\()|^)"
_PARTED = r"[\s_.#/()-]{0,3}"
"""What may stand between the letters and figures of a name."""
_QUOTE = r"[\"'“”‘’]?"
_BEHIND = rf"(?:(?:on|from|at|by|in|via|through|under)\s+(?:the\s+)?|(?<=\()\s*|^\s*|,\s*){_CAMERA}"
"""Where "camera" is no thing that somebody carries, so that an English word behind it may be a name."""
_LOOKING = re.compile(
    r"(?:look|star|point|wav|smil|fac|glanc|gaz|aim|shout)\w*\s+(?:straight |directly |up |right )*$", re.IGNORECASE
)
_DESCRIBING = re.compile(
    r"\s*(?:bag|case|strap|phone|lens|app|operator|crew|man\b|woman\b|around|in (?:his|her)|hanging|tripod)",
    re.IGNORECASE,
)


def cameras(text: str, known: Askable) -> list[Passage]:
    """The cameras that a sentence names, in its order; they do not overlap."""
    found = [*_numbered(text, known), *_named(text, known), *_bare(text, known), *_own(text, known)]
    found.sort(key=lambda entry: (entry.start, entry.keep, -entry.end))
    kept: list[Passage] = []
    for entry in found:
        if not kept or entry.start >= kept[-1].end:
            kept.append(entry)
    return _united(_merged(text, kept))


def _united(found: list[Passage]) -> list[Passage]:
    """No image is of two cameras: where several are named apart, images of each of them count."""
    named = [entry for entry in found if isinstance(entry.tree, Compare | In)]
    values = tuple(dict.fromkeys(value for entry in named for value in _values(entry.tree)))
    if len(named) < 2 or len(values) < 2:
        return found
    return [_made(entry.start, entry.end, In("camera", values), False) if entry in named else entry for entry in found]


def _numbered(text: str, known: Askable) -> Iterator[Passage]:
    for match in _NUMBERED.finditer(text):
        if (
            match["name"].isalpha()
            and match["name"].lower() in ("a", "i", "s", "o", "x")
            and match["name"] not in known.cameras
            and text[match.start("name") - 1] not in "_-"
            and not re.match(r"\s*(?:$|[,.;:)])", text[match.end() :])
        ):
            continue  # "on camera a man": an article, not a name
        names = [match["name"], *re.findall(r"\d+", match["more"] or "")]
        if (
            match["last"]
            and match["name"].isdigit()
            and int(match["name"]) < int(match["last"]) < int(match["name"]) + 100
        ):
            names[1:1] = map(str, range(int(match["name"]) + 1, int(match["last"]) + 1))
        yield _found(match, names, known)


def _named(text: str, known: Askable) -> Iterator[Passage]:
    for match in _NAMED.finditer(text):
        if _LOOKING.search(text, 0, match.start()) or _DESCRIBING.match(text, match.end()):
            continue
        if match["name"].lower() in forms("others", "unnamed") and not same_camera(match["name"], known.cameras):
            continue
        yield _found(match, [match["name"]], known)


def _bare(text: str, known: Askable) -> Iterator[Passage]:
    """A camera's own name with a digit in it, such as c1 or gate-2, behind on, at, from, in, by or in brackets."""
    small = text.lower()
    for camera, pieces in _pieces(known.cameras):
        if len(pieces) < 2 or not all(piece.lstrip("0") in small for piece in pieces):
            continue  # there may be thousands of cameras
        if not any(map(str.isdecimal, pieces)):
            continue
        spelt = _written(pieces, r"[ _-]?")
        for match in re.finditer(rf"(?<![\w-]){_NOT}{_LEADING}{spelt}(?![\w-])", text, re.IGNORECASE):
            yield _made(match.start(), match.end(), Compare("camera", "==", camera), match["not"] is not None)


def _own(text: str, known: Askable) -> Iterator[Passage]:
    """Names of the gallery behind "camera", whatever they look like, and behind another of the list that begins so."""
    spelt = _spelt(text, known.cameras)
    if not spelt:
        return
    name_of = {f"n{number}": camera for number, camera in enumerate(spelt)}
    ordered = sorted(name_of, key=lambda group: -len(name_of[group]))  # "gate 2" before "gate"
    name = "|".join(f"(?P<{group}>{spelt[name_of[group]]})" for group in ordered)
    end = r"(?![\w-])(?!\s?\d)"
    first = re.compile(
        rf"(?<![\w-]){_NOT}(?:{_BEHIND}|{_CAMERA})(?:\s*[:#]\s*|\s+)(?:(?:called|named)\s+)?{_QUOTE}(?:{name}){_QUOTE}{end}",
        re.IGNORECASE,
    )
    more = re.compile(
        rf"\s*(?:,\s*(?:or\s+|and\s+)?|or\s+|and\s+|&\s*|/\s*)(?:(?:on|from|at)\s+)?(?:the\s+)?"
        rf"(?P<again>{_CAMERA}\s+)?{_QUOTE}(?:{name}){_QUOTE}{end}",
        re.IGNORECASE,
    )
    for match in first.finditer(text):
        found = next(camera for group, camera in name_of.items() if match[group])
        if not _means_camera(text, match, found):
            continue
        listed, place = [found], match.end()
        several = re.search(r"(?:cameras|cams|webcams)\s", match[0], re.IGNORECASE)
        while (joint := more.match(text, place)) is not None:
            found = next(camera for group, camera in name_of.items() if joint[group])
            if not (several or joint["again"] or not _is_word(found)) or _describes(text, joint.end()):
                break
            listed.append(found)
            place = joint.end()
        listed = list(dict.fromkeys(listed))
        tree = Compare("camera", "==", listed[0]) if len(listed) == 1 else In("camera", tuple(listed))
        yield _made(match.start(), place, tree, match["not"] is not None)


def _spelt(text: str, cameras: tuple[str, ...]) -> dict[str, str]:
    """Those of the names whose pieces a sentence has, each with the pattern of how it may be written."""
    small, made = text.lower(), dict[str, str]()
    for camera, pieces in _pieces(cameras):
        if pieces and all((piece.lstrip("0") or "0") in small for piece in pieces):
            one = len("".join(pieces)) == 1  # A is a name, and a an article
            made[camera] = f"(?-i:{re.escape(camera.strip())})" if one else _written(pieces, _PARTED)
    return made


@lru_cache(maxsize=8)
def _pieces(cameras: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """Each name with its groups of letters, in lower case, and of figures."""
    return [(camera, re.findall(r"[^\W\d_]+|\d+", camera.lower())) for camera in cameras]


def _written(pieces: list[str], between: str) -> str:
    """The pattern of a name's pieces with something between them; numbers may have zeros before them."""
    return between.join(f"0*{int(piece)}" if piece.isdecimal() else re.escape(piece) for piece in pieces)


def _means_camera(text: str, match: re.Match[str], name: str) -> bool:
    """Whether a name behind "camera" is meant as one: "holding a camera left of her" is none, nor "camera red coat"."""
    if not _is_word(name):
        return True
    placed = re.compile(rf"{_NOT}{_BEHIND}", re.IGNORECASE).match(text, match.start())
    return bool(match["not"] or placed) and not (
        _LOOKING.search(text, 0, match.start()) or _describes(text, match.end())
    )


def _is_word(name: str) -> bool:
    """Whether a name may be an ordinary word, or several."""
    return re.fullmatch(r"[^\W\d_]+(?:\s+[^\W\d_]+)*", name) is not None


def _describes(text: str, place: int) -> bool:
    """Whether a thing or a place follows, which the words before it describe: a red coat, the north entrance."""
    after = re.match(r"[ -]([a-z-]+)", text[place : place + 40], re.IGNORECASE)
    return after is not None and after[1].lower() in forms("things") | forms("others", "place")


def _found(match: re.Match[str], names: Sequence[str], known: Askable) -> Passage:
    words = match[0].strip()
    if not known.cameras:
        return Passage(
            match.start(),
            match.end(),
            "left",
            "no image of this gallery has a camera: the words stay in the sentence",
            keep=True,
        )
    fitting = [same_camera(name, known.cameras) for name in names]
    lost = [name for name, cameras in zip(names, fitting, strict=True) if not cameras]
    if lost:
        named = ", ".join(map(printable, known.cameras[:SHOWN])) + (", ..." if len(known.cameras) > SHOWN else "")
        which = f'camera "{lost[0]}"' if words else "camera"
        return Passage(
            match.start(),
            match.end(),
            "left",
            f"there is no {which}: the words stay in the sentence (cameras here: {named})",
            keep=True,
        )
    listed = tuple(dict.fromkeys(camera for cameras in fitting for camera in cameras))
    tree = Compare("camera", "==", listed[0]) if len(listed) == 1 else In("camera", listed)
    return _made(match.start(), match.end(), tree, match["not"] is not None)


def _made(start: int, end: int, tree: Compare | In, negated: bool) -> Passage:
    values = tree.values if isinstance(tree, In) else (tree.value,)
    said = " or ".join(printable(str(value)) for value in values)
    whole: Tree = Not(tree) if negated else tree
    return Passage(
        start, end, "camera", f"only images of camera {said}" if not negated else f"no images of camera {said}", whole
    )


_PREFIX = re.compile(r"(?:c|cam|camera|ch|channel|webcam)[\s_.#-]+(?P<rest>.+)", re.IGNORECASE | re.DOTALL)


def same_camera(name: str, cameras: Sequence[str]) -> tuple[str, ...]:
    """The cameras that somebody means who writes `3`, `c3` or `platform`: equal spelling first, then the number."""
    wanted = _plain(str(NUMBERS.get(name.lower(), name)))
    exact = tuple(camera for camera in cameras if _plain(camera) == wanted)
    if exact:
        return exact
    if not re.fullmatch(r"\d+[a-z]?", wanted):  # "camera b" is cam_b, but "camera at" is no cat
        return tuple(
            camera
            for camera in cameras
            if (parts := _PREFIX.fullmatch(camera)) is not None and _plain(parts["rest"]) == wanted
        )
    return tuple(
        camera for camera in cameras if re.fullmatch(rf"(?:c|cam|camera|ch|channel|webcam)?{wanted}", _plain(camera))
    )


@lru_cache(maxsize=1 << 16)
def _plain(name: str) -> str:
    """Lower case without blanks, hyphens and leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\s_.#-]", "", name.lower()))


def _merged(text: str, found: Sequence[Passage]) -> list[Passage]:
    """`on cam1 or cam2`: one condition of two that only `or`, `and` or a comma part."""
    done = list(found)
    for before, after in pairwise(found):
        between = text[before.end : after.start]
        mergeable = all(isinstance(entry.tree, Compare | In) for entry in (before, after))
        if not mergeable or not re.fullmatch(r"\s*(?:,|or|and|&|/|,\s*or|,\s*and)\s*", between):
            continue
        place = next(place for place, entry in enumerate(done) if entry.end == before.end)
        values = tuple(dict.fromkeys(value for entry in (done[place], after) for value in _values(entry.tree)))
        done[place : place + 2] = [_made(done[place].start, after.end, In("camera", values), False)]
    return done


def _values(tree: Tree | None) -> tuple[str, ...]:
    return tuple(map(str, tree.values if isinstance(tree, In) else [tree.value] if isinstance(tree, Compare) else []))
