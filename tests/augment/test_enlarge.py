"""The faster enlargement gives Pillow's bytes, or leaves the work to Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tbps_cli.augment import enlarge
from tbps_cli.augment.enlarge import bytes_of, resized_bytes
from tbps_cli.augment.transform import resized


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def planes(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[None].copy())


side = st.integers(1, 90)


@settings(max_examples=150, deadline=None)
@given(width=side, height=side, new_width=side, new_height=side, resample=st.sampled_from(["bilinear", "bicubic"]))
def test_the_bytes_are_pillows(width: int, height: int, new_width: int, new_height: int, resample: str) -> None:
    image, size = noise(width, height, seed=width), (new_height, new_width)
    assert torch.equal(resized_bytes(image, size, resample), planes(resized(image, size, resample)))


@pytest.mark.parametrize("count", [64, 128, 160, 220, 223, 290, 383])
def test_heights_of_crops_are_enlarged_here_and_not_by_pillow(count: int) -> None:
    assert enlarge._rows_from(count, 384) is not None
    image = noise(91, count)
    assert torch.equal(resized_bytes(image, (384, 128), "bilinear"), planes(resized(image, (384, 128), "bilinear")))


def test_where_pillow_rounds_otherwise_it_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enlarge, "HALF", 0)
    enlarge._rows_from.cache_clear()
    try:
        assert enlarge._rows_from(20, 50) is None
        image = noise(9, 20)
        assert torch.equal(resized_bytes(image, (50, 16), "bilinear"), planes(resized(image, (50, 16), "bilinear")))
    finally:
        enlarge._rows_from.cache_clear()


def test_an_image_is_not_changed_by_the_next_one() -> None:
    first = resized_bytes(noise(9, 20), (50, 16), "bilinear")
    before = first.clone()
    resized_bytes(noise(9, 20, seed=1), (50, 16), "bilinear")
    assert torch.equal(first, before) and torch.equal(bytes_of(noise(3, 4)), planes(noise(3, 4)))
