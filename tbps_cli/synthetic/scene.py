"""Where people walk: one wide image for each camera, with ground in perspective and passers-by.

A scene is painted once and cropped for every image, at the place where the person stands, so
that the ground, the horizon and the size of a person fit together. The ground is a plane: a row
below the horizon lies at a distance, and paving, grass or tiles are functions of the position on
that plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from tbps_cli.synthetic.figure import draw_figure, draw_stance
from tbps_cli.synthetic.person import RGB, stranger

Floats = NDArray[np.float32]

WIDTH, HEIGHT = 960, 620
FOCAL = 620.0
"""Of the lens, in pixels: what is one body height tall and d body heights away is FOCAL / d pixels tall."""


@dataclass(frozen=True)
class Scene:
    """A painted place. A person whose feet are on row y is `person_height(y)` pixels tall."""

    image: Image.Image
    horizon: float
    camera_height: float
    """Of the camera over the ground, in body heights."""

    def person_height(self, row: float) -> float:
        """Pixels from the feet on this row to the crown."""
        return (row - self.horizon) / self.camera_height


def paint_scene(
    kind: str, horizon: float, camera_height: float, rng: np.random.Generator, *, passers_by: bool = True
) -> Scene:
    """Paint a street, corridor, grass or plaza; `horizon` is the share of the height above it.

    passers_by: with other people who stand there for good.
    """
    row = horizon * HEIGHT
    ground: Floats = _GROUNDS[kind](*_plane(row, camera_height), rng)
    ground += rng.normal(0, 5, (HEIGHT, WIDTH, 1)).astype(np.float32) + _clouds(rng, 14, 9.0)
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    _BACKDROPS[kind](image, row, rng)
    scene = Scene(image, row, camera_height)
    if passers_by:
        _passers_by(scene, rng)
    return Scene(image.filter(ImageFilter.GaussianBlur(1.0)), row, camera_height)


def _plane(horizon: float, camera_height: float) -> tuple[Floats, Floats]:
    """(across, away) of every pixel on the ground, in body heights; nonsense above the horizon."""
    rows = np.arange(HEIGHT, dtype=np.float32)[:, None]
    columns = np.arange(WIDTH, dtype=np.float32)[None]
    away = FOCAL * camera_height / np.maximum(rows - horizon, 2.0)
    across = (columns - WIDTH / 2) * away / FOCAL
    return across.astype(np.float32), np.broadcast_to(away, across.shape).astype(np.float32)


def _clouds(rng: np.random.Generator, cells: int, strength: float) -> Floats:
    """Smooth noise over the whole image: stains, patches of light."""
    coarse = rng.normal(0, 1, (cells, cells * 2)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    return (np.asarray(smooth, np.float32) * np.float32(strength))[..., None]


def _grid(across: Floats, away: Floats, wide: float, deep: float, gap: float) -> tuple[Floats, Floats]:
    """(1 in the gaps between tiles, a number in 0..1 for each tile)."""
    column, line = np.floor(across / wide), np.floor(away / deep)
    fade = np.clip(6.0 / away, 0, 1)  # far tiles are smaller than a pixel
    seam = ((across / wide - column < gap / wide) | (away / deep - line < gap / deep)) * fade
    tile = np.modf(np.abs(np.sin(column * 12.9898 + line * 78.233) * 43758.55))[0] * fade
    return seam.astype(np.float32), tile.astype(np.float32)


def _street(across: Floats, away: Floats, rng: np.random.Generator) -> Floats:
    asphalt = np.full((*across.shape, 3), rng.uniform(88, 112), np.float32)
    seam, tile = _grid(across, away, 0.5, 0.5, 0.03)
    walk = (np.full_like(asphalt, 150) + (tile * 16 - 8)[..., None]) * (1 - 0.3 * seam[..., None])
    kerb = rng.uniform(-0.6, 0.2)
    floor = np.where((across > kerb)[..., None], walk, asphalt)
    line = (np.abs(across - kerb + 1.4) < 0.07) & (np.mod(away, 3.0) < 1.6)
    floor[line] = 205
    floor[np.abs(across - kerb) < 0.08] = 178
    return floor


def _corridor(across: Floats, away: Floats, rng: np.random.Generator) -> Floats:
    seam, tile = _grid(across, away, 0.35, 0.35, 0.012)
    tone = np.array(((176, 168, 152), (150, 158, 164), (168, 160, 166))[int(rng.integers(3))], np.float32)
    shine = 26 * np.exp(-((across / 0.7) ** 2))
    floor: Floats = tone * (1 - 0.25 * seam[..., None]) + (tile * 14 - 7 + shine)[..., None]
    return floor


def _grass(across: Floats, away: Floats, rng: np.random.Generator) -> Floats:
    tone = np.array((86, 118, 58), np.float32) * rng.uniform(0.85, 1.1)
    blades = rng.normal(0, 13, across.shape).astype(np.float32)
    lawn = tone + blades[..., None] + _clouds(rng, 22, 9.0)
    path = np.abs(across - 0.25 * np.sin(away * 0.5)) < 0.75
    gravel = np.array((172, 158, 132), np.float32) + (blades * 0.6)[..., None]
    return np.where(path[..., None], gravel, lawn)


def _plaza(across: Floats, away: Floats, rng: np.random.Generator) -> Floats:
    seam, tile = _grid(across, away, 0.6, 0.9, 0.025)
    light = np.array((186, 176, 164), np.float32)
    band = np.array((140, 112, 100), np.float32)
    floor = np.where((np.mod(across, 2.4) < 0.6)[..., None], band, light) * rng.uniform(0.85, 1.05)
    return floor * (1 - 0.3 * seam[..., None]) + (tile * 20 - 10)[..., None]


def _facade(draw: ImageDraw.ImageDraw, horizon: float, rng: np.random.Generator) -> None:
    """A row of houses with windows and shop fronts, their foot a little below the horizon."""
    left, foot = -40.0, horizon + 16
    while left < WIDTH:
        wide = float(rng.uniform(130, 260))
        tone = _tone(rng, 96, 190)
        draw.rectangle((left, -10, left + wide, foot), fill=tone)
        step = float(rng.uniform(34, 52))
        for top in np.arange(foot - 150, -60, -62):
            for x in np.arange(left + 12, left + wide - 26, step):
                pane = _tone(rng, 50, 120)
                draw.rectangle((x, top, x + step * 0.55, top + 40), fill=pane, outline=_tone(rng, 170, 220), width=2)
        draw.rectangle((left + 8, foot - 84, left + wide - 8, foot - 6), fill=_tone(rng, 40, 100))
        draw.rectangle((left + 4, foot - 98, left + wide - 4, foot - 84), fill=_vivid(rng))
        left += wide


def _behind_street(image: Image.Image, horizon: float, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    _facade(draw, horizon, rng)
    for _ in range(3):
        _car(draw, float(rng.uniform(0, WIDTH * 0.5)), horizon + float(rng.uniform(24, 60)), _vivid(rng))
    for _ in range(3):
        x = float(rng.uniform(0, WIDTH))
        draw.rectangle((x, 0, x + 7, horizon + 40), fill=_tone(rng, 50, 90))


def _car(draw: ImageDraw.ImageDraw, x: float, y: float, colour: RGB) -> None:
    draw.ellipse((x - 12, y - 8, x + 150, y + 9), fill=(58, 58, 60))
    draw.rounded_rectangle((x, y - 42, x + 140, y - 8), 12, fill=colour)
    draw.polygon([(x + 24, y - 40), (x + 44, y - 66), (x + 100, y - 66), (x + 122, y - 40)], fill=colour)
    draw.polygon([(x + 33, y - 42), (x + 48, y - 61), (x + 97, y - 61), (x + 113, y - 42)], fill=(64, 74, 84))
    for wheel in (26, 112):
        draw.ellipse((x + wheel - 14, y - 22, x + wheel + 14, y + 6), fill=(28, 28, 30))


def _behind_corridor(image: Image.Image, horizon: float, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    wall, end = _tone(rng, 176, 214), (WIDTH * 0.4, horizon - 60, WIDTH * 0.6, horizon + 34)
    shade: RGB = tuple(int(c * 0.86) for c in wall)  # type: ignore[assignment]
    draw.rectangle((0, 0, WIDTH, horizon), fill=(206, 206, 202))
    for flip in (0, 1):
        x0, x1 = (0.0, end[0]) if not flip else (float(WIDTH), end[2])
        draw.polygon([(x0, -240), (x1, end[1]), (x1, end[3]), (x0, horizon + 190)], fill=wall if flip else shade)
        for share in (0.12, 0.4, 0.62, 0.8):
            a, b = x0 + (x1 - x0) * share, x0 + (x1 - x0) * (share + 0.1)
            foot = [horizon + 190 + (end[3] - horizon - 190) * s for s in (share, share + 0.1)]
            top = [horizon - 250 + (end[1] + 20 - horizon + 250) * s for s in (share, share + 0.1)]
            draw.polygon([(a, foot[0]), (a, top[0]), (b, top[1]), (b, foot[1])], fill=_tone(rng, 90, 150))
        draw.line([(x0, horizon + 186), (x1, end[3])], fill=(96, 92, 88), width=5)
    draw.rectangle(end, fill=_tone(rng, 150, 230))
    for share in (0.0, 0.35, 0.62):
        y = (horizon - 240) * (1 - share) + end[1] * share
        half = 90 * (1 - share) + 10
        draw.polygon(
            [(WIDTH / 2 - half, y), (WIDTH / 2 + half, y), (WIDTH / 2 + half * 0.8, y + 14)], fill=(252, 252, 244)
        )


def _behind_grass(image: Image.Image, horizon: float, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, WIDTH, horizon - 20), fill=_tone(rng, 190, 220))
    for _ in range(70):
        x, r = float(rng.uniform(-30, WIDTH + 30)), float(rng.uniform(24, 70))
        y = horizon - r * float(rng.uniform(0.2, 2.6))
        green = float(rng.uniform(0.55, 1.1))
        draw.ellipse((x - r, y - r * 0.8, x + r, y + r * 0.8), fill=(int(62 * green), int(92 * green), int(46 * green)))
    for _ in range(6):
        x, y, w = float(rng.uniform(0, WIDTH)), horizon + float(rng.uniform(4, 60)), float(rng.uniform(7, 16))
        draw.polygon([(x, 0), (x + w, 0), (x + w * 1.2, y), (x - w * 0.2, y)], fill=_tone(rng, 58, 92))
    draw.rectangle((0, horizon - 4, WIDTH, horizon + 3), fill=(72, 96, 52))


def _behind_plaza(image: Image.Image, horizon: float, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, WIDTH, horizon), fill=(196, 208, 220))
    draw.rectangle((0, horizon - 170, WIDTH, horizon + 10), fill=_tone(rng, 150, 190))
    step = float(rng.uniform(80, 120))
    for x in np.arange(-20, WIDTH, step):
        draw.rectangle((x + 26, horizon - 140, x + step, horizon + 4), fill=_tone(rng, 70, 120))
        draw.rectangle((x, horizon - 150, x + 24, horizon + 12), fill=_tone(rng, 180, 210))
    for _ in range(3):
        x, y = float(rng.uniform(0, WIDTH)), horizon + float(rng.uniform(30, 90))
        draw.rectangle((x, y - 26, x + 70, y - 16), fill=_tone(rng, 100, 140))
        draw.rectangle((x + 6, y - 16, x + 14, y), fill=_tone(rng, 70, 100))
        draw.rectangle((x + 56, y - 16, x + 64, y), fill=_tone(rng, 70, 100))


def _tone(rng: np.random.Generator, low: int, high: int) -> RGB:
    """A greyish colour."""
    base = rng.integers(low, high) + rng.integers(-6, 7, 3)
    red, green, blue = (int(v) for v in base.clip(0, 255))
    return red, green, blue


def _vivid(rng: np.random.Generator) -> RGB:
    red, green, blue = (int(v) for v in rng.integers(40, 190, 3))
    return red, green, blue


def _passers_by(scene: Scene, rng: np.random.Generator) -> None:
    """Other people, from the farthest to the nearest; they are part of the place."""
    rows = np.sort(rng.uniform(scene.horizon + 50, HEIGHT * 0.7, 6))
    for row in rows:
        tall = scene.person_height(float(row))
        size = (round(tall * 0.6), round(tall * 1.25))
        foot = (size[0] / 2, size[1] * 0.95)
        figure = draw_figure(person := stranger(rng), draw_stance(person, rng), size, foot, tall, 0.1, 0.3, rng)
        figure = figure.filter(ImageFilter.GaussianBlur(1.5))
        x = float(rng.uniform(0, WIDTH))
        scene.image.paste(figure, (round(x - foot[0]), round(float(row) - foot[1])), figure)


_GROUNDS: dict[str, Callable[[Floats, Floats, np.random.Generator], Floats]] = {
    "street": _street,
    "corridor": _corridor,
    "grass": _grass,
    "plaza": _plaza,
}
_BACKDROPS: dict[str, Callable[[Image.Image, float, np.random.Generator], None]] = {
    "street": _behind_street,
    "corridor": _behind_corridor,
    "grass": _behind_grass,
    "plaza": _behind_plaza,
}
