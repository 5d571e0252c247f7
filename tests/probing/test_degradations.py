"""What is done to images: each step a function of the pixels and the seed, and each does what its name says."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tbps_cli.augment.transform import EvalTransform
from tbps_cli.features.fingerprint import fingerprint
from tbps_cli.probing.degradations import DEGRADATIONS, WIDEST, DegradedTransform, degraded

STEPS = [(name, step) for name, one in DEGRADATIONS.items() for step in one.steps]


def person(width: int = 60, height: int = 150) -> Image.Image:
    """Stripes and a gradient: something for every degradation to spoil."""
    down, across = np.mgrid[0:height, 0:width]
    pixels = np.stack([80 + down // 2, 255 * (across // 5 % 2), np.full_like(down, 200)], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64)


@pytest.mark.parametrize(("name", "step"), STEPS)
def test_equal_pixels_and_seeds_give_equal_bytes_whatever_came_before(name: str, step: float) -> None:
    before = degraded(person(), name, step, 3).tobytes()
    degraded(person(40, 90), name, step, 4)
    np.random.default_rng().random(9)
    after = degraded(person(), name, step, 3)
    assert after.tobytes() == before and after.mode == "RGB" and min(after.size) >= 8
    assert before != person().tobytes()


@pytest.mark.parametrize("name", ["night", "occlusion", "crop"])
def test_another_seed_draws_something_else(name: str) -> None:
    step = DEGRADATIONS[name].steps[-1]
    assert degraded(person(), name, step, 0).tobytes() != degraded(person(), name, step, 1).tobytes()


@pytest.mark.parametrize("name", ["resolution", "jpeg", "blur", "night", "occlusion"])
def test_every_step_is_further_from_the_image_than_the_one_before(name: str) -> None:
    size = person().size
    apart = [
        np.abs(values(degraded(person(), name, step, 0).resize(size)) - values(person())).mean()
        for step in DEGRADATIONS[name].steps
    ]
    assert apart == sorted(apart) and apart[0] > 0.5, apart


def test_an_image_that_is_narrower_than_the_step_keeps_its_pixels() -> None:
    assert degraded(person(30, 80), "resolution", 48, 0).tobytes() == person(30, 80).tobytes()
    assert degraded(person(), "resolution", 24, 0).size == (24, 60)


def test_a_photograph_is_brought_to_a_width_that_a_model_looks_at_first() -> None:
    assert degraded(person(512, 1024), "night", 40, 0).size == (WIDEST, 512)
    assert degraded(person(512, 1024), "blur", 4, 0).size == (WIDEST, 512)


def test_a_large_blur_is_that_of_one_large_gaussian() -> None:
    line = np.zeros((4, 201, 3), np.uint8)
    line[:, 100] = 255
    spread = values(degraded(Image.fromarray(line), "blur", 3, 0))[2, :, 0]
    middle = np.arange(201) - 100
    deviation = np.sqrt((spread * middle**2).sum() / spread.sum())
    assert deviation == pytest.approx(201 * 0.03, rel=0.06)  # bytes cut the tails off


def test_night_takes_light_and_colour_away() -> None:
    plain = Image.new("RGB", (60, 150), (200, 60, 60))
    darker = [values(degraded(plain, "night", step, 0)).mean(axis=(0, 1)) for step in (80, 40)]
    assert darker[0].mean() == pytest.approx(0.8 * 320 / 3, abs=12)
    assert np.ptp(darker[1]) / darker[1].mean() < np.ptp(darker[0]) / darker[0].mean()


@pytest.mark.parametrize("percent", [10, 20, 30, 40])
def test_something_in_front_covers_its_share_of_the_image(percent: int) -> None:
    shares = []
    for seed in range(30):
        shown = values(degraded(person(), "occlusion", percent, seed))
        shares.append(100 * (shown != values(person())).any(axis=2).mean())
    assert np.mean(shares) == pytest.approx(percent, abs=1)


def test_a_wrong_box_moves_each_edge_by_no_more_than_its_share() -> None:
    sizes = np.array([degraded(person(100, 200), "crop", 10, seed).size for seed in range(60)])
    assert sizes[:, 0].min() >= 80 and sizes[:, 0].max() <= 120
    assert sizes[:, 1].min() >= 160 and sizes[:, 1].max() <= 240
    assert len(np.unique(sizes, axis=0)) > 50
    plain = Image.new("RGB", (60, 150), (10, 20, 30))  # beyond the image its border goes on
    assert np.unique(values(degraded(plain, "crop", 20, 1)).reshape(-1, 3), axis=0).tolist() == [[10, 20, 30]]


def test_the_transform_says_what_was_done_so_that_embeddings_are_never_mixed() -> None:
    plain = EvalTransform((96, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    made = [DegradedTransform.of(plain, name, step, seed) for name, step in STEPS for seed in (0, 1)]
    prints = {fingerprint(transform) for transform in (plain, *made)}
    assert len(prints) == 1 + 2 * len(STEPS)
    assert made[0](person()).shape == (3, 96, 32)
