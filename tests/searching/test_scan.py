"""Which files of a folder are images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tbps_cli.errors import DataError
from tbps_cli.searching import scan as module
from tbps_cli.searching.scan import Found, FoundFiles, scan
from tbps_cli.searching.sources import Listing


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")
    return folder


def found(folder: Path) -> list[str]:
    return [image.path for image in scan(folder).files]


def test_images_are_found_in_all_folders_in_sorted_order(tmp_path: Path) -> None:
    make(tmp_path, "b.JPG", "a.png", "z/2.webp", "c/1.jpeg", "c/d/0.bmp")
    assert found(tmp_path) == ["a.png", "b.JPG", "c/1.jpeg", "c/d/0.bmp", "z/2.webp"]


def test_hidden_and_system_folders_and_other_files_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "a.png", ".git/b.png", "c/.d.png", "$RECYCLE.BIN/e.png", "@eaDir/f.jpg", "notes.txt", "png", "g.pdf")
    assert found(tmp_path) == ["a.png"]


def test_a_folder_that_is_hidden_itself_may_be_searched(tmp_path: Path) -> None:
    assert found(make(tmp_path / ".photos", "a.png")) == ["a.png"]


def test_sizes_and_times_come_along(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    os.utime(tmp_path / "a.png", ns=(5, 1_700_000_000_123_456_789))
    assert scan(tmp_path).files[0].state == (5, 1_700_000_000_123_456_789)


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path / "in", "a/1.png")
    make(tmp_path / "out", "2.png")
    (tmp_path / "in" / "a" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in" / "a")
    (tmp_path / "in" / "outside").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "nothing.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "in" / "self.png").symlink_to(tmp_path / "in" / "self.png")
    assert found(tmp_path / "in") == ["a/1.png", "outside/2.png"]


def test_a_named_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert found(tmp_path) == []


def test_a_folder_that_may_not_be_read_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a/1.png", "secret/2.png", "z/3.png")
    listing = os.scandir

    def guarded(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(module.os, "scandir", guarded)
    seen = scan(tmp_path)
    assert [image.path for image in seen.files] == ["a/1.png", "z/3.png"]
    assert seen.unreadable == {"secret": "Permission denied"}
    assert Listing([], seen.unreadable).hides("secret/2.png")
    assert not Listing([], seen.unreadable).hides("secretly.png")


@pytest.mark.parametrize("name", ["gone", "file.txt"])
def test_what_is_no_folder_is_a_data_error(tmp_path: Path, name: str) -> None:
    make(tmp_path, "file.txt")
    with pytest.raises(DataError, match=r"does not exist|is not a folder"):
        scan(tmp_path / name)


def test_very_deep_folders_are_no_trouble(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 400)
    make(deep, "a.png")
    assert found(tmp_path) == ["d/" * 400 + "a.png"]


def test_folders_deeper_than_a_path_may_be_long_are_named(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(25):  # of 200 letters each, made from inside, since no path reaches them
            os.mkdir("d" * 200, dir_fd=here)
            below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    seen = scan(tmp_path)
    assert [image.path for image in seen.files] == ["a.png"]
    assert list(seen.unreadable.values()) == ["File name too long"]


def test_a_name_that_no_file_system_allows_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        scan(tmp_path / ("d" * 5000))


def test_names_that_are_not_text_are_found_as_they_are(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"12345")
    assert [os.fsencode(path) for path in found(tmp_path)] == [b"caf\xe9/\xff.png"]


def test_a_listing_says_now_and_then_how_many_files_it_has_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, *(f"{folder}/{number}.png" for folder in range(3) for number in range(1000)))
    monkeypatch.setattr(module, "TOLD_SECONDS", 0.0)
    told: list[int] = []
    assert len(scan(tmp_path, told.append).files) == 3000
    assert told == [1024, 2048]


def test_a_video_is_told_from_an_image_by_its_ending(tmp_path: Path) -> None:
    make(tmp_path, "a.MP4", "b.jpg", "mp4.png", "c.mkv")
    files = scan(tmp_path).files
    assert dict(zip(files.paths, files.video_N.tolist(), strict=True)) == {
        "a.MP4": True, "b.jpg": False, "c.mkv": True, "mp4.png": False,
    }  # fmt: skip


def test_many_blocks_of_files_are_one_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{'long' * folder}{folder}/{number:02d}.png" for folder in range(9) for number in range(12)]
    make(tmp_path, *names)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert found(tmp_path) == sorted(names)


def test_files_are_known_by_name_size_and_time(tmp_path: Path) -> None:
    files = FoundFiles.of([Found("a.png", 1, 5), Found("b/\udcff.png", 2, 6), Found("c.png", 3, 7)])
    states = {"a.png": (1, 5), "b/\udcff.png": (2, 6), "c.png": (3, 8), "gone.png": (3, 7), "far.png": (2**70, -1)}
    assert files.in_state(states).tolist() == [True, True, False]
    assert files.in_state({}).tolist() == [False] * 3
    assert FoundFiles.of([]).in_state(states).tolist() == []
