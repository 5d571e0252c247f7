"""Memory that worker processes share with training: used again, and never too early."""

from __future__ import annotations

import gc

import pytest
import torch
from support.toy import Letters, ToyViews

from tbps_cli.augment.exact import CLIP_TRAIN, POOL_TRAIN
from tbps_cli.data.images import UnreadableImage
from tbps_cli.data.types import Split
from tbps_cli.loading.loader import Loader
from tbps_cli.loading.slots import Slots

SIZE = (24, 8)
VIEWS = ToyViews({"image": CLIP_TRAIN, "second": POOL_TRAIN})


def loader(split: Split, workers: int = 1, batch: int = 2) -> Loader:
    return Loader(split, VIEWS, Letters(), SIZE, batch=batch, seed=3, workers=workers)


def slots_of(used: Loader) -> Slots:
    slots = used._maker.slots
    if slots is None:
        pytest.skip("processes do not inherit memory on this platform")
    return slots


def test_images_that_somebody_holds_are_never_written_over(split: Split) -> None:
    there, here = loader(split), loader(split, workers=0)
    slots_of(there)
    held = [batch.images["image"][1:, 0] for epoch in range(3) for batch in there.epoch(epoch)]  # a part keeps it all
    expected = [batch.images["image"][1:, 0] for epoch in range(3) for batch in here.epoch(epoch)]
    assert len(held) == 18 and all(torch.equal(one, other) for one, other in zip(held, expected, strict=True))


def test_a_batch_that_is_let_go_leaves_its_memory_to_the_next(split: Split) -> None:
    there = loader(split)
    slots = slots_of(there)
    places = {batch.images["image"].data_ptr() for epoch in range(3) for batch in there.epoch(epoch)}
    gc.collect()
    assert len(places) <= len(slots._memory) == 4 and sorted(slots._free) == [0, 1, 2, 3]


def test_an_epoch_that_is_left_gives_back_the_memory_of_batches_on_their_way(split: Split) -> None:
    there = loader(split)
    slots = slots_of(there)
    for epoch in range(3):
        next(there.epoch(epoch))
    list(there.epoch(3))
    gc.collect()
    assert sorted(slots._free) == [0, 1, 2, 3] and not slots._expected


def test_an_image_that_cannot_be_read_is_still_an_error_with_its_path(split: Split) -> None:
    there = loader(split)
    split.paths[2].write_bytes(b"broken")
    with pytest.raises(UnreadableImage, match=r"002_0\.png"):
        list(there.epoch(0))
    split.paths[2].write_bytes(split.paths[1].read_bytes())
    assert sum(len(batch) for batch in there.epoch(1)) == len(split)


@pytest.mark.slow
def test_a_batch_of_more_rows_than_a_slot_has_gets_none() -> None:
    slots = Slots(1, ["image"], rows=4, size=SIZE)
    assert slots.take(5) is None and slots.take(4) == 0 and slots.take(4) is None
    slots.give_up()
    assert slots.take(1) == 0
    received = slots.received(0, 1)
    assert received["image"].shape == (1, 3, *SIZE) and slots.take(1) is None
    del received
    gc.collect()
    assert slots.take(1) == 0
