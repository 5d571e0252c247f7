"""Near-duplicate images: planted copies are found whatever was done to them, and nothing else is taken for one."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tbps_cli.data.exclusions import read
from tbps_cli.errors import MissingExtra, UsageError
from tbps_cli.prepare import perceptual
from tbps_cli.prepare.copies import Appearances, copies_between, copies_within
from tbps_cli.prepare.perceptual import Appearance
from tbps_cli.prepare.prepare import NO_COPIES, prepare

pytest.importorskip("imagehash")


def colour(rng):
    return tuple(int(level) for level in rng.integers(20, 230, 3))


def person(seed):
    """A figure in drawn clothes before a drawn wall: all of them stand alike, as in a data set."""
    rng = np.random.default_rng(seed)
    width, height = int(rng.integers(50, 110)), int(rng.integers(130, 260))
    image = Image.new("RGB", (width, height), colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.integers(0, width), rng.integers(0, height)
        draw.rectangle((x, y, x + rng.integers(5, width), y + rng.integers(5, height // 3)), fill=colour(rng))

    def part(left, top, right, bottom):
        jitter = rng.uniform(-0.03, 0.03, 4)
        edges = np.array([left, top, right, bottom]) + jitter
        draw.rectangle(tuple(edges * [width, height, width, height]), fill=colour(rng))

    part(0.4, 0.05, 0.6, 0.18)
    part(0.25, 0.18, 0.75, 0.52)
    part(0.3, 0.52, 0.48, 0.93)
    part(0.52, 0.52, 0.7, 0.93)
    noise = rng.normal(0, 5, (height, width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def saved(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file).convert("RGB")


def cropped(image, left, top, right, bottom):
    width, height = image.size
    edges = left * width, top * height, (1 - right) * width, (1 - bottom) * height
    return image.crop(tuple(round(edge) for edge in edges))


def scaled(image, across, down=None):
    return image.resize((round(image.width * across), round(image.height * (down or across))), Image.Resampling.BICUBIC)


CHANGES = {
    "jpeg": lambda image, rng: saved(image, quality=int(rng.integers(25, 90))),
    "webp": lambda image, rng: saved(image, "WEBP", quality=40),
    "smaller": lambda image, rng: scaled(image, 0.5),
    "larger": lambda image, rng: scaled(image, 1.7),
    "other shape": lambda image, rng: image.resize((64, 128)),
    "cropped": lambda image, rng: cropped(image, *rng.uniform(0, 0.12, 4)),
    "cropped, resized and saved": lambda image, rng: saved(
        scaled(cropped(image, *rng.uniform(0, 0.1, 4)), rng.uniform(0.5, 1.5)), quality=50
    ),
}


def gallery(folder, images):
    """(the folder as it looks, its images written)."""
    folder.mkdir(parents=True, exist_ok=True)
    looks = Appearances(folder)
    for name, image in images.items():
        image.save(folder / name)
        looks.add(name, name, image)
    return looks


@pytest.fixture(scope="module")
def persons():
    return {f"{number:03}.png": person(number) for number in range(60)}


@pytest.mark.parametrize("change", CHANGES)
def test_every_planted_copy_is_found_and_nothing_else(change, persons, tmp_path):
    rng = np.random.default_rng(5)
    chosen = {name: persons[name] for name in list(persons)[:25]}
    originals = gallery(tmp_path / "originals", chosen)
    copies = gallery(tmp_path / "copies", {name: CHANGES[change](image, rng) for name, image in chosen.items()})
    assert copies_between(originals, copies) == [(name, name) for name in sorted(chosen)]


def test_either_may_be_the_crop_within_one_set(persons, tmp_path):
    images = dict(list(persons.items())[:40])
    images["a.png"] = cropped(images["003.png"], 0.1, 0, 0.05, 0.1)
    images["z.png"] = cropped(images["017.png"], 0, 0.1, 0.1, 0.02)
    assert copies_within(gallery(tmp_path, images)) == [("003.png", "a.png"), ("017.png", "z.png")]


def test_the_same_wall_and_pose_in_other_clothes_is_no_copy(tmp_path):
    one = person(3)
    other = one.copy()
    ImageDraw.Draw(other).rectangle(
        (one.width * 0.25, one.height * 0.18, one.width * 0.75, one.height * 0.5), (250, 5, 5)
    )
    assert copies_within(gallery(tmp_path, {"a.png": one, "b.png": other})) == []


def test_blank_images_are_alike_and_do_not_stop_the_search(tmp_path):
    blank = {f"{level}.png": Image.new("RGB", (40, 80), (level, level, level)) for level in (0, 1, 200)}
    assert copies_within(gallery(tmp_path, blank)) == [("0.png", "1.png")]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_of_ten_thousand_images_at_most_one_is_taken_for_a_copy_and_all_planted_ones_are_found(tmp_path):
    rng, images = np.random.default_rng(8), {f"{number:05}.png": person(number) for number in range(10_000)}
    planted = {f"{number:05}.png": f"copy-{number:05}.png" for number in range(0, 10_000, 50)}
    changes = list(CHANGES.values())
    for place, (name, copy) in enumerate(planted.items()):
        images[copy] = changes[place % len(changes)](images[name], rng)
    found = set(copies_within(gallery(tmp_path, images)))
    missed = set(planted.items()) - found
    assert not missed and len(found) - len(planted) <= 1, (missed, len(found))


# Hashes -----------------------------------------------------------------------------------------


def test_the_hashes_are_imagehash_s_of_the_windows(persons):
    import imagehash

    image = persons["000.png"].resize((64, 128))
    seen = perceptual.observer()(image)
    left, top, right, bottom = perceptual.WINDOWS[5]
    window = image.convert("L").resize(
        (32, 32), Image.Resampling.LANCZOS, (64 * left, 128 * top, 64 * (1 - right), 128 * (1 - bottom))
    )
    assert f"{seen.hash_W[5]:016x}" == str(imagehash.phash(window))
    assert seen.hash_W.shape == (16,) and seen.tile_WC.shape == (16, 24)


def test_pairs_of_hashes_are_those_that_a_plain_loop_finds(monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 30, dtype=np.uint64)
    hashes = base[rng.integers(0, 30, (40, 3))] ^ (np.uint64(1) << rng.integers(0, 60, (40, 3)).astype(np.uint64))
    tiles = rng.integers(0, 30, (40, 3, 4)).astype(np.uint8)
    expected = set()
    for image, window, other in np.ndindex(40, 3, 40):
        bits = bin(int(hashes[image, window]) ^ int(hashes[other, 0])).count("1")
        apart = np.abs(tiles[image, window].astype(float) - tiles[other, 0]).mean() + bits / 4
        if bits <= perceptual.RADIUS and apart <= perceptual.APART:
            expected.add((image, window, other))
    assert 120 < len(expected) < 2000
    columns = Appearance(hashes, tiles)
    for block in (1, 100, 1 << 20):
        monkeypatch.setattr(perceptual, "_BLOCK", block)
        found = [place for part in perceptual.alike(columns, columns) for place in zip(*part[:3], strict=True)]
        assert len(found) == len(set(found)) and set(found) == expected
    empty = Appearance(hashes[:0], tiles[:0])
    assert list(perceptual.alike(empty, empty)) == []
    assert [len(part.image_P) for part in perceptual.alike(columns, empty)] in ([], [0])


# The audit --------------------------------------------------------------------------------------


def data_set(folder, images, split_of=lambda number: "train"):
    """images: name -> (image, person), in the layout of CUHK-PEDES."""
    (folder / "imgs").mkdir(parents=True)
    records = []
    for number, (name, (image, who)) in enumerate(images.items()):
        image.save(folder / "imgs" / name)
        caption = f"The person numbered {number} walks along."
        records.append({"split": split_of(number), "id": who, "file_path": name, "captions": [caption]})
    (folder / "reid_raw.json").write_text(json.dumps(records), encoding="utf-8")


def test_the_audit_names_copies_in_other_splits_and_lists_the_training_image(persons, tmp_path):
    some = list(persons.values())
    images = {f"{number}.png": (some[number], number) for number in range(6)}
    images["6.png"] = saved(some[0], quality=40), 60
    images["7.png"] = scaled(some[1], 0.6), 1
    data_set(tmp_path / "CUHK-PEDES", images, lambda number: "test" if number == 6 else "train")
    report = prepare("cuhk-pedes", tmp_path, audited=True)
    finding = next(finding for finding in report.findings if finding.kind == "near-copy")
    assert finding.count == 2
    assert finding.examples == ["train: 0.png ~ test: 6.png (persons 0 and 60)", "train: 1.png ~ train: 7.png"]
    assert [(entry.path, entry.reason) for entry in read(report.exclude)] == [
        ("0.png", "a copy of it is in test: 6.png"),
    ]


def test_the_audit_against_another_set_lists_training_images_that_are_in_its_test(persons, tmp_path):
    some = list(persons.values())
    data_set(tmp_path / "CUHK-PEDES", {f"{number}.png": (some[number], number) for number in range(6)})
    others = {
        "x.png": (cropped(some[2], 0.05, 0.1, 0, 0), 7),
        "y.png": (some[3], 8),
        "z.png": (scaled(some[4], 1.4), 9),
        "w.png": (some[50], 10),
    }
    data_set(tmp_path / "other", others, lambda number: "train" if number == 2 else "test")
    report = prepare("cuhk-pedes", tmp_path, audited=True, against=str(tmp_path / "other"))
    finding = next(finding for finding in report.findings if finding.kind == "copy-elsewhere")
    assert finding.examples == [
        "train: 2.png ~ other test: x.png",
        "train: 3.png ~ other test: y.png",
        "train: 4.png ~ other train: z.png",
    ]
    assert [entry.path for entry in read(report.exclude)] == ["2.png", "3.png"]
    assert "copy-elsewhere" in json.dumps(report.document())


def test_without_imagehash_the_audit_says_what_it_left_out_and_against_needs_it(persons, tmp_path, monkeypatch):
    data_set(tmp_path / "CUHK-PEDES", {"0.png": (persons["000.png"], 1)})
    data_set(tmp_path / "other", {"0.png": (persons["000.png"], 1)})
    monkeypatch.setitem(sys.modules, "imagehash", None)
    report = prepare("cuhk-pedes", tmp_path, audited=True)
    assert NO_COPIES in report.notes and report.findings
    with pytest.raises(MissingExtra, match="looking for near-duplicate images needs ImageHash"):
        prepare("cuhk-pedes", tmp_path, audited=True, against=str(tmp_path / "other"))


@pytest.mark.parametrize(("against", "audited"), [("rstpreid", False), ("CUHK", True), ("cuhk-pedes", True)])
def test_against_needs_the_audit_and_another_set(against, audited, tmp_path):
    with pytest.raises(UsageError, match="--against"):
        prepare("cuhk-pedes", tmp_path, audited=audited, against=against)
