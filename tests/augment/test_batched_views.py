"""TBPS-CLIP's operations on whole batches, each against the one that changes an image at a time or a plain loop."""

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tbps_cli.augment import batched_views as device_views
from tbps_cli.augment import ops as operations
from tbps_cli.augment.batched_draws import PLACE, Kind, draw
from tbps_cli.augment.batched_views import CHANGES, changed, paint_operations
from tbps_cli.augment.exact import POOL_TRAIN, SIMCLR_TRAIN, Augment, Draws, Flip, PoolOfTwo, erased

SIZES = [(24, 8), (13, 17), (32, 32)]
ROWS = 6

EXACT = {
    Kind.BRIGHTNESS: lambda pixel, factor, *_: operations.brightness(pixel, factor),
    Kind.CONTRAST: lambda pixel, factor, *_: operations.contrast(pixel, factor),
    Kind.SATURATION: lambda pixel, factor, *_: operations.saturation(pixel, factor),
    Kind.GREY: lambda pixel, *_: operations.grey(pixel),
    Kind.ROTATE: lambda pixel, degrees, *_: operations.rotate(pixel, degrees),
    Kind.CROP: lambda pixel, *box: operations.resized_crop(pixel, tuple(map(int, box))),
    Kind.FLIP: lambda pixel, *_: pixel.flip(-1),
    Kind.ERASE: lambda pixel, *box: erased(pixel, *map(int, box), (0.0, 0.0, 0.0)),
    Kind.HUE: lambda pixel, turn, *_: hue_by_hand(pixel, turn),
    Kind.BLUR: lambda pixel, sigma, *_: blur_by_hand(pixel, sigma),
}


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
    return torch.from_numpy(numbers)


def differ(found_BCHW, wanted):
    return max((found - one).abs().max().item() for found, one in zip(found_BCHW, wanted, strict=True))


# One operation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", CHANGES, ids=lambda kind: kind.name.lower())
def test_an_operation_on_a_batch_equals_the_one_on_each_image(kind, size):
    pixel_BCHW, number_B4 = noise(size), numbers_of(kind, size)
    before = pixel_BCHW.clone()
    found = CHANGES[kind](pixel_BCHW, number_B4.float())
    wanted = [EXACT[kind](pixel, *numbers) for pixel, numbers in zip(before, number_B4.tolist(), strict=True)]
    assert torch.equal(pixel_BCHW, before) and found.shape == before.shape
    assert differ(found, wanted) < 1e-5


def test_every_operation_but_nothing_can_be_done():
    assert set(CHANGES) == set(EXACT) == set(Kind) - {Kind.NOTHING}


def test_hues_of_greys_and_pure_colours_are_turned_as_colorsys_turns_them():
    shades = torch.tensor([0.0, 0.25, 1.0])
    pixel_BCHW = torch.cartesian_prod(shades, shades, shades).T.reshape(1, 3, 9, 3).repeat(4, 1, 1, 1)
    turns = torch.tensor([[-0.1], [0.0], [0.05], [1 / 3]]).repeat(1, 4)
    wanted = [hue_by_hand(pixel, turn.item()) for pixel, turn in zip(pixel_BCHW, turns[:, 0], strict=True)]
    found = CHANGES[Kind.HUE](pixel_BCHW, turns)
    assert differ(found, wanted) < 1e-6
    assert (found[1] - pixel_BCHW[1]).abs().max() < 1e-6


def test_a_flat_image_stays_flat_when_blurred_and_a_point_becomes_the_gaussian():
    flat = torch.full((2, 3, 9, 7), 0.3)
    sigmas = torch.tensor([[0.1], [2.0]]).repeat(1, 4)
    assert (CHANGES[Kind.BLUR](flat, sigmas) - 0.3).abs().max() < 1e-6
    point = torch.zeros(1, 3, 31, 31)
    point[..., 15, 15] = 1
    found = CHANGES[Kind.BLUR](point, torch.full((1, 4), 1.5))[0, 0]
    assert found[15, 16] / found[15, 15] == pytest.approx(math.exp(-0.5 / 1.5**2), rel=1e-5)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)


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


def test_a_cut_between_pixels_equals_the_loop_over_pixels():
    pixel_BCHW = noise((16, 10), rows=3)
    boxes = torch.tensor([[0.0, 0.0, 16.0, 10.0], [2.37, 1.81, 9.44, 5.55], [10.2, 6.9, 5.8, 3.1]])
    wanted = [crop_by_hand(pixel, *box) for pixel, box in zip(pixel_BCHW, boxes.tolist(), strict=True)]
    assert differ(CHANGES[Kind.CROP](pixel_BCHW, boxes), wanted) < 1e-5


# Whole views ------------------------------------------------------------------------------------

MANY = Augment((Flip(0.5), PoolOfTwo(3)), whole=SIMCLR_TRAIN.whole)


def plan_of(how, size, rows, shape=None):
    seeds = [Draws.of(5, 0, row).seed for row in range(rows)]
    shapes = None if shape is None else np.tile(shape, (rows, 1))
    return torch.from_numpy(draw(how, size, seeds, np.arange(rows) % 4, shapes))


def images(size, rows=4):
    return torch.randint(0, 256, (rows, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def one_by_one(pixel_CHW, plan, how):
    """A row of a plan, operation after operation, on one image."""
    for kind, *numbers in plan[1:].reshape(-1, PLACE).tolist():
        if kind == Kind.CROP and not all(number.is_integer() for number in numbers):
            pixel_CHW = crop_by_hand(pixel_CHW, *numbers).float()
        elif kind:
            pixel_CHW = EXACT[Kind(int(kind))](pixel_CHW, *numbers).float()
    mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))
    return (pixel_CHW - mean) / std


@pytest.mark.parametrize(("how", "shape"), [(POOL_TRAIN, None), (SIMCLR_TRAIN, (31, 14)), (MANY, (40, 40))])
def test_a_view_equals_its_operations_done_one_after_the_other(how, shape):
    size, rows = (16, 12), 24
    plan_BX, pixel_NHWC = plan_of(how, size, rows, shape), images(size)
    found = paint_operations(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, how)
    unit = pixel_NHWC.permute(0, 3, 1, 2).float() / 255
    wanted = [one_by_one(unit[int(row[0])], row, how) for row in plan_BX]
    # an ulp may take another nearest pixel in a turned image, or grow by 1 / std where values were cut off
    assert found.dtype == torch.float32 and found.shape == (rows, 3, *size)
    assert differ(found, wanted) < 3e-5


@pytest.mark.parametrize("how", [POOL_TRAIN, MANY])
def test_a_batch_at_once_equals_each_image_alone(how):
    """A CPU takes image after image, a device all of them: rows gathered, changed and put back."""
    size, rows = (16, 12), 40
    plan_BX, pixel_BCHW = plan_of(how, size, rows)[:, 1:], noise(size, rows)
    alone = [changed(pixel_BCHW[row : row + 1].clone(), plan_BX[row : row + 1]) for row in range(rows)]
    assert differ(changed(pixel_BCHW.clone(), plan_BX), [one[0] for one in alone]) < 1e-6


def test_images_shared_among_threads_are_the_same_and_the_number_of_threads_is_put_back():
    plan_BX, pixel_NHWC = plan_of(MANY, (16, 12), 9), images((16, 12))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(paint_operations(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, MANY))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def smooth_image(height, width):
    down, across = np.mgrid[0:height, 0:width] / height
    waves = [np.sin(9 * down + 5 * across + channel) + np.cos(11 * across - 4 * down) for channel in range(3)]
    return Image.fromarray((127 + 60 * np.stack(waves, -1)).astype(np.uint8))


@pytest.mark.parametrize("shape", [(290, 110), (60, 30)])
def test_a_cut_of_the_stores_image_shows_what_the_same_cut_of_the_file_shows(shape):
    """The exact way's box given to both: a wrong place or scale would differ by a tenth and more."""
    size, image = (96, 96), smooth_image(*shape)
    held = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    pixel_BCHW = torch.from_numpy(held.copy()).permute(2, 0, 1)[None].float() / 255
    plan_BX = plan_of(SIMCLR_TRAIN, size, 12, shape)
    for row in plan_BX:
        box = row[2:6].numpy() / np.tile(np.array(size) / shape, 2)
        top, left, rows, columns = np.rint(box).astype(int)
        assert np.abs(box - np.rint(box)).max() < 1e-9
        cut = image.crop((left, top, left + columns, top + rows)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        found = CHANGES[Kind.CROP](pixel_BCHW, row[None, 2:6].float())[0]
        difference = (found - torch.from_numpy(np.asarray(cut).copy()).permute(2, 0, 1) / 255).abs()
        assert difference.mean() < 0.01 and difference.max() < 0.1, (difference.mean(), difference.max())


@pytest.mark.slow
def test_nothing_of_a_batch_on_a_device_is_left_on_the_cpu(monkeypatch):
    """PyTorch's device without values refuses what lies elsewhere, as a GPU would."""
    plan_BX, pixel_NHWC = plan_of(MANY, (16, 12), 40), images((16, 12)).to("meta")
    for piece in (device_views.PIECE, 10 * 3 * 16 * 12):
        monkeypatch.setattr(device_views, "PIECE", piece)
        found = paint_operations(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, MANY)
        assert found.device.type == "meta" and found.shape == (40, 3, 16, 12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("how", [POOL_TRAIN, SIMCLR_TRAIN, MANY])
def test_a_gpu_does_the_operations_as_the_cpu_does(how, monkeypatch):
    size, rows = (32, 16), 64
    plan_BX, pixel_NHWC = plan_of(how, size, rows, (70, 30)), images(size)
    here = paint_operations(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, how)
    for piece in (device_views.PIECE, 10 * 3 * 32 * 16):  # at once, and ten images at a time
        monkeypatch.setattr(device_views, "PIECE", piece)
        there = paint_operations(pixel_NHWC.cuda(), plan_BX[:, 0].long(), plan_BX, how)
        assert there.is_cuda and (here - there.cpu()).abs().max() < 1e-5
