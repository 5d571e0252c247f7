"""How well persons are found in video: the drawn street, from videos to answers, and where answers are lost on the way.

scripts/bench street --ckpt RUN [--persons N] [--minutes M] [--every S] [--detector NAME] [--data-root DIR] [--seed N]

The model is the one of ./scripts/demo, which has seen other persons by the same renderer. Every person is described as
in the data set that the model was trained on. Compared are: crops as that data set has them; crops by the true boxes of
the street; and what `tbps index` makes of its videos. An answer is right when its first hit shows the person.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_cli import load
from tbps_cli.features.encoder import Encoder
from tbps_cli.footage.frames import frames
from tbps_cli.footage.score import OVERLAP, VISIBLE, iou
from tbps_cli.footage.truth import ClipTruth, read_truth
from tbps_cli.footage.truth import TrueBox as TrueBox
from tbps_cli.prepare.street import DrawnStreet, prepare_street
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index import index
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.query import Query
from tbps_cli.searching.search import search_all
from tbps_cli.synthetic.camera import CAMERAS, Studio
from tbps_cli.synthetic.captions import describe
from tbps_cli.synthetic.person import people
from tbps_cli.types import Hit

Array = NDArray[np.float32]
CLEAR = 0.6
"""Share of a person that a track must show at its best, for its captions to be asked."""
SLACK = timedelta(milliseconds=1)


@dataclass(frozen=True)
class TrueClip:
    """The truth about one clip."""

    name: str
    camera: str
    start: datetime
    truth: ClipTruth
    person: dict[str, int]
    """Track -> person."""

    def shown(self, seconds: float, box: Sequence[int]) -> int | None:
        """The person that a box shows."""
        there = self.truth.at(seconds) or []
        share, track = max(((iou(tuple(box), true.box), true.track) for true in there), default=(0.0, ""))
        return self.person[track] if share >= OVERLAP else None

    def clearly_seen(self) -> set[int]:
        """Everybody of whom most can be seen at some time."""
        return {self.person[box.track] for boxes in self.truth.boxes.values() for box in boxes if box.visible >= CLEAR}


def clips_of(drawn: DrawnStreet) -> tuple[list[TrueClip], list[tuple[str, int]]]:
    """The clips of a street, and (sentence, person) of everybody who was seen clearly."""
    clips, asked = [], []
    for one in drawn.clips:
        path = (drawn.folder / "clips" / one["clip"]).with_suffix(".json")
        said = json.loads(path.read_text("utf-8"))
        person = {track["track"]: track["person"] for track in said["tracks"]}
        start = datetime.fromisoformat(said["start"])
        clips.append(TrueClip(one["clip"], said["camera"], start, read_truth(path, said["rate"]), person))
        clear = [track for track in said["tracks"] if track["best_visible"] >= CLEAR]
        asked += [(text, track["person"]) for track in clear for text in track["captions"]]
    return clips, asked


@dataclass(frozen=True)
class Crops:
    """Embeddings of crops: whose they are, and to which track each belongs."""

    vector_GE: Array
    person_G: NDArray[np.int64]
    track_G: NDArray[np.int64]

    def right(self, text_QE: Array, person_Q: NDArray[np.int64]) -> float:
        """Percent of the sentences whose best crop, which is also that of the best track, shows the person."""
        best_Q = (text_QE @ self.vector_GE.T).argmax(1)
        return 100 * float((self.person_G[best_Q] == person_Q).mean())

    def right_by_mean(self, text_QE: Array, person_Q: NDArray[np.int64]) -> float:
        """The same by the mean embedding of each track."""
        tracks = np.unique(self.track_G)
        mean_TE = np.stack([self.vector_GE[self.track_G == track].mean(0) for track in tracks])
        mean_TE /= np.linalg.norm(mean_TE, axis=1, keepdims=True)
        person_T = np.array([self.person_G[self.track_G == track][0] for track in tracks])
        return 100 * float((person_T[(text_QE @ mean_TE.T).argmax(1)] == person_Q).mean())


def drawn_crops(model: Encoder, persons: int, seed: int) -> tuple[Crops, list[tuple[str, int]]]:
    """Crops of the same persons as the training set has them, three each by its cameras, and two captions of each."""
    studio, images, whose, said = Studio(seed), [], [], []
    for number, person in enumerate(people(persons, seed, [0])):
        rng = np.random.default_rng((seed, number, 2**31 + 6))
        for camera in rng.permutation(len(CAMERAS))[:3].tolist():
            shot = studio.take(person, CAMERAS[camera], rng)
            images.append(Image.open(io.BytesIO(shot.jpeg)))
            whose.append(number + 1)
            said += [(describe(person, shot, rng).text, number + 1) for _ in range(2)]
    person_G = np.array(whose)
    return Crops(np.asarray(model.encode_images(images), np.float32), person_G, person_G), said


def true_crops(model: Encoder, folder: Path, clips: Sequence[TrueClip], every: float) -> Crops:
    """Crops by the true boxes of those who can be seen."""
    images, whose, tracks = [], [], []
    for place, clip in enumerate(clips):
        for frame in frames(folder / clip.name, every=every):
            for box, track, visible, _ in clip.truth.at(frame.seconds) or []:
                if visible >= VISIBLE and min(box[2:]) >= 8:
                    images.append(frame.image.crop((box[0], box[1], box[0] + box[2], box[1] + box[3])))
                    whose.append(clip.person[track])
                    tracks.append(place * 100_000 + int(track))
    return Crops(np.asarray(model.encode_images(images), np.float32), np.array(whose), np.array(tracks))


def found_rows(gallery: Gallery, clips: Sequence[TrueClip]) -> dict[str, str]:
    """How much of the truth the rows of an index hold."""
    by_name = {clip.name: clip for clip in clips}
    tracks: dict[tuple[str, str], list[int]] = {}
    for row in (gallery.rows[place] for place in range(len(gallery))):
        person = by_name[row.source or ""].shown(row.seconds or 0.0, row.box or (0, 0, 0, 0))
        if person is not None:
            tracks.setdefault((row.source or "", row.track or ""), []).append(person)
    shown = sum(map(len, tracks.values()))
    together = sum(max(seen.count(person) for person in set(seen)) for seen in tracks.values())
    met = {(name, person) for (name, _), seen in tracks.items() for person in seen}
    walks = {(clip.name, person) for clip in clips for person in clip.clearly_seen()}
    return {
        "rows that show a person": percent(shown, len(gallery)),
        "persons clearly seen by a camera who have a row": percent(len(met & walks), len(walks)),
        "rows that show whom most of their track shows": percent(together, shown),
        "tracks a person and camera": f"{len(tracks) / max(1, len(walks)):.2f}",
    }


def percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} %"


def right_hits(answers: Sequence[Sequence[Hit]], person_Q: Sequence[int], clips: Sequence[TrueClip]) -> list[bool]:
    """Whether the first hit of each answer shows the person."""
    by_name = {clip.name: clip for clip in clips}
    return [
        bool(hits)
        and by_name[hits[0].source or ""].shown(hits[0].seconds or 0.0, hits[0].box or (0, 0, 0, 0)) == person
        for hits, person in zip(answers, person_Q, strict=True)
    ]


def filters_hold(model: Encoder, gallery: Gallery, folder: Path, clips: Sequence[TrueClip]) -> tuple[int, int, float]:
    """(queries with a filter, rows they let in or out wrongly, percent right)."""
    wrong, right, asked = 0, 0, 0
    by_name = {clip.name: clip for clip in clips}
    rows = [gallery.rows[k] for k in range(len(gallery))]
    for line in (folder.parent / "queries.jsonl").read_text("utf-8").splitlines():
        query: dict[str, Any] = json.loads(line)
        if "where" not in query:
            continue
        asked += 1
        since, until = (datetime.fromisoformat(query[end]) for end in ("since", "until"))
        expected = {
            row.path
            for row in rows
            for clip in [by_name[row.source or ""]]
            if clip.camera == query["camera"]
            and since - SLACK <= clip.start + timedelta(seconds=row.seconds or 0.0) <= until + SLACK
        }
        hits = search_all(model, gallery, [Query(query["query"])], where=query["where"], top=len(rows)).answers[0].hits
        wrong += len({hit.path for hit in hits} ^ expected)
        right += right_hits([hits], [query["person"]], clips)[0]
    return asked, wrong, 100 * right / max(1, asked)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", required=True, help="the demo's run")
    parser.add_argument("--persons", type=int, default=135)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--rate", type=int, default=1, help="frames a second of the videos")
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between frames")
    parser.add_argument("--detector", default="hog")
    parser.add_argument("--seed", type=int, default=1000, help="of the street; the demo's persons have seed 0")
    parser.add_argument("--data-root", type=Path, help="where the street is drawn or lies; default: for this run only")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as scratch:
        root = options.data_root or Path(scratch)
        drawn = prepare_street(
            root,
            persons=options.persons,
            minutes=options.minutes,
            rate=options.rate,
            cameras=options.cameras,
            seed=options.seed,
        )
        measure(load(options.ckpt), drawn, options, Path(scratch) / "street.h5")
    return 0


def measure(model: Encoder, drawn: DrawnStreet, options: argparse.Namespace, file: Path) -> None:
    """Print the figures of one street."""
    folder = drawn.folder / "clips"
    clips, asked = clips_of(drawn)
    texts, person_Q = [text for text, _ in asked], np.array([person for _, person in asked])
    text_QE = np.asarray(model.encode_texts(texts), np.float32)
    print(
        f"{drawn.persons} persons, {len(clips)} cameras, {options.minutes:g} minutes, {len(asked)} sentences; "
        f"a frame every {options.every:g} s, detector {options.detector}",
        flush=True,
    )
    whole, said = drawn_crops(model, options.persons, options.seed)
    own_QE = np.asarray(model.encode_texts([text for text, _ in said]), np.float32)
    own = whole.right(own_QE, np.array([person for _, person in said]))
    show("crops as in training, by their own captions", len(whole.person_G), own)
    show("the same crops, by the street's sentences", len(whole.person_G), whole.right(text_QE, person_Q))
    true = true_crops(model, folder, clips, options.every)
    show("true boxes, best crop of a track", len(true.person_G), true.right(text_QE, person_Q))
    show("true boxes, mean of a track", len(true.person_G), true.right_by_mean(text_QE, person_Q))
    footage = FootageSettings(every=options.every, detector=options.detector)
    gallery = index(model, folder, file, footage=footage)
    found = search_all(model, gallery, [Query(text) for text in texts], top=1, group="track")
    right = right_hits([answer.hits for answer in found.answers], person_Q.tolist(), clips)
    show("tbps index, then tbps search --group track", len(gallery), 100 * float(np.mean(right)))
    for name, value in found_rows(gallery, clips).items():
        print(f"  {name:48} {value:>8}")
    count, wrong, share = filters_hold(model, gallery, folder, clips)
    print(f"  {count} sentences with camera and time: {wrong} rows let in or left out wrongly, R@1 {share:.1f}")


def show(name: str, rows: int, share: float) -> None:
    print(f"{name:44} {rows:6,} rows   R@1 {share:5.1f}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
