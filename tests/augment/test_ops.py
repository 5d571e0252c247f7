"""Each operation on pixels with its numbers stated: against figures of the published code, and against plain loops."""

import colorsys
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tbps_cli.augment import ops
from tbps_cli.augment.batched import OPERATIONS
from tbps_cli.augment.exact import POOL_TRAIN, SIMCLR_TRAIN, PoolOfTwo, augment, crop_box, crop_ratio, shift_hue
from tbps_cli.augment.plans import Kind
from tbps_cli.augment.rng import Draws
from tbps_cli.augment.transform import IMAGENET_EVAL, EvalTransform

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "tbps_clip" / "preprocess.safetensors")
SIZE = (64, 48)
IMAGE = Image.fromarray(GOLDEN["source_uint8"].numpy())


# The published code -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Always:
    """A step without draws."""

    change: Any
    after_normalise = moves_only = False

    def __call__(self, pixel_BCHW, draws):
        return self.change(pixel_BCHW)


def pixels():
    resized = EvalTransform(SIZE, IMAGENET_EVAL["mean"], IMAGENET_EVAL["std"], "bilinear").pixels(IMAGE)
    return torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float() / 255


def normalised(pixel_BCHW):
    mean, std = (torch.tensor(IMAGENET_EVAL[key])[:, None, None] for key in ("mean", "std"))
    return ((pixel_BCHW - mean) / std)[0]


def erase(pixel_BCHW):
    return ops.erase_(pixel_BCHW, 16, 9, 21, 24)


def jitter(pixel_BCHW):
    return ops.saturation(ops.contrast(ops.brightness(pixel_BCHW, 1.08), 0.93), 1.05)


CHANGES = {
    "none": lambda pixel: pixel,
    "hflip": ops.flip,
    "grayscale": ops.grey,
    "jitter_bcs": jitter,
    "rotate_11p25": lambda pixel: ops.rotate(pixel, 11.25),
    "rotate_minus_7": lambda pixel: ops.rotate(pixel, -7.0),
    "resized_crop": lambda pixel: ops.resized_crop(pixel, 3, 2, 60, 43),
    "erase": erase,
    "rotate_11p25_then_erase": lambda pixel: erase(ops.rotate(pixel, 11.25)),
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
    """Each operation writes its number down; both are compared with what the draws say."""
    named = {"_jittered": 0, "_rotated": 1, "_cropped": 2, "_grey": 3, "flip": 4, "erase": 5}
    for name, number in named.items():
        static = staticmethod(lambda seen, draws, number=number: [*seen, number])
        plain = lambda pool, seen, draws, number=number: [*seen, number]  # noqa: E731
        monkeypatch.setattr(PoolOfTwo, name, plain if name.startswith("_") else static)
    drawn = [PoolOfTwo()([], Draws.of(0, 0, sample)) for sample in range(3000)]
    again = [Draws.of(0, 0, sample) for sample in range(3000)]
    assert drawn == [[draws.whole(6), draws.whole(6)] for draws in again]
    assert abs(sum(first == second for first, second in drawn) / 3000 - 1 / 6) < 0.03
    assert all(abs(sum(pair.count(number) for pair in drawn) / 6000 - 1 / 6) < 0.02 for number in range(6))


def test_a_crop_that_never_fits_falls_back_to_the_largest_central_one():
    assert crop_box(100, 10, Draws(0), (0.9, 1.0), (3 / 4, 4 / 3)) == (43, 0, 13, 10)


def test_hue_turned_by_a_third_makes_red_green():
    red = Image.new("RGB", (4, 4), (200, 30, 30))
    assert shift_hue(red, 0.0).getpixel((0, 0)) == (200, 31, 31)  # PIL's own rounding
    turned = shift_hue(red, 1 / 3).getpixel((0, 0))
    assert turned[1] > 190 and turned[0] < 40


def test_an_image_made_grey_by_the_pool_can_still_be_normalised():
    grey = replace(POOL_TRAIN, steps=(Always(ops.grey),))
    assert torch.equal(augment(IMAGE, SIZE, grey, Draws(0)), normalised(ops.grey(pixels())))


def test_crops_of_tall_images_are_tall_and_those_of_squares_as_published():
    assert crop_ratio((224, 224)) == (3 / 4, 4 / 3)
    ratio = crop_ratio((384, 128))
    assert ratio == pytest.approx((1 / 4, 4 / 9))
    boxes = [crop_box(384, 128, Draws(seed), (0.9, 1.0), ratio) for seed in range(50)]
    assert len(set(boxes)) > 25
    assert all(rows * columns >= 0.89 * 384 * 128 for _, _, rows, columns in boxes)


# Loops over pixels ------------------------------------------------------------------------------

SIZES = [(24, 8), (13, 17), (32, 32)]
ROWS = 6


def noise(size, rows=ROWS, seed=0):
    return torch.rand(rows, 3, *size, generator=torch.Generator().manual_seed(seed))


def hue_by_hand(pixel_CHW, turn):
    out = np.zeros((*pixel_CHW.shape[1:], 3))
    for place in np.ndindex(out.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel_CHW[:, place[0], place[1]].tolist())
        out[place] = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
    return torch.from_numpy(out).permute(2, 0, 1)


def blur_by_hand(pixel_CHW, sigma):
    """Every pixel a weighted mean of its neighbours, in float64; outside lies the nearest one of the border."""
    image, reach = pixel_CHW.double().numpy(), 6
    height, width = image.shape[1:]
    out, total = np.zeros_like(image), 0.0
    for down in range(-reach, reach + 1):
        for across in range(-reach, reach + 1):
            weight = math.exp(-0.5 * (down**2 + across**2) / sigma**2)
            rows = (np.arange(height) + down).clip(0, height - 1)
            columns = (np.arange(width) + across).clip(0, width - 1)
            out, total = out + weight * image[:, rows][:, :, columns], total + weight
    return torch.from_numpy(out / total)


def crop_by_hand(pixel_CHW, top, left, rows, columns):
    height, width = pixel_CHW.shape[1:]
    image, out = pixel_CHW.double().numpy(), np.zeros(pixel_CHW.shape)
    for y, x in np.ndindex(height, width):
        from_y = top + min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
        from_x = left + min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
        row, column = int(from_y), int(from_x)
        below, right = min(row + 1, height - 1), min(column + 1, width - 1)
        down, across = from_y - row, from_x - column
        out[:, y, x] = (1 - down) * ((1 - across) * image[:, row, column] + across * image[:, row, right])
        out[:, y, x] += down * ((1 - across) * image[:, below, column] + across * image[:, below, right])
    return torch.from_numpy(out)


def shift_by_hand(pixel_CHW, down, right):
    out, (height, width) = torch.zeros_like(pixel_CHW), pixel_CHW.shape[1:]
    for y, x in np.ndindex(height, width):
        from_y, from_x = int(y + down), int(x + right)
        if 0 <= from_y < height and 0 <= from_x < width:
            out[:, y, x] = pixel_CHW[:, from_y, from_x]
    return out


def erase_by_hand(pixel_CHW, top, left, rows, columns):
    out = pixel_CHW.clone()
    for y, x in np.ndindex(*pixel_CHW.shape[1:]):
        if top <= y < top + rows and left <= x < left + columns:
            out[:, y, x] = 0
    return out


BY_HAND = {
    Kind.HUE: hue_by_hand,
    Kind.BLUR: blur_by_hand,
    Kind.CROP: crop_by_hand,
    Kind.SHIFT: shift_by_hand,
    Kind.ERASE: erase_by_hand,
}


def numbers_of(kind, size, rows=ROWS):
    """[rows, 4] numbers that the operation may draw, the ends of its range among them."""
    rng, (height, width) = np.random.default_rng(int(kind)), size
    ends = {
        Kind.BRIGHTNESS: (0.6, 1.4),
        Kind.CONTRAST: (0.6, 1.4),
        Kind.SATURATION: (0.6, 1.4),
        Kind.HUE: (-0.5, 0.5),
        Kind.ROTATE: (-15.0, 15.0),
        Kind.BLUR: (0.1, 2.0),
    }
    numbers = np.zeros((rows, 4))
    if kind in ends:
        numbers[:, 0] = [*ends[kind], *rng.uniform(*ends[kind], rows - 2)]
    if kind in (Kind.CROP, Kind.ERASE):
        for row in range(rows):
            count = rng.integers(2, height + 1), rng.integers(2, width + 1)
            numbers[row] = rng.integers(height - count[0] + 1), rng.integers(width - count[1] + 1), *count
        numbers[0] = 0, 0, height, width
    if kind == Kind.SHIFT:
        numbers[:, :2] = [(0, 0), (-height, 3), (height + 2, -2), *rng.integers(-7, 8, (rows - 3, 2))]
    return torch.from_numpy(numbers)


def differ(found_BCHW, wanted):
    return max((found - one).abs().max().item() for found, one in zip(found_BCHW, wanted, strict=True))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", OPERATIONS, ids=lambda kind: kind.name.lower())
def test_an_operation_with_a_number_for_each_image_equals_the_one_on_each_image_alone(kind, size):
    (operation, count), pixel_BCHW, number_B4 = OPERATIONS[kind], noise(size), numbers_of(kind, size)
    before, columns = pixel_BCHW.clone(), number_B4[:, :count, None, None, None].unbind(1)
    found = operation(pixel_BCHW.clone(), *columns)
    alone = [
        operation(pixel[None].clone(), *numbers[:count])[0]
        for pixel, numbers in zip(before, number_B4.tolist(), strict=True)
    ]
    assert found.dtype == torch.float32 and found.shape == before.shape
    assert differ(found, alone) < 1e-6
    if kind != Kind.ERASE:  # the one that writes in place
        operation(pixel_BCHW, *columns)
        assert torch.equal(pixel_BCHW, before)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", BY_HAND, ids=lambda kind: kind.name.lower())
def test_an_operation_equals_the_loop_over_pixels(kind, size):
    (operation, count), pixel_BCHW, number_B4 = OPERATIONS[kind], noise(size), numbers_of(kind, size)
    wanted = [
        BY_HAND[kind](pixel, *numbers[:count]) for pixel, numbers in zip(pixel_BCHW, number_B4.tolist(), strict=True)
    ]
    found = [
        operation(pixel[None].clone(), *numbers[:count])[0]
        for pixel, numbers in zip(pixel_BCHW, number_B4.tolist(), strict=True)
    ]
    assert differ(found, wanted) < 1e-5


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cut_at_whole_pixels_equals_the_published_one(size):
    boxes = numbers_of(Kind.CROP, size)
    for pixel, box in zip(noise(size), boxes.tolist(), strict=True):
        published = ops.resized_crop(pixel[None], *map(int, box))
        assert (ops.crop(pixel[None], *box) - published).abs().max() < 1e-5


def test_a_cut_between_pixels_equals_the_loop_over_pixels():
    pixel_BCHW = noise((16, 10), rows=2)
    boxes = [(2.37, 1.81, 9.44, 5.55), (10.2, 6.9, 5.8, 3.1)]
    wanted = [crop_by_hand(pixel, *box) for pixel, box in zip(pixel_BCHW, boxes, strict=True)]
    assert differ(ops.crop(pixel_BCHW, *torch.tensor(boxes)[..., None, None, None].unbind(1)), wanted) < 1e-5


def test_bytes_are_moved_as_they_are():
    pixel_BCHW = torch.randint(1, 256, (2, 3, 9, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for down, right in ((0, 0), (-4, 2), (3, -1), (20, 0)):
        wanted = torch.stack([shift_by_hand(pixel, down, right) for pixel in pixel_BCHW])
        assert torch.equal(ops.shift(pixel_BCHW, down, right), wanted)


def test_hues_of_greys_and_pure_colours_are_turned_as_colorsys_turns_them():
    shades = torch.tensor([0.0, 0.25, 1.0])
    pixel_BCHW = torch.cartesian_prod(shades, shades, shades).T.reshape(1, 3, 9, 3)
    for turn in (-0.1, 0.0, 0.05, 1 / 3):
        assert differ(ops.hue(pixel_BCHW, turn), [hue_by_hand(pixel_BCHW[0], turn)]) < 1e-6
    assert (ops.hue(pixel_BCHW, 0.0) - pixel_BCHW).abs().max() < 1e-6


def test_a_flat_image_stays_flat_when_blurred_and_a_point_becomes_the_gaussian():
    flat = torch.full((1, 3, 9, 7), 0.3)
    assert max((ops.blur(flat, sigma) - 0.3).abs().max() for sigma in (0.1, 2.0)) < 1e-6
    point = torch.zeros(1, 3, 31, 31)
    point[..., 15, 15] = 1
    found = ops.blur(point, 1.5)[0, 0]
    assert found[15, 16] / found[15, 15] == pytest.approx(math.exp(-0.5 / 1.5**2), rel=1e-5)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
