"""A split of a data set as a gallery, through the features that evaluation keeps."""

from __future__ import annotations

from collections.abc import Callable

from tbps_cli.data.types import Person, Split
from tbps_cli.features.encoder import Encoder
from tbps_cli.places import cache_dir
from tbps_cli.retrieval.embed import embed_gallery
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.index_file import refuse_batch_dependent


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
    rows, vector_GE, _ = embed_gallery(model, split, cache_dir=cache_dir(), workers=workers, progress=progress)
    name = f"{split.dataset} {split.name}"
    run, truth = str(model.path), _truth(split)
    return Gallery(name, Roots(split.root), rows, vector_GE, run=run, split=split.name, truth=truth)


def _truth(split: Split) -> dict[str, frozenset[Person]]:
    """Caption -> the persons it was written about: some sentences fit several."""
    persons: dict[str, set[Person]] = {}
    for text, person in zip(split.captions, split.caption_person, strict=True):
        persons.setdefault(text.strip(), set()).add(person)
    return {text: frozenset(found) for text, found in persons.items()}
