"""Batches: what is in them, and what they do not depend on."""

import json
import multiprocessing as mp
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.sets import cuhk_records, save_image, write_set
from support.toy import Letters, ToyViews

from tbps_cli.augment import one_pass
from tbps_cli.augment.exact import CLIP_TRAIN, POOL_TRAIN, SIMCLR_TRAIN, Augment, Flip, augment
from tbps_cli.augment.rng import Draws
from tbps_cli.data.images import UnreadableImage, read_image
from tbps_cli.data.open import open_dataset
from tbps_cli.errors import DataError
from tbps_cli.loading.image_store import open_store, read_store, store_folder
from tbps_cli.loading.loader import Loader
from tbps_cli.loading.noise import add_noise, draw_index
from tbps_cli.prepare.decode import build_store
from tbps_cli.text.masking import mask_words

SIZE = (24, 8)


def loader(split, views=None, **options):
    options = {"batch": 5, "seed": 3, **options}
    return Loader(split, views or ToyViews(), Letters(), SIZE, **options)


def parts(batch):
    return {
        **batch.images,
        **batch.tokens,
        "person": batch.person_B,
        "picture": batch.image_B,
        "sample": batch.sample_B,
    }


def same(first, second):
    first, second = [parts(batch) for batch in first], [parts(batch) for batch in second]
    return len(first) == len(second) and all(
        one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
        for one, two in zip(first, second, strict=True)
    )


def test_a_batch_holds_the_images_captions_and_numbers_of_its_samples(split):
    batches = list(loader(split).epoch(0))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    for batch in batches:
        for row, sample in enumerate(batch.sample_B.tolist()):
            number = int(split.caption_image[sample])
            image = augment(read_image(split.paths[number]), SIZE, CLIP_TRAIN, Draws.of(3, 0, sample, "image"))
            assert torch.equal(batch.images["image"][row], image)
            assert batch.image_B[row] == number and batch.person_B[row] == split.class_of[number]
            assert batch.tokens["text"][row, 1] == ord(split.captions[sample][0])
    assert sorted(torch.cat([batch.sample_B for batch in batches]).tolist()) == list(range(12))


def test_an_epoch_continues_where_it_stopped(split):
    whole = list(loader(split).epoch(1))
    assert same(list(loader(split).epoch(1, start=1)), whole[1:])
    assert list(loader(split).epoch(1, start=3)) == []


def test_epochs_and_seeds_differ(split):
    one = loader(split)
    assert same(one.epoch(0), one.epoch(0))
    assert not same(one.epoch(0), one.epoch(1))
    assert not same(one.epoch(0), loader(split, seed=4).epoch(0))


def test_nothing_depends_on_global_random_state(split):
    torch.manual_seed(0)
    first = list(loader(split).epoch(0))
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state()
    assert same(first, loader(split).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_worker_processes_change_nothing(split):
    views = ToyViews(
        {"image": CLIP_TRAIN, "second": POOL_TRAIN, "third": SIMCLR_TRAIN}, masked=True, augment_text="vary"
    )
    here, there = loader(split, views), loader(split, views, workers=2)
    for epoch, start in ((0, 0), (1, 1)):
        assert same(here.epoch(epoch, start), there.epoch(epoch, start))


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_a_compiled_pass_are_the_same(workers, split, monkeypatch):
    assert not loader(split)._maker.compiled, "this split is too small to wait for a compiler"
    plain = list(loader(split).epoch(0))
    monkeypatch.setattr("tbps_cli.loading.batches._WORTH_COMPILING", 1)
    made = loader(split, workers=workers)
    assert made._maker.compiled == one_pass.ready()
    assert same(plain, made.epoch(0))
    made.close()


def test_an_epoch_that_was_left_does_not_leak_into_the_next(split):
    there = loader(split, workers=1)
    next(there.epoch(0))
    assert same(loader(split).epoch(1), there.epoch(1))


def test_a_closed_loader_can_be_used_again(split):
    there = loader(split, workers=1)
    next(there.epoch(0))
    there.close()
    there.close()
    assert same(loader(split).epoch(1), there.epoch(1))


@pytest.mark.parametrize("workers", [1, 2])
def test_closing_ends_the_worker_processes_even_of_an_epoch_that_somebody_still_holds(workers, split):
    there = loader(split, workers=workers)
    epoch = there.epoch(0)
    next(epoch)
    assert len(mp.active_children()) == workers
    there.close()
    assert mp.active_children() == []
    assert list(epoch) == []


def test_a_worker_that_is_killed_is_an_error_that_says_what_to_do(split):
    there = loader(split, batch=1, workers=1)
    epoch = there.epoch(0)
    next(epoch)
    mp.active_children()[0].kill()
    with pytest.raises(DataError, match="an image-reading process was killed") as caught:
        list(epoch)
    assert "train.workers" in caught.value.hint and mp.active_children() == []
    assert same(loader(split, batch=1).epoch(1), there.epoch(1))


@pytest.mark.slow
def test_workers_that_are_spawned_change_nothing(split):
    assert same(loader(split).epoch(0), loader(split, workers=1, start_method="spawn").epoch(0))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_see_together_what_one_device_would(split, world):
    whole = list(loader(split, batch=6).epoch(0))
    ranks = [list(loader(split, batch=6, rank=rank, world=world).epoch(0)) for rank in range(world)]
    for step, batch in enumerate(whole):
        joined = {name: torch.cat([parts(rank[step])[name] for rank in ranks]) for name in parts(batch)}
        assert all(torch.equal(joined[name], tensor) for name, tensor in parts(batch).items())


def test_a_rest_of_fewer_rows_than_ranks_is_whole_on_each(split):
    alone = list(loader(split, batch=11).epoch(0))
    for rank in (0, 1):
        first, rest = loader(split, batch=11, rank=rank, world=2).epoch(0)
        assert (first.whole, rest.whole) == (False, True) and len(first) + rank == 6 and len(rest) == 1
        assert all(torch.equal(parts(rest)[name], tensor) for name, tensor in parts(alone[1]).items())
    assert len(loader(split, batch=11, world=2)) == len(loader(split, batch=11)) == 2
    with pytest.raises(DataError, match="less than one pair for each of 3"):
        loader(split, batch=2, world=3)


@pytest.mark.parametrize(
    ("options", "count"), [({}, 3), ({"drop_last": True}, 2), ({"batch": 50, "drop_last": True}, 1)]
)
def test_the_declared_length_is_the_real_one(options, count, split):
    one = loader(split, **options)
    assert len(one) == len(list(one.epoch(0))) == count


def test_views_are_independent_draws_from_the_same_image(split):
    batch = next(loader(split, ToyViews({"image": CLIP_TRAIN, "second": CLIP_TRAIN})).epoch(0))
    assert not torch.equal(batch.images["image"], batch.images["second"])


def test_without_augmentation_only_the_flip_is_left(split):
    batch = next(loader(split, augmented=False).epoch(0))
    for row, sample in enumerate(batch.sample_B.tolist()):
        draws = Draws.of(3, 0, sample, "image")
        image = read_image(split.paths[int(batch.image_B[row])])
        assert torch.equal(batch.images["image"][row], augment(image, SIZE, Augment((Flip(0.5),)), draws))


def test_masked_captions_come_with_their_labels_beside_the_whole_ones(split):
    batch = next(loader(split, ToyViews(masked=True)).epoch(0))
    tokens = Letters()([split.captions[sample] for sample in batch.sample_B.tolist()])
    assert np.array_equal(batch.tokens["text"].numpy(), tokens)
    for row, sample in enumerate(batch.sample_B.tolist()):
        expected = mask_words(tokens[row].tolist(), Draws.of(3, 0, sample, "mask").python, mask=900, first_special=900)
        assert (batch.tokens["masked"][row].tolist(), batch.tokens["label"][row].tolist()) == expected


def test_captions_are_rewritten_by_name(split):
    split.back_translations = [f"BACK {number}" for number in range(len(split))]
    always = ToyViews(augment_text="rewrite", text_options={"back_translation": 1.0, "deletion": 0.0})
    never = ToyViews(augment_text="rewrite", text_options={"back_translation": 0.0, "deletion": 0.0})
    assert chr(next(loader(split, always).epoch(0)).tokens["text"][0, 1]) == "b"
    assert chr(next(loader(split, never).epoch(0)).tokens["text"][0, 1]) in "ps"


def test_ids_are_varied_by_name(split):
    varied = next(loader(split, ToyViews(augment_text="vary")).epoch(0)).tokens["text"]
    plain = next(loader(split).epoch(0)).tokens["text"]
    assert not torch.equal(varied, plain) and bool((varied[:, 0] == 901).all())


def test_a_caption_drawn_twice_in_an_epoch_is_seen_twice_differently(tmp_path):
    write_set(tmp_path / "CUHK-PEDES", cuhk_records(persons=(3, 1, 1), images=1))
    split = open_dataset("cuhk-pedes", tmp_path).split("train")
    batch = next(loader(split, batch=12, sampler="identity", per_identity=4).epoch(0))
    assert len(set(batch.sample_B.tolist())) < 12
    assert len({row.numpy().tobytes() for row in batch.images["image"]}) > 6


@pytest.mark.parametrize("name", ["identity", "identity-chunks"])
def test_identity_samplers_fill_batches_with_groups(name, split):
    one = loader(split, batch=8, sampler=name)
    batches = list(one.epoch(0))
    assert len(batches) == one.iterations(0) >= 1
    assert all(len(set(batch.person_B[:4].tolist())) == 1 for batch in batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_stops_training_with_its_path(workers, split):
    split.paths[2].write_bytes(b"broken")
    with pytest.raises(UnreadableImage, match=r"002_0\.png") as caught:
        list(loader(split, workers=workers).epoch(0))
    assert caught.value.hint


def test_missing_images_are_said_before_the_first_batch(split):
    split.paths[0].unlink()
    with pytest.raises(DataError, match="cuhk-pedes: 1 of 6 images are missing"):
        loader(split)


def test_truncated_images_are_used_counted_and_named_once(split, caplog):
    for path in split.paths[:2]:
        path.write_bytes(path.read_bytes()[:-200])
    one = loader(split, workers=1)
    list(one.epoch(0))
    list(one.epoch(1))
    assert one.truncated == {0, 1}
    assert (
        len([record for record in caplog.records if "is truncated; the readable part is used" in record.message]) == 1
    )


# The store and the noise that stand beside the loader ------------------------------------------


def test_training_from_the_store_is_bit_identical_to_training_from_files(split):
    store, failed = build_store(split.root, split.paths, SIZE)
    assert failed == [] and store.pixels.shape == (6, *SIZE, 3)
    opened = open_store(split.root, SIZE, "bilinear", split.paths)
    views = ToyViews({"image": CLIP_TRAIN, "second": SIMCLR_TRAIN})
    for workers in (0, 1):
        assert same(loader(split, views).epoch(0), loader(split, views, store=opened, workers=workers).epoch(0))
    assert np.array_equal(np.asarray(opened.image(split.paths[3])), opened.pixels[3])


def test_a_store_is_used_only_while_its_images_are_unchanged(split, caplog):
    assert open_store(split.root, SIZE, "bilinear", split.paths) is None and not caplog.records
    build_store(split.root, split.paths[1:], SIZE)
    assert open_store(split.root, SIZE, "bilinear", split.paths[1:]) is not None
    assert open_store(split.root, SIZE, "bilinear", split.paths) is None
    assert "1 image is new or changed" in caplog.text
    assert open_store(split.root, (48, 16), "bilinear", split.paths) is None
    save_image(split.paths[3], seed=99)
    assert open_store(split.root, SIZE, "bilinear", split.paths[1:]) is None


def test_a_damaged_store_is_not_used(split):
    build_store(split.root, split.paths, SIZE)
    folder = store_folder(split.root, SIZE, "bilinear")
    assert folder.name == "CUHK-PEDES.24x8-bilinear.store"
    for name, content in (("pixels.u8", b"short"), ("manifest.json", b"{}")):
        (folder / name).write_bytes(content)
        assert open_store(split.root, SIZE, "bilinear", split.paths) is None


def test_a_wrong_digit_in_the_manifest_of_a_store_is_found(split):
    store, _ = build_store(split.root, split.paths, SIZE)
    manifest = json.loads((store.folder / "manifest.json").read_text())
    for key, place in (("shapes", 0), ("pictures", 1)):
        changed = json.loads(json.dumps(manifest))
        changed[key][place][-1] += 1
        (store.folder / "manifest.json").write_text(json.dumps(changed))
        assert read_store(store.folder, store.root) is None
    del manifest["checksum"]  # as earlier versions wrote it
    (store.folder / "manifest.json").write_text(json.dumps(manifest))
    assert read_store(store.folder, store.root) is not None


def test_a_store_leaves_out_what_cannot_be_read_and_leaves_nothing_half_done(split, monkeypatch):
    split.paths[2].write_bytes(b"broken")
    seen = []
    store, failed = build_store(split.root, split.paths, SIZE, progress=lambda done, total: seen.append((done, total)))
    assert [error.path for error in failed] == [split.paths[2]] and len(store.rows) == 5
    assert seen[-1] == (6, 6)
    assert [entry.name for entry in split.root.parents[1].iterdir() if entry.name.startswith(".")] == []
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 100})())
    with pytest.raises(DataError, match="the store needs"):
        build_store(split.root, split.paths, SIZE)


def test_noise_moves_captions_and_leaves_persons_and_images(split, tmp_path):
    noisy, index = add_noise(split, 0.5)
    assert sorted(index.tolist()) == list(range(12)) and 0 < (index != np.arange(12)).sum() <= 6
    assert noisy.captions == [split.captions[other] for other in index]
    assert noisy.caption_person == split.caption_person
    np.save(tmp_path / "noise.npy", index)
    assert add_noise(split, 0.5, tmp_path / "noise.npy")[0].captions == noisy.captions
    assert np.array_equal(draw_index(1000, 0.0), np.arange(1000))
    assert 180 <= (draw_index(1000, 0.2) != np.arange(1000)).sum() <= 200


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (np.arange(11), "is for 11 training captions, this split has 12"),
        (np.zeros(12, int), "is not a permutation"),
        (np.zeros(12), "is not a list of whole numbers"),
        (np.array([None]), "is not an index file"),
    ],
)
def test_a_noise_file_that_does_not_fit_is_refused(index, said, split, tmp_path):
    np.save(tmp_path / "noise.npy", index, allow_pickle=True)
    with pytest.raises(DataError, match=said):
        add_noise(split, 0.2, tmp_path / "noise.npy")


def test_a_noise_file_of_another_rate_is_refused(split, tmp_path):
    np.save(tmp_path / "noise.npy", np.roll(np.arange(12), 1))
    with pytest.raises(DataError, match=r"moves 100% of the captions, but data\.noise_rate is 20%"):
        add_noise(split, 0.2, tmp_path / "noise.npy")
    assert add_noise(split, 0.9, tmp_path / "noise.npy")[0].captions[0] == split.captions[11]


def test_a_split_can_be_changed_without_touching_the_data_set(split):
    assert replace(split, captions=["x"] * 12).captions != split.captions


@pytest.mark.parametrize("root", [".", "imgs", "..", "/"])
def test_images_of_the_present_folder_have_their_store_beside_it(root, tmp_path, monkeypatch):
    home = tmp_path / "mine" / "inner" if root == ".." else tmp_path / "mine"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    place = tmp_path / "mine.16x8-bilinear.store" if root != "/" else Path("/.16x8-bilinear.store")
    assert store_folder(Path(root), (16, 8), "bilinear") == place
