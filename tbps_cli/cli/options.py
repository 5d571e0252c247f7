"""Options that several commands share, each with its one wording.

A command takes them as annotated parameters, for example `ckpt: Ckpt = None`; those of all commands that make a gallery
as one, `made: GalleryOptions`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, get_type_hints

import typer

from tbps_cli.cli import complete
from tbps_cli.files import expanded

if TYPE_CHECKING:
    from tbps_cli.searching.index_state import IndexingGiven

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


@dataclass(frozen=True)
class GalleryOptions:
    """The options of every command that makes a gallery: how its images are found and embedded, by which model."""

    detect: Detect = None
    every: Every = None
    detector: Detector = None
    pattern: Pattern = None
    ckpt: Ckpt = None
    download: Download = False
    precision: ImagePrecision = Precision.auto
    data_root: DataRoot = None
    device: Device = "auto"
    sets: Sets = None
    words: Words = None
    workers: Workers = None

    @property
    def model(self) -> ModelGiven:
        """How the model is opened."""
        return {"data_root": self.data_root, "device": self.device, "sets": self.sets or (), "words": self.words}

    @property
    def indexing(self) -> IndexingGiven:
        """How images become rows. Raises UsageError for `--every` without a length of time."""
        from tbps_cli.amounts import seconds
        from tbps_cli.searching.index_state import FootageSettings

        every = None if self.every is None else seconds("--every", self.every)
        return {
            "footage": FootageSettings(self.detect, every, self.detector, self.pattern),
            "download": self.download,
            "precision": self.precision.value,
            "workers": self.workers,
        }


class ModelGiven(TypedDict):
    """What `models.open_model` and its like take by name."""

    data_root: Path | None
    device: str
    sets: Sequence[str]
    words: Path | None


def as_typed(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer takes it: groups of options spread out, and in every path the home folder for `~`.

    typer puts no home folder into `--out=~/x`, and knows no parameter that is a dataclass of options.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    spread = list(_spread(command, hints))

    @functools.wraps(command)
    def run(**options: Any) -> None:
        given = {name: expanded(value) if isinstance(value, Path) else value for name, value in options.items()}
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        command(**given)

    run.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in spread}
    return run


def _spread(command: Callable[..., None], hints: dict[str, Any]) -> Iterator[inspect.Parameter]:
    """The parameters of a command; in place of a group each option of it."""
    for name, one in inspect.signature(command).parameters.items():
        kind, keyword = hints[name], inspect.Parameter.KEYWORD_ONLY
        if not is_dataclass(kind):
            yield one.replace(annotation=kind, kind=keyword)
            continue
        inner = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            yield inspect.Parameter(field.name, keyword, default=field.default, annotation=inner[field.name])
