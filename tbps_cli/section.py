"""The base of every configuration section, and the number types that recipes use.

Sections are strict (no silent conversion), frozen and refuse unknown keys. They sit at the bottom
of the house because both methods and recipes declare some.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """One table of a recipe: strict types, frozen, unknown keys forbidden."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True)


Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1, le=8192)]
"""Side of an image that a model sees; a larger one is a slip, and no memory holds its tokens."""
ImageSize = tuple[Pixels, Pixels]
