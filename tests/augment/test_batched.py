"""Batches made on the device that trains: the same values for equal draws, no hidden state."""

import gc
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.toy import Letters, ToyViews
from support.training import prepared, tiny_recipe

from tbps_cli import methods
from tbps_cli.augment import batched, ops
from tbps_cli.augment.batched import OPERATIONS, BatchAugmenter, BatchMemory, on_cpu, on_device, refusal
from tbps_cli.augment.exact import (
    CLIP_TRAIN,
    POOL_TRAIN,
    SIMCLR_TRAIN,
    Augment,
    Erase,
    Flip,
    PadCrop,
    PoolOfTwo,
    SimClr,
)
from tbps_cli.augment.plans import PLACE, Kind, draw
from tbps_cli.augment.rng import Draws
from tbps_cli.data.open import open_dataset
from tbps_cli.engine import state
from tbps_cli.engine.experiment import Options, prepare
from tbps_cli.engine.train import train
from tbps_cli.errors import RecipeError
from tbps_cli.loading.image_store import open_store
from tbps_cli.loading.loader import Loader
from tbps_cli.prepare.decode import build_store

SIZE = (24, 8)


@dataclass(frozen=True)
class Solarise:
    """A step of somebody's own."""

    after_normalise = moves_only = False

    def __call__(self, pixel_CHW, draws):
        return torch.where(pixel_CHW > 0.5, 1 - pixel_CHW, pixel_CHW)


class OwnCut(SimClr):
    """A view of the whole image of somebody's own."""


@pytest.fixture
def store(split):
    return build_store(split.root, split.paths, SIZE)[0]


def loader(split, store, views=None, tokenizer=None, **options):
    options = {"batch": 5, "seed": 3, "store": store, **options}
    augmenter = BatchAugmenter(store, split.paths, "cpu")
    return Loader(split, views or ToyViews(), tokenizer or Letters(), SIZE, augmenter=augmenter, **options)


def images(batches):
    return torch.cat([batch.images["image"] for batch in batches])


# The same values for equal draws --------------------------------------------------------------------

MANY = Augment((Flip(0.5), PoolOfTwo(3)), whole=SIMCLR_TRAIN.whole)


def plan_of(how, size, rows, shape=None):
    seeds = [Draws.of(5, 0, row).seed for row in range(rows)]
    shapes = None if shape is None else np.tile(shape, (rows, 1))
    return torch.from_numpy(draw(how, size, seeds, np.arange(rows) % 4, shapes))


def stored(size, rows=4):
    return torch.randint(0, 256, (rows, *size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def by_hand(pixel_HWC, places, how):
    """A plain view's places done with plain indexing, in float64."""
    (flip, *_), (_, down, right, *_), (fill, top, left, rows, columns) = places
    height, width = pixel_HWC.shape[:2]
    out = np.zeros(pixel_HWC.shape)
    for y, x in np.ndindex(height, width):
        from_y, from_x = int(y + down), int(x + right)
        if 0 <= from_y < height and 0 <= from_x < width:
            out[y, x] = pixel_HWC[from_y, width - 1 - from_x if flip else from_x]
    out = (out / 255 - how.mean) / how.std
    if fill:
        out[int(top) : int(top + rows), int(left) : int(left + columns)] = how.steps[-1].value
    return out.transpose(2, 0, 1)


@pytest.mark.parametrize("way", [on_cpu, on_device])
@pytest.mark.parametrize("padding", [2, 10])
def test_a_plain_view_equals_the_loop_over_pixels(padding, way):
    how, pixel_NHWC = Augment((Flip(0.5), PadCrop(padding), Erase(0.7))), stored(SIZE)
    plan = plan_of(how, SIZE, 12)
    assert all(len(set(column)) > 1 for column in plan.numpy().T[[0, 1, 7, 8, 11, 12, 13, 14, 15]])
    found = way(pixel_NHWC, plan[:, 0].long(), plan, how)
    assert found.dtype == torch.float32 and found.is_contiguous(memory_format=torch.channels_last)
    for image, row in zip(found.numpy(), plan.numpy(), strict=True):
        assert np.abs(image - by_hand(pixel_NHWC[int(row[0])].numpy(), row[1:].reshape(3, 5), how)).max() < 1e-6


def one_by_one(pixel_CHW, plan, how):
    """A row of a plan, operation after operation, on one image."""
    pixel_BCHW = pixel_CHW[None].clone()  # erasing writes in place
    for kind, *numbers in plan[1:].reshape(-1, PLACE).tolist():
        if kind:
            operation, count = OPERATIONS[Kind(int(kind))]
            pixel_BCHW = operation(pixel_BCHW, *numbers[:count])
    mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))
    return (pixel_BCHW[0] - mean) / std


@pytest.mark.parametrize("way", [on_cpu, on_device])
@pytest.mark.parametrize(("how", "shape"), [(POOL_TRAIN, None), (SIMCLR_TRAIN, (31, 14)), (MANY, (40, 40))])
def test_a_view_equals_its_operations_done_one_after_the_other(how, shape, way):
    size, rows = (16, 12), 40
    plan_BX, pixel_NHWC = plan_of(how, size, rows, shape), stored(size)
    found = way(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, how)
    unit = pixel_NHWC.permute(0, 3, 1, 2).float() / 255
    wanted = torch.stack([one_by_one(unit[int(row[0])], row, how) for row in plan_BX])
    assert found.dtype == torch.float32 and found.shape == (rows, 3, *size)
    assert (found - wanted).abs().max() < 1e-5


def test_images_shared_among_threads_are_the_same_and_the_number_of_threads_is_put_back():
    plan_BX, pixel_NHWC = plan_of(MANY, (16, 12), 9), stored((16, 12))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(on_cpu(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, MANY))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def smooth_image(height, width):
    down, across = np.mgrid[0:height, 0:width] / height
    waves = [np.sin(9 * down + 5 * across + channel) + np.cos(11 * across - 4 * down) for channel in range(3)]
    return Image.fromarray((127 + 60 * np.stack(waves, -1)).astype(np.uint8))


@pytest.mark.parametrize("shape", [(290, 110), (60, 30)])
def test_a_cut_of_the_stores_image_shows_what_the_same_cut_of_the_file_shows(shape):
    """The exact way's box given to both: a wrong place or scale would differ by a tenth and more."""
    size, image = (96, 96), smooth_image(*shape)
    held = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
    pixel_BCHW = torch.from_numpy(held.copy()).permute(2, 0, 1)[None].float() / 255
    for row in plan_of(SIMCLR_TRAIN, size, 12, shape):
        box = row[2:6].numpy() / np.tile(np.array(size) / shape, 2)
        top, left, rows, columns = np.rint(box).astype(int)
        assert np.abs(box - np.rint(box)).max() < 1e-9
        cut = image.crop((left, top, left + columns, top + rows)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        found = ops.crop(pixel_BCHW, *row[2:6].tolist())[0]
        difference = (found - torch.from_numpy(np.asarray(cut).copy()).permute(2, 0, 1) / 255).abs()
        assert difference.mean() < 0.01 and difference.max() < 0.1, (difference.mean(), difference.max())


@pytest.mark.slow
@pytest.mark.parametrize("how", [CLIP_TRAIN, MANY])
def test_nothing_of_a_batch_on_a_device_is_left_on_the_cpu(how, monkeypatch):
    """PyTorch's device without values refuses what lies elsewhere, as a GPU would."""
    plan_BX, pixel_NHWC = plan_of(how, (16, 12), 40), stored((16, 12)).to("meta")
    for piece in (batched.PIECE, 10 * 3 * 16 * 12):
        monkeypatch.setattr(batched, "PIECE", piece)
        found = on_device(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, how)
        assert found.device.type == "meta" and found.shape == (40, 3, 16, 12)


def test_images_taken_in_pieces_are_the_same(monkeypatch):
    plan_BX, pixel_NHWC = plan_of(MANY, (16, 12), 40), stored((16, 12))
    whole = on_device(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, MANY)
    monkeypatch.setattr(batched, "PIECE", 7 * 3 * 16 * 12)
    assert (whole - on_device(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, MANY)).abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("how", [CLIP_TRAIN, POOL_TRAIN, SIMCLR_TRAIN, MANY])
def test_a_gpu_does_the_operations_as_the_cpu_does(how, monkeypatch):
    size, rows = (32, 16), 64
    plan_BX, pixel_NHWC = plan_of(how, size, rows, (70, 30)), stored(size)
    here = on_cpu(pixel_NHWC, plan_BX[:, 0].long(), plan_BX, how)
    for piece in (batched.PIECE, 10 * 3 * 32 * 16):  # at once, and ten images at a time
        monkeypatch.setattr(batched, "PIECE", piece)
        there = on_device(pixel_NHWC.cuda(), plan_BX[:, 0].long(), plan_BX, how)
        assert there.is_cuda and (here - there.cpu()).abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("whole", [True, False])
def test_a_gpu_makes_what_the_cpu_makes(whole, split, store):
    here = BatchAugmenter(store, split.paths, "cpu")
    there = BatchAugmenter(store, split.paths, "cuda", whole=whole)
    plan = torch.from_numpy(draw(CLIP_TRAIN, SIZE, list(range(9)), np.arange(9) % len(split.paths)))
    there_BCHW = there(plan, CLIP_TRAIN)
    assert there_BCHW.is_cuda and there.held.is_cuda == whole
    assert (here(plan, CLIP_TRAIN) - there_BCHW.cpu()).abs().max() < 1e-6


def test_images_held_on_the_device_give_the_same_batches(split, store):
    paths = split.paths[::-1]
    plan = torch.from_numpy(draw(CLIP_TRAIN, SIZE, list(range(9)), np.arange(9) % len(paths)))
    held = BatchAugmenter(store, paths, "cpu", whole=True)
    assert torch.equal(held.held[1], torch.from_numpy(np.array(store.image(paths[1]))))
    assert torch.equal(held(plan, CLIP_TRAIN), BatchAugmenter(store, paths, "cpu")(plan, CLIP_TRAIN))


def test_memory_of_a_batch_is_used_again_once_nobody_holds_it():
    memory = BatchMemory()
    batch = memory.take(2, 3)
    view, place = batch.permute(1, 0)[1:], batch.data_ptr()
    del batch
    assert memory.take(2, 3).data_ptr() != place  # the view still looks at it
    del view
    gc.collect()  # not needed by CPython
    assert memory.take(3, 2).data_ptr() != place
    assert place in {tensor.data_ptr() for tensor in [memory.take(2, 3), memory.take(2, 3)]}


def test_memory_that_waits_for_use_is_bounded():
    memory = BatchMemory()
    several = [memory.take(2, 3) for _ in range(3 * BatchMemory.KEPT)]
    assert len({tensor.data_ptr() for tensor in several}) == 3 * BatchMemory.KEPT
    del several
    assert len(memory.free[2, 3]) == BatchMemory.KEPT


def test_memory_that_a_gradient_needs_is_not_used_again():
    memory, weight = BatchMemory(), torch.ones(3, requires_grad=True)
    loss = (memory.take(2, 3).fill_(5.0) * weight).sum()  # autograd alone holds the batch now
    memory.take(2, 3).fill_(7.0)
    loss.backward()
    assert weight.grad.tolist() == [10.0, 10.0, 10.0]


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
        (("data.augment_on=device", "data.store=off"), "data.store = off forbids them"),
        (("data.augment_on=device", "data.store=on"), "augment_on = device needs decoded images of this size"),
        (("data.store=on",), "store = on needs decoded images of this size"),
    ],
)
def test_asking_for_what_cannot_be_is_refused(sets, said, cuhk, tmp_path):
    with pytest.raises(RecipeError, match=said) as caught:
        prepared(tiny_recipe(tmp_path, sets=sets), cuhk)
    assert caught.value.hint


def test_images_are_decoded_where_batches_on_the_device_need_them(cuhk, tmp_path, caplog):
    recipe = tiny_recipe(tmp_path, sets=("data.augment_on=device", "train.batch=4"))
    with caplog.at_level("INFO", "tbps"):
        made = prepared(recipe, cuhk)
    split = made.train
    assert made.recipe.data.store == "on" and made.loader.augmenter is not None
    assert "decoding 14 images to 16x8, once, into " in caplog.text
    assert open_store(split.root, (16, 8), "bilinear", split.paths) is not None
    caplog.clear()
    prepared(recipe, cuhk)
    assert "decoding" not in caplog.text


def test_a_method_with_a_step_of_its_own_cannot_have_whole_batches(cuhk, tmp_path, monkeypatch):
    views = replace(methods.find("clip").views(tiny_recipe(tmp_path).method), images={"image": Augment((Solarise(),))})
    monkeypatch.setattr(methods.find("clip"), "views", lambda config: views)
    said = "clip cannot be augmented in batches on the device: its view 'image' uses Solarise"
    with pytest.raises(RecipeError, match=said) as caught:
        prepared(tiny_recipe(tmp_path, sets=("data.augment_on=device",)), cuhk)
    assert "augment_on=cpu" in caught.value.hint


def test_training_in_whole_batches_says_so_and_resumes_as_it_began(cuhk, tmp_path):
    split = open_dataset("cuhk-pedes", cuhk).split("train")
    build_store(split.root, split.paths, (16, 8))
    sets = ("data.augment_on=device", "train.batch=4", "train.epochs=1")
    out = train(tiny_recipe(tmp_path, sets=sets), data_root=cuhk, out=tmp_path / "run", device="cpu")
    assert 'augment_on = "device"' in (out / "recipe.toml").read_text()
    saved = state.load(out)
    options = Options(data_root=cuhk, out=out, device="cpu", workers=0)
    again = prepare(tiny_recipe(tmp_path, sets=("train.batch=4", "train.epochs=1")), options, saved)
    assert again.loader.augmenter is not None and again.recipe.data.augment_on == "device"
