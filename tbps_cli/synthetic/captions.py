"""What is said about an image: a small grammar with synonyms and omissions.

A caption names only what this image shows (nothing hidden by an occluder, by the other side of
the body or by a hand left at home), usually four to seven things, in changing order and words. With
every caption comes the list of attributes that it names, for the oracle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tbps_cli.synthetic.camera import Shot
from tbps_cli.synthetic.person import Person


@dataclass(frozen=True)
class Said:
    """A caption and the attributes (`slot=value`) that it names."""

    text: str
    named: tuple[str, ...]


@dataclass(frozen=True)
class _Phrase:
    text: str
    slots: tuple[str, ...]


def visible(person: Person, shot: Shot) -> frozenset[str]:
    """The attributes of `person` that can be seen in this image."""
    view, sides = shot.stance.pose.view, _hidden_slots(person, shot)
    back = {"inner", "glasses"} | ({"pattern", "accent"} if person.pattern == "logo" else set())
    if view != "front":
        sides |= back
    return frozenset(item for item in person.attributes if item.split("=")[0] not in sides)


def sides(person: Person, shot: Shot) -> dict[str, str]:
    """On which side of themselves, left or right, the person has the bag and the carried thing that can be seen."""
    shown = {item.split("=")[0] for item in visible(person, shot)}
    held = {"bag": shot.stance.bag_side, "carried": shot.stance.raised}
    named = {slot: "left" if side > 0 else "right" for slot, side in held.items() if slot in shown}
    if person.bag == "backpack":
        named.pop("bag", None)
    return named


def _hidden_slots(person: Person, shot: Shot) -> set[str]:
    view, near = shot.stance.pose.view, -np.sin(shot.stance.pose.yaw)
    hidden = {"shoes", "shoes colour"} if "shoes" in shot.hidden else set()
    far_bag = view == "side" and near * shot.stance.bag_side < 0
    if (person.bag == "backpack" and view == "front") or (far_bag and person.bag in ("handbag", "shoulder bag")):
        hidden |= {"bag", "bag colour"}
    behind = view == "back" or (view == "side" and near * shot.stance.raised < 0)
    if not shot.stance.holds or (behind and person.carried != "umbrella"):
        hidden |= {"carried", "carried colour"}
    if person.hat or person.hair == "bald":
        hidden.add("hair colour")
    if person.hat and person.hair != "long":
        hidden.add("hair")
    return hidden


def describe(person: Person, shot: Shot, rng: np.random.Generator) -> Said:
    """Say one sentence or two about an image."""
    words = _Words(person, visible(person, shot), rng)
    wanted = [slot for slot, rate in _RATES.items() if slot in words.seen and rng.random() < rate]
    wanted = wanted if len(wanted) > 2 else ["upper", *(slot for slot in ("lower", "shoes") if slot in words.seen)]
    while len(wanted) > 5:
        wanted.remove(wanted[int(rng.integers(2, len(wanted)))])
    parts = {slot: getattr(words, slot)() for slot in wanted}
    subject = words.subject()
    verb = "walking" if shot.stance.pose.stride > 0.1 else "standing"
    text = _sentence(subject.text, {slot: part.text for slot, part in parts.items()}, person, verb, rng)
    slots = [*subject.slots, *(slot for part in parts.values() for slot in part.slots)]
    if len(slots) < 3:  # fits too many people: say it again
        return describe(person, shot, rng)
    return Said(text, tuple(f"{slot}={words.seen[slot]}" for slot in slots))


_RATES = {
    "upper": 1.0,
    "lower": 0.93,
    "bag": 0.8,
    "shoes": 0.6,
    "hat": 0.8,
    "carried": 0.6,
    "hair": 0.55,
    "glasses": 0.25,
}
"""How often each thing is mentioned when it shows; clothes and bags first, as people do."""


class _Words:
    """The phrases for one image. Each method picks a wording and says which slots it used."""

    def __init__(self, person: Person, shown: frozenset[str], rng: np.random.Generator) -> None:
        self.person, self.rng = person, rng
        self.seen = dict(item.split("=", 1) for item in sorted(shown))

    def subject(self) -> _Phrase:
        """The person as such; at times without the gender."""
        if self.rng.random() < 0.1:
            return _Phrase(self._any(("person", "pedestrian")), ())
        return _Phrase(self._any(_SYNONYMS[self.person.gender]), ("gender",))

    def upper(self) -> _Phrase:
        """The garment on the torso with its colour, pattern and what is under it."""
        words, slots = self._coloured("upper", "top" if self.person.lower else None)
        pattern, accent = self.seen.get("pattern"), self.seen.get("accent")
        if pattern in (None, "plain") or not accent or self.rng.random() < 0.12:
            return self._over(words, slots)
        slots.append("pattern")
        both = self.rng.random() < 0.7
        slots += ["accent"] if both else []
        return _Phrase(self._patterned(words, str(pattern), accent if both else None), tuple(slots))

    def _patterned(self, words: list[str], pattern: str, accent: str | None) -> str:
        second = f"{self._colour(accent)} " if accent else ""
        if pattern == "logo":
            mark = _article(second + self._any(("logo", "print")))
            return f"{_a(words)} with {mark} on the {self._any(('chest', 'front'))}"
        noun = {"striped": "stripes", "checked": "checks"}[pattern]
        if self.rng.random() < 0.5:
            return f"{_a(words)} with {second}{noun}"
        adjective = self._any(_SYNONYMS[pattern])
        if accent and len(words) > 1:
            return _article(f"{words[0]} and {second}{adjective} {words[-1]}")
        return _article(" ".join([*words[:-1], adjective, words[-1]])) + (f" with {second}{noun}" if accent else "")

    def _over(self, words: list[str], slots: list[str]) -> _Phrase:
        inner = self.seen.get("inner")
        if not inner or self.rng.random() < 0.25:
            return _Phrase(_a(words), tuple(slots))
        shirt = self._any(("shirt", "top", "t-shirt"))
        return _Phrase(f"{_a(words)} over {_article(f'{self._colour(inner)} {shirt}')}", (*slots, "inner"))

    def lower(self) -> _Phrase:
        """The garment on the legs."""
        words, slots = self._coloured("lower", None)
        return _Phrase(_a(words) if self.person.lower == "skirt" else " ".join(words), tuple(slots))

    def shoes(self) -> _Phrase:
        """What is on the feet."""
        words, slots = self._coloured("shoes", "shoes")
        return _Phrase(" ".join(words), tuple(slots))

    def bag(self) -> _Phrase:
        """Any bag."""
        words, slots = self._coloured("bag", None if self.person.bag == "suitcase" else "bag")
        return _Phrase(_a(words), tuple(slots))

    def hat(self) -> _Phrase:
        """Any hat."""
        words, slots = self._coloured("hat", None)
        return _Phrase(_a(words), tuple(slots))

    def carried(self) -> _Phrase:
        """What the hand holds."""
        if self.person.carried == "umbrella":
            words, slots = self._coloured("carried", None)
            return _Phrase(_a(words), tuple(slots))
        return _Phrase(self._any(_SYNONYMS[str(self.person.carried)]), ("carried",))

    def hair(self) -> _Phrase:
        """Hair length or style, with the colour where it shows."""
        style, colour = self.person.hair, self.seen.get("hair colour")
        if style == "bald":
            return _Phrase(self._any(("a bald head", "no hair", "a shaved head")), ("hair",))
        if colour is None:
            return _Phrase(f"{style} hair", ("hair",))
        word = self._any(("blond", "blonde")) if colour == "blond" else self._colour(colour)
        if style in ("ponytail", "bun"):
            shape = self._any(
                (f"{word} hair in a {style}", f"{word} hair tied in a {style}", _article(f"{word} {style}"))
            )
            return _Phrase(shape, ("hair", "hair colour"))
        if self.rng.random() < 0.2:
            return _Phrase(f"{word} hair", ("hair colour",))
        return _Phrase(f"{style} {word} hair", ("hair", "hair colour"))

    def glasses(self) -> _Phrase:
        """Dark glasses."""
        return _Phrase(self._any(("glasses", "sunglasses")), ("glasses",))

    def _coloured(self, slot: str, vague: str | None) -> tuple[list[str], list[str]]:
        """([colour,] noun) and the slots named; the noun is at times `vague`, the colour at times left out."""
        if vague and self.rng.random() < 0.15:
            return [self._colour(self.seen[f"{slot} colour"]), vague], [f"{slot} colour"]
        noun = self._any(_SYNONYMS.get(self.seen[slot], (self.seen[slot],)))
        if self.rng.random() < 0.06:
            return [noun], [slot]
        return [self._colour(self.seen[f"{slot} colour"]), noun], [slot, f"{slot} colour"]

    def _colour(self, name: str) -> str:
        return "gray" if name == "grey" and self.rng.random() < 0.3 else name

    def _any(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]


_SYNONYMS: dict[str, tuple[str, ...]] = {
    "man": ("man", "man", "male", "guy"),
    "woman": ("woman", "woman", "lady", "female"),
    "t-shirt": ("t-shirt", "t-shirt", "tee", "short sleeved shirt"),
    "shirt": ("shirt", "shirt", "long sleeved shirt", "button-up shirt"),
    "jacket": ("jacket", "jacket", "short jacket"),
    "coat": ("coat", "long coat", "overcoat"),
    "hoodie": ("hoodie", "hoodie", "hooded sweatshirt"),
    "trousers": ("trousers", "pants", "slacks"),
    "jeans": ("jeans", "jeans", "denim pants"),
    "shorts": ("shorts", "shorts", "short pants"),
    "sneakers": ("sneakers", "trainers", "sports shoes"),
    "shoes": ("shoes", "leather shoes"),
    "backpack": ("backpack", "backpack", "rucksack"),
    "shoulder bag": ("shoulder bag", "crossbody bag", "messenger bag"),
    "handbag": ("handbag", "purse"),
    "suitcase": ("suitcase", "rolling suitcase", "trolley case"),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit hat"),
    "hat": ("wide-brimmed hat", "sun hat"),
    "phone": ("a phone", "a mobile phone", "a cell phone"),
    "bottle": ("a bottle", "a water bottle", "a bottle of water"),
    "papers": ("papers", "some papers", "a sheet of paper"),
    "umbrella": ("umbrella", "open umbrella"),
    "striped": ("striped", "stripy"),
    "checked": ("checked", "plaid", "checkered"),
}


def _a(words: Sequence[str]) -> str:
    return _article(" ".join(words))


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _list(parts: Sequence[str]) -> str:
    return "".join(parts) if len(parts) < 2 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentence(subject: str, parts: dict[str, str], person: Person, verb: str, rng: np.random.Generator) -> str:
    """Put the phrases into one of several orders; `verb` says what the person is doing."""
    worn = _list([parts[slot] for slot in ("upper", "lower", "shoes", "hat", "glasses") if slot in parts])
    taken = _list([parts[slot] for slot in ("bag", "carried") if slot in parts])
    hair = f" with {parts['hair']}" if "hair" in parts else ""
    wears = _choose(rng, _WEARS)
    holds = "carrying" if "bag" in parts else _choose(rng, ("carrying", "holding"))
    acts = _choose(rng, ("", "", f" who is {verb}"))
    tail = f", {holds} {taken}" if taken else ""
    who = _article(f"{subject}{hair}").capitalize()
    kind = int(rng.integers(5))
    if kind == 0:
        return f"Wearing {worn}, the {subject}{hair} is {verb}{tail}."
    if kind == 1:
        return f"{who}{acts} in {worn}{tail}."
    if kind == 2 and hair:
        return f"The {subject}{acts} {wears} {worn} and has {parts['hair']}{tail}."
    if kind <= 3 and taken:
        they = {"man": "He", "woman": "She"}[person.gender] if subject in _SYNONYMS[person.gender] else "This person"
        return f"{who} {wears} {worn}. {they} is {holds} {taken}."
    return f"{who}{acts} {wears} {worn}{tail}."


_WEARS = ("is wearing", "wears", "is dressed in", "is in", "has on")


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
