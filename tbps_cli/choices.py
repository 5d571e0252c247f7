"""What was chosen by looking at scores, and on which split: the part of a protocol that nobody can measure afterwards.

An epoch, one of several files, constants or a fusion that were chosen by the scores of a split make its next score too
good. Whoever chooses writes it down here, and the record travels with the weights: in the head of a run's weights file,
in an export's description. What can be measured is measured instead (`retrieval.guard`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Chosen = Literal["epoch", "file", "constants", "fusion", "start", "adapted"]
LABELS: dict[Chosen, str] = {
    "epoch": "epoch chosen on",
    "file": "file chosen on",
    "constants": "constants chosen on",
    "fusion": "fusion chosen on",
    "start": "starting weights chosen on",
    "adapted": "adapted on",
}
"""What can be chosen, in the words of a label. file: one of several weights files (NAM and HAM publish three of one
training). constants: of the model or of scoring, tried with several values. fusion: one of several ways to join scores.
start: the weights that training began with. adapted: trained on a split's images or captions without their labels."""

SELECTED_ON = "selected_on"
"""The key for the split that chose the epoch, in the head of weights and in a protocol."""
KEY = "choices"
"""The key for everything, as JSON."""


@dataclass(frozen=True)
class Choice:
    """One choice: the split whose scores made it."""

    on: str
    """train, val or test."""
    data: str | None = None
    """The data set of that split, by name; None: the one that is scored."""
    of: int | None = None
    """How many candidates there were, where that is known."""

    def is_on(self, split: str, data: str) -> bool:
        """Whether it was made on what is scored."""
        return self.on == split and self.data in (None, data)

    def words(self, data: str) -> str:
        """`test`, `test of cuhk-pedes`, `val (best of 3)`: as short as the data set that is scored allows."""
        where = self.on if self.data in (None, data) else f"{self.on} of {self.data}"
        return where + (f" (best of {self.of})" if self.of else "")

    def document(self) -> dict[str, Any]:
        """The choice as JSON-able values."""
        return {"on": self.on, "data": self.data, "of": self.of}


@dataclass(frozen=True)
class Choices:
    """Every choice that is known of some weights and of the way they are used."""

    made: Mapping[Chosen, Choice] = field(default_factory=dict)

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Choices:
        """What a weights file or an export says of itself; whatever is not a record of a choice is passed over."""
        known = facts.get(KEY)
        if isinstance(known, str):
            try:
                known = json.loads(known)
            except (ValueError, RecursionError):
                known = None
        made = {what: _choice(known.get(what)) for what in LABELS} if isinstance(known, Mapping) else {}
        found = {what: choice for what, choice in made.items() if choice is not None}
        if "epoch" not in found:
            plain = _choice({"on": facts.get(SELECTED_ON)})
            found |= {"epoch": plain} if plain else {}
        return cls(found)

    @property
    def selected_on(self) -> str | None:
        """The split that chose the epoch, where that is known."""
        return self.made["epoch"].on if "epoch" in self.made else None

    def facts(self) -> dict[str, str]:
        """The way back from `read`, as text for the head of a weights file; empty when nothing is known."""
        plain = {SELECTED_ON: self.made["epoch"].on} if "epoch" in self.made else {}
        return {**plain, KEY: json.dumps(self.document(), sort_keys=True)} if self.made else {}

    def document(self) -> dict[str, Any]:
        """Those that are known, as JSON-able values."""
        return {what: choice.document() for what, choice in self.made.items()}

    def inherited(self) -> Choices:
        """What a training that begins with these weights inherits: that they were chosen on a test split."""
        looked_at: tuple[Chosen, ...] = "start", "file", "epoch"
        found = [self.made[what] for what in looked_at if what in self.made and self.made[what].on == "test"]
        return Choices({"start": found[0]}) if found else Choices()

    def and_also(self, more: Choices) -> Choices:
        """These and those of `more`, which count where both know one."""
        return Choices({**self.made, **more.made})


def _choice(value: object) -> Choice | None:
    """A record as it was written, or None: the file may come from anywhere."""
    if not isinstance(value, Mapping):
        return None
    on, data, count = (value.get(key) for key in ("on", "data", "of"))
    if on not in ("train", "val", "test"):
        return None
    known = data[:80] if isinstance(data, str) and data.isprintable() else None
    return Choice(on, known, count if isinstance(count, int) and not isinstance(count, bool) else None)
