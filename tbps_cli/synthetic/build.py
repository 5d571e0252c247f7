"""Writes a synthetic data set: images below `imgs/` and `reid_raw.json`, as CUHK-PEDES has them.

Every identity is drawn from its own generators, so the bytes do not depend on the number of
processes. The set is drawn in a folder beside the final one and moved into place when complete: an
interrupted build leaves nothing that looks finished, and a folder that we did not write is never
replaced.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from tbps_cli import files
from tbps_cli.errors import DataError, UsageError
from tbps_cli.machine import available_cpus
from tbps_cli.synthetic.camera import CAMERAS, Studio
from tbps_cli.synthetic.captions import describe, sides, visible
from tbps_cli.synthetic.person import Person, people

DEFAULT_IDENTITIES = 1760
"""1,490 persons to train on, 135 each for val and test: drawn in under a minute on two cores."""

VERSION = 2
"""Raised when the same seed gives other bytes."""

MADE_BY = "tbps prepare-data synthetic"

Record = dict[str, Any]
Progress = Callable[[int, int], None]

_IMAGES = ((2, 3, 4, 5), (0.25, 0.47, 0.22, 0.06))
_CHUNK = 16


def split_sizes(identities: int) -> dict[str, int]:
    """Persons in each split: CUHK-PEDES' shares (11003, 1000, 1000 of 13003); small sets hold out more."""
    held = max(round(identities * 1000 / 13003), min(identities // 4, 20))
    return {"train": identities - 2 * held, "val": held, "test": held}


def build(
    folder: Path, *, identities: int, seed: int, progress: Progress | None = None, workers: int | None = None
) -> None:
    """Draw a data set into `folder`; the same arguments give the same bytes.

    progress: called with (persons done, persons in all).
    workers: processes; None takes the cores of this machine for a large set and this process for a
    small one. Raises UsageError for too few persons, DataError for a folder that holds other files.
    """
    if identities < 4:
        raise UsageError(f"--identities {identities}: a data set needs at least 4 persons.", "Try --identities 200.")
    if seed < 0:
        raise UsageError(f"--seed {seed}: a seed is 0 or more.")
    refuse_foreign(folder)
    folder = folder.resolve()
    try:
        with files.new_folder(folder, folder, DataError, replace=True) as draft:
            _fill(draft, identities, seed, progress, 1 if workers is None and identities < 200 else processes(workers))
    except BrokenProcessPool as error:
        hint = "Free some memory; a script of your own must call this under `if __name__ == '__main__':`."
        raise DataError(f"{folder}: a drawing process died.", hint) from error


def _fill(draft: Path, identities: int, seed: int, progress: Progress | None, workers: int) -> None:
    """Draw everything, the record last."""
    for camera in CAMERAS:
        (draft / "imgs" / f"cam_{camera.name}").mkdir(parents=True)
    records: list[Record] = []
    for count, chunk in enumerate(_draw(draft, identities, seed, workers), start=1):
        records += chunk
        if progress:
            progress(min(count * _CHUNK, identities), identities)
    _write_json(draft / "reid_raw.json", records)
    _write_json(draft / "about.json", about(identities, seed))


def about(identities: int, seed: int) -> Record:
    """What `about.json` of such a set says; equal documents mean equal bytes."""
    return {"made_by": MADE_BY, "version": VERSION, "identities": identities, "seed": seed}


def is_built(folder: Path, *, identities: int, seed: int) -> bool:
    """Whether `folder` already holds exactly this set."""
    return read_about(folder) == about(identities, seed)


def read_about(folder: Path) -> Record | None:
    """The `about.json` of a folder; None where there is none that can be read."""
    try:
        document = json.loads((folder / "about.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def refuse_foreign(folder: Path, made_by: str = MADE_BY) -> None:
    """Raise DataError for a folder that holds files of somebody else."""
    if not folder.exists():
        return
    ours = (read_about(folder) or {}).get("made_by") == made_by
    if not folder.is_dir() or (any(folder.iterdir()) and not ours):
        raise DataError(f"{folder} holds files that tbps did not draw.", "Choose another --data-root, or move it away.")


def processes(workers: int | None) -> int:
    """How many processes draw: as many as asked for, else one a core."""
    if workers is not None:
        return max(1, workers)
    return min(available_cpus(), 16)


def _draw(draft: Path, identities: int, seed: int, workers: int) -> Iterator[list[Record]]:
    """The records of each chunk of persons, in order."""
    sizes = split_sizes(identities)
    splits = [name for name, size in sizes.items() for _ in range(size)]
    everyone = people(identities, seed, [0, sizes["train"], sizes["train"] + sizes["val"]])
    chunks = [
        (str(draft), seed, [(k, splits[k], everyone[k]) for k in range(start, min(start + _CHUNK, identities))])
        for start in range(0, identities, _CHUNK)
    ]
    if workers == 1:
        _start(seed)
        yield from map(_draw_chunk, chunks)
        return
    # spawn: the caller may hold threads (torch, a progress bar), which forking would break
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(seed,)) as pool:
        yield from pool.map(_draw_chunk, chunks)


_studio: list[Studio] = []


def _start(seed: int) -> None:
    """Give this process its scenes."""
    _studio[:] = [Studio(seed)]


def _start_worker(seed: int) -> None:
    """A process of the pool: it leaves Ctrl-C to the one that the user started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _start(seed)


def _draw_chunk(task: tuple[str, int, list[tuple[int, str, Person]]]) -> list[Record]:
    folder, seed, persons = task
    return [
        record for number, split, person in persons for record in _portray(Path(folder), seed, number, split, person)
    ]


def _portray(folder: Path, seed: int, number: int, split: str, person: Person) -> Iterator[Record]:
    """Take, describe and write all images of one person, each by another camera."""
    rng = np.random.default_rng((seed, number, 2**31))
    counts, shares = _IMAGES
    cameras = rng.permutation(len(CAMERAS))[: int(rng.choice(counts, p=shares))]
    for k, which in enumerate(cameras):
        camera = CAMERAS[which]
        shot = _studio[0].take(person, camera, rng)
        path = f"cam_{camera.name}/{number + 1:05d}_{k}.jpg"
        (folder / "imgs" / path).write_bytes(shot.jpeg)
        said = [describe(person, shot, rng) for _ in range(2)]
        yield {
            "split": split,
            "id": number + 1,
            "file_path": path,
            "captions": [one.text for one in said],
            "processed_tokens": [re.findall(r"[a-z]+", one.text.lower()) for one in said],
            "camera": camera.name,
            "attributes": sorted(person.attributes),
            "visible": sorted(visible(person, shot)),
            "sides": sides(person, shot),
            "named": [sorted(one.named) for one in said],
        }


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", "utf-8")
