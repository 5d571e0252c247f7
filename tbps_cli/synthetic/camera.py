"""Through which lens: eight cameras that differ in place, light, height, sharpness and size.

`Studio` keeps the painted scenes of one seed and takes images: it chooses where the person
stands, crops the scene there, lays the shadow, the figure and at times something in front of it,
and degrades the crop as the camera does. What was hidden is returned, so that no caption names it.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tbps_cli.synthetic.figure import Stance, draw_figure, draw_stance
from tbps_cli.synthetic.person import Person, stranger
from tbps_cli.synthetic.scene import HEIGHT, WIDTH, Scene, paint_scene


@dataclass(frozen=True)
class Camera:
    """One camera. Gains multiply red, green, blue; heights are of the saved crops, in pixels."""

    name: str
    place: str
    gains: tuple[float, float, float]
    contrast: float
    blur: float
    noise: float
    quality: int
    heights: tuple[int, int]
    horizon: float
    """Share of the scene above the horizon."""
    raised: float
    """Height of the camera over the ground, in body heights."""
    light: float
    """-1: light from the left, 1: from the right."""
    shadow: float


CAMERAS = (
    Camera("a", "street", (1.0, 1.0, 0.98), 1.0, 0.0, 3.0, 90, (220, 280), 0.34, 1.25, 0.7, 0.5),
    Camera("b", "street", (0.93, 0.97, 1.06), 0.9, 0.7, 4.5, 70, (165, 230), 0.28, 1.7, -0.6, 0.3),
    Camera("c", "corridor", (1.06, 1.0, 0.88), 0.95, 0.4, 4.0, 82, (200, 270), 0.36, 1.2, 0.2, 0.25),
    Camera("d", "corridor", (0.82, 0.84, 0.88), 0.9, 0.6, 5.5, 74, (170, 240), 0.24, 1.9, -0.3, 0.2),
    Camera("e", "grass", (1.02, 1.03, 0.92), 1.05, 0.2, 3.0, 86, (200, 280), 0.38, 1.05, 0.8, 0.55),
    Camera("f", "grass", (0.9, 0.93, 0.95), 0.92, 0.8, 4.0, 66, (160, 220), 0.3, 1.5, -0.8, 0.3),
    Camera("g", "plaza", (1.07, 1.05, 1.02), 1.06, 0.1, 3.0, 88, (210, 280), 0.35, 1.3, -0.7, 0.6),
    Camera("h", "plaza", (0.96, 0.9, 0.84), 0.94, 0.5, 5.0, 76, (180, 250), 0.22, 2.1, 0.5, 0.35),
)

LOWEST, TALLEST = (60, 160), (110, 280)
"""Smallest and largest (width, height) of a saved image."""

_SPRITES = 10


@dataclass(frozen=True)
class Shot:
    """One image taken: the encoded file, how the person stood, and what was hidden."""

    jpeg: bytes
    size: tuple[int, int]
    stance: Stance
    hidden: frozenset[str]
    """Any of "shoes", "lower"."""


class Studio:
    """The scenes of one seed, painted when first needed (equal in every process)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._scenes: dict[str, Scene] = {}
        self._sprites: list[Image.Image] = []

    def take(self, person: Person, camera: Camera, rng: np.random.Generator) -> Shot:
        """Take an image of `person`; everything random comes from `rng`."""
        crop, stance, hidden = self.compose(person, camera, rng)
        return Shot(_develop(crop, camera, rng), crop.size, stance, hidden)

    def compose(
        self, person: Person, camera: Camera, rng: np.random.Generator
    ) -> tuple[Image.Image, Stance, frozenset[str]]:
        """(what lies before the lens, how the person stands, what is hidden): an image without the camera's faults."""
        stance = draw_stance(person, rng)
        crop, size, feet, tall = self._place(person, stance, camera, rng)
        elevation = looking_down(camera)
        light = camera.light + float(rng.normal(0, 0.1))
        cast_shadow(crop, feet, tall, camera, light)
        figure = draw_figure(person, stance, size, feet, tall, elevation, light, rng)
        crop.paste(figure, (0, 0), figure)
        return crop, stance, self._occlude(crop, feet, tall, rng)

    def _scene(self, camera: Camera) -> Scene:
        if camera.name not in self._scenes:
            rng = np.random.default_rng((self._seed, 2**31, ord(camera.name)))
            self._scenes[camera.name] = paint_scene(camera.place, camera.horizon, camera.raised, rng)
        return self._scenes[camera.name]

    def _place(
        self, person: Person, stance: Stance, camera: Camera, rng: np.random.Generator
    ) -> tuple[Image.Image, tuple[int, int], tuple[float, float], float]:
        """(background, its size, where the feet are, height of the body), all in pixels of the crop."""
        high = int(rng.integers(camera.heights[0], camera.heights[1] + 1))
        wide = round(high * float(rng.uniform(0.37, 0.44)))
        wide = max(LOWEST[0], min(TALLEST[0], wide))
        umbrella = stance.holds and person.carried == "umbrella"
        tall = high * float(rng.uniform(0.76, 0.8) if umbrella else rng.uniform(0.86, 0.93))
        feet = (wide * (0.5 + float(rng.normal(0, 0.025))), high * float(rng.uniform(0.955, 0.985)))
        scene = self._scene(camera)
        lowest = min(scene.horizon + 330 * camera.raised, HEIGHT - 8.0)
        row = float(rng.uniform(scene.horizon + 150 * camera.raised, lowest))
        zoom = scene.person_height(row) / tall
        left = float(rng.uniform(0, WIDTH - wide * zoom))
        top = row - feet[1] * zoom
        box = (left, max(0.0, top), left + wide * zoom, min(float(HEIGHT), top + high * zoom))
        crop = scene.image.resize((wide, high), Image.Resampling.BILINEAR, box=box)
        return crop, (wide, high), feet, tall

    def _occlude(
        self, crop: Image.Image, feet: tuple[float, float], tall: float, rng: np.random.Generator
    ) -> frozenset[str]:
        """Put something in front, in a quarter of the images; returns what it hides."""
        kind = float(rng.random())
        if kind < 0.08:
            _pole(crop, rng)
        elif kind < 0.16:
            self._other(crop, feet, tall, rng)
        elif kind < 0.24:
            _low(crop, feet, tall, rng)
            return frozenset({"shoes"})
        return frozenset()

    def _other(self, crop: Image.Image, feet: tuple[float, float], tall: float, rng: np.random.Generator) -> None:
        """Somebody nearer to the camera, cut by the edge of the crop."""
        if not self._sprites:
            self._sprites = [_sprite(self._seed, k) for k in range(_SPRITES)]
        sprite = self._sprites[int(rng.integers(_SPRITES))]
        scale = tall * float(rng.uniform(1.05, 1.2)) / 200
        sprite = sprite.resize((round(sprite.width * scale), round(sprite.height * scale)), Image.Resampling.BILINEAR)
        side = float(rng.choice((-1, 1)))
        x = feet[0] + side * tall * float(rng.uniform(0.25, 0.3))
        y = feet[1] + tall * 0.06 - sprite.height * 0.95
        crop.paste(sprite, (round(x - sprite.width / 2), round(y)), sprite)


def _sprite(seed: int, number: int) -> Image.Image:
    rng = np.random.default_rng((seed, 2**31 + 1, number))
    person = stranger(rng)
    return draw_figure(person, draw_stance(person, rng), (120, 250), (60, 237.5), 200, 0.1, 0.3, rng)


def looking_down(camera: Camera) -> float:
    """By how much the camera looks down on people, in radians; less than it truly would, so that faces stay visible."""
    return 0.55 * math.atan2(camera.raised - 0.5, 4.0)


def cast_shadow(crop: Image.Image, feet: tuple[float, float], tall: float, camera: Camera, light: float) -> None:
    """Darken the ground under the feet and away from the light."""
    shade = Image.new("L", crop.size)
    draw = ImageDraw.Draw(shade)
    (x, y), depth = feet, round(255 * camera.shadow)
    draw.ellipse((x - 0.15 * tall, y - 0.035 * tall, x + 0.15 * tall, y + 0.025 * tall), fill=depth)
    away = -light * 0.5 * tall
    draw.polygon(
        [
            (x - 0.07 * tall, y),
            (x + 0.07 * tall, y),
            (x + away + 0.05 * tall, y - 0.16 * tall),
            (x + away, y - 0.17 * tall),
        ],
        fill=round(depth * 0.8),
    )
    crop.paste((26, 28, 34), (0, 0), shade.filter(ImageFilter.BoxBlur(tall * 0.014)))


def _pole(crop: Image.Image, rng: np.random.Generator) -> None:
    """A lamp post, or the edge of a wall, beside the middle."""
    wide = crop.width * float(rng.uniform(0.06, 0.11))
    x = crop.width * float(rng.choice((0.2, 0.74))) + float(rng.uniform(-4, 4))
    tone = float(rng.uniform(60, 130))
    draw = ImageDraw.Draw(crop)
    for k in range(6):
        shine = round(tone * (0.75 + 0.45 * math.sin(math.pi * (k + 0.5) / 6)))
        draw.rectangle((x + wide * k / 6, 0, x + wide * (k + 1) / 6, crop.height), fill=(shine, shine, shine + 4))


def _low(crop: Image.Image, feet: tuple[float, float], tall: float, rng: np.random.Generator) -> None:
    """A hedge or a low wall that hides the feet."""
    top = feet[1] - tall * float(rng.uniform(0.09, 0.16))
    draw = ImageDraw.Draw(crop)
    if rng.random() < 0.5:
        tone = int(rng.integers(90, 160))
        draw.rectangle((0, top, crop.width, crop.height), fill=(tone, tone - 4, tone - 10))
        draw.rectangle((0, top, crop.width, top + 4), fill=(tone + 40, tone + 38, tone + 32))
        return
    draw.rectangle((0, top + 6, crop.width, crop.height), fill=(44, 70, 34))
    for x, y, green in rng.uniform((0, 0, 0.6), (crop.width, 1, 1.4), (70, 3)).tolist():
        at, r = top + y**2 * (crop.height - top), 5
        draw.ellipse((x - r, at - r, x + r, at + r), fill=(int(52 * green), int(84 * green), int(38 * green)))


def _develop(crop: Image.Image, camera: Camera, rng: np.random.Generator) -> bytes:
    """Blur, exposure, tint, contrast, sensor noise and JPEG."""
    blur = camera.blur * float(rng.uniform(0.6, 1.4)) + 0.25
    values = np.asarray(crop.filter(ImageFilter.GaussianBlur(blur)), np.float32)
    gains = np.asarray(camera.gains, np.float32) * np.float32(rng.uniform(0.9, 1.08)) * camera.contrast
    slope = np.linspace(-1, 1, crop.height, dtype=np.float32)[:, None, None] * np.float32(rng.uniform(-9, 9))
    grain = rng.standard_normal((crop.height, crop.width, 1), np.float32) * np.float32(camera.noise)
    values = values * gains + np.float32(118 * (1 - camera.contrast)) + slope + grain
    file = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=camera.quality, subsampling=2)
    return file.getvalue()
