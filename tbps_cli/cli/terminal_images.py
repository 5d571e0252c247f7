"""The first hits as small images in the terminal, above their table.

Kitty's protocol and sixel show real images: `textual-image` asks the terminal what it can do and draws. Asking
disturbs a terminal that does not know the question, so only those are asked that the surroundings name as ones that
show images. Others show half blocks, and those only with `--images`. In a pipe there are never any.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tbps_cli.cli import output
from tbps_cli.cli.render import console, moving

if TYPE_CHECKING:
    from PIL import Image
    from rich.text import Text

COLUMNS, LINES = 10, 12
"""Of the terminal for one image: a person is 2.4 times as high as wide, a character twice."""
_SCALE = 16
"""Pixels across a character in what the terminal is given."""
_KNOWN = "kitty", "ghostty", "wezterm", "iterm", "foot", "contour"
"""Terminals that show images, by what stands in TERM or TERM_PROGRAM."""

Renderable = Callable[..., Any]


def chosen(wanted: bool | None) -> Renderable | None:
    """What draws an image here; None where none is to be seen.

    wanted: as stated by --images or --no-images; None: only where a terminal shows real images.
    """
    if wanted is False or not _a_terminal():
        return None
    if _known() and (real := _real()):
        return real
    blocks = wanted and not os.environ.get("NO_COLOR") and output.stdout.encoding.lower().startswith("utf")
    return _half_blocks if blocks else None


def _real() -> Renderable | None:
    """What draws real images on this terminal, which is asked when the package is imported; None for none."""
    logging.getLogger("textual_image").setLevel(logging.CRITICAL)  # it warns of terminals that do not answer
    from textual_image.renderable import Image as Best
    from textual_image.renderable import SixelImage, TGPImage

    return Best if Best in (SixelImage, TGPImage) else None


def _half_blocks(image: Image.Image, *, width: int, height: int) -> Text:
    """The image as characters, each with a pixel above (its colour) and one below (its background)."""
    from PIL.Image import Resampling
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    rows = np.asarray(image.resize((width, 2 * height), Resampling.BOX)).tolist()
    drawn = Text(no_wrap=True)
    for above, below in zip(rows[::2], rows[1::2], strict=True):
        for upper, lower in zip(above, below, strict=True):
            drawn.append("▀", Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower)))
        drawn.append("\n")
    drawn.right_crop(1)
    return drawn


def strip(images: Sequence[Image.Image], labels: Sequence[str], draw: Renderable) -> None:
    """The first images side by side, as many as the terminal has room for, each with a label below."""
    from rich.cells import set_cell_size

    screen = console()
    shown = images[: max(1, screen.width // (COLUMNS + 1))]
    screen.print(draw(_sheet(shown), width=len(shown) * (COLUMNS + 1), height=LINES))
    names = [set_cell_size(label, COLUMNS + 1) for label in labels[: len(shown)]]
    screen.print("".join(names).rstrip(), style="dim", markup=False, highlight=False)


def _sheet(images: Sequence[Image.Image]) -> Image.Image:
    """The images as one, each in a place of equal size; grey where one is narrower."""
    from PIL import Image, ImageOps

    width, height = COLUMNS * _SCALE, LINES * 2 * _SCALE
    made = Image.new("RGB", (len(images) * (COLUMNS + 1) * _SCALE, height), (24, 24, 24))
    for place, image in enumerate(images):
        fitted = ImageOps.contain(image, (width, height))
        left = place * (COLUMNS + 1) * _SCALE + (width - fitted.width) // 2
        made.paste(fitted, (left, (height - fitted.height) // 2))
    return made


def _a_terminal() -> bool:
    """Whether somebody sees what we print, and can be asked: what answers comes through standard input."""
    return output.stdout.isatty() and moving() and sys.stdin is not None and sys.stdin.isatty()


def _known() -> bool:
    """Whether the surroundings name a terminal that shows images; tmux and screen hide the one behind them."""
    term = os.environ.get("TERM", "").lower()
    if "TMUX" in os.environ or term.startswith(("screen", "tmux")):
        return False
    names = f"{term} {os.environ.get('TERM_PROGRAM', '').lower()}"
    return any(name in names for name in _KNOWN)
