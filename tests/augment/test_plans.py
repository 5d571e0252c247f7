"""Views as they are drawn for whole batches: the distribution of the exact way, and no hidden state.

The exact way runs on stand-ins for images that write down what is done to them, thousands of times; its
sequences of operations and every number of theirs are compared with those of our plans.
"""

import json
import logging
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.training import prepared, tiny_recipe
from support.training import write_data as write_tiny

from tbps_cli.augment import exact, ops
from tbps_cli.augment.batched import OPERATIONS, BatchAugmenter
from tbps_cli.augment.exact import POOL_TRAIN, SIMCLR_TRAIN, Augment, Erase, Flip, PadCrop, PoolOfTwo
from tbps_cli.augment.plans import PLACE, Kind, draw
from tbps_cli.augment.rng import Draws
from tbps_cli.data.open import open_dataset
from tbps_cli.engine.train import train
from tbps_cli.loading.image_store import open_store, store_folder
from tbps_cli.loading.loader import Loader
from tbps_cli.prepare.decode import build_store
from tbps_cli.text.bpe import Bpe

COUNT = 3000
SIZES = [(224, 224), (96, 32)]
SHAPES = np.array([(290, 110), (128, 64), (60, 160), (400, 150)])


class Written:
    """A stand-in for an image: says its size, and keeps what is done to it in order."""

    def __init__(self, height, width):
        self.height, self.width, self.shape, self.done = height, width, (1, 3, height, width), []

    def add(self, kind, *numbers):
        self.done.append((kind, *numbers))
        return self

    # as a PIL image
    def crop(self, box):
        left, top, right, bottom = box
        return self.add(Kind.CROP, top, left, bottom - top, right - left)

    def resize(self, size, resample):
        return self

    def convert(self, mode):
        return self.add(Kind.GREY) if mode == "L" else self

    def filter(self, blur):
        return self.add(Kind.BLUR, blur.radius)


@pytest.fixture
def writing(monkeypatch):
    """The exact way's operations write down their numbers."""
    named = {**{kind.name.lower(): kind for kind in OPERATIONS}, "resized_crop": Kind.CROP}
    for name, kind in named.items():
        monkeypatch.setattr(ops, name, lambda seen, *numbers, kind=kind: seen.add(kind, *numbers), raising=False)

    def erase(seen, *numbers):
        *box, fill = numbers
        assert not fill.any()
        return seen.add(Kind.ERASE, *box)

    monkeypatch.setattr(ops, "erase_", erase)
    monkeypatch.setattr(exact, "shift_hue", lambda seen, turn: seen.add(Kind.HUE, turn))
    enhance = {
        name: lambda seen, kind=kind: SimpleNamespace(enhance=lambda factor: seen.add(kind, factor))
        for name, kind in (("Brightness", Kind.BRIGHTNESS), ("Contrast", Kind.CONTRAST), ("Color", Kind.SATURATION))
    }
    monkeypatch.setattr(exact, "ImageEnhance", SimpleNamespace(**enhance))


def ours(how, size, shapes=None, count=COUNT):
    """What the plans say: for each sample its operations with their numbers."""
    seeds = [Draws.of(1, 0, sample).seed for sample in range(count)]
    plan = draw(how, size, seeds, np.zeros(count, np.int64), shapes)
    lengths = {Kind.CROP: 4, Kind.ERASE: 4, Kind.GREY: 0, Kind.FLIP: 0}
    return [
        [(Kind(int(kind)), *numbers[: lengths.get(Kind(int(kind)), 1)]) for kind, *numbers in places if kind]
        for places in plan[:, 1:].reshape(count, -1, PLACE).tolist()
    ]


def exact_pool(size, count=COUNT):
    sequences = []
    for sample in range(count):
        seen = Written(*size)
        PoolOfTwo()(seen, Draws.of(2, 0, sample))
        sequences.append(seen.done)
    return sequences


def exact_simclr(size, shapes):
    sequences = []
    for sample, shape in enumerate(shapes.tolist()):
        seen = Written(*shape)
        SIMCLR_TRAIN.whole(seen, size, Draws.of(2, 0, sample))
        for step in SIMCLR_TRAIN.steps:
            step(seen, Draws.of(3, 0, sample))
        sequences.append(seen.done)
    return sequences


def apart(first, second):
    """The largest distance between two empirical distributions, in units of what chance exceeds once in 10,000."""
    places = np.unique(np.concatenate([first, second]))
    below = [np.searchsorted(np.sort(one), places, "right") / len(one) for one in (first, second)]
    return np.abs(below[0] - below[1]).max() / (2.23 * (1 / len(first) + 1 / len(second)) ** 0.5)


def assert_alike(one, two):
    """The same shares of every sequence of operations, of each pair at each place, and every number alike."""
    for part in (tuple, lambda kinds: kinds[:1], lambda kinds: kinds[-2:], len):
        counts = [Counter(str(part([step[0] for step in sample])) for sample in samples) for samples in (one, two)]
        for key in counts[0] | counts[1]:
            share = (counts[0][key] + counts[1][key]) / (len(one) + len(two))
            error = (share * (1 - share) * (1 / len(one) + 1 / len(two))) ** 0.5
            assert abs(counts[0][key] / len(one) - counts[1][key] / len(two)) <= 4.5 * error, (key, counts)
    found, wanted = defaultdict(list), defaultdict(list)
    for samples, numbers in ((one, found), (two, wanted)):
        for kind, *values in (step for sample in samples for step in sample):
            numbers[kind].append(values)
    assert set(found) == set(wanted)
    for kind in found:
        figures = [np.array(numbers[kind], dtype=float) for numbers in (found, wanted)]
        if kind in (Kind.CROP, Kind.ERASE):
            figures = [np.column_stack([box, box[:, 2] * box[:, 3], box[:, 2] / box[:, 3]]) for box in figures]
        if figures[0].shape[1] == 1:  # an even distribution: its ends are soon reached
            ends = [np.array([figure.min(), figure.max()]) for figure in figures]
            assert np.abs(ends[0] - ends[1]).max() < 12 / len(figures[0]) * np.diff(ends[1])[0], (kind.name, ends)
        for column in range(figures[0].shape[1]):
            assert apart(*(figure[:, column] for figure in figures)) < 1, (kind.name, column)


# Plain views: those of IRRA and its descendants ---------------------------------------------------

TALL = (96, 32)
LIMIT = 1.95 * (2 / COUNT) ** 0.5
"""Two samples of one distribution are further apart in one case of a thousand."""


def plain_plan(step, count=COUNT):
    """[count, 5]: the only place of a plan for many samples of a view with one step, as the loader draws it."""
    plan = draw(Augment((step,)), TALL, [Draws.of(1, 0, sample).seed for sample in range(count)], np.arange(count))
    assert np.array_equal(plan[:, 0], np.arange(count))
    return plan[:, 1:]


def distance(first, second):
    """The largest distance between two empirical distributions (Kolmogorov and Smirnov)."""
    places = np.unique(np.concatenate([first, second]))
    below = [np.searchsorted(np.sort(one), places, "right") / len(one) for one in (first, second)]
    return np.abs(below[0] - below[1]).max()


def test_flips_are_as_frequent_as_stated():
    for p in (0.0, 0.5, 1.0):
        flipped = plain_plan(Flip(p))[:, 0] == Kind.FLIP
        assert flipped.mean() == pytest.approx(p, abs=4 * 0.5 / COUNT**0.5 * (p == 0.5))


def test_crops_begin_where_the_published_transform_begins_them():
    plan = plain_plan(PadCrop(10))
    assert (plan[:, 0] == Kind.SHIFT).all()
    middle = torch.arange(TALL[0] * TALL[1]).reshape(1, 1, *TALL)
    drawn = [PadCrop(10)(middle, Draws.of(2, 0, sample))[0, 0, 48, 16].item() for sample in range(COUNT)]
    down, right = np.divmod(np.array(drawn), TALL[1]) - np.array([[48], [16]])
    for ours, theirs in ((plan[:, 1], down), (plan[:, 2], right)):
        assert set(ours) == set(theirs) == set(range(-10, 11))
        assert distance(ours, theirs) < LIMIT
    assert abs(np.corrcoef(plan[:, 1], plan[:, 2])[0, 1]) < 4 / COUNT**0.5


def erased_boxes(step):
    """(top, left, rows, columns) where the exact step erases, on many draws."""
    boxes = []
    for sample in range(COUNT):
        row, column = torch.nonzero(step(torch.zeros(1, 3, *TALL), Draws.of(2, 0, sample))[0, 0], as_tuple=True)
        if len(row):
            top, left = int(row.min()), int(column.min())
            boxes.append((top, left, int(row.max()) - top + 1, int(column.max()) - left + 1))
    return np.array(boxes)


def test_erased_rectangles_have_the_published_places_areas_and_shapes():
    step = Erase(0.5, (0.02, 0.4), (0.3, 3.3), value=(1.0, 1.0, 1.0))
    theirs, plan = erased_boxes(step), plain_plan(step)
    ours = plan[plan[:, 0] == Kind.FILL, 1:]
    assert len(ours) / COUNT == pytest.approx(len(theirs) / COUNT, abs=4 * (0.5 / COUNT) ** 0.5)
    limit = 1.95 * (1 / len(ours) + 1 / len(theirs)) ** 0.5
    figures = {
        "top": lambda box: box[:, 0] / (TALL[0] - box[:, 2]),
        "left": lambda box: box[:, 1] / (TALL[1] - box[:, 3]),
        "area": lambda box: box[:, 2] * box[:, 3],
        "shape": lambda box: box[:, 2] / box[:, 3],
        "rows": lambda box: box[:, 2],
        "columns": lambda box: box[:, 3],
    }
    found = {name: distance(figure(ours), figure(theirs)) for name, figure in figures.items()}
    assert {name: value for name, value in found.items() if value > limit} == {}


def test_a_rectangle_that_never_fits_is_not_erased():
    assert not plain_plan(Erase(1.0, (2.0, 3.0), (1.0, 1.1)), count=50).any()


# TBPS-CLIP's views ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_pool_draws_what_the_exact_way_draws(size, writing):
    one, two = ours(POOL_TRAIN, size), exact_pool(size)
    assert {step[0] for sample in one for step in sample} == set(Kind) - {
        Kind.NOTHING,
        Kind.HUE,
        Kind.BLUR,
        Kind.SHIFT,
        Kind.FILL,
    }
    assert_alike(one, two)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_strong_views_draw_what_the_exact_way_draws(size, writing):
    shapes = SHAPES[np.arange(COUNT) % len(SHAPES)]
    one, two = ours(SIMCLR_TRAIN, size, shapes), exact_simclr(size, shapes)
    for number, shape in enumerate(SHAPES):
        part = [in_pixels_of(shape, size, sample) for sample in one[number :: len(SHAPES)]]
        assert_alike(part, two[number :: len(SHAPES)])


def in_pixels_of(shape, size, sample):
    """The cut of a strong view in the image's own pixels again, where it was drawn."""
    (kind, *box), *rest = sample
    own = np.array(box) * np.tile(shape / np.array(size), 2)
    assert kind == Kind.CROP and np.abs(own - np.rint(own)).max() < 1e-9
    return [(kind, *np.rint(own)), *rest]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (POOL_TRAIN, {1: 1 / 3, 2: 1 / 3, 3: 1 / 3, 5: 0.1 / 3, 6: 1 / 3, 7: 1 / 3, 8: 0.5 / 3, 9: 0.5 / 3}),
        (SIMCLR_TRAIN, {1: 0.8, 2: 0.8, 3: 0.8, 4: 0.8, 5: 0.2, 7: 1.0, 8: 0.5, 10: 0.5}),
    ],
)
def test_each_operation_is_as_frequent_as_published(how, expected):
    count = 30_000
    found = Counter(step[0] for sample in ours(how, (224, 224), count=count) for step in sample)
    errors = {kind: abs(found[kind] / count - share) * (count / share) ** 0.5 for kind, share in expected.items()}
    assert set(found) == set(expected) and max(errors.values()) < 4, errors


def test_the_two_of_the_pool_are_drawn_independently():
    first, second = (
        np.array([[step[0] for step in sample].count(kind) for sample in ours(POOL_TRAIN, (96, 32))]) for kind in (6, 7)
    )
    for counts in (first, second):  # none, one or both of two draws from six
        shares = [(counts == number).mean() for number in range(3)]
        assert shares == pytest.approx([25 / 36, 10 / 36, 1 / 36], abs=4 * (0.25 / COUNT) ** 0.5)


def test_numbers_of_one_sample_are_independent_of_each_other():
    sequences = ours(SIMCLR_TRAIN, (224, 224))
    rows = []
    for sample in sequences:
        values = {kind: numbers for kind, *numbers in sample}
        if Kind.BLUR in values and Kind.HUE in values:
            factors = [
                values[kind][0] for kind in (Kind.BRIGHTNESS, Kind.CONTRAST, Kind.SATURATION, Kind.HUE, Kind.BLUR)
            ]
            rows.append(
                [*factors, Kind.GREY in values, Kind.FLIP in values, values[Kind.CROP][2] * values[Kind.CROP][3]]
            )
    apart_from_self = np.corrcoef(np.array(rows, dtype=float).T) - np.eye(8)
    assert len(rows) > 1000 and np.abs(apart_from_self).max() < 4 / len(rows) ** 0.5


def test_a_box_that_never_fits_is_the_largest_central_one():
    shapes = np.tile((100, 4), (20, 1))
    boxes = [sample[0] for sample in ours(SIMCLR_TRAIN, (50, 50), shapes, count=20)]
    wanted = exact.largest_box(100, 4, exact.crop_ratio((50, 50)))
    assert boxes == [(Kind.CROP, *(np.array(wanted) * (0.5, 12.5, 0.5, 12.5)).tolist())] * 20


# In a loader ------------------------------------------------------------------------------------

SIZE = (24, 8)
FOUR = {"image": POOL_TRAIN, "second": POOL_TRAIN, "contrast_a": SIMCLR_TRAIN, "contrast_b": SIMCLR_TRAIN}


@dataclass(frozen=True)
class Views:
    images: dict = field(default_factory=lambda: dict(FOUR))
    masked: bool = False
    augment_text: str | None = None
    text_options: dict = field(default_factory=dict)


@pytest.fixture
def store(split):
    return build_store(split.root, split.paths, SIZE)[0]


def loader(split, store, **options):
    options = {"batch": 5, "seed": 3, "store": store, **options}
    return Loader(split, Views(), Bpe(), SIZE, augmenter=BatchAugmenter(store, split.paths, "cpu"), **options)


def images(batches):
    """[B, views, 3, H, W] of these batches."""
    return torch.cat([torch.stack([batch.images[name] for name in FOUR], dim=1) for batch in batches])


def test_the_four_views_do_not_depend_on_workers_ranks_or_where_an_epoch_began(split, store):
    whole = images(loader(split, store).epoch(1))
    assert whole.isfinite().all() and whole.shape[1:] == (4, 3, *SIZE)
    assert torch.equal(whole, images(loader(split, store, workers=2).epoch(1)))
    assert torch.equal(whole[5:], images(loader(split, store).epoch(1, start=1)))
    assert not torch.equal(whole, images(loader(split, store).epoch(2)))
    ranks = [list(loader(split, store, batch=6, rank=rank, world=2).epoch(1)) for rank in (0, 1)]
    assert torch.equal(images(loader(split, store, batch=6).epoch(1)), images(sum(zip(*ranks, strict=True), ())))


def test_the_four_views_of_an_image_differ(split, store):
    views = images(loader(split, store).epoch(0))
    assert not any(torch.equal(views[:, one], views[:, two]) for one in range(4) for two in range(one))


def forget_shapes(split):
    """The store as an older version wrote it."""
    manifest = store_folder(split.root, SIZE, "bilinear") / "manifest.json"
    words = json.loads(manifest.read_text())
    del words["shapes"], words["checksum"]
    manifest.write_text(json.dumps(words))
    return open_store(split.root, SIZE, "bilinear", split.paths)


def test_a_store_knows_how_large_its_images_were(split, store):
    found = open_store(split.root, SIZE, "bilinear", split.paths).shapes_of(split.paths[::-1])
    assert found.tolist() == [read_shape(path) for path in split.paths[::-1]]
    assert found.dtype == np.int64 and SIZE not in map(tuple, found.tolist())


def read_shape(path):
    from PIL import Image

    with Image.open(path) as image:
        return [image.height, image.width]


def test_a_store_of_an_older_version_works_and_says_what_to_run(split, store, caplog):
    old = forget_shapes(split)
    assert old is not None and old.shapes is None and old.shapes_of(split.paths) is None
    with caplog.at_level(logging.WARNING, "tbps"):
        views = images(loader(split, old).epoch(1))
    assert "tbps prepare-data NAME --decode 24x8" in caplog.text
    known = images(loader(split, store).epoch(1))
    assert torch.equal(views[:, :2], known[:, :2])  # the pool changes the resized image in any case
    assert not torch.equal(views[:, 2:], known[:, 2:])


@pytest.mark.parametrize("wrong", [[[1, 2]], "x", [[0, 5]] * 6, [[1.5, 2]] * 6, [[1, 2, 3]] * 6, {"a": 1}])
def test_a_store_with_impossible_shapes_is_not_used(wrong, split, store):
    manifest = store_folder(split.root, SIZE, "bilinear") / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "shapes": wrong}))
    assert len(store.rows) == 6 and open_store(split.root, SIZE, "bilinear", split.paths) is None


def test_tbps_clip_trains_in_whole_batches(tmp_path):
    write_tiny(tmp_path)
    split = open_dataset("cuhk-pedes", tmp_path).split("train")
    build_store(split.root, split.paths, (16, 8))
    recipe = tiny_recipe(tmp_path, "tbps_clip", sets=("data.augment_on=device", "train.epochs=1"))
    loader = prepared(recipe, tmp_path).loader
    batch = next(loader.epoch(0))
    assert loader.augmenter is not None and set(batch.images) == set(FOUR)
    out = train(recipe, data_root=tmp_path, out=tmp_path / "run", device="cpu")
    assert 'augment_on = "device"' in (out / "recipe.toml").read_text()
    assert (out / "metrics.jsonl").is_file()
