"""A split of a data set as a gallery, through the features that evaluation keeps."""

from __future__ import annotations

from collections.abc import Callable

from tbps_cli.data.images import require_images
from tbps_cli.data.types import Person, Split
from tbps_cli.features.encoder import Encoder
from tbps_cli.features.pipeline import embed_images, image_file, sources_of
from tbps_cli.places import cache_dir
from tbps_cli.search.gallery import Gallery
from tbps_cli.search.index import refuse_batch_dependent

BATCH = 64


def of_split(
    model: Encoder,
    split: Split,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Gallery:
    """The images of a split with their persons; captions are known, so that hits can be marked.

    Raises DataError for missing or unreadable images, TbpsError for a batch-dependent model.
    """
    refuse_batch_dependent(model)
    require_images(split.paths, split.root, split.dataset)
    file = image_file(model, split.root, batch=BATCH, cache_dir=cache_dir())
    sources = sources_of(split)
    embed_images(model, sources, file, batch=BATCH, workers=workers, progress=progress)
    place_G = file.places([source.name for source in sources])
    name = f"{split.dataset} {split.name}"
    rows = file.known().take(place_G)
    return Gallery(name, split.root, rows, file.vectors(place_G), split=split.name, truth=_truth(split))


def _truth(split: Split) -> dict[str, frozenset[Person]]:
    """Caption -> the persons it was written about: some sentences fit several."""
    persons: dict[str, set[Person]] = {}
    for text, person in zip(split.captions, split.caption_person, strict=True):
        persons.setdefault(text.strip(), set()).add(person)
    return {text: frozenset(found) for text, found in persons.items()}
