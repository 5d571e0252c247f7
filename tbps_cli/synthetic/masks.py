"""Which pixels of a drawn image show which garment: what a heat map or a description is compared with.

The renderer paints by colour, so the pixels of a garment are those that change when its colour alone does: the same
image is composed twice, with the garment black and with it white, from the same random draws, and compared. What lies
over a garment (an arm, a bag, a lamp post) is not counted as the garment.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from tbps_cli.synthetic.camera import Camera, Shot, Studio
from tbps_cli.synthetic.person import Person

Mask = NDArray[np.bool_]

_CHANGED = 48
"""Of 255: a pixel that differs by as much in a channel shows mostly the garment."""

_DYES = {
    "upper": ("upper_colour", "accent"),
    "inner": ("inner",),
    "lower": ("lower_colour",),
    "shoes": ("shoes_colour",),
    "bag": ("bag_colour",),
    "hat": ("hat_colour",),
    "hair": ("hair_colour",),
    "carried": ("carried_colour",),
}
_EXTREMES = {"hair": ("black", "blond")}


def garment_masks(
    studio: Studio, person: Person, camera: Camera, rng: np.random.Generator
) -> tuple[Shot, dict[str, Mask]]:
    """The image that `studio.take(person, camera, rng)` takes, and where in it each garment shows.

    The masks are bool arrays [height, width] of the image's size, by slot: `upper`, `inner` (the shirt under an open
    jacket), `lower`, `shoes`, `bag`, `hat`, `hair` and `carried` (umbrellas only), each only where the image has pixels
    of it. Afterwards `rng` stands where `take` would have left it.
    """
    masks = {}
    for slot in _slots(person):
        dark, light = (
            np.asarray(studio.compose(_dyed(person, slot, colour), camera, copy.deepcopy(rng))[0], np.int16)
            for colour in _EXTREMES.get(slot, ("black", "white"))
        )
        mask = np.asarray(np.abs(light - dark).max(2) >= _CHANGED)
        if mask.any():
            masks[slot] = mask
    return studio.take(person, camera, rng), masks


def _slots(person: Person) -> list[str]:
    """What of a person has a colour of its own that can be changed."""
    slots = [slot for slot in _DYES if getattr(person, slot) is not None]
    if person.hair == "bald":
        slots.remove("hair")
    if person.carried != "umbrella":
        slots = [slot for slot in slots if slot != "carried"]
    return slots


def _dyed(person: Person, slot: str, colour: str) -> Person:
    """`person` with everything of one slot in one colour; stripes and logos belong to their garment."""
    return Person(**{**vars(person), **{field: colour for field in _DYES[slot] if getattr(person, field) is not None}})
