"""What clients send, checked by pydantic before anything is done with it.

Strings are sentences, never paths: an image is named by the id of a hit or of an upload.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tbps_cli.searching.orders import GroupedBy, SortedBy
from tbps_cli.serving import picture_ids

MOST_HITS = 1000
MOST_PARTS = 16
LONGEST = 2000
"""Characters of a sentence."""

Sentence = Annotated[str, Field(max_length=LONGEST)]
Name = Annotated[str, Field(max_length=300, pattern=r"^[^\x00]*$")]
Id = Annotated[str, Field(max_length=picture_ids.LONGEST, pattern=picture_ids.PATTERN)]


class ExportForm(StrEnum):
    """A table, a self-contained page, or the images themselves."""

    csv = "csv"
    html = "html"
    zip = "zip"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class QueryPart(_Strict):
    """One part of a query: a sentence, an image of the gallery (or a box of its frame), or an uploaded image."""

    text: Sentence | None = None
    picture: Id | None = Field(None, description="The id of a hit.")
    upload: Id | None = Field(None, description="The id that POST /v1/images gave.")
    box: tuple[int, int, int, int] | None = Field(
        None, description="x, y, width, height in pixels of the frame that the picture was seen in, or of the upload."
    )
    weight: float | None = Field(None, gt=0, lt=10, description="1 for plus, 0.5 for minus, unless stated.")

    @model_validator(mode="after")
    def _one_thing(self) -> QueryPart:
        if sum(value is not None for value in (self.text, self.picture, self.upload)) != 1:
            raise ValueError("a part has one of text, picture and upload")
        if self.box is not None and self.text is not None:
            raise ValueError("a box is a part of an image")
        if self.box is not None and (min(self.box[:2]) < 0 or min(self.box[2:]) < 1):
            raise ValueError("a box is x, y, width, height; the sides are 1 or more")
        if self.text is not None and not self.text.strip():
            raise ValueError("the text of a part is empty")
        return self


class SearchRequest(_Strict):
    """A search. Everything but `text` or `plus` may be left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "a woman in a red coat with a backpack", "top": 20},
                {"text": "a man in black", "minus": ["a hat"], "cameras": ["c1"], "since": "2026-01-05T08:00"},
                {"plus": [{"picture": "0.9f86d081884c7d65"}], "where": 'camera == "c2"', "group": "near-duplicate"},
            ]
        },
    )

    gallery: str | None = Field(None, max_length=200, description="Its name; the first if left out.")
    text: Sentence = ""
    plus: list[Sentence | QueryPart] = Field(default_factory=list, max_length=MOST_PARTS)
    minus: list[Sentence | QueryPart] = Field(default_factory=list, max_length=MOST_PARTS)
    where: str | None = Field(None, max_length=10_000, description="A filter, as --where takes it.")
    cameras: list[Annotated[str, Field(max_length=300, pattern=r"^[^\x00]*$")]] = Field(
        default_factory=list, max_length=500
    )
    since: str | None = Field(None, max_length=40, description="A day or moment: 2026-01-05T08:00.")
    until: str | None = Field(None, max_length=40, description="The same; the day or minute itself is in it.")
    group: GroupedBy | None = None
    per_group: int = Field(1, ge=1, le=100)
    sort: SortedBy = SortedBy.score
    sure: float | None = Field(None, gt=0, lt=1)
    min_score: float | None = Field(None, ge=-1, le=1)
    top: int | None = Field(None, ge=1, le=MOST_HITS)
    plain: bool = Field(False, description="Take the sentence as it is: no cameras, times or negations are read in it.")


class ExplainRequest(_Strict):
    """Which words of a sentence an image supports, and where."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"text": "a woman in a red coat", "picture": "0.9f86d081884c7d65"}]},
    )

    text: Annotated[str, Field(min_length=1, max_length=LONGEST)]
    picture: Id


class ExportRequest(_Strict):
    """Hits that somebody chose, as one file."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"form": "csv", "pictures": ["0.9f86d081884c7d65"], "title": "a red coat"}]},
    )

    form: ExportForm
    pictures: list[Id] = Field(min_length=1, max_length=MOST_HITS)
    title: Sentence = ""


class WatchRequest(_Strict):
    """A standing question."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "a man in a red coat with a suitcase"}]}
    )

    gallery: str | None = Field(None, max_length=200)
    text: Annotated[str, Field(min_length=1, max_length=LONGEST)]
