"""`tbps serve`: a page and an API to search with, for whoever never opens a terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tbps_cli.amounts import amount
from tbps_cli.cli.options import GalleryOptions
from tbps_cli.cli.search_options import Audit, BlurHeads, NoIndex, Root

if TYPE_CHECKING:
    from tbps_cli.serving.service import Service

NETWORK = "Network"


def command(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folders, videos, images, patterns or lists, together one gallery; an index file; or the URL of a "
            "database.",
        ),
    ] = None,
    gallery: Annotated[
        list[str] | None,
        typer.Option(
            "--gallery", metavar="NAME", help="A gallery made by tbps index --gallery NAME or URL; repeatable."
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Where to listen. Any other than this machine's own address needs a token: one is made.",
            rich_help_panel=NETWORK,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", metavar="N", min=0, max=65535, help="0: any that is free.", rich_help_panel=NETWORK),
    ] = 8080,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TEXT",
            envvar="TBPS_TOKEN",
            help="Who asks must know it. Better in the variable, which other users of the machine cannot see.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="HOST",
            help="A name under which the server is reached, as behind a reverse proxy; repeatable.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    origins: Annotated[
        list[str] | None,
        typer.Option(
            "--origin",
            metavar="ORIGIN",
            help="A page elsewhere that may ask (CORS), such as https://intranet.example.org; repeatable.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            "--rate", metavar="N", min=1, help="Requests a second from one other machine.", rich_help_panel=NETWORK
        ),
    ] = 50.0,
    budget: Annotated[
        str,
        typer.Option("--budget", metavar="N/TIME", help="How many alerts may come of the standing questions."),
    ] = "5/day",
    no_index: NoIndex = False,
    root: Root = None,
    blur_heads: BlurHeads = False,
    audit: Audit = None,
    *,
    made: GalleryOptions,
) -> None:
    """Open a page to search with, and an API; images are embedded meanwhile."""
    from tbps_cli.cli import consent
    from tbps_cli.databases.urls import shown_place
    from tbps_cli.errors import MissingExtra
    from tbps_cli.searching.audit import AuditLog

    try:
        from tbps_cli.serving.served import Settings
        from tbps_cli.serving.server import Address, Given, serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client", "starlette"):
            raise
        raise MissingExtra(str(error.name), "serve", "tbps serve") from None
    given = Given(sources or (), gallery or ())
    address = Address(host, port, token, names or (), rate, origins or ())
    settings = Settings(**made.indexing, refresh=not no_index, root=root)

    def run(chosen: Path | str | None) -> None:
        serve(
            chosen,
            given,
            address,
            settings=settings,
            budget=budget,
            audit=AuditLog(audit) if audit else None,
            blur=blur_heads,
            **made.model,
            ready=_told(host),
        )

    consent.with_weights(
        run, made.ckpt, ["tbps", "serve", *map(shown_place, sources or ["DIR"])], download=made.download
    )


def _told(host: str) -> Callable[[str, Service], None]:
    """What says where the page is."""

    def told(url: str, service: Service) -> None:
        from tbps_cli.cli import output, render

        names = ", ".join(served.name for served in service.galleries)
        render.line(f"tbps serves {names}: {url}")
        if "?token=" in url:
            render.note("Whoever knows this address may search. Without TLS others on the network can read it:")
            render.note("see docs/serving.md for a reverse proxy.")
        waiting = [served for served in service.galleries if served.view is None]
        if waiting:
            render.note(f"{amount(len(waiting), 'gallery is', 'galleries are')} being opened; the page says how far.")
        render.note("Stop with Ctrl-C.")
        output.stdout.flush()

    return told
