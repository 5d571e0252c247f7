"""Real images and captions to compare an export on: the run's own test set, or drawn pedestrians."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli.data.images import read_image
from tbps_cli.data.open import open_dataset
from tbps_cli.errors import TbpsError
from tbps_cli.exporting.agree import Examples
from tbps_cli.places import data_root as place_of

if TYPE_CHECKING:
    from tbps_cli.models.model import Model

COUNT = 16
logger = logging.getLogger("tbps")


def samples(model: Model, data_root: str | Path | None = None, count: int = COUNT) -> Examples:
    """`count` images and captions, and a word on where they come from.

    The test split of the run's data set when it is there; otherwise synthetic pedestrians drawn on
    the spot, so that the comparison never depends on noise images.
    """
    try:
        split = open_dataset(model.data or "", place_of(data_root)).split("test")
        images = [read_image(path, allow_truncated=True) for path in split.paths[:count]]
    except TbpsError as error:
        logger.info("export: compared on drawn pedestrians, because %s", error.message)
        return drawn(count)
    return Examples(images, split.captions[:count], f"test split of {split.dataset}")


def drawn(count: int) -> Examples:
    """Images and captions of synthetic pedestrians."""
    from tbps_cli.synthetic.build import build

    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "synthetic", identities=8, seed=0, workers=1)
        dataset = open_dataset("synthetic", Path(folder))
        images = [read_image(dataset.root / image.path) for image in dataset.images[:count]]
    captions = [caption.text for caption in dataset.captions[:count]]
    return Examples(images, captions, "drawn pedestrians")
