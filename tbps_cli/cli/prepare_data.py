"""`tbps prepare-data`: bring a data set into place, or draw one, and look at every file of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli import complete
from tbps_cli.cli.options import DataRoot, Json
from tbps_cli.errors import UsageError

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="cuhk-pedes, icfg-pedes, rstpreid, synthetic, a pre-training set (docs/data.md lists them), or a path to "
        "your own pairs or folder.",
        autocompletion=complete.data_set,
    ),
]
Source = Annotated[
    Path | None,
    typer.Option(
        "--source",
        metavar="FILE-OR-DIR",
        help="What the authors sent you: an archive, a folder or the annotation file.",
    ),
]
Audit = Annotated[
    bool,
    typer.Option(
        "--audit",
        help="Also look for shared, broken and cut captions, for images or persons in two splits, and for images that "
        "are copies of others (saved again, resized, cropped).",
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="OTHER",
        help="With --audit: another data set, or a path; its images that this one has too are named.",
        autocompletion=complete.data_set,
    ),
]
Decode = Annotated[
    str | None,
    typer.Option(
        "--decode",
        metavar="HxW",
        help="Also store all images decoded at this height x width, e.g. 384x128, for training.",
    ),
]
Identities = Annotated[
    int | None, typer.Option("--identities", metavar="N", help="How many persons to draw (synthetic). Default: 1760.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Random seed of the drawing (synthetic). Default: 0.")
]


def command(
    name: Name,
    source: Source = None,
    data_root: DataRoot = None,
    audit: Audit = False,
    against: Against = None,
    decode: Decode = None,
    identities: Identities = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Check a data set, after unpacking or drawing it. If it is missing, explain how to request it."""
    from tbps_cli.cli import data_view, output, render
    from tbps_cli.places import data_root as root_of
    from tbps_cli.prepare.prepare import AbsentData, prepare

    try:
        report = prepare(
            name,
            root_of(data_root),
            source=source,
            audited=audit,
            against=against,
            decode=_size(decode),
            identities=identities,
            seed=seed,
            phase=render.progress,
        )
    except AbsentData as absent:
        if as_json:
            render.document({"data": absent.layout.name, "ok": False, "access": absent.access})
        else:
            for text in absent.access.split("\n"):
                render.line(text)
        raise
    output.stdout.written += [str(place) for place in (report.store, report.exclude, report.file) if place]
    if as_json:
        render.document(report.document())
    else:
        data_view.show(report)
    if report.broken:
        raise typer.Exit(1)


def _size(text: str | None) -> tuple[int, int] | None:
    """`384x128` -> (384, 128): height, then width."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX*](\d{1,5})", text.strip())
    if not match or not int(match[1]) or not int(match[2]):
        raise UsageError(f"--decode {text} is not a size.", "Height x width in pixels, for example --decode 384x128.")
    return int(match[1]), int(match[2])
