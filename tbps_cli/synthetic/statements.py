"""Plain sentences made of what was drawn: with the sides and numbers that `captions` never mention.

Captions imitate people, who leave things out and vary their words. These say what is known, always in the same way,
so that one thing can be changed in them and the result is certainly false.
"""

from __future__ import annotations

from collections.abc import Mapping

_WORN = ("upper", "lower", "shoes", "hat")
_NOUNS = {"hat": "sun hat"}
_HELD = {"phone": "a phone", "bottle": "a bottle", "papers": "papers", "umbrella": "an umbrella"}
_PLURAL = ("trousers", "jeans", "shorts", "sneakers", "shoes", "boots")


def statements(facts: Mapping[str, str], shown: Mapping[str, str], sides: Mapping[str, str]) -> tuple[str, ...]:
    """What can be said of one image.

    facts: attribute -> value of the person; shown: those of them that this image shows; sides: "bag" and "carried"
    -> the person's own left or right, where it can be seen.
    """
    who, whose = ("man", "his") if facts["gender"] == "man" else ("woman", "her")
    worn = [
        _named(shown[slot], shown[f"{slot} colour"]) for slot in _WORN if slot in shown and f"{slot} colour" in shown
    ]
    said = [f"A {who} wearing {_listed(worn)}."] if len(worn) > 1 else []
    if "bag" in sides:
        said.append(f"A {who} with {_named(shown['bag'], shown['bag colour'])} on {whose} {sides['bag']} side.")
    if "carried" in sides:
        # named, since a handbag in the other hand would make "something in the other hand" true
        said.append(f"A {who} holding {_HELD[shown['carried']]} in {whose} {sides['carried']} hand.")
    things = [slot for slot in ("bag", "carried") if slot in facts]
    if things and all(slot in shown for slot in things):
        said.append(f"A {who} carrying {'two things' if len(things) == 2 else 'one thing'}.")
    return tuple(said)


def _named(value: str, colour: str) -> str:
    noun = _NOUNS.get(value, value)
    article = "" if noun in _PLURAL else "an " if colour[0] in "aeiou" else "a "
    return f"{article}{colour} {noun}"


def _listed(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
