"""`tbps cache`: lists what is in the cache folder, and deletes it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbps_cli.amounts import amount
from tbps_cli.caches import KINDS
from tbps_cli.cli.options import Json

if TYPE_CHECKING:
    from tbps_cli.caches import Cached


def command(
    clean: Annotated[
        list[str] | None,
        typer.Option(
            "--clean",
            metavar="KIND",
            help=f"Delete the caches of one kind, or all of them; repeatable. Kinds: {', '.join(KINDS)}, all.",
        ),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="With --clean: only entries not modified for DAYS."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List cached features, indexes and downloads with the images and the model that they belong to, or delete them."""
    from tbps_cli.caches import cached, remove
    from tbps_cli.cli import render
    from tbps_cli.errors import UsageError
    from tbps_cli.places import cache_dir

    root = cache_dir()
    found = cached(root)
    if older_than is not None and not clean:
        raise UsageError("--older-than needs --clean KIND.", "For example: tbps cache --clean all --older-than 30")
    for kind in clean or ():
        if kind not in (*KINDS, "all"):
            raise UsageError(f"--clean {kind}: there is no such cache.", f"Kinds: {', '.join(KINDS)}, all.")

    wanted = KINDS if "all" in (clean or ()) else tuple(clean or ())
    gone = [entry for entry in found if entry.kind in wanted and entry.age_days >= (older_than or 0)]
    abouts = {entry.path: _about(entry.path) for entry in (gone if clean else found)}
    remove(gone)
    shown = gone if clean else found
    if as_json:
        entries = [entry.document() | abouts[entry.path] for entry in shown]
        render.document({"cache": str(root), "removed": bool(clean), "entries": entries})
        return
    rows = [_row(entry, abouts[entry.path]) for entry in shown]
    if rows:
        headings = ["kind", "size", "days", "images of", "made by", "file"]
        render.table(headings, rows, right=["size", "days"], optional=["file"])
    total = render.bytes_text(sum(entry.size for entry in shown))
    render.note(f"{'Removed' if clean else 'In'} {root}: {amount(len(shown), 'entry', 'entries')}, {total}.")


def _about(path: Path) -> dict[str, str | None]:
    """Which images a feature file is about, and which model made it; None for other files and damaged ones."""
    from tbps_cli.errors import CacheError

    about: dict[str, object] = {}
    if path.name.endswith((".h5", ".h5.parts", ".h5.codes")):
        from tbps_cli.features.snapshot import read_about

        with suppress(CacheError):
            about = read_about(path.with_name(path.name.removesuffix(".parts").removesuffix(".codes"))) or {}
    of, run = about.get("gallery") or about.get("folder"), about.get("run")
    return {"images_of": str(of) if of else None, "made_by": str(run) if run else None}


def _row(entry: Cached, about: dict[str, str | None]) -> list[object]:
    from tbps_cli.cli.render import bytes_text, short_path

    of, run = (short_path(about[name] or "") for name in ("images_of", "made_by"))
    return [entry.kind, bytes_text(entry.size), f"{entry.age_days:.0f}", of, run, entry.path.name]
