"""In which way the images of a gallery are embedded: as its index was begun, else the fastest that agrees with float32.

Images of the gallery are read for the trial, so it belongs here and not to the encoder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.data.images import UnreadableImage, read_image
from tbps_cli.errors import CacheError, UsageError
from tbps_cli.features.encoder import Encoder, ImageWay
from tbps_cli.features.fastest_way import choose_way
from tbps_cli.features.image_ways import asked_way
from tbps_cli.features.parts import part_paths
from tbps_cli.features.snapshot import BadFile, read_fingerprint
from tbps_cli.features.store import feature_path
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.sources import Items, Sources

PATIENCE = 2.0
"""Seconds for another process to fill a file that it has just made, on a disk without hard links."""
_TRIED = 4
"""How many images may be unreadable for each one of the sample."""


def choose(
    model: Encoder,
    given: Sources,
    path: str | Path | None,
    precision: str,
    footage: FootageSettings,
    *,
    shared: bool = False,
) -> ImageWay:
    """The way for an index of these sources. path, footage: as `index` takes them.

    shared: other processes begin the same index now; the way is the one that the first of them chose.
    Raises UsageError for a precision that the model does not have, or that the others do not embed in.
    """
    images = _Images(model, given, footage)
    file = Path(path).expanduser() if path is not None else None
    ways = model.image_ways()

    def begun(way: ImageWay) -> bool:
        wanted = model.fingerprint + way.suffix
        if file is None:
            place = feature_path("indexes", given.roots.folder, wanted, given.part)
            try:
                return place.exists() or bool(part_paths(place))
            except PermissionError:
                return False  # a cache that may not be read is told when it is opened
        try:
            return file.is_file() and read_fingerprint(file) == wanted
        except BadFile:
            return False  # said when it is opened

    if file is not None and file.exists() and not any(begun(way) for way in ways):
        return ways[0]  # not an index of this model: said when it is opened, not after a trial

    def chosen() -> ImageWay:
        return choose_way(model, precision, begun=begun, new=images.count, sample=images.sample)

    if not shared or any(begun(way) for way in ways):
        return chosen()
    index = feature_path("indexes", given.roots.folder, model.fingerprint, given.part) if file is None else file
    return _agreed(index.with_name(f"{index.name}.way.json"), model, precision, chosen)


def _agreed(place: Path, model: Encoder, precision: str, chosen: Callable[[], ImageWay]) -> ImageWay:
    """The way that stands in a file beside an index, where the first of several processes put it."""
    if not place.exists():
        with files.explained(place, CacheError):
            place.parent.mkdir(parents=True, exist_ok=True)
        files.write_once(place, json.dumps([model.fingerprint, chosen().suffix]) + "\n", CacheError)
    until = time.monotonic() + PATIENCE
    while not (text := place.read_text("utf-8")) and time.monotonic() < until:
        time.sleep(0.05)
    try:
        fingerprint, suffix = json.loads(text)
    except ValueError:
        raise CacheError(f"{place} cannot be read.", "Delete it when no other share is running.") from None
    way = next((way for way in model.image_ways() if way.suffix == suffix), None)
    if fingerprint != model.fingerprint:
        raise CacheError(f"{place}: the other shares embed with another model.", "Give all shares the same --ckpt.")
    if precision != "auto":
        asked_way(model, precision)  # raises for one that it does not have
    if way is None or precision not in ("auto", way.precision):
        raise UsageError(
            f"--precision {precision}: the other shares embed in {suffix.removeprefix('-') or 'fp32'} ({place}).",
            "Give all shares the same --precision, or fp32, which every machine has. To begin anew, delete that file.",
        )
    return way


class _Images:
    """The images of a gallery that are embedded whole, listed when somebody asks."""

    def __init__(self, model: Encoder, given: Sources, footage: FootageSettings) -> None:
        self.model, self.given, self.footage = model, given, footage

    @cached_property
    def items(self) -> Items:
        return Items.of(self.given.list().items, self.given.roots)

    @cached_property
    def whole(self) -> NDArray[np.int64]:
        """The places of those that are embedded whole."""
        if self.footage.detect:
            return np.zeros(0, np.int64)
        return np.flatnonzero(~self.items.found.video_N & ~self.items.box_N)

    def count(self) -> int:
        """How many there are."""
        return len(self.whole)

    def sample(self, wanted: int) -> NDArray[np.float32]:
        """Some of them, from all over the gallery, prepared; fewer where most cannot be read."""
        spread = np.linspace(0, len(self.whole) - 1, min(len(self.whole), wanted * _TRIED)).astype(int)
        # one of each part of the gallery first, the others in place of those that cannot be read
        order = [place for first in range(_TRIED) for place in spread[first::_TRIED].tolist()]
        found: list[NDArray[np.float32]] = []
        for place in order:
            try:
                image = read_image(self.items[int(self.whole[place])].file, max_pixels=self.model.max_pixels)
                found.append(self.model.transform(image))
            except (UnreadableImage, OSError):
                continue
            if len(found) == wanted:
                break
        return np.stack(found) if found else np.empty((0, 3, *self.model.transform.size), np.float32)
