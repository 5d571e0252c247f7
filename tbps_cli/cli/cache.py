"""`tbps cache`: what lies in the cache folder, and how to delete it."""

from __future__ import annotations

from typing import Annotated

import typer

from tbps_cli.cli.options import Json


def command(
    clean: Annotated[
        list[str] | None,
        typer.Option("--clean", metavar="KIND", help="Delete the caches of one kind, or `all` of them; repeatable."),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="With --clean: only entries not modified for DAYS."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the caches (features, indexes, downloads) with their sizes, and clean them."""
    from tbps_cli.caches import KINDS, cached, remove
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
    remove(gone)
    shown = gone if clean else found
    if as_json:
        render.document({"cache": str(root), "removed": bool(clean), "entries": [entry.document() for entry in shown]})
        return
    rows = [[entry.kind, entry.path, render.bytes_text(entry.size), f"{entry.age_days:.0f}"] for entry in shown]
    if rows:
        render.table(["kind", "file", "size", "days"], rows, right=["size", "days"])
    total = render.bytes_text(sum(entry.size for entry in shown))
    render.note(f"{'Removed' if clean else 'In'} {root}: {len(shown)} entries, {total}.")
