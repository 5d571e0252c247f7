"""Options that several commands share, each with its one wording.

A command takes them as annotated parameters, for example `ckpt: Ckpt = None`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tbps_cli.cli import complete
from tbps_cli.files import expanded

if TYPE_CHECKING:
    from tbps_cli.searching.index_state import FootageSettings

MODEL, VIDEOS = "Model and machine", "Persons in videos and whole frames"
"""Groups of options on the help pages of the commands that have many."""


class SplitName(StrEnum):
    val = "val"
    test = "test"


class Precision(StrEnum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    int8 = "int8"


Ckpt = Annotated[
    Path | None,
    typer.Option(
        "--ckpt",
        metavar="RUN-OR-NAME",
        autocompletion=complete.run,
        help="A run folder, an official checkpoint (file, folder or hf-hub:OWNER/REPO[@REV][:FILE]) or a name of "
        "open_clip's catalogue (ViT-B-16/openai). Default: the newest run in ./runs.",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps.",
        rich_help_panel=MODEL,
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the recipe, e.g. train.epochs=30; repeatable.",
        rich_help_panel=MODEL,
    ),
]
Words = Annotated[
    Path | None,
    typer.Option(
        "--words",
        metavar="FILE",
        help="The word table of a method that has its own vocabulary (TextReID).",
        rich_help_panel=MODEL,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        envvar="TBPS_DATA_ROOT",
        help="The folder that holds the data sets. Default: ./data.",
        rich_help_panel=MODEL,
    ),
]
JSON = "Print one JSON document instead of tables."
Json = Annotated[bool, typer.Option("--json", help=JSON)]
Plain = Annotated[bool, typer.Option("--plain", help="Print a plain table without colour or boxes.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=0,
        help="How many processes read images. Default: chosen for this machine.",
        rich_help_panel=MODEL,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="N",
        min=1,
        help="How many images or captions are embedded at a time.",
        rich_help_panel=MODEL,
    ),
]
Detect = Annotated[
    bool | None,
    typer.Option(
        "--detect/--no-detect",
        help="Images are whole frames: find the persons in them. Of videos that is always done; --no-detect leaves "
        "videos out. Default: as the index remembers it.",
        rich_help_panel=VIDEOS,
    ),
]
Every = Annotated[
    str | None,
    typer.Option(
        "--every",
        metavar="TIME",
        help="How far apart the frames of a video are that are looked at. [1s]",
        rich_help_panel=VIDEOS,
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(
        "--detector",
        metavar="NAME-OR-FILE",
        help="What finds persons. Default: the best one that is at hand.",
        rich_help_panel=VIDEOS,
    ),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        metavar="P",
        help="How names of files tell camera and time, e.g. '{camera}_{time:%Y%m%d-%H%M%S}'. Usual ones are known.",
        rich_help_panel=VIDEOS,
    ),
]
Download = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Agree that weights which are not there yet are fetched.",
        rich_help_panel=MODEL,
    ),
]
ImagePrecision = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="Of embedding images. auto: as the index was begun; a new one in the fastest way that agrees with fp32.",
        rich_help_panel=MODEL,
    ),
]
Ranked = Annotated[SplitName, typer.Option("--split", help="Which split is ranked.")]


def footage_settings(
    detect: bool | None, every: str | None, detector: str | None, pattern: str | None
) -> FootageSettings:
    """What the options of the group "Persons in videos and whole frames" say."""
    from tbps_cli.amounts import seconds
    from tbps_cli.searching.index_state import FootageSettings

    return FootageSettings(detect, None if every is None else seconds("--every", every), detector, pattern)


def with_home_folders(command: Callable[..., None]) -> Callable[..., None]:
    """The same command; every path it is given has the home folder for `~`, also in `--out=~/x`."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        command(**{name: expanded(value) if isinstance(value, Path) else value for name, value in options.items()})

    return run
