"""Heads and bystanders are gone from the pixels, not covered."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tbps_cli.searching.blur import CELLS, HEAD, SCENE_CELLS, without_head, without_strangers


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def colours(image: Image.Image, box: tuple[int, int, int, int]) -> int:
    """How many different pixels a region (left, top, right, bottom) has."""
    return len(np.unique(np.asarray(image.crop(box)).reshape(-1, 3), axis=0))


def test_the_upper_part_of_a_crop_becomes_a_few_cells_and_the_rest_stays() -> None:
    image = noise(64, 160)
    made = without_head(image)
    head = round(HEAD * 160)
    assert colours(made, (0, 0, 64, head)) <= CELLS * CELLS
    assert np.array_equal(np.asarray(made)[head:], np.asarray(image)[head:])


def test_two_heads_with_equal_means_cannot_be_told_apart() -> None:
    """What is left depends on the means of the cells alone: the pixels cannot be computed back."""
    image = np.asarray(noise(64, 160)).copy()
    turned = image.copy()
    cell = 64 // CELLS
    turned[:cell, :cell] = image[:cell, :cell][::-1, ::-1]
    assert not np.array_equal(image, turned)
    one, other = (np.asarray(without_head(Image.fromarray(pixels))) for pixels in (image, turned))
    assert np.array_equal(one, other)


def test_in_a_frame_only_the_bodies_of_those_who_were_found_are_left() -> None:
    image = noise(480, 270)
    made = without_strangers(image, [(100, 100, 40, 100), (460, 200, 60, 100)])
    assert colours(made, (0, 0, 480, 100)) <= SCENE_CELLS * SCENE_CELLS
    assert np.array_equal(np.asarray(made)[130:200, 100:140], np.asarray(image)[130:200, 100:140])
    assert colours(made, (100, 100, 140, 125)) <= CELLS * CELLS


def test_a_box_reaches_over_the_head_of_another_without_showing_it() -> None:
    made = without_strangers(noise(200, 200), [(50, 100, 40, 80), (40, 60, 80, 140)])
    assert colours(made, (50, 100, 90, 119)) <= CELLS * CELLS


def test_the_smallest_images_and_boxes_outside_are_no_trouble() -> None:
    assert without_head(noise(1, 1)).size == (1, 1)
    assert without_strangers(noise(20, 20), [(-5, -5, 3, 3), (30, 30, 5, 5), (0, 0, 0, 0)]).size == (20, 20)
