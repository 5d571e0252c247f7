"""Whatever people name as a source becomes the same list of files, under names that say where they come from."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tbps_cli.errors import DataError, TbpsError, UsageError
from tbps_cli.searching import galleries
from tbps_cli.searching.index import index
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.search import open_gallery
from tbps_cli.searching.sources import FileFacts, find_sources


def names(*given: object, **options: object) -> list[str]:
    return [item.path for item in find_sources([str(one) for one in given], **options).list().items]


def test_a_folder_is_all_its_images(photos: Path) -> None:
    assert names(photos) == ["green.png", "red.png", "below/blue.jpg"]


def test_a_file_is_itself(photos: Path) -> None:
    found = find_sources([photos / "red.png"])
    assert names(photos / "red.png") == ["red.png"]
    assert found.roots.file_of("red.png") == photos / "red.png"


def test_a_pattern_is_what_fits_it(photos: Path) -> None:
    assert names(photos / "*.png") == ["green.png", "red.png"]
    assert names(photos / "**" / "*") == ["below/blue.jpg", "green.png", "red.png"]
    assert names(photos / "be*") == ["below/blue.jpg"], "a folder that fits is all its images"


def test_a_list_is_read_from_standard_input(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (b"photos/red.png\nphotos/below/blue.jpg\n", b"photos/red.png\0photos/below/blue.jpg\0"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert names("-") == ["red.png", "below/blue.jpg"]


def test_a_table_says_what_is_known(photos: Path) -> None:
    rows = [
        {"image": "red.png", "camera": "c1", "time": "2026-01-05 10:00:00", "person": 7, "track": "3"},
        {"path": "green.png", "box": [1, 2, 8, 9]},
    ]
    table = photos / "list.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = find_sources([table]).list().items
    assert first.facts == FileFacts("c1", "2026-01-05T10:00:00", 7, "3", None)
    assert (second.path, second.facts.box) == ("green.png#xywh=1,2,8,9", (1, 2, 8, 9))


def test_a_csv_says_what_is_known(photos: Path) -> None:
    table = photos / "list.csv"
    table.write_text('file,cam,timestamp,box\nred.png,c1,2026-01-05T10:00:00,"1,2,8,9"\n')
    (only,) = find_sources([table]).list().items
    assert only.facts == FileFacts("c1", "2026-01-05T10:00:00", None, None, (1, 2, 8, 9))


def test_several_sources_keep_their_names(photos: Path, painted) -> None:
    painted(photos.parent / "other" / "photos" / "red.png", "yellow")
    given = (photos, photos.parent / "other" / "photos", photos / "red.png")
    found = find_sources(given)
    assert names(*given) == [
        "photos/green.png",
        "photos/red.png",
        "photos/below/blue.jpg",
        "photos-2/red.png",
        "red.png",
    ]
    assert found.roots.file_of("photos-2/red.png") == photos.parent / "other" / "photos" / "red.png"
    assert found.roots.file_of("red.png") == photos / "red.png"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "a source is empty"),
        (" ", "a source is empty"),
        ("nowhere", "nowhere: there is no such file or folder."),
        ("photos/*.gif", "no image or video fits this pattern"),
        ("notes.md", "neither an image nor a video nor a list"),
        ("empty.txt", "lists no files"),
        ("gone.txt", "none of its 2 files is there (first: "),
        ("strange.txt", "line 1: "),
        ("box.jsonl", "line 1 has the box 1,2"),
        ("no_image.jsonl", "line 1 has no image"),
        ("number.json", "entry 1 is neither a path nor a record"),
    ],
)
def test_what_is_no_source_is_said_in_one_line(photos: Path, given: str, said: str) -> None:
    Path("notes.md").write_text("x")
    Path("empty.txt").write_text("\n")
    Path("gone.txt").write_text("a.png\nb.png\n")
    Path("strange.txt").write_text("notes.md\n")
    Path("box.jsonl").write_text('{"image": "photos/red.png", "box": [1, 2]}')
    Path("no_image.jsonl").write_text('{"camera": "c1"}')
    Path("number.json").write_text("[1]")
    with pytest.raises(TbpsError) as caught:
        find_sources([given]).list()
    assert said in caught.value.message and "\n" not in caught.value.message


def test_one_missing_file_of_a_list_does_not_stop_the_others(model, photos: Path, lines) -> None:
    Path("list.txt").write_text("photos/red.png\nphotos/gone.png\n")
    gallery = index(model, "list.txt")
    assert gallery.rows.paths == ["red.png"] and "gone.png cannot be read (listed in line 2, but not there)" in lines()


# Their indexes ---------------------------------------------------------------------------------


def test_lists_of_one_folder_share_an_index(model, photos: Path) -> None:
    assert index(model, photos / "red.png").rows.paths == ["red.png"]
    both = index(model, photos / "*.png")
    assert sorted(both.rows.paths) == ["green.png", "red.png"] and both.update.embedded == 1
    again = index(model, photos / "red.png")
    assert (again.rows.paths, again.update.removed, again.update.embedded) == (["red.png"], 0, 0)
    (photos / "green.png").unlink()
    assert index(model, photos / "red.png").update.removed == 1


def test_what_a_table_says_is_in_the_rows_and_can_change(model, photos: Path) -> None:
    table = photos / "list.jsonl"
    for camera in ("c1", "c2"):
        table.write_text(json.dumps({"image": "red.png", "camera": camera, "person": 3}) + "\n")
        gallery = index(model, table)
        assert [(row.camera, row.person) for row in gallery.rows] == [(camera, 3)]
    assert model.seen == 1, "only what is known of it has changed"


def test_a_person_called_0_is_stated_too(model, photos: Path) -> None:
    table = photos / "list.jsonl"
    for person in (3, 0):
        table.write_text(json.dumps({"image": "red.png", "person": person}) + "\n")
        assert [row.person for row in index(model, table).rows] == [person]


def test_a_box_is_the_part_that_is_embedded(model, photos: Path, painted) -> None:
    from PIL import Image
    from support.encoder import COLOURS

    scene = Image.new("RGB", (60, 40), COLOURS["red"])
    scene.paste(COLOURS["blue"], (30, 0, 60, 40))
    scene.save(photos / "scene.png")
    table = photos / "list.jsonl"
    boxes = ([0, 0, 20, 40], [35, 0, 20, 40])
    table.write_text("".join(json.dumps({"image": "scene.png", "box": box}) + "\n" for box in boxes))
    gallery = index(model, table)
    assert [row.box for row in gallery.rows] == [tuple(box) for box in boxes]
    for row, vector_E in zip(gallery.rows, gallery.vector_GE, strict=True):
        image = gallery.image_of(row)
        assert image.size == (20, 40) and np.allclose(vector_E, model.encode_images([image])[0], atol=2.5e-4)
        assert gallery.file_of(row) == photos / "scene.png"


def test_a_box_outside_its_image_leaves_it_out(model, photos: Path, lines) -> None:
    table = photos / "list.jsonl"
    table.write_text('{"image": "red.png", "box": [10, 0, 20, 20]}\n{"image": "green.png"}\n')
    assert index(model, table).rows.paths == ["green.png"]
    assert "the box 10,0,20,20 is not inside its 16 x 32 pixels" in lines()


def test_a_gallery_of_several_sources_follows_them(model, photos: Path, painted) -> None:
    painted(Path("gate.png"), "yellow")
    sources = galleries.define("station", [photos, "gate.png"])
    first = index(model, sources, gallery="station")
    assert sorted(first.rows.paths) == ["gate.png", "photos/below/blue.jpg", "photos/green.png", "photos/red.png"]
    assert {first.file_of(row).is_file() for row in first.rows} == {True}
    (photos / "red.png").unlink()
    again = index(model, galleries.sources_of("station"), gallery="station")
    assert (len(again), again.update.removed, again.update.embedded) == (3, 1, 0)
    fewer = index(model, galleries.define("station", [photos]), gallery="station")
    assert "gate.png" not in fewer.rows.paths


@pytest.mark.parametrize("name", ["", "a/b", "../up", "a.h5", "x" * 65, "-", "a b"])
def test_a_name_that_cannot_be_is_refused(name: str, photos: Path) -> None:
    with pytest.raises(UsageError):
        galleries.define(name, [photos])
    with pytest.raises(DataError):
        galleries.sources_of(name or "nothing")


def test_a_gallery_keeps_its_sources_when_it_is_said_again_with_a_mistake(photos: Path) -> None:
    kept = galleries.define("station", [photos])
    for mistake in ("nowhere", ""):
        with pytest.raises(TbpsError):
            galleries.define("station", [photos, mistake])
        assert galleries.sources_of("station") == kept


def test_a_gallery_with_the_name_of_a_folder_says_which_comes_first(photos: Path, lines) -> None:
    galleries.define("photos", [photos / "below"])
    assert "--in photos means the file or folder photos here" in lines()


def test_a_gallery_whose_source_is_gone_says_which_and_how_to_go_on(model, photos: Path) -> None:
    galleries.define("station", [photos, photos / "below"])
    (photos / "below").rename(photos / "elsewhere")
    with pytest.raises(DataError, match=r"--in station: of its sources, .*below: there is no such") as caught:
        open_gallery(model, "station")
    assert "tbps index --gallery station" in caught.value.hint


def test_settings_of_an_index_are_remembered(model, photos: Path) -> None:
    from tbps_cli.searching.index_state import IndexState

    made = Path("people.h5")
    index(model, photos, made, footage=FootageSettings(detect=False, every=2.0))
    assert IndexState(made).footage == FootageSettings(detect=False, every=2.0)
    index(model, photos, made, footage=FootageSettings(every=3.0))
    assert IndexState(made).footage == FootageSettings(detect=False, every=3.0)


def test_names_of_files_tell_camera_and_time(model, photos: Path, painted) -> None:
    painted(photos / "cam3_2026-01-05T10-11-12.jpg", "yellow")
    painted(photos / "0007_c1s2_000151_01.jpg", "red", (16, 40))
    rows = {row.path: row for row in index(model, photos).rows}
    assert (rows["cam3_2026-01-05T10-11-12.jpg"].camera, rows["cam3_2026-01-05T10-11-12.jpg"].time) == (
        "cam3",
        "2026-01-05T10:11:12",
    )
    assert (rows["0007_c1s2_000151_01.jpg"].camera, rows["0007_c1s2_000151_01.jpg"].person) == ("c1", 7)
    assert rows["red.png"].camera is None


def test_a_pattern_of_ones_own_decides_and_is_remembered(model, photos: Path, painted, lines) -> None:
    painted(photos / "gate_05.01.2026 101112.jpg", "yellow")
    pattern = FootageSettings(pattern="{camera}_{time:%d.%m.%Y %H%M%S}")
    for settings in (pattern, FootageSettings()):
        rows = {row.path: row for row in index(model, photos, footage=settings).rows}
        named = rows["gate_05.01.2026 101112.jpg"]
        assert (named.camera, named.time) == ("gate", "2026-01-05T10:11:12")
    assert "3 of 4 names do not fit --pattern {camera}_{time:%d.%m.%Y %H%M%S}, for example " in lines()


def test_a_mistake_in_a_pattern_is_told_first(photos: Path) -> None:
    with pytest.raises(UsageError, match="--pattern"):
        index("no such model", photos, footage=FootageSettings(pattern="{kamera}"))
