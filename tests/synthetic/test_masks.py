"""Garment masks: the pixels of each garment, and no others."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tbps_cli.synthetic.camera import CAMERAS, Studio
from tbps_cli.synthetic.masks import Mask, garment_masks
from tbps_cli.synthetic.person import Person


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(0)


PERSON = Person(
    gender="man", hair="short", hair_colour="black", upper="hoodie", upper_colour="red", pattern="plain", accent=None,
    inner=None, lower="trousers", lower_colour="green", shoes="boots", shoes_colour="blue", bag=None, bag_colour=None,
    hat=None, hat_colour=None, carried=None, carried_colour=None, glasses=False,
)  # fmt: skip


def _shown(studio: Studio, person: Person, seed: int) -> tuple[np.ndarray, dict[str, Mask]]:
    shot, masks = garment_masks(studio, person, CAMERAS[0], np.random.default_rng(seed))
    return np.asarray(Image.open(io.BytesIO(shot.jpeg)), np.float64), masks


def test_masks_belong_to_the_image_that_take_gives(studio: Studio) -> None:
    shot, masks = garment_masks(studio, PERSON, CAMERAS[0], np.random.default_rng(5))
    assert shot.jpeg == studio.take(PERSON, CAMERAS[0], np.random.default_rng(5)).jpeg
    assert {mask.shape for mask in masks.values()} == {(shot.size[1], shot.size[0])}


def test_the_pixels_of_each_garment_have_its_colour(studio: Studio) -> None:
    for seed in range(6):
        image, masks = _shown(studio, PERSON, seed)
        for slot, channel in (("upper", 0), ("lower", 1), ("shoes", 2)):
            if slot in masks and masks[slot].sum() > 30:
                mean = image[masks[slot]].mean(0)
                assert mean.argmax() == channel, f"seed {seed}: the {slot} is {mean.round()} on average"


def test_no_pixel_belongs_to_two_garments_and_the_order_is_that_of_a_body(studio: Studio) -> None:
    for seed in range(6):
        _, masks = _shown(studio, PERSON, seed)
        both = masks["upper"] & masks["lower"]
        assert both.sum() <= 0.03 * masks["upper"].sum(), f"seed {seed}: {both.sum()} pixels are in both"
        assert (
            masks["hair"].nonzero()[0].mean() < masks["upper"].nonzero()[0].mean() < masks["lower"].nonzero()[0].mean()
        )


def test_what_is_not_worn_has_no_mask(studio: Studio) -> None:
    _, masks = _shown(studio, PERSON, 1)
    assert set(masks) <= {"upper", "lower", "shoes", "hair"}


def test_stripes_belong_to_the_garment(studio: Studio) -> None:
    striped = Person(**{**vars(PERSON), "pattern": "striped", "accent": "white"})
    plain, with_stripes = (_shown(studio, person, 2)[1]["upper"] for person in (PERSON, striped))
    assert abs(int(plain.sum()) - int(with_stripes.sum())) <= 0.02 * plain.sum()
