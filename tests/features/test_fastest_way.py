"""Which way images are embedded in: the fastest that agrees with float32, remembered, never changed under an index."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from support.encoder import FakeEncoder, unit

from tbps_cli.errors import UsageError, WeightsError
from tbps_cli.features import fastest_way
from tbps_cli.features.encoder import Embeddings, ImageWay
from tbps_cli.features.fastest_way import SAMPLE, WORTH, choose_way, same_best
from tbps_cli.features.image_ways import ImagesBy, own_way


class Clock:
    """Time passes where a way says so."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class ManyWays(FakeEncoder):
    """float32, and ways of given speed whose vectors are off by so much."""

    def __init__(self, clock: Clock, ways: dict[str, tuple[float, float]]) -> None:
        super().__init__()
        self.clock, self.others = clock, ways
        self.tried: list[str] = []

    def image_ways(self) -> list[ImageWay]:
        made = [ImageWay("fp32", "fp32", "", self._way("fp32", 1.0, 0.0), 8)]
        for name, (faster, off) in self.others.items():
            made.append(ImageWay(name, "bf16", f"-{name}", self._way(name, faster, off), 8))
        return made

    def _way(self, name: str, faster: float, off: float) -> Callable[[Embeddings], Embeddings]:
        def embed(image_BCHW: Embeddings) -> Embeddings:
            self.tried.append(name)
            self.clock.now += len(image_BCHW) / faster
            row_BE = self.image_arrays(image_BCHW)
            noise = np.random.default_rng(1).standard_normal(row_BE.shape)
            return unit(row_BE + off * noise)

        return embed


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    made = Clock()
    monkeypatch.setattr(fastest_way, "time", made)
    return made


def sample(count: int) -> Embeddings:
    return np.random.default_rng(0).random((count, 3, 8, 4), np.float32)


def chosen(encoder: FakeEncoder, precision: str = "auto", *, begun: tuple[str, ...] = (), new: int = WORTH) -> str:
    return choose_way(encoder, precision, begun=lambda way: way.suffix in begun, new=lambda: new, sample=sample).name


def test_the_fastest_way_that_agrees_is_taken_and_said(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    encoder = ManyWays(clock, {"near": (2.0, 1e-5), "nearer": (1.5, 0.0), "far": (9.0, 0.3)})
    with caplog.at_level(logging.INFO, "tbps"):
        assert chosen(encoder) == "near"
    assert "images are embedded in near: 2.0 times as fast as fp32 here; cosine with it at least " in caplog.text
    assert f"on {SAMPLE} of these images (--precision fp32" in caplog.text


def test_float32_lets_go_of_its_memory_before_another_way_is_tried(clock: Clock) -> None:
    class Releasing(ManyWays):
        def image_ways(self) -> list[ImageWay]:
            exact, *others = super().image_ways()
            return [replace(exact, release=lambda: self.tried.append("released")), *others]

    encoder = Releasing(clock, {"near": (2.0, 1e-5)})
    assert chosen(encoder) == "near"
    order = [name for name, _ in groupby(encoder.tried)]
    assert order == ["released", "fp32", "released", "near", "released"], "the text tower goes first"


def test_a_way_that_cannot_run_here_is_left_out(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ManyWays):
        def image_ways(self) -> list[ImageWay]:
            exact, *others = super().image_ways()

            def fail(image_BCHW: Embeddings) -> Embeddings:
                raise WeightsError("it cannot be compiled")

            return [exact, ImageWay("broken", "bf16", "-broken", fail, 8), *others]

    with caplog.at_level(logging.INFO, "tbps"):
        assert chosen(Broken(clock, {"near": (2.0, 1e-5)})) == "near"
    assert "images are not embedded in broken: it cannot be compiled" in caplog.text


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ((9.0, 0.3), "fp32: other was 9.0 times as fast, cosine 0."),
        ((1.06, 0.0), "fp32: other was 1.1 times as fast, cosine 1.00000, the same ten best"),
        ((0.5, 0.0), "fp32: other was 0.5 times as fast"),
    ],
)
def test_where_none_agrees_or_is_worth_it_float32_stays(
    clock: Clock, way: tuple[float, float], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tbps"):
        assert chosen(ManyWays(clock, {"other": way})) == "fp32"
    assert said in caplog.text


def test_what_was_found_is_remembered_for_the_model_and_the_machine(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = ManyWays(clock, {"near": (2.0, 0.0)})
    assert (chosen(encoder), len(encoder.tried) > 0) == ("near", True)
    again = ManyWays(clock, {"near": (0.1, 0.0)})
    assert (chosen(again), chosen(again, new=1), again.tried) == ("near", "near", [])
    other = ManyWays(clock, {"near": (0.1, 0.0)})
    other.fingerprint = "another"
    assert chosen(other) == "fp32"
    monkeypatch.setattr(fastest_way, "processor", lambda: ("another", frozenset()))
    assert chosen(ManyWays(clock, {"near": (0.1, 0.0)})) == "fp32"


def test_an_index_goes_on_in_the_way_that_it_was_begun_in(clock: Clock) -> None:
    encoder = ManyWays(clock, {"near": (2.0, 0.0)})
    assert chosen(encoder, begun=("",), new=10_000) == "fp32", "although a trial would find a faster one"
    assert chosen(encoder, new=5) == "fp32" and encoder.tried == [], "few images are not worth a trial"
    assert chosen(encoder, new=WORTH) == "near"
    assert chosen(encoder, begun=("",)) == "fp32" and chosen(encoder, begun=("", "-near")) == "near"


def test_a_precision_that_is_asked_for_is_taken_untried_or_refused(clock: Clock) -> None:
    encoder = ManyWays(clock, {"near": (0.1, 0.3)})
    assert (chosen(encoder, "bf16", begun=("",)), chosen(encoder, "fp32"), encoder.tried) == ("near", "fp32", [])
    two = ManyWays(clock, {"near": (0.1, 0.3), "nearer": (0.2, 0.0)})
    assert chosen(two, "bf16") == "nearer" and chosen(two, "bf16", begun=("-near",)) == "near", "as it was begun"
    with pytest.raises(UsageError, match=r"--precision int8: runs/fake-0001 cannot embed images so here") as caught:
        chosen(encoder, "int8")
    assert "tbps export --ckpt runs/fake-0001 --quantize int8" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="--precision fp8: there is none such"):
        chosen(encoder, "fp8")
    with pytest.raises(UsageError, match="--precision bf16"):
        chosen(FakeEncoder(), "bf16")


def test_images_of_another_way_have_another_fingerprint(clock: Clock) -> None:
    encoder = ManyWays(clock, {"near": (2.0, 0.0)})
    plain, near = (ImagesBy(encoder, way) for way in encoder.image_ways())
    assert (plain.fingerprint, near.fingerprint) == (encoder.fingerprint, f"{encoder.fingerprint}-near")
    assert np.array_equal(near.image_arrays(sample(3)), plain.image_arrays(sample(3)))
    assert own_way(encoder).suffix == ""


EXACT = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.0, -0.1]


@pytest.mark.parametrize(
    ("exact", "other", "same"),
    [
        (EXACT, EXACT, True),
        (EXACT, [0.8, 0.9, *EXACT[2:]], True),  # another order of the same ten
        (EXACT, [*EXACT[:9], 0.0, 0.05, -0.1], False),  # the eleventh instead of the tenth
        (EXACT, [-0.9, *EXACT[1:]], False),
        ([*EXACT[:9], 0.05, 0.0495, -0.1], [*EXACT[:9], 0.04, 0.05, -0.1], True),  # which were as good as equal
        ([*EXACT[:9], 0.05, 0.0495, -0.1], [-0.9, *EXACT[1:9], 0.05, 0.0495, -0.1], False),
        ([0.3, 0.2], [0.2, 0.3], True),
    ],
)
def test_the_ten_best_are_the_same_or_not(exact: list[float], other: list[float], same: bool) -> None:
    assert same_best(np.array([exact], np.float32), np.array([other], np.float32)) is same
