"""Under which conditions a score was measured: one record, which travels with it wherever it is shown.

Scores may stand side by side only where their conditions agree. What can be measured is measured by the guard; what was
chosen by looking at scores is recorded where it is chosen (`choices`). `labels` says in a few words what sets a score
apart from one that a stranger could repeat with single questions; `line` is what stands below a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tbps_cli.choices import LABELS, SELECTED_ON, Choices, Chosen
from tbps_cli.retrieval.guard import Guard

Reach = Literal["alone", "together"]

HONEST = "honest: --set train.select_on=val"


@dataclass(frozen=True)
class Protocol:
    """What a score was measured under."""

    data: str
    split: str
    precision: str
    choices: Choices
    guard: Guard
    settings: tuple[str, ...] = ()
    """What was set after training."""
    reranked: bool = False
    declared: str | None = None
    """Why embeddings depend on their batch, where the model says so itself."""

    @property
    def batch_dependent(self) -> bool:
        """Whether embeddings depend on the rest of their batch: declared, or seen."""
        return bool(self.declared or self.guard.warning)

    @property
    def queries(self) -> Reach:
        """Whether a query's ranking depends on which others are asked."""
        return "together" if self.guard.together else "alone"

    @property
    def gallery(self) -> Reach:
        """Whether the score of an image depends on which others are in the gallery."""
        return "together" if self.guard.gallery else "alone"

    @property
    def line(self) -> str:
        """The whole record in one line."""
        epoch = self.choices.made.get("epoch")
        if epoch is None:
            selected = "how the weights were selected is unknown"
        elif epoch.on == "test" and epoch.is_on(self.split, self.data):
            selected = f"weights selected on test, as the papers do ({HONEST})"
        else:
            selected = f"weights selected on {epoch.words(self.data)}"
        rest = [text for what, text in self._chosen.items() if what != "epoch"]
        rest += [f"set after training: {', '.join(self.settings)}"] * bool(self.settings)
        reranked = "re-ranked" if self.reranked else "not re-ranked"
        doubts = [text for text in self.guard.troubles if text not in self.guard.conditions]
        return " · ".join([f"Protocol: {selected}", *rest, reranked, self.precision, *self._measured, *doubts])

    @property
    def labels(self) -> list[str]:
        """What sets the score apart, a few words each; none for a score that single questions would give too.

        Ties and copies are no conditions: the model and the images have them, whoever asks.
        """
        made = self.choices.made
        return [text for what, text in self._chosen.items() if made[what].is_on(self.split, self.data)] + self._measured

    @property
    def _chosen(self) -> dict[Chosen, str]:
        return {what: f"{LABELS[what]} {choice.words(self.data)}" for what, choice in self.choices.made.items()}

    @property
    def _measured(self) -> list[str]:
        found = ["gallery: together"] if self.gallery == "together" else []
        if self.declared and not self.guard.dependent:
            found.append("embeddings depend on the rest of the batch")
        return [*found, *self.guard.conditions]

    def document(self) -> dict[str, Any]:
        """The record as JSON-able values."""
        return {
            SELECTED_ON: self.choices.selected_on,
            "reranked": self.reranked,
            "batch_dependent": self.batch_dependent,
            "precision": self.precision,
            "queries": self.queries,
            "gallery": self.gallery,
            "adapted": self.guard.adapted,
            "settings": list(self.settings),
            "labels": self.labels,
            "line": self.line,
            "choices": self.choices.document(),
            "guard": self.guard.document(),
        }

    def differences(self, other: Protocol) -> dict[str, list[object]]:
        """The conditions in which two scores differ: {"selected_on": ["val", "test"]}."""
        first, second = self._conditions(), other._conditions()
        return {name: [first[name], second[name]] for name in first if first[name] != second[name]}

    def _conditions(self) -> dict[str, object]:
        """What must be equal where two scores are compared."""
        made = {what: choice.words(self.data) for what, choice in self.choices.made.items()}
        return {
            SELECTED_ON: made.get("epoch"),
            **{f"{what}_chosen_on": made.get(what) for what in LABELS if what != "epoch"},
            "settings": ", ".join(sorted(self.settings)) or "as trained",
            "reranked": self.reranked,
            "batch_dependent": self.batch_dependent,
            "precision": self.precision,
            "queries": self.queries,
            "gallery": self.gallery,
            "adapted": self.guard.adapted,
            "order_dependent": bool(self.guard.order),
        }
