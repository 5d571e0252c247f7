"""Writes the drawn street: what several cameras filmed at the same time, with the whole truth about it.

`clips/` holds a video and a truth file a camera, `frames/` single frames of them, `queries.jsonl` sentences that ask
for the persons. Names say camera and start: `cam1_2026-01-05T10-00-00.mp4`. The format is described in docs/data.md.
Everything comes from the seed, and bytes do not depend on the number of processes. The folder appears when it is whole.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tbps_cli import files
from tbps_cli.errors import DataError, UsageError
from tbps_cli.synthetic.build import Record, processes, read_about, refuse_foreign
from tbps_cli.synthetic.camera import Shot
from tbps_cli.synthetic.captions import describe, visible
from tbps_cli.synthetic.film import filming
from tbps_cli.synthetic.lookout import LENSES, InFrame, Lookout, shown_part
from tbps_cli.synthetic.person import Person, people
from tbps_cli.synthetic.scene import FOCAL
from tbps_cli.synthetic.walks import Visit, plan_visits

FOLDER = "synthetic-street"
VERSION = 1
"""Raised when the same options give other bytes."""

MADE_BY = "tbps prepare-data synthetic --street"
START = datetime(2026, 1, 5, 10)
LATER = timedelta(seconds=7)
"""By how much each camera starts after the one before."""

STILL_EVERY = 2
"""Seconds between two single frames."""

_CLEAR = 0.6
"""Share of a person that a track must show at its best, for a sentence to be asked about it."""


@dataclass(frozen=True)
class Street:
    """What is drawn."""

    persons: int = 30
    cameras: int = 3
    seconds: int = 60
    size: tuple[int, int] = (768, 576)
    """Width and height of a frame."""
    rate: int = 8
    """Frames a second."""
    seed: int = 0

    def check(self) -> None:
        """Raise UsageError for what cannot be drawn."""
        limits = {
            "--identities": (self.persons, 1, 5000),
            "--cameras": (self.cameras, 1, len(LENSES)),
            "--rate": (self.rate, 1, 30),
            "--seed": (self.seed, 0, 2**31),
        }
        for option, (value, least, most) in limits.items():
            if not least <= value <= most:
                raise UsageError(f"{option} {value} is outside {least} to {most:,}.")
        if not 2 <= self.seconds <= 6 * 3600:
            raise UsageError(f"--minutes: {self.seconds} seconds; a street lasts 2 seconds to 6 hours.")
        width, height = self.size
        if not (240 <= width <= 1920 and 180 <= height <= 1440 and 1 <= width / height <= 2):
            hint = "Width x height between 240x180 and 1920x1440, at most twice as wide as high: --size 768x576."
            raise UsageError(f"--size {width}x{height} cannot be drawn.", hint)
        if width % 2 or height % 2:
            raise UsageError(f"--size {width}x{height}: videos have an even width and height.")

    def clip(self, camera: int) -> str:
        """Name of a camera's clip, without its ending."""
        return f"{LENSES[camera].name}_{_stamp(START + camera * LATER)}"

    def begins(self, camera: int) -> float:
        """When a camera starts, in seconds after the first."""
        return camera * LATER.total_seconds()


def about(street: Street) -> Record:
    """What `about.json` of such a street says; equal documents mean equal bytes."""
    return {"made_by": MADE_BY, "version": VERSION, **asdict(street), "size": list(street.size)}


def is_built(folder: Path, street: Street) -> bool:
    """Whether `folder` already holds exactly this street."""
    return read_about(folder) == about(street)


def drawn_street(folder: Path) -> Street | None:
    """The street that lies in `folder`; None where none does that this version drew."""
    found = read_about(folder) or {}
    if found.get("made_by") != MADE_BY or found.get("version") != VERSION:
        return None
    return Street(**{field.name: found[field.name] for field in fields(Street)} | {"size": tuple(found["size"])})


def build_street(
    folder: Path, street: Street, *, progress: Callable[[int, int], None] | None = None, workers: int | None = None
) -> None:
    """Draw a street into `folder`; the same street gives the same bytes.

    progress: called with (cameras done, cameras in all). workers: processes; None takes the cores of this machine.
    Raises UsageError for impossible numbers, DataError for a folder that holds other files.
    """
    street.check()
    refuse_foreign(folder, MADE_BY)
    folder = folder.resolve()
    try:
        with files.new_folder(folder, folder, DataError, replace=True) as draft:
            for part in ("clips", "frames"):
                (draft / part).mkdir()
            asked = []
            tasks = [(str(draft), street, camera) for camera in range(street.cameras)]
            for done, tracks in enumerate(_clips(tasks, workers), start=1):
                asked += tracks
                if progress:
                    progress(done, street.cameras)
            lines = [json.dumps(query, ensure_ascii=False) for query in _queries(asked, street)]
            (draft / "queries.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
            (draft / "about.json").write_text(json.dumps(about(street)) + "\n", "utf-8")
    except BrokenProcessPool as error:
        hint = "Free some memory; a script of your own must call this under `if __name__ == '__main__':`."
        raise DataError(f"{folder}: a drawing process died.", hint) from error


def _clips(tasks: list[tuple[str, Street, int]], workers: int | None) -> Iterator[list[Record]]:
    """Film every camera; yields what is to be asked about each, in order."""
    count = min(processes(workers), len(tasks))
    street = tasks[0][1]
    if count == 1 or (workers is None and street.seconds * street.rate * street.cameras < 200):
        yield from map(_film, tasks)
        return
    # spawn: the caller may hold threads (torch, a progress bar), which forking would break
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_leave_interrupts) as pool:
        yield from pool.map(_film, tasks)


def _leave_interrupts() -> None:
    """Ctrl-C belongs to the process that the user started."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _film(task: tuple[str, Street, int]) -> list[Record]:
    """Draw and write one clip, its single frames and its truth; returns its tracks."""
    folder, street, camera = Path(task[0]), task[1], task[2]
    persons = people(street.persons, street.seed, [0])
    lookout = Lookout(camera, street.size, street.seed)
    half_width = shown_part(street.size)[0] / 2 / FOCAL
    visits = plan_visits(
        persons, cameras=street.cameras, seconds=street.seconds, half_width=half_width, seed=street.seed
    )
    name, start = street.clip(camera), street.begins(camera)
    frames: list[tuple[float, list[InFrame], str | None]] = []
    with filming(folder / "clips" / f"{name}.mp4", street.size, street.rate) as film:
        for number in range(street.seconds * street.rate):
            seconds = round(number / street.rate, 6)
            walkers = [
                (k, visit, persons[visit.person])
                for k, visit in enumerate(visits)
                if visit.camera == camera and visit.begins <= start + seconds < visit.ends
            ]
            image, seen = lookout.look(number, start + seconds, walkers)
            film(image)
            still = None
            if number % (STILL_EVERY * street.rate) == 0:
                still = f"{LENSES[camera].name}_{_stamp(START + camera * LATER + timedelta(seconds=seconds))}.jpg"
                image.save(folder / "frames" / still, "JPEG", quality=90, subsampling=2)
            frames.append((seconds, seen, still))
    tracks = _tracks(street, camera, frames, visits, persons)
    truth = _truth(street, camera, frames, tracks)
    (folder / "clips" / f"{name}.json").write_text(json.dumps(truth, separators=(",", ":")) + "\n", "utf-8")
    return list(tracks.values())


def _tracks(
    street: Street,
    camera: int,
    frames: list[tuple[float, list[InFrame], str | None]],
    visits: tuple[Visit, ...],
    persons: list[Person],
) -> dict[int, Record]:
    """What is known of each person's walk past this camera, by the number of the visit, in order of appearance."""
    tracks: dict[int, Record] = {}
    pixels: dict[int, float] = {}
    for seconds, seen, _ in frames:
        for one in seen:
            track = tracks.setdefault(one.visit, {"track": str(len(tracks) + 1), "from": seconds})
            track["to"] = seconds
            shown = one.visible * one.box[2] * one.box[3]
            if shown > pixels.get(one.visit, -1.0):
                pixels[one.visit] = shown
                track |= {"best": seconds, "best_visible": one.visible}
    for number, track in tracks.items():
        visit = visits[number]
        person = persons[visit.person]
        stance = visit.standing(person, street.begins(camera) + track["best"])
        shot = Shot(b"", street.size, stance, frozenset())
        rng = np.random.default_rng((street.seed, 2**31 + 5, number))
        track |= {
            "person": visit.person + 1,
            "view": shot.stance.pose.view,
            "captions": [describe(person, shot, rng).text for _ in range(2)],
            "attributes": sorted(person.attributes),
            "visible": sorted(visible(person, shot)),
            "camera": LENSES[camera].name,
        }
    return tracks


def _truth(
    street: Street, camera: int, frames: list[tuple[float, list[InFrame], str | None]], tracks: dict[int, Record]
) -> Record:
    """The truth file of one clip."""
    start = START + camera * LATER
    return {
        "made_by": MADE_BY,
        "version": VERSION,
        "clip": f"{street.clip(camera)}.mp4",
        "camera": LENSES[camera].name,
        "start": start.isoformat(),
        "size": list(street.size),
        "rate": street.rate,
        "tracks": list(tracks.values()),
        "frames": [
            {
                "frame": number,
                "seconds": seconds,
                "boxes": [
                    {
                        "track": tracks[one.visit]["track"],
                        "person": tracks[one.visit]["person"],
                        "box": list(one.box),
                        "visible": one.visible,
                    }
                    for one in seen
                ],
                **({"image": still} if still else {}),
            }
            for number, (seconds, seen, still) in enumerate(frames)
        ],
    }


def _queries(tracks: list[Record], street: Street) -> Iterator[dict[str, Any]]:
    """A sentence a person, and for everybody on two cameras one more with camera and time, person by person."""
    tracks = [track for track in tracks if track["best_visible"] >= _CLEAR]
    for person in sorted({track["person"] for track in tracks}):
        first, *others = [track for track in tracks if track["person"] == person]
        yield {"query": first["captions"][0], "person": person}
        for track in others[:1]:
            camera = next(k for k, lens in enumerate(LENSES) if lens.name == track["camera"])
            since, until = (START + camera * LATER + timedelta(seconds=int(track[end])) for end in ("from", "to"))
            since, until = since - timedelta(seconds=2), until + timedelta(seconds=3)
            yield {
                "query": track["captions"][0],
                "person": person,
                "camera": track["camera"],
                "since": since.isoformat(),
                "until": until.isoformat(),
                "where": f'camera == "{track["camera"]}" and time >= "{since.isoformat()}" '
                f'and time <= "{until.isoformat()}"',
            }


def _stamp(moment: datetime) -> str:
    """A time as names of files have it."""
    return moment.strftime("%Y-%m-%dT%H-%M-%S")
