"""What names of files add to what is known of them: camera, time, person, by usual conventions or one's own pattern."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from tbps_cli.data.file_names import NOTHING_SAID, NameFacts, NamePattern, facts_of
from tbps_cli.searching.listed import FileFacts
from tbps_cli.searching.sources import Item

logger = logging.getLogger("tbps")


def with_names(items: Sequence[Item], pattern: NamePattern | None, title: str) -> list[Item]:
    """The items with what their names say; what a table says of a file counts more.

    An index asks it of new and changed files only, since a name says the same for ever (`IndexState.names_as_now`).

    pattern: one's own; names that do not fit it say nothing, and one line tells how many. title: of the gallery.
    """
    said = [(pattern.facts_of(_file_of(item)) if pattern else facts_of(_file_of(item))) for item in items]
    strange = [item for item, facts in zip(items, said, strict=True) if facts is None]
    if pattern and strange:
        logger.warning(
            "%s: %s of %s names do not fit --pattern %s, for example %s.",
            title,
            f"{len(strange):,}",
            f"{len(items):,}",
            pattern.text,
            strange[0].path,
        )
    return [_with(item, facts or NOTHING_SAID) for item, facts in zip(items, said, strict=True)]


def _with(item: Item, said: NameFacts) -> Item:
    if said == NOTHING_SAID:
        return item
    known = item.facts
    return replace(
        item,
        facts=FileFacts(
            said.camera if known.camera is None else known.camera,
            said.time if known.time is None else known.time,
            said.person if known.person is None else known.person,
            said.track if known.track is None else known.track,
            known.box,
        ),
    )


def _file_of(item: Item) -> str:
    """The path of a file without the part of it that is meant."""
    return item.path.rpartition("#xywh=")[0] if item.facts.box else item.path
