"""`tbps eval`: the rank table of a run on one or several data sets."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tbps_cli.cli import complete
from tbps_cli.cli.help import Command
from tbps_cli.cli.options import (
    BatchSize,
    Ckpt,
    DataRoot,
    Device,
    Json,
    Plain,
    Ranked,
    Sets,
    SplitName,
    Words,
    Workers,
)

if TYPE_CHECKING:
    from tbps_cli.retrieval.evaluate import Evaluation

USUAL_LEVEL = "95"


class Format(StrEnum):
    table = "table"
    md = "md"
    latex = "latex"
    csv = "csv"


class Parser(Command):
    """Makes the values of `--interval` and `--degrade` optional, which typer cannot express."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_with_values(args)))


def _with_values(args: list[str]) -> Iterator[str]:
    for place, word in enumerate(args, 1):
        yield word
        following = "".join(args[place : place + 1])
        if word == "--interval" and not _is_number(following):
            yield USUAL_LEVEL
        if word == "--degrade" and (not following or following.startswith("-")):
            yield "all"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME[,NAME]",
        help="Data sets, by name or path. Default: the run's own.",
        autocompletion=complete.data_set,
    ),
]
Rerank = Annotated[
    bool,
    typer.Option("--rerank", help="Re-rank as TextReID does: images that share neighbours with the query gain."),
]
Interval = Annotated[
    float | None,
    typer.Option(
        "--interval",
        metavar="[PERCENT]",
        help="Add a bootstrap interval over persons: how much the scores would vary with other test persons. "
        f"PERCENT is {USUAL_LEVEL} unless you give it.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write rank sheets: queries with their first ten images."),
]
SaveFeatures = Annotated[
    Path | None, typer.Option("--save-features", metavar="FILE", help="Write all embeddings to an .npz file.")
]
SaveRanks = Annotated[
    Path | None,
    typer.Option("--save-ranks", metavar="FILE", help="Write every query's ranks to a .csv or .json file."),
]
Probe = Annotated[
    bool,
    typer.Option(
        "--probe",
        help="Instead of ranks: how often a caption scores higher than the same with one thing changed (colours of "
        "two garments, a negation, a garment, left and right, a number).",
    ),
]
Degrade = Annotated[
    str | None,
    typer.Option(
        "--degrade",
        metavar="[NAME,NAME]",
        help="Instead of ranks: scores with ever worse images (resolution, jpeg, blur, night, occlusion, crop; all of "
        "them without names).",
    ),
]
Calibration = Annotated[
    bool,
    typer.Option(
        "--calibration",
        help="Instead of ranks: fit on val how likely a hit is right, keep it in the run for tbps search, and measure "
        "it on the split.",
    ),
]
Svg = Annotated[
    Path | None,
    typer.Option("--svg", metavar="FILE", help="Draw what --probe, --degrade or --calibration finds to an .svg file."),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, help="Of what --probe and --degrade draw at random. Default: 0."),
]
Attributes = Annotated[
    bool,
    typer.Option(
        "--attributes",
        help="Add R@1 by what a caption names: gender words, colours, bags, hats, each with an interval over persons.",
    ),
]
Style = Annotated[Format, typer.Option("--format", help="How the table is printed.")]


def command(
    ckpt: Ckpt = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Ranked = SplitName.test,
    rerank: Rerank = False,
    batch: BatchSize = None,
    interval: Interval = None,
    html: Html = None,
    save_features: SaveFeatures = None,
    save_ranks: SaveRanks = None,
    attributes: Attributes = False,
    probe: Probe = False,
    degrade: Degrade = None,
    calibration: Calibration = False,
    svg: Svg = None,
    seed: Seed = None,
    style: Style = Format.table,
    as_json: Json = False,
    plain: Plain = False,
    device: Device = "auto",
    sets: Sets = None,
    words: Words = None,
    workers: Workers = None,
) -> None:
    """Evaluate a run on a split: R@1, R@5, R@10, mAP and mINP, text to image and image to text."""
    from tbps_cli.cli import render, scores_view, stress
    from tbps_cli.places import cache_dir
    from tbps_cli.retrieval.evaluate import evaluate_all

    _check(as_json, attributes, style, interval, html, save_features, save_ranks)
    asked = stress.Asked(probe, degrade, calibration, svg, seed)
    others = {"--html": html, "--save-features": save_features, "--save-ranks": save_ranks}
    asked.check({"--rerank": rerank, "--attributes": attributes, **others}, style, split.value)
    opened: dict[str, Any] = {
        "data_root": data_root,
        "device": device,
        "sets": sets or (),
        "words": words,
        "batch": batch,
        "workers": workers,
    }
    if asked:
        stress.run(asked, ckpt, _names(data), split.value, level=interval, as_json=as_json, plain=plain, **opened)
        return
    evaluations = evaluate_all(
        ckpt,
        _names(data),
        split.value,
        rerank=rerank,
        cache_dir=cache_dir(),
        watch=lambda name: render.progress(f"Embedding {name} {split}"),
        **opened,
    )
    documents = [_document(evaluation, interval, attributes=attributes) for evaluation in evaluations]
    # Files first: whoever reads the output may leave early, or there may be no room for it.
    for number, evaluation in enumerate(evaluations, 1):
        mark = f"-{evaluation.data}-{number}" if len(evaluations) > 1 else ""
        _save(evaluation, mark, html, save_features, save_ranks)
    if as_json:
        render.document(documents if len(documents) > 1 else documents[0])
    else:
        scores_view.ranks(documents, "plain" if plain and style is Format.table else style)
        for document in documents if attributes else ():
            scores_view.attributes(document, plain=plain)
    for warning in dict.fromkeys(evaluation.warning for evaluation in evaluations if evaluation.warning):
        render.note(f"Warning: {warning}")


def _check(
    as_json: bool,
    attributes: bool,
    style: Format,
    level: float | None,
    html: Path | None,
    features: Path | None,
    ranks: Path | None,
) -> None:
    """Options that exclude each other, and files that cannot be written, before anything is opened."""
    from tbps_cli.errors import UsageError
    from tbps_cli.files import check_new_file
    from tbps_cli.retrieval.interval import check_level

    if as_json and style is not Format.table:
        raise UsageError(f"--json and --format {style} exclude each other.", "Leave one of them out.")
    if attributes and style is not Format.table:
        raise UsageError(f"--attributes and --format {style} exclude each other.", "For other programs: --json")
    if level is not None:
        check_level(level)
    check_new_file("--html", html, (".html", ".htm"))
    check_new_file("--save-features", features, (".npz",))
    check_new_file("--save-ranks", ranks, (".csv", ".json"))


def _document(evaluation: Evaluation, level: float | None, *, attributes: bool) -> dict[str, Any]:
    """An evaluation as JSON-able values, with what was asked for besides."""
    from tbps_cli.probing.attributes import by_attribute
    from tbps_cli.retrieval import interval

    document = evaluation.document()
    if level:
        document["interval"] = interval.of_evaluation(evaluation, level)
    if attributes:
        document["attributes"] = by_attribute(evaluation, level or interval.LEVEL).document()
    return document


def _names(data: str | None) -> list[str]:
    """The data sets of `--data A,B`, each once; none without the option."""
    from tbps_cli.errors import UsageError

    names = list(dict.fromkeys(name.strip() for name in (data or "").split(",") if name.strip()))
    if data is not None and not names:
        raise UsageError("--data: no data set is named.", "For example: --data cuhk-pedes,rstpreid")
    return names


def _save(evaluation: Evaluation, mark: str, html: Path | None, features: Path | None, ranks: Path | None) -> None:
    """Write the files that were asked for; `mark` keeps those of several data sets apart."""
    from tbps_cli.cli import output, render
    from tbps_cli.files import write_bytes
    from tbps_cli.retrieval import outputs
    from tbps_cli.searching.rank_sheet import of_evaluation
    from tbps_cli.searching.thumbnails import ThumbnailCache

    def place(path: Path) -> Path:
        return path.with_name(f"{path.stem}{mark}{path.suffix}")

    if features:
        outputs.save_features(evaluation, place(features))
    if ranks:
        outputs.save_ranks(evaluation, place(ranks))
    if html:
        with render.progress("Thumbnails") as progress:
            text = of_evaluation(evaluation, cache=ThumbnailCache(), progress=progress)
        write_bytes(place(html), text.encode("utf-8", "replace"))
    for path in (features, ranks, html):
        if path:
            output.stdout.written.append(str(place(path)))
            render.note(f"Written: {place(path)}")
