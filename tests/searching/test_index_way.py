"""The way in which a gallery is embedded: chosen once, said, kept in its fingerprint, never mixed and never changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.encoder import FakeEncoder, unit

from tbps_cli.errors import CacheError, UsageError
from tbps_cli.features import fastest_way
from tbps_cli.features.encoder import Embeddings, ImageWay
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index
from tbps_cli.searching.search import search


class TwoWays(FakeEncoder):
    """float32, and a way that says to be four times as fast and is a little off."""

    def __init__(self, fingerprint: str = "0123456789abcdef") -> None:
        super().__init__(fingerprint)
        self.quick = 0

    def image_ways(self) -> list[ImageWay]:
        exact = ImageWay("fp32", "fp32", "", self.image_arrays, 8)
        return [exact, ImageWay("bf16", "bf16", "-bf16", self.quickly, 8)]

    def quickly(self, image_BCHW: Embeddings) -> Embeddings:
        self.quick += len(image_BCHW)
        row_BE = self.image_arrays(image_BCHW)
        return unit(row_BE + np.float32(1e-6))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> TwoWays:
    made = TwoWays()
    monkeypatch.setattr(fastest_way, "WORTH", 20)
    monkeypatch.setattr(fastest_way, "SAMPLE", 10)
    monkeypatch.setattr(fastest_way, "_timed", lambda way, images: (way.embed(images), 1.0 if way.suffix else 4.0))
    return made


def folder(place: Path, count: int) -> Path:
    place.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (16, 8, 3), np.uint8)).save(place / f"{number:03}.png")
    return place


def test_a_large_gallery_is_embedded_in_the_fastest_way_and_a_small_one_in_fp32(
    model: TwoWays, tmp_path: Path, lines: Callable[[], str]
) -> None:
    index(model, folder(tmp_path / "small", 19))
    assert (model.quick, lines()) == (0, "")
    gallery = index(model, folder(tmp_path / "large", 30))
    assert model.quick == 10 + 30
    assert "images are embedded in bf16: 4.0 times as fast as fp32 here" in lines()
    hits = search(model, gallery, "red", top=3)
    exact = index(model, tmp_path / "large", precision="fp32")
    assert [hit.path for hit in hits] == [hit.path for hit in search(model, exact, "red", top=3)]


def test_an_index_keeps_its_way_whatever_is_found_out_later(model: TwoWays, tmp_path: Path) -> None:
    small = folder(tmp_path / "small", 5)
    before = np.array(index(model, small).vector_GE)
    index(model, folder(tmp_path / "large", 30))
    model.quick = model.batches.clear() or 0
    again = index(model, small)
    assert (model.seen, model.quick, np.array_equal(before, again.vector_GE)) == (0, 0, True)
    Image.new("RGB", (8, 16), "red").save(small / "new.png")
    index(model, small)
    assert (model.seen, model.quick) == (1, 0)
    index(model, folder(tmp_path / "another", 3))
    assert model.quick == 3, "what was found out counts for new galleries of any size"


def test_two_ways_never_share_an_index(model: TwoWays, tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 5)
    exact = index(model, photos)
    quick = index(model, photos, precision="bf16")
    assert (model.seen, model.quick) == (10, 5)
    assert not np.array_equal(exact.vector_GE, quick.vector_GE)
    assert len(list((tmp_path / "cache" / "indexes").glob("photos-*.h5"))) == 2


def test_an_index_file_is_opened_and_continued_in_its_own_way(model: TwoWays, tmp_path: Path) -> None:
    photos, file = folder(tmp_path / "photos", 5), tmp_path / "people.h5"
    made = index(model, photos, file, precision="bf16")
    assert np.array_equal(open_index(model, file).vector_GE, made.vector_GE)
    index(model, photos, file)
    assert model.seen == 5
    with pytest.raises(CacheError, match="was made by"):
        index(model, photos, file, precision="fp32")
    with pytest.raises(CacheError, match="was made with other weights"):
        open_index(TwoWays("fedcba9876543210"), file)
    assert len(open_index(FakeEncoder(), file)) == 5, "it may be searched where that way is not to be had"


def test_a_precision_that_the_model_lacks_is_refused_before_anything_is_embedded(
    model: TwoWays, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--precision int8: runs/fake-0001 cannot embed images so here"):
        index(model, folder(tmp_path / "photos", 5), precision="int8")
    assert model.seen == 0


def test_unreadable_images_do_not_spoil_the_trial(model: TwoWays, tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", 30)
    for number in range(0, 30, 2):
        (photos / f"{number:03}.png").write_bytes(b"no image")
    index(model, photos)
    assert model.quick == 10 + 15
