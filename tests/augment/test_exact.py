"""The transforms of IRRA's line, against tensors made by the published code, and the draws."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from tbps_cli.augment.exact import CLIP_TRAIN, PLAIN_TRAIN, Augment, Erase, PadCrop, augment
from tbps_cli.augment.rng import Draws
from tbps_cli.augment.transform import CLIP_EVAL, IMAGENET_EVAL, EvalTransform

FOLDER = Path(__file__).parents[1] / "golden" / "irra"
GOLDEN = load_file(FOLDER / "transforms.safetensors")
SIZE = tuple(json.loads((FOLDER / "transforms.json").read_text())["size"])
IMAGE = Image.fromarray(GOLDEN["image_uint8_hwc"].numpy())


def test_the_evaluation_transform_equals_the_published_one():
    assert np.array_equal(EvalTransform(SIZE, **CLIP_EVAL)(IMAGE), GOLDEN["eval"].numpy())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("name", "how"), [("train_aug", CLIP_TRAIN), ("train_noaug", PLAIN_TRAIN)])
def test_a_training_view_seeded_alike_equals_the_published_one(name, how, seed):
    difference = (augment(IMAGE, SIZE, how, Draws(seed)) - GOLDEN[f"{name}.seed{seed}"]).abs().max().item()
    assert difference == 0


def test_a_transform_survives_its_description():
    for numbers in (CLIP_EVAL, IMAGENET_EVAL):
        transform = EvalTransform((96, 32), **numbers)
        described = json.loads(json.dumps(transform.describe()))
        assert EvalTransform.from_description(described) == transform


@pytest.mark.parametrize("broken", [{}, {"size": [1, 2]}, {**EvalTransform(SIZE, **CLIP_EVAL).describe(), "size": [1]}])
def test_what_is_no_description_is_refused(broken):
    with pytest.raises(ValueError, match="description of a transform"):
        EvalTransform.from_description(broken)


def test_an_image_of_the_right_size_is_not_resampled():
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    assert np.array_equal(EvalTransform(SIZE, **CLIP_EVAL).pixels(Image.fromarray(noise)), noise)


@given(seed=st.integers(0, 10**6), padding=st.integers(0, 12))
@settings(max_examples=40, deadline=None)
def test_pad_and_crop_is_a_window_of_the_padded_image(seed, padding):
    pixel = torch.arange(1, 3 * 9 * 5 + 1, dtype=torch.float32).reshape(1, 3, 9, 5)
    padded = torch.nn.functional.pad(pixel, (padding,) * 4)
    again = Draws(seed)
    top, left = (again.whole(2 * padding + 1), again.whole(2 * padding + 1)) if padding else (0, 0)
    assert torch.equal(PadCrop(padding)(pixel, Draws(seed)), padded[..., top : top + 9, left : left + 5])


def test_erasing_covers_the_stated_share_about_half_the_time():
    white = torch.full((1, 3, 96, 32), 9.0)
    shares = [(Erase()(white.clone(), Draws(seed)) != 9).float().mean().item() for seed in range(400)]
    hit = [share for share in shares if share > 0]
    assert 0.42 < len(hit) / len(shares) < 0.58
    assert min(hit) > 0.015 and max(hit) < 0.42


def test_an_augmentation_without_steps_is_the_evaluation_transform():
    plain = augment(IMAGE, SIZE, Augment(), Draws(0)).numpy()
    assert np.abs(plain - EvalTransform(SIZE, **CLIP_EVAL)(IMAGE)).max() == 0
