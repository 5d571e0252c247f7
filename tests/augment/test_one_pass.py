"""What Numba compiles gives the bytes of Pillow and the values of PyTorch, whatever the sizes."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tbps_cli.augment import exact, one_pass
from tbps_cli.augment.exact import CLIP_TRAIN, IMAGENET_TRAIN, PLAIN_TRAIN, POOL_TRAIN, Augment, Flip, PadCrop, augment
from tbps_cli.augment.one_pass import Window, fits, mixture, resized
from tbps_cli.augment.rng import Draws
from tbps_cli.augment.transform import CLIP_MEAN, CLIP_STD, FILTERS

pytest.importorskip("numba")
SIDE = st.integers(1, 120)
MOVE = st.integers(-13, 13)
NORMAL = CLIP_MEAN, CLIP_STD


def pixels(seed, height, width, hard=False):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (noise > 127).astype(np.uint8) * 255 if hard else noise


def with_pillow(pixel, size, how, seed):
    """The view as Pillow and PyTorch make it."""
    out = torch.empty(3, *size)
    draws = Draws(seed)
    exact._step_by_step(Image.fromarray(pixel), size, how, draws, out)
    for step in how.steps:
        if step.after_normalise:
            out.copy_(step(out[None], draws)[0])
    return out


@pytest.fixture(scope="module", autouse=True)
def compiled():
    assert one_pass.ready()


@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from(["bilinear", "bicubic"]), st.booleans(), MOVE, MOVE, st.booleans())
@example(91, 224, 128, 384, "bilinear", True, 3, -4, False)
@example(2, 2, 9, 9, "bicubic", False, 0, 0, True)
@example(7, 9, 5, 5, "bilinear", True, 13, -13, False)
@example(1, 12, 1, 100, "bicubic", False, 12, 0, False)
@example(20, 30, 24, 90, "bicubic", False, 4, 0, False)
@settings(max_examples=150, deadline=None)
def test_resizing_moving_and_normalising_equal_pillow_and_torch(
    width, height, columns, rows, resample, flip, down, right, hard
):
    pixel, size = pixels(width * height, height, width, hard), (rows, columns)
    if not fits(pixel.shape, size):
        return
    out = torch.empty(3, *size)
    resized(pixel, size, resample, *NORMAL, out, Window(flip, down, right))
    image = Image.fromarray(pixel).resize((columns, rows), Image.Resampling[FILTERS[resample]])
    moved = exact.ops.flip(exact._bytes(image)) if flip else exact._bytes(image)
    mean, std = (torch.tensor(values)[:, None, None] for values in NORMAL)
    expected = torch.div(exact.ops.shift(moved, down, right), 255).sub_(mean).div_(std)[0]
    assert torch.equal(out, expected)


@pytest.mark.parametrize("how", [CLIP_TRAIN, IMAGENET_TRAIN, PLAIN_TRAIN, POOL_TRAIN, Augment()])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(57, 23), (96, 32), (130, 50), (300, 40), (110, 90)])
def test_every_view_is_the_same_compiled_and_step_by_step(how, resample, shape):
    how = replace(how, resample=resample)
    pixel = pixels(1, *shape)
    for seed in range(6):
        expected = with_pillow(pixel, (96, 32), how, seed)
        assert torch.equal(augment(pixel, (96, 32), how, Draws(seed)), expected)
        assert torch.equal(augment(Image.fromarray(pixel), (96, 32), how, Draws(seed)), expected)


@pytest.mark.parametrize("steps", [(PadCrop(5), Flip()), (Flip(), Flip()), (Flip(), PadCrop(0)), (PadCrop(40),)])
def test_steps_in_any_order_are_the_same(steps):
    pixel, how = pixels(2, 40, 20), Augment(steps)
    for seed in range(8):
        expected = with_pillow(pixel, (48, 24), how, seed)
        assert torch.equal(augment(pixel, (48, 24), how, Draws(seed)), expected)


def test_a_subclass_of_a_step_is_asked_itself():
    class Twice(Flip):
        def __call__(self, pixel_BCHW, draws):
            return super().__call__(super().__call__(pixel_BCHW, draws), draws)

    pixel, how = pixels(3, 40, 20), Augment((Twice(),))
    for seed in range(8):
        assert torch.equal(augment(pixel, (48, 24), how, Draws(seed)), with_pillow(pixel, (48, 24), how, seed))


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_a_mixture_has_pillows_weights(resample):
    for count, more in ((1, 5), (2, 3), (91, 128), (224, 384), (300, 7), (128, 128)):
        first, weight = mixture(count, more, resample)
        column = pixels(count, count, 16)[..., 0]
        total = sum(column[first + tap].astype(np.int64) * weight[tap][:, None] for tap in range(len(weight)))
        expected = np.asarray(Image.fromarray(column).resize((16, more), Image.Resampling[FILTERS[resample]]))
        assert np.array_equal(np.clip((total + one_pass.HALF) >> one_pass.BITS, 0, 255), expected)


def test_photos_that_become_much_smaller_and_rows_that_go_first_are_left_to_pillow():
    assert fits((224, 91), (384, 128)) and fits((384, 128), (384, 128)) and fits((57, 25, 3), (41, 17))
    assert not fits((3000, 2000), (384, 128)) and not fits((400, 100), (384, 128)) and not fits((384, 300), (384, 128))


def test_without_numba_pillow_makes_equal_views(monkeypatch):
    pixel = pixels(4, 57, 23)
    expected = augment(pixel, (96, 32), CLIP_TRAIN, Draws(5))
    monkeypatch.setattr(one_pass, "_kernels", lambda: None)
    assert not one_pass.ready()
    assert torch.equal(augment(pixel, (96, 32), CLIP_TRAIN, Draws(5)), expected)


def test_a_pillow_with_other_bytes_is_noticed(monkeypatch):
    kernels = one_pass._kernels()
    assert all(one_pass._as_pillow(kernels, *shapes) for shapes in one_pass._TRIED)
    monkeypatch.setattr(one_pass, "HALF", 0)
    others = one_pass._Kernels(lambda *given: one_pass._across(*given), kernels.down)
    assert not one_pass._as_pillow(others, (9, 5), (12, 8))


@pytest.mark.slow
@pytest.mark.parametrize("state", ["damaged", "not to be written"])
def test_compiled_code_that_was_kept_may_be_damaged_or_have_no_place(tmp_path, state):
    folder = tmp_path / "kept"
    folder.mkdir()
    script = "from tbps_cli.augment import one_pass; assert one_pass.ready(); print(one_pass.BITS)"
    place = folder if state == "damaged" else folder / "file" / "below"
    (folder / "file").write_text("")
    run = [sys.executable, "-c", script]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(place)}
    if state == "damaged":
        assert subprocess.run(run, env=environment, capture_output=True, text=True).stdout == "22\n"
        kept = list(folder.rglob("*.nb?"))
        assert kept
        for path in kept:
            path.write_bytes(b"damaged" + path.read_bytes()[:50])
    done = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert done.stdout == "22\n", done.stderr
