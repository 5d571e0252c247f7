"""`tbps search --now`: the best hits so far, drawn again and again while the images are embedded.

A terminal alone can show that; elsewhere it is the search as it always is. What stays on the screen is the final
table, which `search_view` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tbps_cli.amounts import amount
from tbps_cli.cli import render, search_view

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from tbps_cli.searching.search import Search

_BESIDE = 5
"""Lines of the screen that are no hits: query, heading, how many images, the bar, and one to spare."""


class LiveView:
    """What is seen while images are embedded: `watch` and `early` of `search_all`."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._found: Search | None = None

    @contextmanager
    def watch(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """The bar, and the hits above it, until the images are embedded."""
        title, listing = f"Embedding {name}", f"Listing {name}"
        if not render.moving():
            with render.progress(title, "images", listing=listing) as told:
                yield told
            return
        from rich.console import Group
        from rich.live import Live

        bar, told = render.progress_bar(title, "images", listing=listing)

        def drawn() -> RenderableType:
            return Group(*self._hits(), bar)

        screen = render.console(stderr=True)
        with Live(get_renderable=drawn, console=screen, transient=True, refresh_per_second=4) as self._live:
            yield told
        self._live = None

    def early(self, found: Search) -> None:
        """Show these hits from now on."""
        self._found = found
        if self._live is not None:
            self._live.refresh()

    def _hits(self) -> Iterator[RenderableType]:
        from rich.text import Text

        if self._found is None:
            return
        answer, gallery = self._found.answers[0], self._found.gallery
        screen = render.console(stderr=True)
        yield Text(render.shortened(answer.question, screen.width), style="bold")
        if answer.hits:
            yield search_view.hit_table(answer, max(1, screen.height - _BESIDE))
        yield Text(f"the best of {amount(len(gallery), 'image')} so far", style="dim")
