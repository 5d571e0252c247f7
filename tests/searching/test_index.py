"""A folder's index follows its images, and nothing is embedded twice."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.encoder import FakeEncoder

from tbps_cli.data import file_names
from tbps_cli.data.file_names import NOTHING_SAID, NameFacts
from tbps_cli.errors import CacheError, DataError, TbpsError, UsageError
from tbps_cli.features import pipeline, row_sink, store
from tbps_cli.features.store import FeatureFile
from tbps_cli.searching import index_state, naming, sources
from tbps_cli.searching import scan as scanning
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index

HALF = 2.5e-4
"""Most by which half precision moves a number up to 1."""


def paths(gallery: Gallery) -> set[str]:
    return {row.path for row in gallery.rows}


def test_a_folder_is_embedded_once_and_then_known(model, photos: Path) -> None:
    first = index(model, photos)
    assert paths(first) == {"red.png", "green.png", "below/blue.jpg"}
    assert (first.update.added, first.update.embedded, model.seen) == (3, 3, 3)
    again = index(model, photos)
    assert (again.update.added, model.seen) == (0, 3)
    assert np.array_equal(again.vector_GE, first.vector_GE)


def test_vectors_belong_to_their_images(model, photos: Path, painted) -> None:
    painted(photos / "yellow.bmp", "yellow")
    gallery = index(model, photos, batch=2, workers=1)
    for row, vector_E in zip(gallery.rows, gallery.vector_GE, strict=True):
        assert np.abs(vector_E - model.encode_images([photos / row.path])[0]).max() < HALF


def test_vectors_are_kept_in_half_precision_unless_float32_is_asked_for(
    model, photos: Path, tmp_path, monkeypatch
) -> None:
    assert index(model, photos, tmp_path / "narrow.h5").vector_GE.dtype == np.float32
    monkeypatch.setattr("tbps_cli.searching.index.NARROW", 0)
    half, single = tmp_path / "half.h5", tmp_path / "single.h5"
    assert index(model, photos).vector_GE.dtype == np.float16
    assert index(model, photos, half).vector_GE.dtype == np.float16
    exact = index(model, photos, single, single=True)
    for row, vector_E in zip(exact.rows, exact.vector_GE, strict=True):
        assert np.abs(vector_E - model.encode_images([photos / row.path])[0]).max() < 1e-6
    assert index(model, photos, single).vector_GE.dtype == np.float32  # it stays as it is
    with pytest.raises(UsageError, match=r"--float32: .*half\.h5 has its vectors in half precision already"):
        index(model, photos, half, single=True)


def test_nothing_is_written_into_the_users_folder(model, photos: Path) -> None:
    before = sorted(photos.rglob("*"))
    index(model, photos)
    assert sorted(photos.rglob("*")) == before


def test_new_changed_and_removed_images_are_followed(model, photos: Path, painted) -> None:
    index(model, photos)
    painted(photos / "new.png", "yellow")
    painted(photos / "red.png", "blue")
    (photos / "green.png").unlink()
    gallery = index(model, photos)
    assert paths(gallery) == {"red.png", "new.png", "below/blue.jpg"}
    # The new red.png is a blue PNG: other bytes than blue.jpg, so it is embedded.
    assert (gallery.update.added, gallery.update.embedded, gallery.update.removed) == (2, 2, 1)
    place = [row.path for row in gallery.rows].index("red.png")
    assert gallery.vector_GE[place].argmax() == 2


def test_equal_images_are_embedded_once_and_are_hits_of_their_own(model, photos: Path) -> None:
    shutil.copy(photos / "red.png", photos / "below" / "copy.png")
    gallery = index(model, photos, batch=1)
    assert (len(gallery), gallery.update.added, model.seen) == (4, 4, 3)


def test_a_moved_image_is_not_embedded_again(model, photos: Path) -> None:
    index(model, photos)
    (photos / "red.png").rename(photos / "below" / "moved.png")
    gallery = index(model, photos)
    assert paths(gallery) == {"green.png", "below/moved.png", "below/blue.jpg"}
    assert model.seen == 3


def test_contents_that_change_places_keep_their_vectors(model, photos: Path, painted) -> None:
    """Both old rows are replaced while their vectors are still wanted under the other name."""
    index(model, photos)
    red, green = (photos / "red.png").read_bytes(), (photos / "green.png").read_bytes()
    (photos / "red.png").write_bytes(green)
    (photos / "green.png").write_bytes(red)
    for name in ("red.png", "green.png"):
        os.utime(photos / name, ns=(1, 1))
    gallery = index(model, photos, batch=1)
    vector = {row.path: vector_E.argmax() for row, vector_E in zip(gallery.rows, gallery.vector_GE, strict=True)}
    assert (vector["red.png"], vector["green.png"]) == (1, 0)


def test_unusable_images_are_left_out_and_named_once(model, photos: Path, painted, lines) -> None:
    whole = painted(photos / "cut.jpg", "red", (300, 300)).read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.jpg").write_text("not an image")
    (photos / "empty.png").write_bytes(b"")
    painted(photos / "thin.png", "red", (7, 40))
    gallery = index(model, photos)
    said = lines()
    assert paths(gallery) == {"red.png", "green.png", "below/blue.jpg"}
    assert "4 files are left out" in said
    for words in ("cut.jpg (", "text.jpg (no known image format)", "empty.png (the file is empty)", "7 x 40"):
        assert words in said
    assert index(model, photos).update.skipped == []
    assert lines() == ""


def test_a_file_larger_than_the_memory_is_left_out_unread(model, photos: Path, lines) -> None:
    (photos / "video.jpg").touch()
    os.truncate(photos / "video.jpg", 1 << 42)
    assert paths(index(model, photos)) == {"red.png", "green.png", "below/blue.jpg"}
    assert "video.jpg (the file has 4398.0 GB, more than 1.1 GB)" in lines()


def test_a_left_out_image_is_tried_again_when_it_changes(model, photos: Path, painted, lines) -> None:
    (photos / "later.png").write_text("nothing yet")
    assert "later.png" in str(index(model, photos).update.skipped)
    painted(photos / "later.png", "yellow")
    assert "later.png" in paths(index(model, photos))


def test_an_image_that_breaks_loses_its_row(model, photos: Path, lines) -> None:
    index(model, photos)
    (photos / "red.png").write_text("broken")
    gallery = index(model, photos)
    assert paths(gallery) == {"green.png", "below/blue.jpg"}
    assert "red.png (no known image format)" in lines()


def test_an_image_of_20_megapixels_is_embedded(model, photos: Path, painted) -> None:
    painted(photos / "big.jpg", "yellow", (4000, 5000))
    gallery = index(model, photos)
    assert "big.jpg" in paths(gallery) and gallery.update.skipped == []


def test_a_file_that_may_not_be_read_is_tried_again_next_time(
    model, photos: Path, monkeypatch: pytest.MonkeyPatch, lines
) -> None:
    real = Path.open

    def guarded(path: Path, *arguments, **named):
        if path.name == "red.png":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", guarded)
        assert "red.png" not in paths(index(model, photos))
        assert "red.png (Permission denied)" in lines()
    assert "red.png" in paths(index(model, photos))


def test_an_image_that_vanishes_after_the_listing_is_gone_and_not_named(
    model, photos: Path, monkeypatch: pytest.MonkeyPatch, lines
) -> None:
    listed = sources.scan

    def scan(folder: Path, looked=None):
        seen = listed(folder, looked)
        (photos / "red.png").unlink(missing_ok=True)
        return seen

    monkeypatch.setattr(sources, "scan", scan)
    gallery = index(model, photos)
    assert paths(gallery) == {"green.png", "below/blue.jpg"}
    assert lines() == "" and gallery.update.skipped == []


def test_an_image_that_is_replaced_while_it_is_read_keeps_content_and_vector_together(
    model, photos: Path, painted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content and pixels are of the same bytes: a later image of the old content gets the old embedding."""
    hashed = pipeline.content_hash
    red, yellow = (photos / "red.png").read_bytes(), painted(photos / "y.png", "yellow").read_bytes()
    (photos / "y.png").unlink()

    def replacing(content: bytes) -> str:
        if content == red:
            (photos / "red.png").write_bytes(yellow)
        return hashed(content)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "content_hash", replacing)
        gallery = index(model, photos)
    for row, vector_E in zip(gallery.rows, gallery.vector_GE, strict=True):
        if row.path == "red.png":
            assert (row.content, int(vector_E.argmax())) == (hashed(red), 0)
    os.utime(photos / "red.png", ns=(1, 1))
    (photos / "again.png").write_bytes(red)
    gallery = index(model, photos)
    colour = {row.path: vector_E for row, vector_E in zip(gallery.rows, gallery.vector_GE, strict=True)}
    assert (int(colour["again.png"].argmax()), colour["again.png"][1] < 0.1) == (0, True)
    assert colour["red.png"][1] > 0.6  # it is yellow now


def test_a_file_larger_than_any_image_is_left_out_before_it_is_read(model, photos: Path, lines) -> None:
    with (photos / "video.jpg").open("wb") as file:
        file.truncate(1 << 40)
    assert "video.jpg" not in paths(index(model, photos))
    assert "video.jpg (the file has 1099.5 GB" in lines()
    assert index(model, photos).update.skipped == []


@pytest.mark.parametrize("seconds", [-62_167_219_300, 10_413_792_000, 253_402_400_000])
def test_files_of_any_time_are_indexed_and_known_again(model, photos: Path, seconds: int) -> None:
    try:
        os.utime(photos / "red.png", ns=(0, seconds * 10**9))
    except OSError:
        pytest.skip("the file system has no such times")
    gallery = index(model, photos)
    assert {"red.png", "green.png"} <= paths(gallery)
    assert index(model, photos).update.added == 0
    os.utime(photos / "red.png", ns=(0, 10**18))
    assert index(model, photos).update.added == 1


def test_rows_below_an_unreadable_folder_are_kept(model, photos: Path, monkeypatch: pytest.MonkeyPatch, lines) -> None:
    index(model, photos)
    listing = os.scandir

    def guarded(path):
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(scanning.os, "scandir", guarded)
    gallery = index(model, photos)
    assert "below/blue.jpg" in paths(gallery)
    assert "below cannot be read (Permission denied)" in lines()


def test_an_interrupted_run_goes_on_where_it_stopped(model, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = model.image_arrays

    def failing(image_BCHW):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(image_BCHW)

    monkeypatch.setattr(model, "image_arrays", failing)
    with pytest.raises(KeyboardInterrupt):
        index(model, photos, batch=1, workers=1)
    monkeypatch.setattr(model, "image_arrays", real)
    gallery = index(model, photos)
    assert (len(gallery), model.seen, gallery.update.embedded) == (3, 3, 1)


def test_written_rows_survive_a_process_that_just_ends(model, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sink, "FLUSH_ROWS", 1)
    real = FeatureFile.append
    left = 2

    def dying(self: FeatureFile, rows, vector_NE):
        nonlocal left
        if not left:
            raise SystemExit(9)
        left -= 1
        return real(self, rows, vector_NE)

    monkeypatch.setattr(FeatureFile, "append", dying)
    with pytest.raises(SystemExit):
        index(model, photos, batch=1, workers=1)
    monkeypatch.setattr(FeatureFile, "append", real)
    assert index(model, photos).update.embedded == 1


def test_memory_is_that_of_a_few_batches(model, tmp_path: Path, painted, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        painted(tmp_path / "many" / f"{number}.png", "red", (16 + number, 32))
    waiting, most = 0, 0
    read = pipeline.read_image

    def counted(path, **options):
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        return read(path, **options)

    real = model.image_arrays

    def embedded(image_BCHW):
        nonlocal waiting
        waiting -= len(image_BCHW)
        return real(image_BCHW)

    monkeypatch.setattr(pipeline, "read_image", counted)
    monkeypatch.setattr(model, "image_arrays", embedded)
    assert len(index(model, tmp_path / "many", batch=4)) == 40
    assert most <= 3 * 4


def test_progress_counts_up_to_all(model, photos: Path) -> None:
    told: list[tuple[int, int]] = []
    index(model, photos, batch=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 3), (3, 3)]


def test_another_process_that_indexes_meanwhile_changes_no_pairing(model, photos: Path, painted) -> None:
    """Rows read before and vectors read after another's merge would name wrong files."""

    def meanwhile(done: int, total: int) -> None:
        if not (photos / "a.png").exists():
            painted(photos / "a.png", "yellow")
            (photos / "below" / "blue.jpg").unlink()
            index(FakeEncoder(), photos)

    gallery = index(model, photos, batch=1, workers=1, progress=meanwhile)
    assert len(gallery.rows) == len(gallery.vector_GE)
    assert {"a.png", "red.png", "green.png"} <= paths(gallery)
    for row, vector_E in zip(gallery.rows, gallery.vector_GE, strict=True):
        if row.path != "below/blue.jpg":
            assert np.abs(vector_E - model.encode_images([photos / row.path])[0]).max() < HALF
    assert paths(index(model, photos)) == {"a.png", "red.png", "green.png"}


def test_rows_that_another_process_added_after_the_listing_are_kept(model, photos: Path, painted, monkeypatch) -> None:
    index(model, photos)
    listed = sources.scan

    def scan(folder: Path, looked=None):
        seen = listed(folder, looked)
        if not (photos / "late.png").exists():
            painted(photos / "late.png", "yellow")
            index(FakeEncoder(), photos)
        return seen

    (photos / "red.png").unlink()  # so that this process has something to drop
    monkeypatch.setattr(sources, "scan", scan)
    gallery = index(model, photos)
    assert "late.png" in paths(gallery) and "red.png" not in paths(gallery)
    assert index(model, photos).update.embedded == 0


def test_a_folder_without_images_says_why(model, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no usable images"):
        index(model, tmp_path / "empty")
    (tmp_path / "empty" / "a.jpg").write_text("no")
    with pytest.raises(DataError) as caught:
        index(model, tmp_path / "empty")
    assert caught.value.hint is not None and "a.jpg (no known image format)" in caught.value.hint


def test_other_weights_get_an_index_of_their_own(model, photos: Path) -> None:
    index(model, photos)
    other = type(model)("fedcba9876543210")
    assert index(other, photos).update.embedded == 3
    assert index(model, photos).update.embedded == 0


def test_an_index_elsewhere_can_be_searched_without_its_images(model, photos: Path, tmp_path: Path) -> None:
    made = index(model, photos, tmp_path / "people.h5")
    shutil.rmtree(photos)
    opened = open_index(model, tmp_path / "people.h5")
    assert paths(opened) == paths(made) and opened.roots.folder == photos
    assert np.array_equal(opened.vector_GE, made.vector_GE)


def test_an_index_of_other_weights_is_refused_with_what_to_do(model, photos: Path, tmp_path: Path) -> None:
    index(model, photos, tmp_path / "people.h5")
    other = type(model)("fedcba9876543210")
    other.path = Path("runs/other-0001")
    with pytest.raises(CacheError, match="was made by") as caught:
        open_index(other, tmp_path / "people.h5")
    assert caught.value.hint is not None and "--ckpt runs/fake-0001" in caught.value.hint
    with pytest.raises(CacheError):
        index(type(model)("fedcba9876543210"), photos, tmp_path / "people.h5")


def test_an_index_of_other_weights_of_the_same_run_names_them(model, photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "fake"
    run.mkdir(parents=True)
    for name in ("weights.safetensors", "last.safetensors"):
        (run / name).touch()
    model.path = run
    index(model, photos, tmp_path / "x.h5")
    other = FakeEncoder(fingerprint="another")
    other.path = run
    with pytest.raises(CacheError, match=f"made with other weights of {run}, so") as refused:
        open_index(other, tmp_path / "x.h5")
    assert (
        str(run / "last.safetensors") in refused.value.hint and str(run / "weights.safetensors") in refused.value.hint
    )


def test_an_index_of_one_folder_is_not_overwritten_by_another(model, photos: Path, tmp_path: Path, painted) -> None:
    index(model, photos, tmp_path / "people.h5")
    painted(tmp_path / "other" / "a.png", "red")
    with pytest.raises(UsageError, match="is an index of"):
        index(model, tmp_path / "other", tmp_path / "people.h5")


def test_a_file_that_is_no_index_is_refused(model, photos: Path) -> None:
    with pytest.raises(CacheError, match=r"cannot be read|not a feature file"):
        open_index(model, photos / "red.png")


def test_a_batch_dependent_model_is_refused_with_its_reason(model, photos: Path) -> None:
    model.batch_dependent = "attention runs across the batch; --set method.attention_axis=token"
    with pytest.raises(TbpsError, match=r"method\.attention_axis=token"):
        index(model, photos)


def test_the_time_is_when_the_photograph_was_taken(model, photos: Path, painted) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[36867] = "2019:05:06 07:08:09"
    painted(photos / "dated.jpg", "yellow", exif=exif)
    os.utime(photos / "red.png", (1_700_000_000, 1_700_000_000))
    times = {row.path: row.time for row in index(model, photos).rows}
    assert times["dated.jpg"] == "2019-05-06T07:08:09"
    assert times["red.png"].startswith("2023-11-1")


def test_a_cache_that_cannot_be_written_still_lets_one_search(model, photos: Path, tmp_path: Path, lines) -> None:
    (tmp_path / "cache").write_text("a file where the cache should be")
    assert len(index(model, photos)) == 3
    assert "cannot be written" in lines()


def test_file_names_need_not_be_text(model, photos: Path) -> None:
    (photos / "red.png").rename(os.fsdecode(os.fsencode(photos) + b"/\xff\xfe.png"))
    gallery = index(model, photos)
    assert sorted(os.fsencode(row.path) for row in gallery.rows)[-1] == b"\xff\xfe.png"
    assert index(model, photos).update.added == 0


@pytest.fixture(autouse=True)
def no_library_noise(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tbps")


def test_a_folder_of_images_that_are_wider_than_high_is_said_once(model, photos: Path, painted, lines) -> None:
    index(model, photos)
    assert "wider than high" not in lines(), "these are crops"
    for number in range(4):
        painted(photos / f"scene{number}.png", "red", (64 + number, 32))
    index(model, photos)
    assert "4 of 7 images are wider than high. tbps expects crops of one person" in lines()
    painted(photos / "one.png", "red", (90, 32))
    index(model, photos)
    assert "wider than high" not in lines(), "one new image is not most of a folder"


def test_an_index_that_was_moved_with_its_images_finds_them(model, photos: Path, tmp_path: Path, lines) -> None:
    index(model, photos, tmp_path / "a.h5")
    lines()
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    photos.rename(elsewhere / "photos")
    for place in (elsewhere, elsewhere / "photos"):
        shutil.copy(tmp_path / "a.h5", place / "a.h5")
        gallery = open_index(model, place / "a.h5")
        assert gallery.roots.folder == elsewhere / "photos" and gallery.file_of(gallery.rows[0]).is_file()
        assert "its images are taken from" in lines()


def test_an_index_is_told_where_its_images_are_now(model, photos: Path, tmp_path: Path, lines) -> None:
    index(model, photos, tmp_path / "a.h5")
    lines()
    photos.rename(tmp_path / "far away")
    (tmp_path / "empty").mkdir()
    gallery = open_index(model, tmp_path / "a.h5", root=tmp_path / "far away")
    assert gallery.file_of(gallery.rows[0]).is_file() and lines() == ""
    with pytest.raises(UsageError, match=r"none of the images of .* is there"):
        open_index(model, tmp_path / "a.h5", root=tmp_path / "empty")


def test_indexing_a_moved_folder_goes_on_with_its_index(model, photos: Path, tmp_path: Path, lines) -> None:
    index(model, photos, tmp_path / "a.h5")
    other = shutil.copytree(photos, tmp_path / "copied")
    with pytest.raises(UsageError, match="is an index of"):
        index(model, other, tmp_path / "a.h5")  # its own folder is still there
    moved = photos.rename(tmp_path / "moved")
    gallery = index(model, moved, tmp_path / "a.h5")
    assert (gallery.update.embedded, gallery.roots.folder) == (0, moved) and "takes its place" in lines()
    shutil.move(tmp_path / "a.h5", tmp_path / "copied" / "a.h5")
    assert open_index(model, tmp_path / "copied" / "a.h5").roots.folder == moved and lines() == "", "it is written down"


def test_an_index_without_its_images_says_so_once_and_can_be_searched(
    model, photos: Path, tmp_path: Path, lines
) -> None:
    index(model, photos, tmp_path / "a.h5")
    lines()
    shutil.rmtree(photos)
    gallery = open_index(model, tmp_path / "a.h5")
    assert len(gallery) == 3 and lines().count("cannot be shown or copied") == 1


def test_what_is_in_the_index_as_it_is_costs_no_object_and_no_look_at_its_name(
    model, photos: Path, painted, monkeypatch
) -> None:
    for number in range(40):
        painted(photos / "many" / f"cam{number % 3}_{number:03d}.png", ["red", "green", "blue"][number % 3])
    index(model, photos)
    made, read = [], []
    item_of, facts_of = sources.Items.__getitem__, naming.facts_of
    monkeypatch.setattr(sources.Items, "__getitem__", lambda items, place: made.append(place) or item_of(items, place))
    monkeypatch.setattr(naming, "facts_of", lambda path: read.append(path) or facts_of(path))
    gallery = index(model, photos)
    assert len(gallery) == 43 and not made and not read
    painted(photos / "many" / "cam1_new.png", "yellow")
    painted(photos / "red.png", "blue")
    gallery = index(model, photos)
    assert (len(gallery), gallery.update.added) == (44, 2)
    assert sorted(read) == ["many/cam1_new.png", "red.png"] and len(made) < 10
    (new,) = [row for row in gallery.rows if row.path.endswith("new.png")]
    assert new.camera == "cam1"


def test_names_are_read_again_when_they_come_to_say_something_else(model, photos: Path, painted, monkeypatch) -> None:
    painted(photos / "gate_red.png", "red")
    index(model, photos)
    monkeypatch.setattr(naming, "facts_of", lambda path: NameFacts("gate") if "gate" in path else NOTHING_SAID)
    assert not any(row.camera for row in index(model, photos).rows), "the conventions are said to be what they were"
    monkeypatch.setattr(file_names, "CONVENTIONS", 2)
    for _ in range(2):
        gallery = index(model, photos)
        assert {row.path: row.camera for row in gallery.rows if row.camera} == {"gate_red.png": "gate"}
    assert index_state.IndexState(next((photos.parent / "cache" / "indexes").glob("*.h5"))).conventions == 2
    assert model.seen == 3


def test_rows_that_others_add_while_parts_are_merged_are_kept(model, photos: Path, painted, monkeypatch) -> None:
    """Merging shows a long run what others have added meanwhile: of files that its own list cannot have."""
    index(model, photos)
    monkeypatch.setattr(store, "PARTS", 2)
    monkeypatch.setattr(row_sink, "FLUSH_ROWS", 1)
    listed = sources.scan

    def scan(folder: Path, looked=None):
        seen = listed(folder, looked)
        if not (photos / "late.png").exists():
            painted(photos / "late.png", "yellow")
            index(FakeEncoder(), photos)
        return seen

    painted(photos / "first.png", "yellow", (9, 18))
    painted(photos / "second.png", "red", (9, 18))
    (photos / "green.png").unlink()
    monkeypatch.setattr(sources, "scan", scan)
    index(model, photos, batch=1)
    (place,) = Path(os.environ["TBPS_CACHE_DIR"]).glob("indexes/*.h5")
    there = FeatureFile.open(place, model.fingerprint)
    assert set(there.known().paths) == {"red.png", "first.png", "second.png", "late.png", "below/blue.jpg"}
