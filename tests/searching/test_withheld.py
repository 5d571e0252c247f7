"""What was forgotten or is too old leaves an index and stays out of it, whatever is done to bring it back."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.encoder import FakeEncoder
from support.runs import tiny_run
from support.sets import save_image
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.databases.local import LocalDatabase
from tbps_cli.errors import CacheError, DataError, UsageError
from tbps_cli.features.rows import Row, Rows, content_hash
from tbps_cli.places import cache_dir
from tbps_cli.searching import filling
from tbps_cli.searching.database_gallery import place_here
from tbps_cli.searching.forget import forget
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index
from tbps_cli.searching.thumbnails import Excerpt, ThumbnailCache, thumbnails
from tbps_cli.searching.withheld import list_beside, list_in_cache


def paths(gallery) -> list[str]:
    return sorted(gallery.rows.paths)


def images_in_cache() -> bytes:
    """Everything below the cache but the list itself."""
    files = [path for path in cache_dir().rglob("*") if path.is_file() and path != list_in_cache()]
    return b"".join(str(path).encode() + path.read_bytes() for path in files)


# Forgetting -----------------------------------------------------------------------------------


def test_a_file_leaves_every_index_and_is_not_embedded_again(model, photos: Path) -> None:
    other = FakeEncoder(fingerprint="another")
    for one in (model, other):
        assert paths(index(one, photos)) == ["below/blue.jpg", "green.png", "red.png"]
    report = forget([str(photos / "red.png")])
    assert (report.images, report.indexes) == (2, 2)
    for one in (model, other, FakeEncoder(fingerprint="a third")):
        gallery = index(one, photos)
        assert paths(gallery) == ["below/blue.jpg", "green.png"]
        assert gallery.update.removed == 0


def test_a_copy_under_another_name_stays_out_too_and_is_embedded_once_at_most(model, photos: Path) -> None:
    index(model, photos)
    forget([str(photos / "red.png")])
    shutil.copy(photos / "red.png", photos / "renamed.png")
    assert "renamed.png" not in paths(index(model, photos))
    seen = model.seen
    assert "renamed.png" not in paths(index(model, photos)) and model.seen == seen


def test_a_folder_is_forgotten_with_what_comes_into_it_later(model, photos: Path, painted) -> None:
    index(model, photos)
    assert forget([str(photos / "below")]).images == 1
    painted(photos / "below" / "later.png", "red", (20, 40))
    assert paths(index(model, photos)) == ["green.png", "red.png"]


def test_a_file_that_is_gone_already_can_be_forgotten_and_its_thumbnail_goes(model, photos: Path) -> None:
    index(model, photos)
    content = content_hash(photos / "red.png")
    thumbnails([Excerpt(photos / "red.png"), Excerpt(photos / "green.png")], (20, 40), cache=ThumbnailCache())
    (photos / "red.png").unlink()
    assert forget([str(photos / "red.png")]).thumbnails == 1
    assert content.encode() not in images_in_cache() and b"red.png" not in images_in_cache()
    assert b"green.png" in images_in_cache()


def test_one_crop_of_a_table_is_forgotten_by_its_path(model, photos: Path, tmp_path: Path) -> None:
    rows = [{"image": str(photos / "red.png"), "box": box} for box in ([0, 0, 8, 16], [8, 0, 8, 16])]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(index(model, tmp_path / "list.jsonl").rows) == 2
    assert forget([f"{photos}/red.png#xywh=0,0,8,16"]).images == 1
    assert [path.partition("#")[2] for path in paths(index(model, tmp_path / "list.jsonl"))] == ["xywh=8,0,8,16"]


def test_an_index_of_ones_own_forgets_and_carries_its_list(model, photos: Path, tmp_path: Path, monkeypatch) -> None:
    index(model, photos, tmp_path / "people.h5")
    forget(["photos/red.png"], tmp_path / "people.h5")
    assert paths(open_index(model, tmp_path / "people.h5")) == ["below/blue.jpg", "green.png"]
    assert list_beside(tmp_path / "people.h5").is_file()
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "another cache"))
    assert paths(index(model, photos, tmp_path / "people.h5")) == ["below/blue.jpg", "green.png"]


def test_an_index_that_was_away_hides_what_was_forgotten_meanwhile(model, photos: Path, tmp_path: Path) -> None:
    index(model, photos, tmp_path / "people.h5")
    forget([str(photos / "red.png")])
    assert paths(open_index(model, tmp_path / "people.h5")) == ["below/blue.jpg", "green.png"]


def test_a_path_that_nobody_knows_is_an_error_and_nothing_is_remembered(model, photos: Path) -> None:
    index(model, photos)
    with pytest.raises(DataError, match=r"--forget .*typo.png: there is no such file"):
        forget([str(photos / "red.png"), str(photos / "typo.png")])
    assert not list_in_cache().exists() and len(index(model, photos)) == 3


def test_an_empty_path_does_not_forget_the_whole_folder(model, photos: Path, monkeypatch) -> None:
    index(model, photos)
    monkeypatch.chdir(photos)
    for nothing in ("", " "):
        with pytest.raises(UsageError, match="--forget is empty"):
            forget(["red.png", nothing])
    assert paths(index(model, photos)) == ["below/blue.jpg", "green.png", "red.png"]


def test_killed_between_list_and_rows_the_next_use_drops_them(model, photos: Path, monkeypatch) -> None:
    index(model, photos)
    monkeypatch.setattr("tbps_cli.searching.forget._drop", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        forget([str(photos / "red.png")])
    gallery = index(model, photos)
    assert paths(gallery) == ["below/blue.jpg", "green.png"] and gallery.update.removed == 1


def test_a_damaged_line_of_the_list_is_said_and_the_others_count(model, photos: Path, lines) -> None:
    index(model, photos)
    forget([str(photos / "red.png")])
    with list_in_cache().open("ab") as file:
        file.write(b'{"path": "/half\n')
    assert len(index(model, photos)) == 2
    assert "is damaged; what it named may be indexed again" in lines()


# Expiry ---------------------------------------------------------------------------------------


@pytest.fixture
def aged(photos: Path) -> Path:
    """red.png was changed 40 days ago, green.png taken 50 days ago by its EXIF, blue.jpg is new."""
    os.utime(photos / "red.png", (time.time() - 40 * 86_400,) * 2)
    exif = Image.Exif()
    exif[0x8769] = {36867: time.strftime("%Y:%m:%d %H:%M:%S", time.localtime(time.time() - 50 * 86_400))}
    with Image.open(photos / "green.png") as image:
        image.save(photos / "green.png", exif=exif)
    return photos


def test_what_is_older_goes_and_is_not_embedded_again(model, aged: Path) -> None:
    assert len(index(model, aged)) == 3
    gallery = index(model, aged, expire=45 * 86_400)
    assert paths(gallery) == ["below/blue.jpg", "red.png"] and gallery.update.removed == 1
    seen = model.seen
    assert paths(index(model, aged, expire=30 * 86_400)) == ["below/blue.jpg"]
    assert paths(index(model, aged)) == ["below/blue.jpg"], "the period is not remembered"
    assert model.seen == seen


def test_a_longer_period_or_none_lets_them_in_again(model, aged: Path) -> None:
    index(model, aged, expire=30 * 86_400)
    assert paths(index(model, aged, expire=45 * 86_400)) == ["below/blue.jpg", "red.png"]
    assert len(index(model, aged, expire=math.inf)) == 3 == len(index(model, aged))


def test_an_index_file_as_it_is_shows_nothing_that_has_expired(model, aged: Path, tmp_path: Path) -> None:
    index(model, aged, tmp_path / "people.h5")
    (tmp_path / "people.h5.expired.json").write_text(json.dumps({"seconds": 30 * 86_400, "gone": {}}))
    assert paths(open_index(model, tmp_path / "people.h5")) == ["below/blue.jpg"]


def test_a_damaged_period_is_an_error_not_a_silent_never(model, photos: Path, tmp_path: Path) -> None:
    index(model, photos, tmp_path / "people.h5", expire=86_400.0)
    (tmp_path / "people.h5.expired.json").write_text("{")
    with pytest.raises(CacheError, match=r"people.h5.expired.json cannot be read"):
        index(model, photos, tmp_path / "people.h5")


# The command ----------------------------------------------------------------------------------


def test_the_command_forgets_and_says_what_and_where(tmp_path: Path) -> None:
    tiny_run(tmp_path / "runs" / "tiny-0001")
    for seed in range(3):
        save_image(tmp_path / "photos" / f"{seed}.jpg", seed)

    def run(*words: str, status: int = 0):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == status, result.stderr
        return result

    run("index", "photos")
    said = run("index", "--forget", "photos/1.jpg")
    assert said.stdout.strip() == "Forgotten: 1 image in 1 index, 0 thumbnails, 0 lists of detections"
    assert f"Not indexed again, as listed in {list_in_cache()}" in said.stderr
    found = json.loads(run("search", "a man", "--in", "photos", "--json").stdout)
    assert {hit["path"] for hit in found["hits"]} == {"0.jpg", "2.jpg"}
    assert "1 removed" not in run("index", "photos", "--expire", "30d").stdout
    assert "--expire soon: not a length of time" in run("index", "photos", "--expire", "soon", status=2).stderr
    run("index", "--forget", "photos", "--json")
    left = run("search", "a man", "--in", "photos", status=1)
    assert "3 files were forgotten (--forget) or are too old (--expire)" in left.stderr


def test_a_link_to_what_was_forgotten_stays_out_in_any_folder(model, photos: Path, painted) -> None:
    painted(photos / "hidden" / "a.png", "yellow")
    forget(["photos/hidden", "photos/red.png"])
    (photos / "to.png").symlink_to(photos / "hidden" / "a.png")
    (photos / "below" / "again.png").symlink_to(photos / "red.png")
    (photos / "whole").symlink_to(photos / "hidden")
    assert paths(index(model, photos)) == ["below/blue.jpg", "green.png"]


@pytest.mark.parametrize("place", ["one/x.png", "one", "two/deep/y.png", "two"])
def test_what_was_forgotten_stays_out_of_a_gallery_of_several_sources(
    model, tmp_path: Path, painted, place: str
) -> None:
    for name in ("one/x.png", "one/z.png", "two/deep/y.png", "two/deep/x.png"):
        painted(tmp_path / name, "red", (8 + len(name), 20 + ord(name[-5]) % 7))
    single = painted(tmp_path / "alone.png", "blue")
    given = [tmp_path / "one", tmp_path / "two", single]
    everything = set(paths(index(model, given)))
    assert len(everything) == 5
    forget([place])
    assert set(paths(index(model, given))) == {path for path in everything if not f"{path}/".startswith(f"{place}/")}
    forget(["alone.png"])
    assert "alone.png" not in paths(index(model, given))


def test_a_file_with_a_star_in_its_name_is_found_among_many_that_fit_it(
    photos: Path, tmp_path: Path, monkeypatch
) -> None:
    """Its name is no pattern, however many others come before it in a database."""
    monkeypatch.setattr(filling, "BATCH", 5)
    database = LocalDatabase.open(tmp_path / "x.h5", create=True, fingerprint="f1")
    name = database.add_root("photos", place_here(photos))
    starred = ["a*.jpg", "a*.jpg#xywh=0,0,4,4", "a*b/1.jpg"]
    inside = [f"a{number}.jpg" for number in range(40)] + [f"a{number}b/1.jpg" for number in range(9)] + starred
    database.add(Rows.of([Row(f"{name}/{one}", 1, 1) for one in inside]), np.eye(len(inside), 8, dtype=np.float32))
    assert filling._forget(database, str(photos / "a*.jpg#xywh=0,0,4,4")) == 1
    assert filling._forget(database, str(photos / "a*.jpg")) == 1
    assert filling._forget(database, str(photos / "a*b")) == 1
    assert database.count() == 49
    assert filling._forget(database, str(photos)) == 49
