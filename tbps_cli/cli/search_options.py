"""The options of `tbps search` that it alone has, in the groups of its help page."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.options import JSON
from tbps_cli.searching.orders import GroupedBy, SortedBy

SOUGHT, SEARCHED, HITS, OUTPUT = "What is searched for", "What is searched", "Which images are hits", "Output"


class AnswerForm(StrEnum):
    aicity = "aicity"


class SearchedSplit(StrEnum):
    train = "train"
    val = "val"
    test = "test"


Sentence = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="QUERY",
        help="What the person looks like, in a sentence; quotes are not needed. Sums: red coat + ./it.jpg - 0.8:bag.",
    ),
]
Places = Annotated[
    list[str] | None,
    typer.Option(
        "--in",
        metavar="SOURCE",
        help="A folder, a video, an image, a pattern, a list, an index, the name of a gallery or the URL of one in a "
        "database (docs/databases.md); repeatable. Default: the run's own test set.",
        rich_help_panel=SEARCHED,
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        "--top",
        "-t",
        metavar="N",
        min=1,
        help="How many images to show; 10, or what the sentence says.",
        rich_help_panel=HITS,
    ),
]
PlainQuery = Annotated[
    bool,
    typer.Option(
        "--plain-query",
        help="Take the sentence as it is: no cameras, times, counts or negations are read in it.",
        rich_help_panel=SOUGHT,
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        metavar="FILE",
        help="An image to search by, alone or with the sentence; repeatable.",
        rich_help_panel=SOUGHT,
    ),
]
WithSelf = Annotated[
    bool,
    typer.Option(
        "--with-self",
        help="With --image: let such images be among the hits.",
        rich_help_panel=SOUGHT,
    ),
]
Plus = Annotated[
    list[str] | None,
    typer.Option(
        "--plus",
        "--add",
        "-a",
        metavar="TERM",
        help="Add this to the query: a sentence or ./image.jpg, with a weight if it begins with one (0.5:TERM).",
        rich_help_panel=SOUGHT,
    ),
]
Minus = Annotated[
    list[str] | None,
    typer.Option(
        "--minus",
        "--subtract",
        "--sub",
        "-s",
        metavar="TERM",
        help="Steer away from this; as --plus, its weight is 0.5 unless it begins with one. Repeatable.",
        rich_help_panel=SOUGHT,
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="EXPR",
        help="Only images for which this is true, e.g. 'camera == \"c1\"'.",
        rich_help_panel=HITS,
    ),
]
MinScore = Annotated[
    float | None,
    typer.Option(
        "--min-score",
        metavar="X",
        help="Leave out images whose cosine similarity is lower.",
        rich_help_panel=HITS,
    ),
]
GroupBy = Annotated[
    GroupedBy | None,
    typer.Option(
        "--group",
        metavar="KIND",
        help="One hit for each person, track, source or set of near-duplicate images; --top counts them.",
        rich_help_panel=HITS,
    ),
]
PerGroup = Annotated[
    int,
    typer.Option(
        "--per-group",
        metavar="N",
        min=1,
        help="So many images of each group.",
        rich_help_panel=HITS,
    ),
]
SortBy = Annotated[
    SortedBy,
    typer.Option(
        "--sort",
        help="Show the best by their score, or in order of time.",
        rich_help_panel=HITS,
    ),
]
SureOption = Annotated[
    float | None,
    typer.Option(
        "--sure",
        metavar="P",
        help="Only the smallest set of images that holds the person with this probability, e.g. 0.9; or the finding "
        "that there is no confident match. Needs tbps eval --calibration once.",
        rich_help_panel=HITS,
    ),
]
Interactive = Annotated[
    bool,
    typer.Option(
        "--interactive",
        "-i",
        help="Type, see, refine: the model is loaded once; help lists the commands.",
        rich_help_panel=SOUGHT,
    ),
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Say of each hit which words of the sentence it supports, and in --json and --html where in the image.",
        rich_help_panel=OUTPUT,
    ),
]
Now = Annotated[
    bool,
    typer.Option(
        "--now",
        help="While images are embedded, show the best of those so far (on a terminal).",
        rich_help_panel=OUTPUT,
    ),
]
Queries = Annotated[
    Path | None,
    typer.Option(
        "--queries",
        metavar="FILE",
        help="Many queries at once: a text file with one a line, JSON, JSONL or CSV; - is standard input.",
        rich_help_panel=SOUGHT,
    ),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        help="Where the images of an index lie now, if they were moved.",
        rich_help_panel=SEARCHED,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help=JSON, rich_help_panel=OUTPUT)]
AsCsv = Annotated[
    bool,
    typer.Option(
        "--csv",
        help="Print the hits as CSV.",
        rich_help_panel=OUTPUT,
    ),
]
AnswerFormat = Annotated[
    AnswerForm | None,
    typer.Option(
        "--format",
        metavar="aicity",
        help="Print the hits in the form of a challenge: all tracks, ranked for each query.",
        rich_help_panel=OUTPUT,
    ),
]
AsPaths = Annotated[
    bool,
    typer.Option(
        "--paths",
        "-f",
        help="Print only the paths of the hits, one a line.",
        rich_help_panel=OUTPUT,
    ),
]
Null = Annotated[
    bool,
    typer.Option(
        "--null",
        "-0",
        help="Like --paths, but each path ends with a NUL byte, for xargs -0.",
        rich_help_panel=OUTPUT,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write the hits to a self-contained page with thumbnails.",
        rich_help_panel=OUTPUT,
    ),
]
CopyTo = Annotated[
    Path | None,
    typer.Option(
        "--copy-to",
        metavar="DIR",
        help="Copy the hits into a new folder; of videos and frames the crops.",
        rich_help_panel=OUTPUT,
    ),
]
WholeFrames = Annotated[
    bool,
    typer.Option(
        "--whole-frames",
        help="With --copy-to: copy the whole frames instead of crops.",
        rich_help_panel=OUTPUT,
    ),
]
BlurHeads = Annotated[
    bool,
    typer.Option(
        "--blur-heads",
        help="No heads in pages, copies and the terminal; see docs/responsible-use.md.",
        rich_help_panel=OUTPUT,
    ),
]
ShowImages = Annotated[
    bool | None,
    typer.Option(
        "--images/--no-images",
        help="Small images above the table. Default: in terminals known to show images; never in pipes.",
        rich_help_panel=OUTPUT,
    ),
]
Audit = Annotated[
    Path | None,
    typer.Option(
        "--audit",
        metavar="FILE",
        envvar="TBPS_AUDIT",
        help="Append who asked what, when, and the hits to this log; without its line there is no answer.",
        rich_help_panel=OUTPUT,
    ),
]
NoIndex = Annotated[
    bool,
    typer.Option(
        "--no-index",
        "--no-indexing",
        "-n",
        help="Search the index as it is: no look for new files.",
        rich_help_panel=SEARCHED,
    ),
]
Split = Annotated[
    SearchedSplit,
    typer.Option(
        "--split",
        help="Without --in: which split of the data set is searched.",
        rich_help_panel=SEARCHED,
    ),
]
