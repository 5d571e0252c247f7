"""The data of a training: the data set opened, its training split with the noise that the recipe wants, and the
decoded images, which are made first where a recipe cannot do without them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_cli import distributed
from tbps_cli.data.blocks import Applied
from tbps_cli.data.images import require_images
from tbps_cli.data.open import open_dataset
from tbps_cli.data.types import Dataset, Split
from tbps_cli.errors import RecipeError
from tbps_cli.features.fingerprint import fingerprint
from tbps_cli.loading.image_store import Store, open_store, store_folder
from tbps_cli.loading.noise import add_noise
from tbps_cli.methods.base import Views
from tbps_cli.prepare.decode import RESAMPLE, build_store
from tbps_cli.prepare.decode import Progress as DecodeProgress
from tbps_cli.recipe.schema import DataSection, Recipe

logger = logging.getLogger("tbps")


@dataclass(frozen=True)
class TrainingData:
    """A data set and the split that training reads."""

    dataset: Dataset
    train: Split

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps of the training annotation, to notice that it has changed.

        mark: 16 hex digits over captions, persons and the paths of images; captions, images: how many.
        """
        split = self.train
        paths = Applied(lambda path: path.relative_to(split.root).as_posix(), split.paths)
        persons = Applied(str, split.image_person)
        texts = [split.captions, split.back_translations, Applied(str, split.word_ids)]
        mark = fingerprint(split.caption_image, paths, persons, texts)
        return {"mark": mark, "captions": len(split.captions), "images": len(paths)}


def open_data(recipe: Recipe, data_root: Path) -> TrainingData:
    """Open the data set of a recipe. Raises DataError when it, a split or an image of the training split is missing."""
    data = recipe.data
    exclude = Path(data.exclude) if data.exclude else None
    dataset = open_dataset(data.name, data_root, exclude=exclude)
    split = dataset.split("train")
    dataset.split(recipe.train.select_on)  # not there: said now, not after the first epoch
    require_images(split.paths, split.root, split.dataset)
    if data.noise_rate:
        split = add_noise(split, data.noise_rate, Path(data.noise_file) if data.noise_file else None)[0]
    return TrainingData(dataset, split)


def find_store(
    data: DataSection, opened: TrainingData, views: Views, progress: DecodeProgress | None = None
) -> Store | None:
    """The decoded images that training reads, if any.

    `augment_on = "device"` cannot do without them: where they are missing and `store` is "auto" they are made now.
    Raises RecipeError when the recipe insists on images that are not there.
    """
    on_device = data.augment_on == "device"
    if data.store == "off":
        if on_device:
            raise RecipeError(
                "data.augment_on = device needs decoded images, and data.store = off forbids them.",
                "Set data.store=auto, or data.augment_on=cpu.",
            )
        return None
    split, resample = opened.train, next(iter(views.images.values())).resample
    store = open_store(split.root, data.image_size, resample, split.paths)
    alone = distributed.environment().world == 1
    if store is None and on_device and data.store == "auto" and resample == RESAMPLE and alone:
        _decode(data, opened.dataset, progress)
        store = open_store(split.root, data.image_size, resample, split.paths)
    if store is None and (on_device or data.store == "on"):
        setting = "augment_on = device" if on_device else "store = on"
        raise RecipeError(
            f"data.{setting} needs decoded images of this size, and there are none.",
            f"Make them: tbps prepare-data {data.name} --decode {data.image_size[0]}x{data.image_size[1]}"
            + ("; or set data.augment_on=cpu." if on_device else "; or set data.store=auto."),
        )
    return store


def _decode(data: DataSection, dataset: Dataset, progress: DecodeProgress | None) -> None:
    """Decode every image of the data set that can be read, as `tbps prepare-data --decode` does."""
    paths = [dataset.path_of(image) for image in dataset.images]
    logger.info(
        "data.store: decoding %s images to %dx%d, once, into %s (data.augment_on = device needs them)",
        f"{len(paths):,}",
        *data.image_size,
        store_folder(dataset.root, data.image_size, RESAMPLE),
    )
    build_store(dataset.root, paths, data.image_size, progress=progress)
