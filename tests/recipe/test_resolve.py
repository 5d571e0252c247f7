"""Every "auto" gets a value and a reason, and nothing else changes."""

from __future__ import annotations

import pytest

from tbps_cli.recipe.load import load
from tbps_cli.recipe.resolve import Facts, resolve


@pytest.mark.parametrize(
    ("facts", "precision"),
    [
        (Facts("cpu"), "fp32"),
        (Facts("mps"), "fp32"),
        (Facts("cuda", bf16=True), "bf16"),
        (Facts("cuda", bf16=False), "fp16"),
    ],
)
def test_precision_follows_the_device(facts: Facts, precision: str) -> None:
    assert resolve(load("irra"), facts)[0].train.precision == precision


@pytest.mark.parametrize(
    ("recipe", "bf16", "precision", "reason"),
    [
        ("own", True, "bf16", "this processor multiplies in bf16"),
        ("own", False, "fp32", "the device is cpu"),
        ("irra", True, "fp32", "so that scores compare with the published ones; bf16 is faster"),
    ],
)
def test_a_processor_that_multiplies_in_bf16_does_so_for_recipes_without_published_scores(
    recipe: str, bf16: bool, precision: str, reason: str
) -> None:
    resolved, choices = resolve(load(recipe), Facts("cpu", bf16))
    assert resolved.train.precision == precision and choices[0].reason.startswith(reason)


def test_bf16_of_the_processor_counts_on_the_processor_alone() -> None:
    assert Facts.here("cpu", cpu_bf16=True).bf16 and not Facts.here("cpu").bf16
    assert not Facts.here("mps", cpu_bf16=True).bf16


@pytest.mark.parametrize(
    ("facts", "workers"),
    [
        (Facts("cpu", cpus=2), 1),
        (Facts("cpu", cpus=1), 0),
        (Facts("cuda", cpus=64), 8),
        (Facts("cuda", cpus=16, world=4), 4),
        (Facts("cpu", cpus=64, store=True), 0),
        (Facts("cuda", cpus=64, store=True), 2),
    ],
)
def test_workers_share_the_processors(facts: Facts, workers: int) -> None:
    assert resolve(load("irra"), facts)[0].train.workers == workers


def test_each_choice_is_named_with_its_reason() -> None:
    recipe, choices = resolve(load("irra"), Facts("cpu", cpus=2))
    keys = ["train.precision", "data.augment_on", "train.workers", "data.sampler", "data.store"]
    assert [choice.key for choice in choices] == keys
    assert str(choices[0]) == "train.precision: fp32 (the device is cpu)"
    assert all(choice.reason for choice in choices)
    assert resolve(recipe, Facts("cuda", bf16=True)) == (recipe, [])


def test_what_weights_and_the_command_line_decide_is_part_of_the_same_change() -> None:
    stated = load("irra")
    followed = stated.method.model_copy(update={"tower": "RN50"})
    recipe, choices = resolve(stated, Facts("cpu", cpus=8), method=followed, workers=3)
    assert (recipe.method.tower, recipe.train.workers) == ("RN50", 3)
    assert "train.workers" not in [choice.key for choice in choices]


def test_what_the_user_stated_stays() -> None:
    sets = ["train.precision=fp16-pure", "train.workers=3", "data.sampler=identity", "data.store=off"]
    stated = load("irra", [*sets, "data.augment_on=cpu"])
    assert resolve(stated, Facts("cuda", bf16=True, store=True)) == (stated, [])


@pytest.mark.parametrize(
    ("recipe", "facts", "place", "reason"),
    [
        ("irra", Facts("cuda", store=True), "device", "in whole batches"),
        ("irra", Facts("cuda"), "cpu", "batches on the device need decoded images"),
        (
            "irra",
            Facts("cuda", store=True, unbatched="it bends them"),
            "cpu",
            "cannot be augmented in batches: it bends",
        ),
        ("irra", Facts("cpu", store=True), "cpu", "exactly as published; device is faster"),
        ("tbps_clip", Facts("cuda", store=True), "device", "strong views cut from the resized image"),
        ("tbps_clip", Facts("cuda", store=True, shapes=False), "cpu", "tbps prepare-data --decode"),
        ("tbps_clip_simplified", Facts("cuda", store=True, shapes=False), "device", "in whole batches"),
        ("tbps_clip", Facts("cpu", store=True), "cpu", "exactly as published; device is faster"),
    ],
)
def test_images_are_changed_in_batches_on_a_gpu_that_has_them_decoded(recipe, facts, place, reason) -> None:
    resolved, choices = resolve(load(recipe), facts)
    assert resolved.data.augment_on == place
    assert reason in next(choice.reason for choice in choices if choice.key == "data.augment_on")
