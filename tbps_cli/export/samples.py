"""Real pictures and captions to compare an export on: the run's own test set, or drawn pedestrians."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli.data.images import read_image
from tbps_cli.data.layouts import open_dataset
from tbps_cli.errors import TbpsError

if TYPE_CHECKING:
    from PIL import Image

    from tbps_cli.models.model import Model

COUNT = 16
logger = logging.getLogger("tbps")


def samples(model: Model, data_root: Path | None, count: int = COUNT) -> tuple[list[Image.Image], list[str], str]:
    """`count` pictures and captions, and a word on where they come from.

    The test split of the run's data set when it is there; otherwise synthetic pedestrians drawn on
    the spot, so that the comparison never depends on noise pictures.
    """
    if model.recipe is not None and data_root is not None:
        try:
            split = open_dataset(model.recipe.data.name, data_root).split("test")
            pictures = [read_image(path) for path in split.paths[:count]]
            return pictures, list(split.captions[:count]), f"test split of {model.recipe.data.name}"
        except TbpsError as error:
            logger.info("export: %s Comparing on drawn pedestrians instead.", error.message)
    return drawn(count)


def drawn(count: int) -> tuple[list[Image.Image], list[str], str]:
    """Pictures and captions of synthetic pedestrians."""
    from tbps_cli.data.draw.build import build

    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "synthetic", identities=12, seed=0, workers=1)
        dataset = open_dataset("synthetic", Path(folder))
        pictures = [read_image(dataset.root / picture.path) for picture in dataset.pictures[:count]]
    captions = [caption.text for caption in dataset.captions[:count]]
    return pictures, captions, "drawn pedestrians"
