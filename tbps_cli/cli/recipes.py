"""`tbps recipes`: the shipped experiments as a table, or one of them with every value written out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated

import typer

from tbps_cli.cli import complete
from tbps_cli.cli.options import Json, Sets

if TYPE_CHECKING:
    from tbps_cli.recipe.listing import ListedRecipe


def command(
    name: Annotated[
        str | None,
        typer.Argument(help="A shipped recipe, a recipe file or a run folder.", autocompletion=complete.recipe),
    ] = None,
    sets: Sets = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List every recipe, also for other data sets and settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the shipped recipes with their published scores, or print one recipe with all its values."""
    from tbps_cli.errors import UsageError

    if name is not None:
        _print_one(name, sets or [], as_json)
    elif sets:
        raise UsageError("--set needs the name of a recipe.", "For example: tbps recipes irra --set train.batch=32")
    else:
        _print_all(everything, as_json)


def _print_all(everything: bool, as_json: bool) -> None:
    from tbps_cli.cli import render
    from tbps_cli.recipe.listing import catalogue

    entries = catalogue()
    if as_json:
        render.document([entry.document() for entry in entries])
        return
    headings = ["recipe", "method", "paper", "data", "R@1", "±", "mAP", "chosen on", "trained / all", "notes"]
    groups = _grouped(entries)
    if everything:
        rows = [_row(entry) for group in groups for entry in group]
    else:
        headings.insert(1, "variants")
        rows = [[group[0].name, len(group) - 1 or "", *_row(group[0])[1:]] for group in groups]
    render.table(
        headings,
        rows,
        right=["variants", "R@1", "±", "mAP", "trained / all"],
        prose=["paper", "notes"],
        optional=["notes", "method", "trained / all", "paper", "variants", "chosen on", "±"],
        ends=list(accumulate(map(len, groups))) if everything else (),
    )
    if not everything:
        render.note(f"Variants, for other data sets and settings ({len(entries)} recipes in all): tbps recipes --all")
    render.note("One recipe with all its values: tbps recipes NAME")
    render.note(
        "R@1 and mAP are the published scores. ±: 95 % sampling error of the test captions; another seed moves R@1 "
        "by about 2 points as well. Scores closer than that do not differ (tbps train --repeat, tbps compare)."
    )


def _grouped(entries: Sequence[ListedRecipe]) -> list[list[ListedRecipe]]:
    """Each recipe followed by its variants, whose names begin with its own: irra, irra-icfg-pedes, irra-rstpreid."""
    groups: list[list[ListedRecipe]] = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        if groups and entry.name.startswith(f"{groups[-1][0].name}-"):
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return groups


def _row(entry: ListedRecipe) -> list[object]:
    from tbps_cli.cli.render import millions

    recipe, published = entry.recipe, entry.recipe.published
    counts = f"{millions(entry.parameters.trained)} / {millions(entry.parameters.all)}"
    paper = f"{published.paper.partition(':')[0]}, {published.venue} {published.year}" if published else None
    figures = [published.R1, entry.chance, published.mAP] if published else [None] * 3
    return [
        entry.name,
        recipe.method.name,
        paper,
        recipe.data.name,
        *("" if value is None else f"{value:.{digits}f}" for value, digits in zip(figures, (2, 1, 2), strict=True)),
        recipe.train.select_on,
        counts,
        recipe.note,
    ]


def _print_one(name: str, sets: list[str], as_json: bool) -> None:
    from tbps_cli.cli import output, render
    from tbps_cli.features.image_ways import has_bf16
    from tbps_cli.models.device import choose
    from tbps_cli.recipe.listing import count_parameters
    from tbps_cli.recipe.load import load
    from tbps_cli.recipe.resolve import Facts, resolve
    from tbps_cli.recipe.save import dump

    stated = load(name, sets)
    recipe, choices = resolve(stated, Facts.here(str(choose()), cpu_bf16=has_bf16()))
    counts = count_parameters(recipe)
    if as_json:
        chosen = [{"key": choice.key, "value": choice.value, "reason": choice.reason} for choice in choices]
        render.document({"recipe": recipe.model_dump(mode="json"), "parameters": vars(counts), "chosen": chosen})
        return
    head = [f"parameters: {counts.all:,} in all, {counts.trained:,} trained, {counts.inference:,} at inference"]
    head += [str(choice) for choice in choices]
    comments = "".join(f"# {text}\n" for text in head)
    output.stdout.write_exactly(f"{comments}\n{dump(recipe).rstrip()}\n")
