"""The drawn street: reproducible, and its truth is what the frames show."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.street import SMALL, truth_of

from tbps_cli.errors import DataError, UsageError
from tbps_cli.synthetic import street as streets
from tbps_cli.synthetic.lookout import Lookout, shown_part
from tbps_cli.synthetic.person import people
from tbps_cli.synthetic.scene import FOCAL
from tbps_cli.synthetic.street import Street, build_street, drawn_street, is_built
from tbps_cli.synthetic.walks import plan_visits


def _bytes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _images(clip: Path) -> list[Image.Image]:
    import av

    with av.open(str(clip)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def test_same_seed_gives_the_same_bytes_with_two_processes(small_street: Path, tmp_path: Path) -> None:
    build_street(tmp_path / "again", SMALL, workers=2)
    assert _bytes(tmp_path / "again") == _bytes(small_street)


def test_another_seed_gives_other_videos(small_street: Path, tmp_path: Path) -> None:
    short = {**vars(SMALL), "seconds": 2, "cameras": 1}
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, seed in zip(folders, (1, 2), strict=True):
        build_street(folder, Street(**{**short, "seed": seed}), workers=1)
    one, two = (_bytes(folder) for folder in folders)
    assert not set(one.values()) & set(two.values())


def test_names_say_camera_and_start(small_street: Path) -> None:
    clips = sorted(small_street.glob("clips/*.mp4"))
    assert [clip.name for clip in clips] == ["cam1_2026-01-05T10-00-00.mp4", "cam2_2026-01-05T10-00-07.mp4"]
    for clip in clips:
        truth = truth_of(clip)
        camera, start = clip.stem.split("_")
        assert (camera, truth["clip"]) == (truth["camera"], clip.name)
        assert datetime.strptime(start, "%Y-%m-%dT%H-%M-%S") == datetime.fromisoformat(truth["start"])


def test_a_clip_has_the_frames_and_times_of_its_truth(small_street: Path) -> None:
    import av

    for clip in sorted(small_street.glob("clips/*.mp4")):
        truth = truth_of(clip)
        with av.open(str(clip)) as container:
            times = [frame.time for frame in container.decode(video=0)]
            assert container.streams.video[0].codec_context.width == SMALL.size[0]
        assert times == pytest.approx([frame["seconds"] for frame in truth["frames"]], abs=1e-4)
        assert len(times) == SMALL.seconds * SMALL.rate


def test_single_frames_are_those_of_the_clip(small_street: Path) -> None:
    clip = min(small_street.glob("clips/*.mp4"))
    truth, images = truth_of(clip), _images(clip)
    start = datetime.fromisoformat(truth["start"])
    stills = [frame for frame in truth["frames"] if "image" in frame]
    assert len(stills) == SMALL.seconds // 2
    for frame in stills:
        moment = start + timedelta(seconds=frame["seconds"])
        assert frame["image"] == f"cam1_{moment:%Y-%m-%dT%H-%M-%S}.jpg"
        with Image.open(small_street / "frames" / frame["image"]) as still:
            apart = np.abs(np.asarray(still, np.float64) - np.asarray(images[frame["frame"]], np.float64)).mean()
        assert apart < 6, f"{frame['image']} differs from its frame by {apart:.1f} grey levels on average"


def test_where_nobody_is_the_clip_shows_the_empty_scene_and_in_boxes_somebody(small_street: Path) -> None:
    clip = min(small_street.glob("clips/*.mp4"))
    truth, images = truth_of(clip), _images(clip)
    empty = np.median(np.stack([np.asarray(image, np.int16) for image in images]), axis=0)
    for frame, image in zip(truth["frames"], images, strict=True):
        changed = np.abs(np.asarray(image, np.int16) - empty).max(2) > 40
        around = np.zeros_like(changed)
        for box in frame["boxes"]:
            x, y, wide, high = box["box"]
            if box["visible"] > 0.9:
                share = changed[y : y + high, x : x + wide].mean()
                assert share > 0.15, f"{box} of frame {frame['frame']} shows the empty scene: {share:.2f} changed"
            around[max(0, y - 8) : y + high + 8, max(0, x - high // 2) : x + wide + high // 2] = True
        stray = int((changed & ~around).sum())
        assert stray <= 20, f"frame {frame['frame']}: {stray} changed pixels belong to nobody"


def test_boxes_lie_in_the_frame_and_persons_keep_their_tracks(small_street: Path) -> None:
    for clip in small_street.glob("clips/*.mp4"):
        truth = truth_of(clip)
        person_of = {track["track"]: track["person"] for track in truth["tracks"]}
        times: dict[str, list[float]] = {track: [] for track in person_of}
        for frame in truth["frames"]:
            assert len({box["track"] for box in frame["boxes"]}) == len(frame["boxes"])
            for box in frame["boxes"]:
                x, y, wide, high = box["box"]
                assert x >= 0 and y >= 0 and wide > 0 and high > 0
                assert x + wide <= SMALL.size[0] and y + high <= SMALL.size[1]
                assert 0 <= box["visible"] <= 1
                assert box["person"] == person_of[box["track"]]
                times[box["track"]].append(frame["seconds"])
        for track in truth["tracks"]:
            assert (track["from"], track["to"]) == (times[track["track"]][0], times[track["track"]][-1])


def test_somebody_is_seen_by_both_cameras_and_somebody_is_partly_hidden(small_street: Path) -> None:
    truths = [truth_of(clip) for clip in small_street.glob("clips/*.mp4")]
    first, second = ({track["person"] for track in truth["tracks"]} for truth in truths)
    assert len(first & second) >= 3
    shares = [box["visible"] for truth in truths for frame in truth["frames"] for box in frame["boxes"]]
    assert any(0.2 < share < 0.8 for share in shares) and sum(share == 1 for share in shares) > len(shares) / 2


def test_the_nearer_person_hides_the_farther_one_exactly() -> None:
    persons, size = people(40, 3, [0]), (384, 288)
    lookout = Lookout(0, size, 3)
    half = shown_part(size)[0] / 2 / FOCAL
    visits = plan_visits(persons, cameras=1, seconds=10, half_width=half, seed=3)
    hidden = 0
    for seconds in (2.0, 4.0, 6.0):
        walkers = [(k, v, persons[v.person]) for k, v in enumerate(visits) if v.begins <= seconds < v.ends]
        together = {one.visit: one for one in lookout.look(0, seconds, walkers)[1]}
        for walker in walkers:
            alone = lookout.look(0, seconds, [walker])[1]
            if alone:
                assert alone[0].box == together[walker[0]].box
                assert together[walker[0]].visible <= alone[0].visible
                hidden += together[walker[0]].visible < alone[0].visible
    assert hidden >= 5


def test_queries_ask_for_persons_who_are_there_in_the_time_they_name(small_street: Path) -> None:
    queries = [json.loads(line) for line in (small_street / "queries.jsonl").read_text("utf-8").splitlines()]
    truths = {truth["camera"]: truth for truth in map(truth_of, small_street.glob("clips/*.mp4"))}
    seen = {track["person"] for truth in truths.values() for track in truth["tracks"]}
    assert {query["person"] for query in queries} <= seen and len(queries) > 6
    placed = [query for query in queries if "camera" in query]
    assert placed
    for query in placed:
        truth = truths[query["camera"]]
        start = datetime.fromisoformat(truth["start"])
        track = next(track for track in truth["tracks"] if track["person"] == query["person"])
        assert datetime.fromisoformat(query["since"]) <= start + timedelta(seconds=track["from"])
        assert start + timedelta(seconds=track["to"]) <= datetime.fromisoformat(query["until"])
        assert query["where"] == (
            f'camera == "{query["camera"]}" and time >= "{query["since"]}" and time <= "{query["until"]}"'
        )


def test_a_large_frame_shows_the_same_street_as_a_small_one() -> None:
    persons = people(6, 1, [0])
    boxes = []
    for size in ((768, 576), (1152, 864)):
        half = shown_part(size)[0] / 2 / FOCAL
        visits = plan_visits(persons, cameras=1, seconds=10, half_width=half, seed=1)
        walkers = [(k, v, persons[v.person]) for k, v in enumerate(visits) if v.begins <= 5 < v.ends]
        seen = Lookout(0, size, 1).look(0, 5.0, walkers)[1]
        boxes.append(np.array([one.box for one in seen]) / size[1])
    assert len(boxes[0]) and np.abs(boxes[0] - boxes[1]).max() < 0.012


def test_a_folder_with_foreign_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(DataError, match="did not draw"):
        build_street(tmp_path, SMALL)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"dear"


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(streets, "_queries", fail)
    with pytest.raises(KeyboardInterrupt):
        build_street(tmp_path / "street", Street(**{**vars(SMALL), "seconds": 2, "cameras": 1}), workers=1)
    assert not list(tmp_path.iterdir())


def test_a_street_knows_what_it_was_drawn_from(small_street: Path) -> None:
    assert drawn_street(small_street) == SMALL
    assert is_built(small_street, SMALL) and not is_built(small_street, Street())
    assert drawn_street(small_street / "clips") is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"persons": 0}, "--identities 0"),
        ({"cameras": 7}, "--cameras 7"),
        ({"seconds": 1}, "--minutes"),
        ({"size": (100, 100)}, "--size 100x100"),
        ({"size": (767, 576)}, "even"),
        ({"rate": 0}, "--rate 0"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_impossible_streets_are_refused(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_street(tmp_path / "street", Street(**wrong))
