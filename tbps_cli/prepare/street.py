"""What `tbps prepare-data synthetic --street` does: draw the street unless it is there, and say what it holds."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_cli.errors import DataError, UsageError
from tbps_cli.prepare.check import Phase
from tbps_cli.synthetic.street import FOLDER, Street, build_street, drawn_street, is_built


@dataclass(frozen=True)
class DrawnStreet:
    """A street on disk."""

    folder: Path
    street: Street
    clips: tuple[dict[str, Any], ...]
    """Of each clip: name, camera, start, frames, single frames, tracks, boxes."""
    persons: int
    """Whom a camera saw."""
    queries: int

    def document(self) -> dict[str, Any]:
        """The values for JSON."""
        return {
            "data": FOLDER,
            "root": str(self.folder),
            "seconds": self.street.seconds,
            "rate": self.street.rate,
            "size": list(self.street.size),
            "seed": self.street.seed,
            "persons": self.persons,
            "queries": self.queries,
            "clips": list(self.clips),
        }


def prepare_street(
    data_root: Path,
    *,
    persons: int | None = None,
    cameras: int | None = None,
    minutes: float | None = None,
    size: tuple[int, int] | None = None,
    rate: int | None = None,
    seed: int | None = None,
    phase: Phase = lambda title: nullcontext(),
) -> DrawnStreet:
    """Draw the street below `data_root`, unless it is there; stated numbers other than its own draw it anew."""
    stated = {
        "persons": persons,
        "cameras": cameras,
        "seconds": None if minutes is None else _seconds(minutes),
        "size": size,
        "rate": rate,
        "seed": seed,
    }
    stated = {name: value for name, value in stated.items() if value is not None}
    folder = data_root / FOLDER
    there = drawn_street(folder)
    if there and not stated:
        return _described(folder, there)
    street = Street(**stated)  # type: ignore[arg-type]
    street.check()
    if not is_built(folder, street):
        with phase("drawing cameras") as progress:
            build_street(folder, street, progress=progress)
    return _described(folder, street)


def _seconds(minutes: float) -> int:
    if not 0 < minutes < 1e6:
        raise UsageError(f"--minutes {minutes} is not a length.", "Try --minutes 1.")
    return round(minutes * 60)


def _described(folder: Path, street: Street) -> DrawnStreet:
    """Read the truth of every clip; raises DataError for a street that is not whole."""
    clips, persons = [], set()
    try:
        for camera in range(street.cameras):
            truth = json.loads((folder / "clips" / f"{street.clip(camera)}.json").read_text("utf-8"))
            persons |= {track["person"] for track in truth["tracks"]}
            clips.append(
                {
                    "clip": truth["clip"],
                    "camera": truth["camera"],
                    "start": truth["start"],
                    "frames": len(truth["frames"]),
                    "single_frames": sum("image" in frame for frame in truth["frames"]),
                    "tracks": len(truth["tracks"]),
                    "boxes": sum(len(frame["boxes"]) for frame in truth["frames"]),
                }
            )
            (folder / "clips" / truth["clip"]).stat()
        queries = len((folder / "queries.jsonl").read_text("utf-8").splitlines())
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "Delete the folder and draw it again: tbps prepare-data synthetic --street"
        raise DataError(f"{folder} is not whole: {error}.", hint) from None
    return DrawnStreet(folder, street, tuple(clips), len(persons), queries)
