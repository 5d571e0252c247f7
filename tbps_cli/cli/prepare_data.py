"""`tbps prepare-data`: bring a data set into place, or draw one, and look at every file of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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
    int | None,
    typer.Option(
        "--identities", metavar="N", help="How many persons to draw (synthetic). Default: 1760; 30 with --street."
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", metavar="N", help="Random seed of the drawing (synthetic). Default: 0.")
]

IsStreet = Annotated[
    bool,
    typer.Option(
        "--street",
        help="With synthetic: draw a street instead, filmed by several cameras, as videos and frames with the truth "
        "about every person in them.",
    ),
]
Cameras = Annotated[
    int | None, typer.Option("--cameras", metavar="N", help="With --street: how many cameras, 1 to 6. Default: 3.")
]
Minutes = Annotated[
    float | None, typer.Option("--minutes", metavar="M", help="With --street: how long they film. Default: 1.")
]
Rate = Annotated[
    int | None, typer.Option("--rate", metavar="N", help="With --street: frames a second, 1 to 30. Default: 8.")
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="WxH", help="With --street: width x height of a frame. Default: 768x576."),
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
    street: IsStreet = False,
    cameras: Cameras = None,
    minutes: Minutes = None,
    size: Size = None,
    rate: Rate = None,
    as_json: Json = False,
) -> None:
    """Check a data set, after unpacking or drawing it. If it is missing, explain how to request it."""
    filmed = {"--cameras": cameras, "--minutes": minutes, "--size": size, "--rate": rate}
    if street:
        refused = {"--source": source, "--audit": audit or None, "--against": against, "--decode": decode}
        _refuse(refused, "{} does not go with --street.")
        _street(name, data_root, identities, seed, filmed, as_json)
        return
    _refuse(filmed, "{} goes with --street.")
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


def _refuse(options: Mapping[str, object], message: str) -> None:
    """Raise UsageError for the first option that is given."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(message.format(option), "The street: tbps prepare-data synthetic --street --cameras 2")


def _street(
    name: str,
    data_root: Path | None,
    persons: int | None,
    seed: int | None,
    filmed: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Draw the street and show what it holds."""
    from tbps_cli.cli import data_view, output, render
    from tbps_cli.data.open import find_layout
    from tbps_cli.places import data_root as root_of
    from tbps_cli.prepare.street import prepare_street

    layout = find_layout(name)
    if layout is None or layout.name != "synthetic":
        raise UsageError(f"--street does not go with {name}.", "It is for: tbps prepare-data synthetic --street")
    drawn = prepare_street(
        root_of(data_root),
        persons=persons,
        cameras=filmed["--cameras"],
        minutes=filmed["--minutes"],
        size=_frame_size(filmed["--size"]),
        rate=filmed["--rate"],
        seed=seed,
        phase=render.progress,
    )
    output.stdout.written.append(str(drawn.folder))
    if as_json:
        render.document(drawn.document())
    else:
        data_view.show_street(drawn)


def _frame_size(text: str | None) -> tuple[int, int] | None:
    """`768x576` -> (768, 576): width, then height, as sizes of videos are written."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX*](\d{1,5})", text.strip())
    if not match:
        raise UsageError(f"--size {text} is not a size.", "Width x height in pixels, for example --size 768x576.")
    return int(match[1]), int(match[2])


def _size(text: str | None) -> tuple[int, int] | None:
    """`384x128` -> (384, 128): height, then width."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX*](\d{1,5})", text.strip())
    if not match or not int(match[1]) or not int(match[2]):
        raise UsageError(f"--decode {text} is not a size.", "Height x width in pixels, for example --decode 384x128.")
    return int(match[1]), int(match[2])
