"""Calibrations: probabilities that come true, files that are read with suspicion, galleries of another kind."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from benchmarks import trust as drawn
from support.encoder import FakeEncoder

from tbps_cli.errors import DataError, WeightsError
from tbps_cli.trust import calibration as module
from tbps_cli.trust.calibration import (
    Calibration,
    calibration_of,
    ks_distance,
    place_of,
    read_calibration,
    write_calibration,
)
from tbps_cli.trust.fitting import Reliability, fit, reliability


@pytest.fixture(scope="module")
def parts():
    """(val, test) of a simulated model."""
    return list(drawn.simulated("hard")(np.random.default_rng(0), 100, 100))


class Wide(FakeEncoder):
    """An encoder with embeddings as long as the drawn ones."""

    embed = drawn.WIDTH


@pytest.fixture(scope="module")
def calibration(parts):
    return fit(parts[0], fingerprint=FakeEncoder().fingerprint, data="drawn", name="val")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


def test_what_is_said_to_be_likely_comes_true_on_other_people(calibration, parts):
    hits, first = reliability(calibration, parts[1])
    assert hits.ECE < 0.03, f"ECE {hits.ECE:.3f}"
    assert first.ECE < 0.08, f"ECE of the first hit {first.ECE:.3f}"
    assert hits.Brier < 0.13


@pytest.mark.parametrize("persons", [20, 400])
def test_it_still_comes_true_in_a_gallery_of_another_size(calibration, persons):
    (other,) = drawn.simulated("hard")(np.random.default_rng(1), persons)
    hits, _ = reliability(calibration, other)
    assert hits.ECE < 0.08, f"ECE {hits.ECE:.3f} with {persons} persons"


def test_no_hit_is_likelier_than_one_that_scores_higher_and_none_is_certain(calibration):
    share_QK = -np.sort(np.random.default_rng(2).exponential(2, (50, 10)), axis=1)
    said_QK = calibration.probabilities(share_QK)
    assert (np.diff(said_QK, axis=1) <= 0).all()
    assert said_QK.min() > 0 and said_QK.max() < 1


def test_reliability_is_that_of_a_plain_count():
    said = np.array([0.05, 0.15, 0.12, 0.95, 1.0])
    right = np.array([False, True, False, True, False])
    found = Reliability.of(said, right)
    assert [hits for hits, _, _ in found.bins] == [1, 2, 2]
    assert pytest.approx((0.05 + 2 * abs(0.135 - 0.5) + 2 * abs(0.975 - 0.5)) / 5) == found.ECE
    assert found.Brier == pytest.approx(np.mean((said - right) ** 2))


def test_too_few_persons_are_an_error_that_says_how_many(parts):
    (few,) = drawn.simulated("hard")(np.random.default_rng(0), 7)
    with pytest.raises(DataError, match="captions of 7 persons are too few"):
        fit(few, fingerprint="f", data="drawn", name="val")


def test_a_split_in_which_nobody_is_ever_found_is_calibrated_too(parts):
    text_QE = np.roll(parts[0].text_QE, 211, axis=0)
    lost = type(parts[0])(text_QE, parts[0].image_GE, parts[0].person_Q, parts[0].person_G)
    made = fit(lost, fingerprint="f", data="drawn", name="val")
    assert max(made.first.y) < 0.3


# Files -------------------------------------------------------------------------------------------


def test_a_calibration_is_read_as_it_was_written_and_is_small(calibration):
    model = Wide()
    assert calibration_of(model) is None
    place = write_calibration(model, calibration)
    assert place == place_of(model) and place.stat().st_size < 100_000
    read = calibration_of(model)
    assert read is not None and read.model_dump() == calibration.model_dump()


def test_a_calibration_of_other_weights_is_not_used_and_that_is_said(calibration, caplog):
    other = FakeEncoder(fingerprint="fedcba9876543210")
    write_calibration(other, calibration)
    assert calibration_of(other) is None
    assert "other weights or settings" in caplog.text


def test_a_calibration_that_has_not_changed_is_read_once(calibration, caplog, monkeypatch):
    read = []
    real = module.read_calibration
    monkeypatch.setattr(module, "read_calibration", lambda path: read.append(path) or real(path))
    wide, other = Wide(), FakeEncoder(fingerprint="fedcba9876543210")
    write_calibration(wide, calibration)
    write_calibration(other, calibration)
    for _ in range(3):
        assert calibration_of(wide).temperature == calibration.temperature
        assert calibration_of(other) is None
    assert len(read) == 2 and caplog.text.count("other weights or settings") == 1
    write_calibration(wide, calibration.model_copy(update={"temperature": 0.5}))
    assert calibration_of(wide).temperature == 0.5
    (path,) = {path for path in read if "0123" in path.name}
    path.unlink()
    assert calibration_of(wide) is None


def test_a_calibration_whose_embeddings_have_another_length_is_refused(calibration):
    write_calibration(FakeEncoder(), calibration)
    with pytest.raises(WeightsError, match="its embeddings have 64 numbers, those of the model 11"):
        calibration_of(FakeEncoder())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"",
        lambda text: b"[]",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(b'"temperature":', b'"temperature":-'),
        lambda text: text.replace(b'"version":1', b'"version":2'),
        lambda text: b"\xff" + text,
        lambda text: json.dumps(json.loads(text) | {"first": {"x": [1, 0], "y": [0, 1]}}).encode(),
        lambda text: json.dumps(json.loads(text) | {"first": {"x": [], "y": []}}).encode(),
        lambda text: text.replace(b'"vectors":"', b'"vectors":"!'),
        lambda text: text.replace(b'"captions":32', b'"captions":31'),
        lambda text: text.replace(b'"version":1', b'"version":1,"more":0'),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(calibration, tmp_path, damage):
    path = tmp_path / "calibration.json"
    path.write_bytes(damage(calibration.model_dump_json().encode()))
    with pytest.raises(WeightsError) as caught:
        read_calibration(path)
    assert str(path) in caught.value.message and "\n" not in caught.value.message
    assert "tbps eval --calibration" in caught.value.hint


def test_reading_a_calibration_imports_neither_torch_nor_scikit_learn():
    program = (
        "import sys, tbps_cli.searching.search, tbps_cli.trust.judge\n"
        "print([name for name in ('torch', 'sklearn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


# Galleries of another kind -------------------------------------------------------------------------


def test_the_distance_of_two_distributions_is_that_of_a_plain_loop():
    rng = np.random.default_rng(0)
    found, quantile = np.sort(rng.normal(0.3, 1, 40)), np.sort(rng.normal(0, 1, 201))
    below = [np.interp(value, quantile, np.linspace(0, 1, 201), left=0, right=1) for value in found]
    plain = max(max(abs((place + 1) / 40 - share), abs(place / 40 - share)) for place, share in enumerate(below))
    assert ks_distance(found, quantile) == pytest.approx(plain)


def test_galleries_of_other_people_do_not_differ_and_images_of_another_kind_do(calibration):
    world, alarms = drawn.simulated("hard"), 0
    for seed in range(20):
        (other,) = world(np.random.default_rng((3, seed)), (10, 40, 100, 300)[seed % 4])
        alarms += calibration.shifted(other.image_GE) is not None
        towards = other.image_GE + 0.3 * calibration.likeness.caption_CE.mean(axis=0) / 0.2
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        assert calibration.shifted(towards) is not None
    assert alarms <= 1, f"{alarms} of 20"


def test_a_handful_of_images_is_not_compared(calibration):
    assert calibration.shifted(np.ones((3, 64), np.float32)) is None


def test_the_limit_falls_as_the_gallery_grows(calibration):
    limits = [calibration.likeness.limit(images) for images in (20, 100, 1000, 10**6)]
    assert limits == sorted(limits, reverse=True)
    assert isinstance(calibration, Calibration) and calibration.most == 1 - 1 / 101
