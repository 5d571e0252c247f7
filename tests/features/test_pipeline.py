"""Nothing is embedded twice, and nothing unreadable goes by in silence."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.encoder import FakeEncoder, Neighbours
from support.sets import cuhk_records, save_image, write_set

from tbps_cli.data.open import open_dataset
from tbps_cli.data.types import Split
from tbps_cli.errors import DataError
from tbps_cli.retrieval import embed as embedding
from tbps_cli.retrieval.embed import embed_split


@pytest.fixture
def split(tmp_path) -> Split:
    write_set(tmp_path / "CUHK-PEDES", cuhk_records(persons=(1, 1, 5)))
    return open_dataset("cuhk-pedes", tmp_path).split("test")


def counted(split: Split, cache: Path | None, model: FakeEncoder | None = None, **options: object):
    model = model or FakeEncoder()
    embedded = embed_split(model, split, cache_dir=cache, **options)
    return embedded, model.seen, len(model.texts)


def test_rows_stand_in_file_order_whatever_the_batch(split) -> None:
    whole, *_ = counted(split, None)
    small, images, texts = counted(split, None, batch=3)
    assert (images, texts) == (10, 20)
    assert whole.image_GE.tolist() == small.image_GE.tolist()
    assert whole.text_QE.tolist() == small.text_QE.tolist() == FakeEncoder().encode_texts(split.captions).tolist()
    assert len(np.unique(whole.image_GE, axis=0)) == 10


def test_the_second_evaluation_embeds_nothing(split, tmp_path) -> None:
    first, *_ = counted(split, tmp_path / "cache")
    second, images, texts = counted(split, tmp_path / "cache")
    assert (images, texts) == (0, 0)
    assert second.report.reused == 10
    assert second.image_GE.tolist() == first.image_GE.tolist()
    assert second.text_QE.tolist() == first.text_QE.tolist()
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2


def test_other_weights_embed_everything_anew(split, tmp_path) -> None:
    counted(split, tmp_path / "cache")
    assert counted(split, tmp_path / "cache", FakeEncoder("f2"))[1:] == (10, 20)


def test_a_changed_image_is_embedded_again_and_a_touched_or_moved_one_is_not(split, tmp_path) -> None:
    before, *_ = counted(split, tmp_path / "cache")
    save_image(split.paths[3], seed=999)
    os.utime(split.paths[4], (1, 1))
    split.paths[5].rename(split.paths[5].with_name("moved.png"))
    split.paths[5] = split.paths[5].with_name("moved.png")
    after, images, _ = counted(split, tmp_path / "cache")
    assert images == 1
    changed = (before.image_GE != after.image_GE).any(axis=1)
    assert np.flatnonzero(changed).tolist() == [3]
    assert counted(split, tmp_path / "cache")[1] == 0


def test_equal_images_under_two_paths_are_embedded_once(split, tmp_path) -> None:
    split.paths[7].write_bytes(split.paths[2].read_bytes())
    embedded, images, _ = counted(split, tmp_path / "cache")
    assert images == 9
    assert embedded.image_GE[7].tolist() == embedded.image_GE[2].tolist()


def test_a_batch_dependent_form_is_embedded_whole_in_order_and_per_batch_size(split, tmp_path) -> None:
    def run(batch: int):
        return counted(split, tmp_path / "cache", Neighbours(batch_dependent="attends over the batch"), batch=batch)

    first, images, _ = run(4)
    assert images == 10
    again, images, texts = run(4)
    assert (images, texts) == (0, 0)
    assert again.image_GE.tolist() == first.image_GE.tolist()
    os.utime(split.paths[3], (1, 1))
    assert run(4)[1] == 0
    assert run(5)[1] == 10
    save_image(split.paths[0], seed=999)
    assert run(4)[1] == 10


def test_unreadable_images_are_counted_and_the_first_is_named(split, tmp_path) -> None:
    split.paths[6].write_bytes(b"no image")
    split.paths[8].write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 10 images cannot be read \(first: .*no known image format\)"):
        counted(split, tmp_path / "cache", batch=2)


def test_truncated_images_are_used_and_counted(split, tmp_path, caplog) -> None:
    whole = save_image(tmp_path / "whole.jpg", size=(64, 64)).read_bytes()
    for path in split.paths[:2]:
        path.write_bytes(whole[:-200])
    embedded, *_ = counted(split, None)
    assert embedded.report.truncated == 2
    assert "2 images are truncated" in caplog.text


def test_missing_images_are_told_before_anything_is_embedded(split) -> None:
    split.paths[1].unlink()
    model = FakeEncoder()
    with pytest.raises(DataError, match="1 of 10 images are missing"):
        counted(split, None, model)
    assert not model.texts


def test_an_image_that_vanishes_after_the_check_is_an_error_with_its_name(split, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(embedding, "require_images", lambda *_: None)
    split.paths[1].unlink()
    for model in (FakeEncoder(), Neighbours(batch_dependent="attends over the batch")):
        with pytest.raises(DataError, match=f"1 of 10 images cannot be read .*{split.paths[1].name}"):
            counted(split, tmp_path / "cache", model)


def test_an_unwritable_cache_is_one_warning_and_the_evaluation_goes_on(split, tmp_path, caplog) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    embedded, images, texts = counted(split, tmp_path / "cache", batch=3)
    assert (images, texts) == (10, 20)
    assert embedded.image_GE.tolist() == counted(split, None)[0].image_GE.tolist()
    assert [record.getMessage().count("cannot be written") for record in caplog.records] == [1, 1]


def test_progress_counts_captions_and_images_together(split) -> None:
    told: list[tuple[int, int]] = []
    counted(split, None, batch=4, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (30, 30)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
