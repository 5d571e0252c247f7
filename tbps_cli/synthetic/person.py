"""Who is drawn: a person as a set of named attributes, all fixed for the identity.

Every identity has its own generator, seeded by (seed, identity, try), so a person never depends on
how many processes draw. Within a split two persons of five are near-twins: they repeat
the one before with one or two attributes changed. No two persons of a data set share all
attributes, hence no test person repeats a training person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "black": (30, 30, 34),
    "white": (236, 236, 232),
    "grey": (132, 134, 138),
    "red": (184, 38, 42),
    "blue": (44, 76, 166),
    "green": (44, 120, 66),
    "yellow": (226, 196, 60),
    "orange": (222, 118, 40),
    "pink": (228, 142, 172),
    "purple": (112, 58, 140),
    "brown": (104, 64, 36),
    "beige": (212, 190, 150),
}
HAIR: dict[str, RGB] = {
    "black": (28, 24, 24),
    "brown": (88, 54, 32),
    "blond": (214, 176, 104),
    "grey": (160, 160, 162),
    "red": (156, 70, 30),
}
SKIN: tuple[RGB, ...] = (
    (250, 222, 202),
    (238, 198, 170),
    (222, 176, 140),
    (190, 138, 100),
    (142, 96, 66),
    (92, 60, 44),
)

BRIGHT = ("red", "blue", "green", "yellow", "orange", "pink", "purple")
QUIET = ("black", "white", "grey", "brown", "beige")


@dataclass(frozen=True)
class Person:
    """All that is named of somebody, and the build and skin that captions do not mention."""

    gender: str
    hair: str
    hair_colour: str
    upper: str
    upper_colour: str
    pattern: str
    accent: str | None
    """Second colour of stripes and checks, and the colour of a logo."""
    inner: str | None
    """Colour of the shirt under an open jacket or coat."""
    lower: str | None
    """None under a dress."""
    lower_colour: str | None
    shoes: str
    shoes_colour: str
    bag: str | None
    bag_colour: str | None
    hat: str | None
    hat_colour: str | None
    carried: str | None
    carried_colour: str | None
    glasses: bool
    skin: int = 0
    build: float = 1.0

    @property
    def attributes(self) -> frozenset[str]:
        """Every nameable attribute as `slot=value`, such as `upper colour=red`."""
        pairs = {name.replace("_", " "): getattr(self, name) for name in _NAMED}
        worn = {f"{slot}={value}" for slot, value in pairs.items() if value is not None}
        return frozenset(worn | ({"glasses=yes"} if self.glasses else set()))


_NAMED = tuple(field.name for field in fields(Person) if field.name not in ("glasses", "skin", "build"))

TWIN_RATE = 0.4
"""Share of persons that repeat their predecessor but for one or two attributes."""


def people(count: int, seed: int, starts: Sequence[int]) -> list[Person]:
    """Draw `count` different persons; those at `starts` (first of a split) are never twins."""
    drawn: list[Person] = []
    seen: set[frozenset[str]] = set()
    for identity in range(count):
        before = drawn[-1] if drawn and identity not in starts else None
        person = _one(seed, identity, before, seen)
        seen.add(person.attributes)
        drawn.append(person)
    return drawn


def _one(seed: int, identity: int, before: Person | None, seen: set[frozenset[str]]) -> Person:
    for attempt in range(1000):
        rng = np.random.default_rng((seed, identity, attempt))
        twin = before is not None and rng.random() < TWIN_RATE
        person = near_twin(before, rng) if twin and before is not None else stranger(rng)
        if person.attributes not in seen:
            return person
    raise AssertionError("a thousand draws in a row repeated an earlier person")


def stranger(rng: np.random.Generator) -> Person:
    """Draw a new person."""
    gender = _pick(rng, ("man", "woman"))
    hair = _pick(rng, *((_MEN_HAIR) if gender == "man" else _WOMEN_HAIR))
    upper = _pick(rng, *(_MEN_UPPER if gender == "man" else _WOMEN_UPPER))
    upper_colour = _pick(rng, BRIGHT + QUIET)
    pattern = _pick(rng, *_PATTERNS[upper])
    lower = None if upper == "dress" else _pick(rng, *(_MEN_LOWER if gender == "man" else _WOMEN_LOWER))
    bag = _pick_or_none(rng, 0.6, ("backpack", "shoulder bag", "handbag", "suitcase"), (0.4, 0.25, 0.2, 0.15))
    hat = _pick_or_none(rng, 0.3, ("cap", "beanie", "hat"), (0.45, 0.3, 0.25))
    carried = _pick_or_none(rng, 0.35, ("phone", "bottle", "papers", "umbrella"))
    return Person(
        gender=gender,
        hair=hair,
        hair_colour=_pick(rng, tuple(HAIR), (0.3, 0.28, 0.2, 0.12, 0.1)),
        upper=upper,
        upper_colour=upper_colour,
        pattern=pattern,
        accent=None if pattern == "plain" else _accent(rng, upper_colour),
        inner=_accent(rng, upper_colour) if upper in ("jacket", "coat") and rng.random() < 0.6 else None,
        lower=lower,
        lower_colour=None if lower is None else _pick(rng, _LOWER_COLOURS[lower]),
        shoes=_pick(rng, ("sneakers", "shoes", "boots"), (0.5, 0.3, 0.2)),
        shoes_colour=_pick(rng, ("black", "white", "brown", "red", "blue", "grey"), (0.25, 0.25, 0.16, 0.14, 0.1, 0.1)),
        bag=bag,
        bag_colour=None if bag is None else _pick(rng, ("black", "red", "blue", "brown", "green", "pink", "white")),
        hat=hat,
        hat_colour=None if hat is None else _pick(rng, ("black", "white", "red", "blue", "green", "yellow", "beige")),
        carried=carried,
        carried_colour=_pick(rng, (*BRIGHT, "black")) if carried == "umbrella" else None,
        glasses=bool(rng.random() < 0.15),
        skin=_skin(rng),
        build=_build(rng),
    )


def near_twin(other: Person, rng: np.random.Generator) -> Person:
    """Somebody who differs from `other` in one or two attributes (and in build and skin)."""
    twin = replace(other, skin=_skin(rng), build=_build(rng))
    slots = [slot for slot in _TWIN_SLOTS if getattr(other, slot) is not None]
    for which in rng.permutation(len(slots))[: 1 if rng.random() < 0.6 else 2]:
        twin = _changed(twin, slots[which], rng)
    return twin


_TWIN_SLOTS = ("hair_colour", "upper_colour", "lower_colour", "shoes_colour", "bag_colour", "hat_colour", "shoes")


def _changed(person: Person, slot: str, rng: np.random.Generator) -> Person:
    """`person` with `slot` redrawn to something else."""
    before = getattr(person, slot)
    options: Sequence[str] = {
        "hair_colour": tuple(HAIR),
        "shoes": ("sneakers", "shoes", "boots"),
        "shoes_colour": ("black", "white", "brown", "red", "blue"),
        "lower_colour": _LOWER_COLOURS[person.lower or "trousers"],
    }.get(slot, (*BRIGHT, "black"))
    taken = {before, person.accent, person.inner} if slot == "upper_colour" else {before}
    fresh = _pick(rng, tuple(option for option in options if option not in taken))
    return Person(**{**vars(person), slot: fresh})


def _skin(rng: np.random.Generator) -> int:
    return int(rng.integers(len(SKIN)))


def _build(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.88, 1.1))


def _accent(rng: np.random.Generator, colour: str) -> str:
    """A second colour that stands out from the first, at any resolution."""
    light = {"white", "beige", "yellow", "pink"}
    options = ("black", "blue", "red") if colour in light else ("white", "yellow", "white")
    return _pick(rng, options)


def _pick(rng: np.random.Generator, options: Sequence[str], weights: Sequence[float] | None = None) -> str:
    return options[int(rng.choice(len(options), p=weights))]


def _pick_or_none(
    rng: np.random.Generator, rate: float, options: Sequence[str], weights: Sequence[float] | None = None
) -> str | None:
    value = _pick(rng, options, weights)
    return value if rng.random() < rate else None


_MEN_HAIR = (("short", "long", "ponytail", "bald"), (0.72, 0.12, 0.04, 0.12))
_WOMEN_HAIR = (("long", "short", "ponytail", "bun"), (0.45, 0.2, 0.2, 0.15))
_MEN_UPPER = (("t-shirt", "shirt", "jacket", "coat", "hoodie"), (0.3, 0.2, 0.2, 0.12, 0.18))
_WOMEN_UPPER = (("t-shirt", "shirt", "jacket", "coat", "hoodie", "dress"), (0.24, 0.14, 0.17, 0.13, 0.1, 0.22))
_MEN_LOWER = (("trousers", "jeans", "shorts"), (0.42, 0.33, 0.25))
_WOMEN_LOWER = (("trousers", "jeans", "shorts", "skirt"), (0.27, 0.27, 0.18, 0.28))
_LOWER_COLOURS: dict[str, tuple[str, ...]] = {
    "trousers": ("black", "grey", "brown", "beige", "blue", "green", "white", "red"),
    "jeans": ("blue", "black", "grey"),
    "shorts": ("black", "grey", "blue", "beige", "white", "red", "green"),
    "skirt": ("black", "red", "blue", "grey", "pink", "white", "green", "purple"),
}
_PATTERNS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "t-shirt": (("plain", "striped", "logo"), (0.45, 0.3, 0.25)),
    "shirt": (("plain", "striped", "checked"), (0.5, 0.2, 0.3)),
    "jacket": (("plain",), (1.0,)),
    "coat": (("plain", "checked"), (0.85, 0.15)),
    "hoodie": (("plain", "logo", "striped"), (0.6, 0.25, 0.15)),
    "dress": (("plain", "striped", "checked"), (0.6, 0.2, 0.2)),
}
