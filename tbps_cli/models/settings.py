"""What a user may still change when a model is opened: `--set` and `--words`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tbps_cli.errors import UsageError
from tbps_cli.recipe.schema import Recipe


def check_sets(sets: Sequence[str]) -> None:
    """Raises UsageError for a setting that only training can change, or that would be another model."""
    for assignment in sets:
        key = assignment.partition("=")[0].strip()
        if key == "method.name":
            raise UsageError(f"--set {assignment}: the method of a checkpoint cannot be changed.")
        if "=" in assignment and not key.startswith(("method.", "data.")):
            raise UsageError(
                f"--set {assignment}: only keys of method and data can change after training.",
                "For example: --set method.attention_axis=token",
            )


def with_words(recipe: Recipe, words: Path | None) -> Recipe:
    """The recipe with the path of a word table in it. Raises UsageError when its method has none."""
    if words is None:
        return recipe
    if "words" not in type(recipe.method).model_fields:
        raise UsageError(f"--words {words}: {recipe.method.name} needs no word table.", "Leave --words out.")
    return recipe.model_copy(update={"method": recipe.method.model_copy(update={"words": str(words)})})
