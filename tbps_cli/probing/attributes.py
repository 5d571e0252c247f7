"""R@1 by what a caption names: gender words, colours, bags, hats. Where a model is weak, and for whom.

An average hides that captions of one kind are answered worse. So the captions of a split are grouped by the words in
them (`probing.wording`, English), and each group has its R@1 with a bootstrap interval over persons; the gallery stays
whole. For gender words the difference has an interval of its own, since both groups are drawn together: the first
question of a bias check. A group says what captions say, not what is true of the person.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbps_cli.probing.wording import COLOURS, NOUNS, things, words
from tbps_cli.retrieval.evaluate import Evaluation
from tbps_cli.retrieval.interval import LEVEL, RESAMPLES, SEED, Table, check_level, ends, resampled

MAN = frozenset({"man", "men", "male", "boy", "guy", "gentleman", "he", "his", "him"})
WOMAN = frozenset({"woman", "women", "female", "girl", "lady", "she", "her", "hers"})
NONE = "none"
"""The group of captions that name nothing of the kind."""
_CARRIED = sorted((noun for noun, (slot, _) in NOUNS.items() if slot in ("bag", "hat")), key=len, reverse=True)
_PLURAL = re.compile(rf"\b({'|'.join(map(re.escape, _CARRIED))})s\b", re.IGNORECASE)

Flags = NDArray[np.bool_]


def gender(caption: str) -> set[str]:
    """man or woman, by any word that says so; `both` where a caption has words of both."""
    said = set(words(caption))
    found = {name for name, spoken in (("man", MAN), ("woman", WOMAN)) if said & spoken}
    return {"both"} if len(found) == 2 else found


def colours(caption: str) -> set[str]:
    """Every colour that it names, of whatever, shades of one under its plainest word."""
    return {COLOURS[word] for word in words(caption) if word in COLOURS}


def _things_of(slot: str, caption: str) -> set[str]:
    found = things(_PLURAL.sub(r"\1", caption))
    return {thing.family or slot for thing in found if thing.slot == slot}


def bags(caption: str) -> set[str]:
    """Every kind of bag."""
    return _things_of("bag", caption)


def hats(caption: str) -> set[str]:
    """Every kind of hat."""
    return _things_of("hat", caption)


ATTRIBUTES: dict[str, Callable[[str], set[str]]] = {"gender": gender, "colour": colours, "bag": bags, "hat": hats}
"""What captions are grouped by -> the values that a caption names; it belongs to the group of each."""


@dataclass(frozen=True)
class ByAttribute:
    """A split's R@1 in parts."""

    groups: list[dict[str, object]]
    gap: dict[str, object] | None
    level: float

    def document(self) -> dict[str, object]:
        """The parts as `tbps eval --attributes --json` prints them."""
        return {
            "level": self.level,
            "over": "persons",
            "resamples": RESAMPLES,
            "seed": SEED,
            "groups": self.groups,
            "gender_gap": self.gap,
        }


def by_attribute(evaluation: Evaluation, level: float = LEVEL) -> ByAttribute:
    """R@1 of text to image for the captions that name each value, with intervals over persons.

    level: percent of the resamples that lie inside an interval.
    """
    check_level(level)
    split, first_Q = evaluation.split, evaluation.sides["text_to_image"].details.first_Q
    right_Q = first_Q == 1
    person_Q = np.unique([str(person) for person in split.caption_person], return_inverse=True)[1]
    groups, of_gender = [], {}
    for attribute, read in ATTRIBUTES.items():
        for value, chosen_Q in _groups([read(caption) for caption in split.captions]):
            groups.append({"attribute": attribute, "value": value, **_share(chosen_Q, right_Q, person_Q, level)})
            if attribute == "gender":
                of_gender[value] = chosen_Q
    both = "man" in of_gender and "woman" in of_gender
    gap = _gap(of_gender["man"], of_gender["woman"], right_Q, person_Q, level) if both else None
    return ByAttribute(groups, gap, level)


def _groups(named: list[set[str]]) -> Iterator[tuple[str, Flags]]:
    """Each value and the captions that name it, the most frequent first; last those that name none."""
    count = Counter(value for values in named for value in values)
    for value, _ in count.most_common():
        yield value, np.array([value in values for values in named])
    without = np.array([not values for values in named])
    if without.any():
        yield NONE, without


def _share(chosen_Q: Flags, right_Q: Flags, person_Q: NDArray[np.int64], level: float) -> dict[str, object]:
    sum_PS = _sums(chosen_Q, right_Q, person_Q)
    sum_PS = sum_PS[sum_PS[:, 0] > 0]
    return {
        "captions": int(chosen_Q.sum()),
        "persons": len(sum_PS),
        "R1": 100 * float(right_Q[chosen_Q].mean()),
        # one person has no spread
        "interval": _interval(100 * _ratio(_resampled(sum_PS)), level) if len(sum_PS) > 1 else None,
    }


def _gap(man_Q: Flags, woman_Q: Flags, right_Q: Flags, person_Q: NDArray[np.int64], level: float) -> dict[str, object]:
    """R@1 of captions that say man minus that of those that say woman, in points."""
    sum_PS = np.concatenate([_sums(chosen_Q, right_Q, person_Q) for chosen_Q in (man_Q, woman_Q)], axis=1)
    drawn_RS = _resampled(sum_PS[sum_PS[:, [0, 2]].sum(axis=1) > 0])
    drawn_RS = drawn_RS[(drawn_RS[:, 0] > 0) & (drawn_RS[:, 2] > 0)]  # a resample without either says nothing
    difference_R = 100 * (_ratio(drawn_RS[:, :2]) - _ratio(drawn_RS[:, 2:]))
    return {
        "man_minus_woman": 100 * float(right_Q[man_Q].mean() - right_Q[woman_Q].mean()),
        "interval": _interval(difference_R, level) if len(difference_R) else None,
    }


def _sums(chosen_Q: Flags, right_Q: Flags, person_Q: NDArray[np.int64]) -> Table:
    """For each person: captions of the group, and those among them that are answered right."""
    persons = int(person_Q.max()) + 1
    columns = [np.bincount(person_Q, weights=flags, minlength=persons) for flags in (chosen_Q, chosen_Q & right_Q)]
    return np.stack(columns, axis=1)


def _resampled(sum_PS: Table) -> Table:
    return resampled(sum_PS, resamples=RESAMPLES, seed=SEED)


def _ratio(sum_RS: Table) -> NDArray[np.float64]:
    share_R: NDArray[np.float64] = sum_RS[:, 1] / sum_RS[:, 0]
    return share_R


def _interval(drawn_R: NDArray[np.float64], level: float) -> list[float]:
    low, high = ends(drawn_R[:, None], level)[:, 0].tolist()
    return [low, high]
