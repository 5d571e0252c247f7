"""Which words of a query found support in which hit, and where in its image (`--explain`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import UsageError
from tbps_cli.features.encoder import Encoder
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.query import Query
from tbps_cli.trust.population import Population
from tbps_cli.types import Grid, WordSupport

if TYPE_CHECKING:
    from tbps_cli.features.rows import Row
    from tbps_cli.models.model import Model
    from tbps_cli.trust.support import Explainer

logger = logging.getLogger("tbps")

DIGITS = 3


def check_explain(explain: bool, queries: Sequence[Query]) -> None:
    """Raises UsageError for queries without a sentence, which have no words."""
    if explain and any(query.text is None for query in queries):
        raise UsageError("--explain is about the words of a sentence.", "Give one, or leave --explain out.")


def explanations(
    model: Encoder, gallery: Gallery, query: Query, places: NDArray[np.int64]
) -> list[tuple[WordSupport, ...]]:
    """For each of these images of a gallery: every word of the query's sentence with what supports it.

    Heat maps need the weights: of an exported folder, and of towers that are not ours, there is the support alone, and
    one logged line says why. An image that cannot be read any more has none either.
    """
    if not len(places):
        return []
    from tbps_cli.trust.support import Explainer  # its word lists take a moment to compile

    explainer = Explainer.of(model, (query.text or "").strip(), Population.of(gallery.population_GE).vector_SE)
    mapped = _with_towers(model)
    made = []
    for place in places.tolist():
        row_E = np.asarray(gallery.vector_GE[place], np.float32)
        maps = _maps(mapped, explainer, gallery, gallery.rows[place]) if mapped else None
        made.append(
            tuple(
                WordSupport(word.text, round(found.support, 6), found.instead, None if maps is None else _grid(maps[n]))
                for n, (word, found) in enumerate(zip(explainer.words, explainer.supports(row_E), strict=True))
            )
        )
    return made


def _with_towers(model: Encoder) -> Model | None:
    """The model, if its images go through one of our towers; else a logged line says that there are no heat maps."""
    from tbps_cli.models.exported import ExportedModel
    from tbps_cli.models.known_run import KnownRun

    if isinstance(model, ExportedModel):
        logger.warning("%s is an export: it says which words are supported, but has no gradients for maps", model.path)
        return None
    from tbps_cli.models.model import Model
    from tbps_cli.trust.heat import image_tower

    model = model.model if isinstance(model, KnownRun) else model
    if isinstance(model, Model) and image_tower(model.method) is not None:
        return model
    logger.warning("%s: the images of %s go through no tower that heat maps are made of", model.path, model.name)
    return None


def _maps(model: Model, explainer: Explainer, gallery: Gallery, row: Row) -> NDArray[np.float32] | None:
    import torch

    from tbps_cli.data.images import UnreadableImage
    from tbps_cli.trust.heat import heat_maps

    try:
        image = gallery.image_of(row)
    except UnreadableImage as error:
        logger.warning("%s: no heat maps: %s", row.path, error.reason)
        return None
    pixels = torch.from_numpy(model.transform(image)).to(model.device)
    return heat_maps(model.method, pixels, explainer.direction_WE)


def _grid(map_HW: NDArray[Any]) -> Grid:
    return tuple(tuple(row) for row in map_HW.round(DIGITS).astype(float).tolist())
