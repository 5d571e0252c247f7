"""Batches changed on the device: the published distribution, the same values for equal draws, no hidden state."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from support.training import tiny_recipe

from tbps_cli import methods
from tbps_cli.augment import batched_draws as device_draws
from tbps_cli.augment.batched import BatchAugmenter, refusal
from tbps_cli.augment.batched_draws import Shares, draw, uniform
from tbps_cli.augment.batched_paint import Buffers, paint_slices, paint_whole
from tbps_cli.augment.exact import (
    CLIP_TRAIN,
    POOL_TRAIN,
    SIMCLR_TRAIN,
    Augment,
    Draws,
    Erase,
    Flip,
    PadCrop,
    PoolOfTwo,
    SimClr,
)
from tbps_cli.data.open import open_dataset
from tbps_cli.engine.setup import gather_parts
from tbps_cli.engine.train import train
from tbps_cli.errors import RecipeError
from tbps_cli.loading.loader import Loader
from tbps_cli.prepare.decode import build_store

SIZE = (24, 8)
COUNT = 3000
TALL = (96, 32)


@dataclass(frozen=True)
class ToyViews:
    images: dict = field(default_factory=lambda: {"image": CLIP_TRAIN})
    masked: bool = False
    augment_text: str | None = None
    text_options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Solarise:
    """A step of somebody's own."""

    after_normalise = moves_only = False

    def __call__(self, pixel_CHW, draws):
        return torch.where(pixel_CHW > 0.5, 1 - pixel_CHW, pixel_CHW)


class OwnCut(SimClr):
    """A view of the whole image of somebody's own."""


class Letters:
    """A letter a token; counts the captions it has seen."""

    context, mask_id = 40, 900

    def __init__(self):
        self.seen = 0

    def __call__(self, texts, *, query=False):
        self.seen += len(texts)
        rows = np.zeros((len(texts), self.context), np.int64)
        for row, text in zip(rows, texts, strict=True):
            row[: min(len(text), self.context)] = [ord(letter) for letter in text[: self.context]]
        return rows


@pytest.fixture
def store(split):
    return build_store(split.root, split.paths, SIZE)[0]


def loader(split, store, views=None, tokenizer=None, **options):
    options = {"batch": 5, "seed": 3, "store": store, **options}
    painter = BatchAugmenter(store, split.paths, "cpu")
    return Loader(split, views or ToyViews(), tokenizer or Letters(), SIZE, painter=painter, **options)


def images(batches):
    return torch.cat([batch.images["image"] for batch in batches])


def plan_of(how, size=TALL, count=COUNT):
    """Columns of a plan for many samples, as the loader draws them."""
    seeds = [Draws.of(1, 0, sample).seed for sample in range(count)]
    return draw(how, size, seeds, np.zeros(count, np.int64))


def apart(first, second):
    """The largest distance between two empirical distributions (Kolmogorov and Smirnov)."""
    places = np.unique(np.concatenate([first, second]))
    first, second = (np.searchsorted(np.sort(one), places, "right") / len(one) for one in (first, second))
    return np.abs(first - second).max()


LIMIT = 1.95 * (2 / COUNT) ** 0.5
"""Two samples of one distribution are further apart in one case of a thousand."""


# The same distribution as the published transforms ----------------------------------------------


def test_draws_are_uniform_and_independent():
    share = uniform(np.array([Draws.of(1, 0, sample).seed for sample in range(COUNT)], np.uint64), 8)
    assert share.min() >= 0 and share.max() < 1
    even = (np.arange(COUNT) + 0.5) / COUNT
    assert max(np.abs(np.sort(column) - even).max() for column in share.T) < 1.95 / COUNT**0.5
    apart_from_self = np.corrcoef(share.T) - np.eye(8)
    assert np.abs(apart_from_self).max() < 4 / COUNT**0.5
    assert abs(np.corrcoef(share[1:, 0], share[:-1, 0])[0, 1]) < 4 / COUNT**0.5


def test_draws_taken_in_parts_are_those_taken_at_once():
    seed_B = np.arange(5, dtype=np.uint64)
    shares = Shares(seed_B)
    parts = [shares.take(2), shares.between(10.0, 20.0), shares.once_in(0.5)[:, None], shares.take(3)]
    whole = uniform(seed_B, 7)
    assert np.array_equal(np.concatenate([parts[0], parts[3]], axis=1), whole[:, [0, 1, 4, 5, 6]])
    assert np.array_equal(parts[1], 10 + 10 * whole[:, 2:3]) and np.array_equal(parts[2], whole[:, 3:4] < 0.5)


def test_flips_are_as_frequent_as_stated():
    for p in (0.0, 0.5, 1.0):
        plan = plan_of(Augment((Flip(p),)))
        assert plan[:, device_draws.FLIP].mean() == pytest.approx(p, abs=4 * 0.5 / COUNT**0.5 * (p == 0.5))


def test_crops_begin_where_the_published_transform_begins_them():
    plan = plan_of(Augment((PadCrop(10),)))
    middle = torch.arange(TALL[0] * TALL[1]).reshape(1, *TALL)
    exact = [PadCrop(10)(middle, Draws.of(2, 0, sample))[0, 48, 16].item() for sample in range(COUNT)]
    down, right = np.divmod(np.array(exact), TALL[1]) - np.array([[48], [16]]).reshape(2, 1)
    for ours, theirs in ((plan[:, device_draws.DOWN], down), (plan[:, device_draws.RIGHT], right)):
        assert set(ours) == set(theirs) == set(range(-10, 11))
        assert apart(ours, theirs) < LIMIT
    assert abs(np.corrcoef(plan[:, device_draws.DOWN], plan[:, device_draws.RIGHT])[0, 1]) < 4 / COUNT**0.5


def erased_boxes(step, count=COUNT):
    """(erased, top, left, rows, columns) of the exact step on many draws."""
    blank, boxes = torch.zeros(3, *TALL), []
    for sample in range(count):
        row, column = torch.nonzero(step(blank, Draws.of(2, 0, sample))[0], as_tuple=True)
        if len(row):
            top, left = int(row.min()), int(column.min())
            boxes.append((top, left, int(row.max()) - top + 1, int(column.max()) - left + 1))
    return np.array(boxes)


def test_erased_rectangles_have_the_published_places_areas_and_shapes():
    step = Erase(0.5, (0.02, 0.4), (0.3, 3.3), value=(1.0, 1.0, 1.0))
    theirs, plan = erased_boxes(step), plan_of(Augment((step,)))
    ours = plan[plan[:, device_draws.ROWS] > 0][:, device_draws.TOP :]
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
    found = {name: apart(figure(ours), figure(theirs)) for name, figure in figures.items()}
    assert {name: value for name, value in found.items() if value > limit} == {}


def test_a_rectangle_that_never_fits_is_not_erased():
    plan = plan_of(Augment((Erase(1.0, (2.0, 3.0), (1.0, 1.1)),)), count=50)
    assert not plan[:, device_draws.TOP :].any()


# The same values for equal draws --------------------------------------------------------------------


def by_hand(image_HWC, row, how):
    """A plan's row done with plain indexing, in float64."""
    _, flip, down, right, top, left, rows, columns = row
    height, width = image_HWC.shape[:2]
    out = np.zeros(image_HWC.shape)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y + down, x + right
            if 0 <= from_y < height and 0 <= from_x < width:
                out[y, x] = image_HWC[from_y, width - 1 - from_x if flip else from_x]
    out = (out / 255 - how.mean) / how.std
    out[top : top + rows, left : left + columns] = how.steps[-1].value
    return out


@pytest.mark.parametrize("padding", [2, 10])
def test_both_ways_to_paint_equal_the_loop_over_pixels(padding):
    how = Augment((Flip(0.5), PadCrop(padding), Erase(0.7)))
    pixel_NHWC = torch.randint(0, 256, (4, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plan = draw(how, SIZE, list(range(12)), np.arange(12) % 4)
    assert all(len(set(plan[:, column])) > 1 for column in range(8))
    slices = paint_slices(pixel_NHWC, torch.from_numpy(plan), how)
    whole = paint_whole(pixel_NHWC, torch.from_numpy(plan), how)
    assert torch.equal(slices, whole)
    for image, row in zip(slices.numpy(), plan.tolist(), strict=True):
        assert np.abs(image - by_hand(pixel_NHWC[row[0]].numpy(), row, how)).max() < 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("whole", [True, False])
def test_a_gpu_paints_what_the_cpu_paints(whole, split, store):
    here = BatchAugmenter(store, split.paths, "cpu")
    there = BatchAugmenter(store, split.paths, "cuda", whole=whole)
    plan = torch.from_numpy(draw(CLIP_TRAIN, SIZE, list(range(9)), np.arange(9) % len(split.paths)))
    there_BCHW = there(plan, CLIP_TRAIN)
    assert there_BCHW.is_cuda and there.held.is_cuda == whole
    assert torch.equal(here(plan, CLIP_TRAIN), there_BCHW.cpu())


def test_a_painter_that_holds_its_images_paints_the_same(split, store):
    paths = split.paths[::-1]
    plan = torch.from_numpy(draw(CLIP_TRAIN, SIZE, list(range(9)), np.arange(9) % len(paths)))
    held = BatchAugmenter(store, paths, "cpu", whole=True)
    assert torch.equal(held.held[1], torch.from_numpy(np.array(store.image(paths[1]))))
    assert torch.equal(held(plan, CLIP_TRAIN), BatchAugmenter(store, paths, "cpu")(plan, CLIP_TRAIN))


def test_memory_of_a_batch_is_used_again_once_nobody_holds_it():
    buffers = Buffers()
    view = torch.from_numpy(buffers.take(2, 3)).permute(1, 0)[1:]
    first = buffers.arrays[0].ctypes.data
    assert buffers.take(2, 3).ctypes.data != first  # the view still looks at it
    del view
    assert buffers.take(2, 3).ctypes.data == first
    several = [torch.from_numpy(buffers.take(2, 3)) for _ in range(9)]
    assert len({tensor.data_ptr() for tensor in several}) == 9 and len(buffers.arrays) <= buffers.KEPT


def test_without_random_steps_the_values_are_those_of_the_exact_way(split, store):
    views = ToyViews({"image": Augment((Flip(1.0),))})
    exact = Loader(split, views, Letters(), SIZE, batch=5, seed=3)
    assert (images(loader(split, store, views).epoch(0)) - images(exact.epoch(0))).abs().max() < 1e-6


# No hidden state --------------------------------------------------------------------------------


def test_batches_do_not_depend_on_workers_ranks_or_where_an_epoch_began(split, store):
    whole = images(loader(split, store).epoch(1))
    assert torch.equal(whole, images(loader(split, store, workers=2).epoch(1)))
    assert torch.equal(whole[5:], images(loader(split, store).epoch(1, start=1)))
    assert not torch.equal(whole, images(loader(split, store).epoch(2)))
    ranks = [list(loader(split, store, batch=6, rank=rank, world=2).epoch(1)) for rank in (0, 1)]
    assert torch.equal(images(loader(split, store, batch=6).epoch(1)), images(sum(zip(*ranks, strict=True), ())))


def test_views_are_independent_draws(split, store):
    batch = next(loader(split, store, ToyViews({"image": CLIP_TRAIN, "second": CLIP_TRAIN})).epoch(0))
    assert not torch.equal(batch.images["image"], batch.images["second"])


def test_a_caption_is_tokenised_once_and_no_more(split):
    tokenizer = Letters()
    one = Loader(split, ToyViews(masked=True), tokenizer, SIZE, batch=5, seed=3)
    first, second = ([batch.tokens for batch in one.epoch(epoch)] for epoch in (0, 1))
    assert tokenizer.seen == len(split)
    assert sum(len(tokens["text"]) for tokens in first + second) == 2 * len(split)
    again = Loader(split, ToyViews(masked=True), Letters(), SIZE, batch=5, seed=3)
    fresh = [batch.tokens for batch in again.epoch(1)]
    assert all(torch.equal(one[name], two[name]) for one, two in zip(second, fresh, strict=True) for name in one)


def test_captions_that_are_rewritten_are_tokenised_each_time(split):
    tokenizer = Letters()
    split.back_translations = [f"back {number}" for number in range(len(split))]
    options = {"back_translation": 0.5, "deletion": 0.1}
    one = Loader(split, ToyViews(augment_text="rewrite", text_options=options), tokenizer, SIZE, batch=5, seed=3)
    for epoch in (0, 1):
        list(one.epoch(epoch))
    assert tokenizer.seen == 2 * len(split)


# What cannot be ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("views", "reason"),
    [
        ({"image": CLIP_TRAIN, "plain": Augment((Flip(0.5),))}, None),
        ({"image": Augment(())}, None),
        ({"image": POOL_TRAIN, "second": POOL_TRAIN, "contrast_a": SIMCLR_TRAIN, "contrast_b": SIMCLR_TRAIN}, None),
        ({"image": Augment((Flip(0.5), PoolOfTwo(3)), whole=SimClr())}, None),
        ({"image": CLIP_TRAIN, "own": Augment((Flip(0.5), Solarise()))}, "its view 'own' uses Solarise"),
        ({"image": Augment((PoolOfTwo(), Solarise()))}, "its view 'image' uses Solarise"),
        ({"image": Augment((PoolOfTwo(), Erase()))}, "uses Erase beside its operations"),
        ({"image": Augment((), whole=OwnCut())}, "uses OwnCut"),
        ({"image": Augment((PadCrop(2), Flip(0.5)))}, "an unusual order"),
        ({"image": Augment((Erase(after_normalise=False),))}, "erases before normalising"),
        ({"image": CLIP_TRAIN, "sharp": Augment((), resample="bicubic")}, "resize in different ways"),
    ],
)
def test_views_that_cannot_be_drawn_in_batches_are_named_with_the_reason(views, reason):
    found = refusal(views)
    assert found is reason is None or reason in found


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ((), "data.augment_on = device, but there are no pre-decoded images"),
        (("data.store=off",), "as data.store = off"),
    ],
)
def test_asking_for_what_cannot_be_is_refused(sets, said, cuhk, tmp_path):
    recipe = tiny_recipe(tmp_path, sets=("data.augment_on=device", *sets))
    with pytest.raises(RecipeError, match=said) as caught:
        gather_parts(recipe, data_root=cuhk, device="cpu", workers=0, saved=None)
    assert caught.value.hint


def test_a_method_with_a_step_of_its_own_cannot_have_whole_batches(cuhk, tmp_path, monkeypatch):
    views = replace(methods.find("clip").views(tiny_recipe(tmp_path).method), images={"image": Augment((Solarise(),))})
    monkeypatch.setattr(methods.find("clip"), "views", lambda config: views)
    with pytest.raises(RecipeError, match="clip cannot have whole batches, its view 'image' uses Solarise") as caught:
        gather_parts(
            tiny_recipe(tmp_path, sets=("data.augment_on=device",)),
            data_root=cuhk,
            device="cpu",
            workers=0,
            saved=None,
        )
    assert "augment_on=cpu" in caught.value.hint


def test_training_in_whole_batches_says_so_and_resumes_as_it_began(cuhk, tmp_path):
    split = open_dataset("cuhk-pedes", cuhk).split("train")
    build_store(split.root, split.paths, (16, 8))
    sets = ("data.augment_on=device", "train.batch=4", "train.epochs=1")
    out = train(tiny_recipe(tmp_path, sets=sets), data_root=cuhk, out=tmp_path / "run", device="cpu")
    assert 'augment_on = "device"' in (out / "recipe.toml").read_text()
    parts = gather_parts(
        tiny_recipe(tmp_path), data_root=cuhk, device="cpu", workers=0, saved={"data": {"augment_on": "device"}}
    )
    assert parts.loader.painter is not None
