"""The synthetic pedestrians: reproducible, honest about splits, truthful in words."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tbps_cli.errors import DataError, UsageError
from tbps_cli.synthetic import build as building
from tbps_cli.synthetic.build import DEFAULT_IDENTITIES, build, is_built, split_sizes
from tbps_cli.synthetic.camera import CAMERAS, LOWEST, TALLEST, Shot, Studio
from tbps_cli.synthetic.captions import describe, visible
from tbps_cli.synthetic.figure import draw_stance
from tbps_cli.synthetic.oracle import ceiling
from tbps_cli.synthetic.person import COLOURS, Person, people

Record = dict[str, Any]


def _bytes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    build(folder, identities=20, seed=3, workers=1)
    return folder


@pytest.fixture(scope="module")
def records(drawn: Path) -> list[Record]:
    return list(json.loads((drawn / "reid_raw.json").read_text("utf-8")))


def _everyone(identities: int, seed: int) -> tuple[list[Person], list[str]]:
    sizes = split_sizes(identities)
    splits = [name for name, size in sizes.items() for _ in range(size)]
    return people(identities, seed, [0, sizes["train"], sizes["train"] + sizes["val"]]), splits


def _spoken(identities: int, seed: int) -> list[Record]:
    """The records of the test split without its images: who, how they stand, what is said."""
    persons, splits = _everyone(identities, seed)
    found = []
    for number, (person, split) in enumerate(zip(persons, splits, strict=True)):
        if split == "test":
            rng = np.random.default_rng((seed, number))
            for _ in range(3):
                shot = Shot(b"", (80, 200), draw_stance(person, rng), frozenset())
                named = [list(describe(person, shot, rng).named) for _ in range(2)]
                found.append({"split": split, "id": number, "attributes": sorted(person.attributes), "named": named})
    return found


def test_same_seed_gives_the_same_bytes_with_two_processes(drawn: Path, tmp_path: Path) -> None:
    build(tmp_path / "again", identities=20, seed=3, workers=2)
    assert _bytes(tmp_path / "again") == _bytes(drawn)


def test_another_seed_gives_other_images_and_captions(tmp_path: Path, drawn: Path) -> None:
    build(tmp_path / "other", identities=4, seed=4, workers=1)
    other, first = _bytes(tmp_path / "other"), _bytes(drawn)
    assert other["reid_raw.json"] != first["reid_raw.json"]
    assert not set(other.values()) & set(first.values())


def test_records_are_those_of_cuhk_pedes(records: list[Record], drawn: Path) -> None:
    for record in records:
        assert record["split"] in ("train", "val", "test")
        assert isinstance(record["id"], int) and record["id"] >= 1
        assert (drawn / "imgs" / record["file_path"]).is_file()
        assert len(record["captions"]) == len(record["processed_tokens"]) == 2
        assert all(isinstance(token, str) for tokens in record["processed_tokens"] for token in tokens)
    paths = [record["file_path"] for record in records]
    assert len(set(paths)) == len(paths) == len(list((drawn / "imgs").rglob("*.jpg")))


def test_no_person_is_in_two_splits(records: list[Record]) -> None:
    split_of = {record["id"]: record["split"] for record in records}
    assert all(split_of[record["id"]] == record["split"] for record in records)
    assert sorted(split_of) == list(range(1, 21))


def test_captions_are_sentences_that_name_at_least_three_attributes(records: list[Record]) -> None:
    for record in records:
        for caption, named in zip(record["captions"], record["named"], strict=True):
            assert caption[0].isupper() and caption.endswith(".") and len(caption.split()) >= 5
            assert "  " not in caption and " ," not in caption
            assert len(named) >= 3


def test_captions_name_only_what_the_image_shows(records: list[Record]) -> None:
    for record in records:
        assert set(record["visible"]) <= set(record["attributes"])
        assert all(set(named) <= set(record["visible"]) for named in record["named"])


def test_every_colour_in_a_caption_is_a_named_attribute(records: list[Record]) -> None:
    words = {**{name: name for name in COLOURS}, "gray": "grey", "blond": "blond", "blonde": "blond"}
    for record in records:
        for caption, named in zip(record["captions"], record["named"], strict=True):
            said = {words[word] for word in re.findall("[a-z]+", caption.lower()) if word in words}
            known = {item.split("=")[1] for item in named}
            assert said <= known, f"{caption!r} says {said - known}, which is not in {named}"


def test_images_are_rgb_crops_of_the_promised_sizes(records: list[Record], drawn: Path) -> None:
    sizes = set()
    for record in records:
        with Image.open(drawn / "imgs" / record["file_path"]) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            sizes.add(image.size)
    assert all(LOWEST[0] <= w <= TALLEST[0] and LOWEST[1] <= h <= TALLEST[1] for w, h in sizes)
    assert len(sizes) > len(records) // 2


def test_a_person_is_seen_by_different_cameras(records: list[Record]) -> None:
    for person in {record["id"] for record in records}:
        cameras = [record["camera"] for record in records if record["id"] == person]
        assert len(set(cameras)) == len(cameras) >= 2


def test_the_colour_of_clothes_can_be_read_from_the_pixels() -> None:
    person = _everyone(4, 0)[0][0]
    studio, means = Studio(0), {}
    for colour in ("red", "blue", "green"):
        dyed = Person(**{**vars(person), "upper": "hoodie", "upper_colour": colour, "pattern": "plain", "bag": None})
        shot = studio.take(dyed, CAMERAS[0], np.random.default_rng(1))
        image = np.asarray(Image.open(io.BytesIO(shot.jpeg)), np.float64)
        high, wide = image.shape[:2]
        means[colour] = image[int(high * 0.25) : int(high * 0.4), int(wide * 0.4) : int(wide * 0.6)].mean((0, 1))
    assert [int(means[colour].argmax()) for colour in ("red", "green", "blue")] == [0, 1, 2]


def test_a_backpack_is_named_from_behind_but_not_from_the_front() -> None:
    person = Person(**{**vars(_everyone(4, 0)[0][0]), "bag": "backpack", "bag_colour": "red"})
    views: dict[str, set[bool]] = {"front": set(), "back": set(), "side": set()}
    for k in range(60):
        stance = draw_stance(person, np.random.default_rng(k))
        shot = Shot(b"", (80, 200), stance, frozenset())
        views[stance.pose.view].add("bag=backpack" in visible(person, shot))
    assert views == {"front": {False}, "back": {True}, "side": {True}}


def test_a_set_of_13003_persons_is_split_like_cuhk_pedes() -> None:
    assert split_sizes(13003) == {"train": 11003, "val": 1000, "test": 1000}


def test_the_default_set_is_large_enough_to_judge_by() -> None:
    sizes = split_sizes(DEFAULT_IDENTITIES)
    assert sizes["train"] >= 1450 and sizes["val"] >= 100 and sizes["test"] >= 120


@pytest.mark.parametrize("seed", [0, 1])
def test_no_test_person_repeats_a_training_person_yet_near_twins_exist(seed: int) -> None:
    persons, splits = _everyone(DEFAULT_IDENTITIES, seed)
    looks: dict[str, list[frozenset[str]]] = {"train": [], "val": [], "test": []}
    for person, split in zip(persons, splits, strict=True):
        looks[split].append(person.attributes)
    assert len({look for group in looks.values() for look in group}) == len(persons)
    near = [a for a, b in zip(looks["test"], looks["test"][1:], strict=False) if len(a - b) <= 2]
    assert len(near) >= len(looks["test"]) // 5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_near_twins_leave_a_ceiling_between_75_and_93_percent(seed: int) -> None:
    scores = ceiling(_spoken(DEFAULT_IDENTITIES, seed))
    assert 75 <= scores["R1"] <= 93
    assert scores["R1"] <= scores["R5"] <= scores["R10"] <= 100
    assert 75 <= scores["mAP"] <= 96


def test_ceiling_is_the_mean_over_all_orders_of_tied_images() -> None:
    def record(person: int, *attributes: str) -> Record:
        return {"split": "test", "id": person, "attributes": list(attributes), "named": []}

    gallery = [record(1, "a", "b"), record(1, "a", "b"), record(2, "a", "b"), record(3, "a")]
    gallery[0]["named"] = [["a", "b"]]
    scores = ceiling(gallery)
    # three images tie at the top, two of them right: orders RRW, RWR, WRR
    assert scores["R1"] == pytest.approx(200 / 3)
    assert scores["R5"] == scores["R10"] == 100
    assert scores["mAP"] == pytest.approx(100 * (1 + (1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 3)


def test_a_folder_with_foreign_files_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(DataError, match="did not draw"):
        build(tmp_path, identities=4, seed=0)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"dear"


def test_an_interrupted_build_leaves_nothing_that_looks_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "_write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "synthetic", identities=4, seed=0, workers=1)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    done: list[tuple[int, int]] = []
    build(tmp_path / "synthetic", identities=4, seed=0, workers=1, progress=lambda a, b: done.append((a, b)))
    assert done[-1] == (4, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic"]
    assert is_built(tmp_path / "synthetic", identities=4, seed=0)
    assert not is_built(tmp_path / "synthetic", identities=4, seed=1)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")
    with pytest.raises(DataError, match="file/synthetic cannot be written"):
        build(tmp_path / "file" / "synthetic", identities=4, seed=0, workers=1)


@pytest.mark.parametrize(("identities", "seed"), [(3, 0), (10, -1)])
def test_impossible_sizes_and_seeds_are_refused(tmp_path: Path, identities: int, seed: int) -> None:
    with pytest.raises(UsageError, match=r"--identities 3|--seed -1"):
        build(tmp_path / "synthetic", identities=identities, seed=seed)
