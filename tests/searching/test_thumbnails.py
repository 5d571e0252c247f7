"""Thumbnails in the cache: shared by equal contents, whole or made again, bounded, forgotten on request."""

from __future__ import annotations

import io
import multiprocessing
import shutil
from pathlib import Path

import pytest
from PIL import Image
from support.sets import save_image

from tbps_cli.features.rows import content_hash
from tbps_cli.searching.thumbnails import Excerpt, ThumbnailCache, thumbnails

SIZE = 40, 80


@pytest.fixture
def cache(tmp_path: Path) -> ThumbnailCache:
    return ThumbnailCache(tmp_path / "thumbnails")


def test_equal_contents_share_one_entry_and_equal_thumbnails(tmp_path, cache) -> None:
    one = save_image(tmp_path / "one.png", 1, (100, 300))
    shutil.copy(one, tmp_path / "two.png")
    first, second = thumbnails([Excerpt(one), Excerpt(tmp_path / "two.png")], SIZE, cache=cache)
    assert first == second and (first.width, first.height) == (100, 300)
    assert Image.open(io.BytesIO(first.jpeg)).size == (27, 80)
    assert len(list(cache.folder.iterdir())) == 1


def test_an_entry_is_used_until_the_image_changes(tmp_path, cache) -> None:
    image = save_image(tmp_path / "one.png", 1, (100, 300))
    (made,) = thumbnails([Excerpt(image)], SIZE, cache=cache)
    (entry,) = cache.folder.iterdir()
    cache.put(entry.name, made._replace(width=7))
    assert thumbnails([Excerpt(image)], SIZE, cache=cache)[0].width == 7
    save_image(image, 2, (100, 300))
    (other,) = thumbnails([Excerpt(image)], SIZE, cache=cache)
    assert other.width == 100 and other.jpeg != made.jpeg


def test_boxes_sizes_and_blurred_heads_have_entries_of_their_own(tmp_path, cache) -> None:
    image = save_image(tmp_path / "one.png", 1, (100, 300))
    made = [
        *thumbnails([Excerpt(image), Excerpt(image, (0, 0, 50, 100))], SIZE, cache=cache),
        *thumbnails([Excerpt(image)], (20, 20), cache=cache),
        *thumbnails([Excerpt(image)], SIZE, blur=True, cache=cache),
    ]
    assert len({one.jpeg for one in made}) == 4 == len(list(cache.folder.iterdir()))


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_entry_is_made_again(tmp_path, cache, damage: bytes | None) -> None:
    image = save_image(tmp_path / "one.png", 1, (100, 300))
    (made,) = thumbnails([Excerpt(image)], SIZE, cache=cache)
    (entry,) = cache.folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage is None else damage)
    assert cache.get(entry.name) is None
    assert thumbnails([Excerpt(image)], SIZE, cache=cache) == [made]
    assert entry.read_bytes() == whole


def test_the_cache_keeps_to_its_limit_and_drops_what_was_not_used_longest(tmp_path) -> None:
    cache = ThumbnailCache(tmp_path / "thumbnails", limit=6_000)
    images = [save_image(tmp_path / f"{n}.png", n, (100, 300)) for n in range(12)]
    for image in images:
        thumbnails([Excerpt(images[0]), Excerpt(image)], SIZE, cache=cache)
    entries = list(cache.folder.iterdir())
    assert sum(entry.stat().st_size for entry in entries) <= 6_000
    kept = {entry.name.partition("-")[0] for entry in entries}
    assert {content_hash(images[0]), content_hash(images[-1])} <= kept and content_hash(images[1]) not in kept


def test_what_is_forgotten_is_gone_and_the_rest_stays(tmp_path, cache) -> None:
    images = [save_image(tmp_path / f"{n}.png", n, (100, 300)) for n in range(2)]
    thumbnails([*map(Excerpt, images), Excerpt(images[0], (0, 0, 9, 9))], SIZE, cache=cache)
    assert cache.forget({content_hash(images[0])}) == 2
    assert [entry.name.partition("-")[0] for entry in cache.folder.iterdir()] == [content_hash(images[1])]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path) -> None:
    (tmp_path / "file").touch()
    image = save_image(tmp_path / "one.png", 1, (100, 300))
    assert thumbnails([Excerpt(image)], SIZE, cache=ThumbnailCache(tmp_path / "file" / "below"))[0].jpeg


def _make(folder: Path) -> list[bytes]:
    cache = ThumbnailCache(folder / "thumbnails", limit=4_000)
    return [one.jpeg for one in thumbnails([Excerpt(folder / f"{n}.png") for n in range(8)], SIZE, cache=cache)]


def test_several_processes_may_use_and_trim_it_at_once(tmp_path) -> None:
    for n in range(8):
        save_image(tmp_path / f"{n}.png", n, (100, 300))
    expected = [one.jpeg for one in thumbnails([Excerpt(tmp_path / f"{n}.png") for n in range(8)], SIZE)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_make, [tmp_path] * 6) == [expected] * 6
    assert not [path for path in (tmp_path / "thumbnails").iterdir() if path.name.endswith(".tmp")]
