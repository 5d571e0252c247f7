"""`card.md`: what a run is, for whoever is handed its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tbps_cli import methods
from tbps_cli.amounts import amount
from tbps_cli.choices import SELECTED_ON

if TYPE_CHECKING:
    from tbps_cli.recipe.schema import Recipe
    from tbps_cli.weights.surplus import Extra

NOT_KNOWN = "how its epoch was chosen is not known"


def card(
    recipe: Recipe,
    facts: Mapping[str, object],
    scores: Mapping[str, float] | None = None,
    *,
    origin: str = "",
    left_out: Sequence[Extra] = (),
    protocol: str = "",
) -> str:
    """Markdown: method and paper, data, how the best epoch was chosen, scores, and what to mind.

    facts: what the weights file says of itself (`epoch`, `selected_on`, `converted_from`, `started_from`).
    scores: text-to-image percentages by name, of the split named in `selected_on`; protocol: what they were measured
    under, in one line. origin: a sentence on how a converted file was chosen; left_out: what of it is not in these
    weights.
    """
    height, width = recipe.data.image_size
    lines = [
        f"# {recipe.name or recipe.method.name}",
        "",
        f"Text-based person search with `{recipe.method.name}`: images of {height} x {width} pixels and sentences"
        " become unit vectors; their dot product is the score.",
        "",
        f"- Paper: {methods.find(recipe.method.name).paper or 'none'}",
        f"- Data: `{recipe.data.name}`",
        f"- {_origin(recipe, facts, origin)}",
        *([f"- Trained from: {facts['started_from']}"] if facts.get("started_from") else []),
        *([f"- Scores: {_scores(scores)}"] if scores else []),
        *([f"- {protocol}"] if protocol else []),
        *_left_out(left_out),
        "",
        "The terms of the training data bind whoever uses these weights: most person data sets allow research only.",
        "A hit is a place in a ranking, never an identification; a person must review every result.",
        "",
        "```",
        "tbps eval --ckpt THIS-FOLDER",
        'tbps search "a man in a white shirt" --ckpt THIS-FOLDER --in IMAGES',
        "```",
        "",
    ]
    return "\n".join(lines)


def _origin(recipe: Recipe, facts: Mapping[str, object], origin: str) -> str:
    if facts.get("converted_from"):
        told = f"its epoch was chosen on {facts[SELECTED_ON]}" if SELECTED_ON in facts else ""
        return f"Converted from `{facts['converted_from']}`; {origin or told or NOT_KNOWN}."
    epoch = f"epoch {facts['epoch']} of {recipe.train.epochs}" if facts.get("epoch") else "the best epoch"
    return f"Weights: {epoch}, chosen on the {facts.get('selected_on', recipe.train.select_on)} split"


def _scores(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in scores.items())


def _left_out(extras: Sequence[Extra]) -> list[str]:
    """The tensors of a converted file that nothing here reads, with their shapes and why."""
    if not extras:
        return []
    rows = [f"  - `{extra.name}` {'x'.join(map(str, extra.shape))}: {extra.why}" for extra in extras]
    return [f"- Left out of the file, {amount(len(extras), 'tensor')}:", *rows]
