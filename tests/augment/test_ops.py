"""The pool of TBPS-CLIP with its numbers stated, against figures made by the published code."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tbps_cli.augment import ops as operations
from tbps_cli.augment.exact import (
    IMAGENET_EVAL,
    POOL_TRAIN,
    SIMCLR_TRAIN,
    Draws,
    EvalTransform,
    PoolOfTwo,
    augment,
    erased,
)

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "tbps_clip" / "preprocess.safetensors")
SIZE = (64, 48)
IMAGE = Image.fromarray(GOLDEN["source_uint8"].numpy())


@dataclass(frozen=True)
class Always:
    """A step without draws."""

    change: Any
    after_normalise = moves_only = False

    def __call__(self, pixel_CHW, draws):
        return self.change(pixel_CHW)


def pixels():
    resized = EvalTransform(SIZE, IMAGENET_EVAL["mean"], IMAGENET_EVAL["std"], "bilinear").pixels(IMAGE)
    return torch.from_numpy(resized.copy()).permute(2, 0, 1).float() / 255


def normalised(pixel_CHW):
    mean, std = (torch.tensor(IMAGENET_EVAL[key])[:, None, None] for key in ("mean", "std"))
    return (pixel_CHW - mean) / std


def erase(pixel_CHW):
    return erased(pixel_CHW, 16, 9, 21, 24, (0.0, 0.0, 0.0))


def jitter(pixel_CHW):
    return operations.saturation(operations.contrast(operations.brightness(pixel_CHW, 1.08), 0.93), 1.05)


CHANGES = {
    "none": lambda pixel: pixel,
    "hflip": lambda pixel: pixel.flip(-1),
    "grayscale": operations.grey,
    "jitter_bcs": jitter,
    "rotate_11p25": lambda pixel: operations.rotate(pixel, 11.25),
    "rotate_minus_7": lambda pixel: operations.rotate(pixel, -7.0),
    "resized_crop": lambda pixel: operations.resized_crop(pixel, (3, 2, 60, 43)),
    "erase": erase,
    "rotate_11p25_then_erase": lambda pixel: erase(operations.rotate(pixel, 11.25)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_operation_with_stated_numbers_equals_the_published_code(name):
    difference = (normalised(CHANGES[name](pixels())) - GOLDEN[f"pool.{name}"]).abs().max().item()
    assert difference <= 2e-6


def test_the_evaluation_transform_of_tbps_clip_equals_the_published_code():
    ours = torch.from_numpy(EvalTransform(SIZE, **IMAGENET_EVAL)(IMAGE))
    assert (ours - GOLDEN["eval"]).abs().max().item() == 0


def test_every_golden_operation_is_compared():
    assert {f"pool.{name}" for name in CHANGES} == {name for name in GOLDEN if name.startswith("pool.")}


@pytest.mark.parametrize("how", [POOL_TRAIN, SIMCLR_TRAIN])
def test_a_drawn_view_depends_on_its_draws_and_on_nothing_else(how):
    views = [augment(IMAGE, SIZE, how, Draws.of(1, 0, sample)) for sample in (3, 3, 4)]
    assert views[0].shape == (3, *SIZE)
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_the_pool_applies_two_operations_in_the_drawn_order(monkeypatch):
    names = [lambda pixel, draws, number=number: [*pixel, number] for number in range(6)]
    monkeypatch.setattr(operations, "POOL", names)
    drawn = [PoolOfTwo()([], Draws.of(0, 0, sample)) for sample in range(3000)]
    assert all(len(pair) == 2 for pair in drawn)
    assert abs(sum(first == second for first, second in drawn) / 3000 - 1 / 6) < 0.03
    assert all(abs(sum(pair.count(number) for pair in drawn) / 6000 - 1 / 6) < 0.02 for number in range(6))


def test_a_crop_that_never_fits_falls_back_to_the_largest_central_one():
    box = operations.crop_box(100, 10, Draws(0), (0.9, 1.0), (3 / 4, 4 / 3))
    assert box == (43, 0, 13, 10)


def test_hue_turned_by_a_third_makes_red_green():
    red = Image.new("RGB", (4, 4), (200, 30, 30))
    assert operations.shift_hue(red, 0.0).getpixel((0, 0)) == (200, 31, 31)  # PIL's own rounding
    turned = operations.shift_hue(red, 1 / 3).getpixel((0, 0))
    assert turned[1] > 190 and turned[0] < 40


def test_an_image_made_grey_by_the_pool_can_still_be_normalised():
    grey = replace(POOL_TRAIN, steps=(Always(operations.grey),))
    assert torch.equal(augment(IMAGE, SIZE, grey, Draws(0)), normalised(operations.grey(pixels())))


def test_crops_of_tall_images_are_tall_and_those_of_squares_as_published():
    assert operations.crop_ratio((224, 224)) == (3 / 4, 4 / 3)
    ratio = operations.crop_ratio((384, 128))
    assert ratio == pytest.approx((1 / 4, 4 / 9))
    boxes = [operations.crop_box(384, 128, Draws(seed), (0.9, 1.0), ratio) for seed in range(50)]
    assert len(set(boxes)) > 25
    assert all(rows * columns >= 0.89 * 384 * 128 for _, _, rows, columns in boxes)
