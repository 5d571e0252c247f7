"""Shares of a gallery: several processes fill one index, and together they do what one would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.encoder import FakeEncoder
from support.ranks import free_port
from support.runs import tiny_run
from support.sets import save_image
from support.videos import write_video

from tbps_cli.cli.app import app
from tbps_cli.errors import CacheError, UsageError
from tbps_cli.features import parts, store
from tbps_cli.features.encoder import Embeddings, ImageWay
from tbps_cli.features.rows import Row
from tbps_cli.features.store import FeatureFile
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.listed import FileFacts
from tbps_cli.searching.scan import Found, FoundFiles
from tbps_cli.searching.search import search
from tbps_cli.searching.share import ShareNotes, WorkShare
from tbps_cli.searching.skipped import SkippedList
from tbps_cli.searching.sources import Items

IMAGES = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(IMAGES):
        save_image(tmp_path / "many" / f"{number % 3}" / f"{number:02d}.png", seed=number)
    return tmp_path / "many"


def start(folder: Path, path: Path, share: str, seconds: float = 0.0) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.sharing", str(folder), str(path), share, str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def added(process: subprocess.Popen[str]) -> int:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return int(out.splitlines()[-1].removeprefix("added "))


def as_a_table(gallery: Gallery) -> dict[str, list[float]]:
    vectors = np.asarray(gallery.vector_GE, np.float32)
    return dict(zip(gallery.rows.paths, vectors.round(6).tolist(), strict=True))


def same(one: Gallery, other: Gallery) -> bool:
    first, second = as_a_table(one), as_a_table(other)
    return first.keys() == second.keys() and all(np.allclose(first[path], second[path], atol=1e-6) for path in first)


def held(share: WorkShare, items: Items) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which files are in this share."""
    return np.asarray(share.share_of(items) == share.number)


def of(folder: Path, *shares: str) -> dict[str, set[str]]:
    """Share -> the files that belong to it."""
    paths = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.png"))]
    items = Items(Roots(folder), FoundFiles.of([Found(path, 1, 1) for path in paths]))
    return {
        share: {path for path, mine in zip(paths, held(WorkShare.parse(share), items), strict=True) if mine}
        for share in shares
    }


@pytest.mark.parametrize("text", ["0/3", "4/3", "x/y", "3", "1/0", "1/2/3", "-1/3", "", "1.5/2", "٣/٤"])
def test_what_is_no_share_is_one_line_with_an_example(
    text: str, tbps: Callable[..., tuple[int, str, str]], folder: Path
) -> None:
    status, out, err = tbps("index", str(folder), f"--share={text}")
    assert (status, out) == (2, "")
    assert err.startswith(f"Error: --share {text}: ") and "--share 3/16" in err and err.count("\n") == 2


def test_every_file_is_in_one_share_and_crops_are_with_their_image(folder: Path) -> None:
    found = list(of(folder, "1/3", "2/3", "3/3").values())
    assert sum(map(len, found)) == len(set.union(*found)) == IMAGES and all(found)
    names = [f"scene.png#xywh={place},0,8,8" for place in range(20)]
    facts = {place: FileFacts(box=(place, 0, 8, 8)) for place in range(20)}
    crops = Items(Roots(folder), FoundFiles.of([Found(name, 1, 1) for name in names]), facts)
    whole = Items(Roots(folder), FoundFiles.of([Found("scene.png", 1, 1)]))
    for number in range(1, 8):
        share = WorkShare(number, 7)
        assert set(held(share, crops).tolist()) == set(held(share, whole).tolist())


def test_shares_one_after_another_give_the_index_of_one_process(model: FakeEncoder, folder: Path) -> None:
    wanted = index(model, folder, "alone.h5")
    sizes = []
    for number in (2, 3, 1):
        gallery = index(model, folder, "shared.h5", share=WorkShare(number, 3))
        sizes.append((gallery.update.added, len(gallery)))
    counts = [len(files) for files in of(folder, "2/3", "3/3", "1/3").values()]
    assert [count for count, _ in sizes] == counts and [size for _, size in sizes] == np.cumsum(counts).tolist()
    assert same(open_index(model, Path("shared.h5")), wanted)
    assert index(model, folder, "shared.h5").update.added == 0


def test_the_second_share_can_be_searched_before_the_first_has_begun(model: FakeEncoder, folder: Path, caplog) -> None:
    shares, path = of(folder, "1/2", "2/2"), Path("shared.h5")
    index(model, folder, path, share=WorkShare(2, 2))
    assert not path.exists(), "it is in parts alone"
    assert {hit.path for hit in search(model, path, "a man", top=IMAGES)} == shares["2/2"]
    assert f"{path}: share 1 of 2 has not begun; images may be missing." in caplog.text
    caplog.clear()
    index(model, folder, path, share=WorkShare(1, 2))
    assert len(search(model, path, "a man", top=IMAGES)) == IMAGES and not caplog.text


def test_shares_whose_files_are_all_there_count_as_finished(model: FakeEncoder, folder: Path) -> None:
    path, notes = Path("shared.h5"), ShareNotes(Path("shared.h5"))
    index(model, folder, path)
    index(model, folder, path, share=WorkShare(1, 2))
    assert notes.missing() is None, "everything is there since the run without shares"
    save_image(folder / "0" / "later.png", seed=99)
    late = next(share for share, files in of(folder, "1/4", "2/4", "3/4", "4/4").items() if "0/later.png" in files)
    number = int(late[0])
    index(model, folder, path, share=WorkShare(number % 4 + 1, 4))
    assert notes.missing() == f"share {number} of 4 has not begun"
    index(model, folder, path, share=WorkShare(number, 4))
    assert notes.missing() is None


def test_a_video_of_another_share_that_was_looked_at_is_not_waited_for(model: FakeEncoder, tmp_path: Path) -> None:
    cams, path = tmp_path / "cams", Path("shared.h5")
    cams.mkdir()
    for name in ("hall", "gate"):  # in the first share, and in the second
        write_video(cams / f"{name}.mp4", [Image.new("RGB", (128, 256))] * 4)
    save_image(cams / "one.png", seed=1)
    index(model, cams, path)
    index(model, cams, path, share=WorkShare(1, 2))
    assert ShareNotes(path).missing() is None
    os.utime(cams / "gate.mp4", (1, 1))
    ShareNotes(path).path.unlink()
    index(model, cams, path, share=WorkShare(1, 2))
    assert ShareNotes(path).missing() == "share 2 of 2 has not begun"


def test_notes_on_shares_say_which_are_missing(tmp_path: Path) -> None:
    notes = ShareNotes(tmp_path / "shared.h5")
    assert notes.missing() is None
    for number in (2, 4, 5, 9):
        notes.begun(WorkShare(number, 9))
    notes.finished(WorkShare(4, 9))
    assert notes.missing() == "shares 1, 3 and 6-8 of 9 have not begun, shares 2, 5 and 9 of 9 have not finished"
    notes.begun(WorkShare(4, 9))
    assert notes.missing().endswith("shares 2, 4-5 and 9 of 9 have not finished")
    notes.begun(WorkShare(1, 2))  # another number of shares: another division
    assert notes.missing() == "share 2 of 2 has not begun, share 1 of 2 has not finished"
    notes.finished(None)
    assert notes.missing() is None
    notes.path.write_text("[1")
    assert notes.missing() is None


def test_three_shares_at_once_fill_one_index(model: FakeEncoder, folder: Path, tmp_path: Path) -> None:
    running = [start(folder, tmp_path / "shared.h5", f"{number}/3") for number in (1, 2, 3)]
    assert sum(map(added, running)) == IMAGES
    gallery = open_index(model, tmp_path / "shared.h5")
    assert same(gallery, index(model, folder, "alone.h5"))
    image = sorted(folder.rglob("*.png"))[7]
    assert search(model, gallery, image=image, top=1)[0].path == image.relative_to(folder).as_posix()


def test_the_share_of_a_killed_process_is_taken_up_by_the_next_run(
    model: FakeEncoder, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "shared.h5"
    victim, other = start(folder, path, "2/2", seconds=0.3), start(folder, path, "1/2")
    assert victim.stdout
    told = [victim.stdout.readline() for _ in range(3)]
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=60)
    assert victim.returncode == -signal.SIGKILL and all(line.startswith("rows ") for line in told)
    shares = of(folder, "1/2", "2/2")
    assert added(other) == len(shares["1/2"])
    there = set(open_index(model, path).rows.paths)
    assert shares["1/2"] <= there and 3 <= len(there & shares["2/2"]) < len(shares["2/2"])
    again = index(model, folder, path, share=WorkShare(2, 2))
    assert again.update.added == len(shares["2/2"] - there) < len(shares["2/2"])
    assert same(open_index(model, path), index(model, folder, "alone.h5"))


def test_files_that_are_gone_go_with_the_first_share_and_with_a_run_without_shares(
    model: FakeEncoder, folder: Path
) -> None:
    index(model, folder, "shared.h5")
    gone = {share: sorted(files)[0] for share, files in of(folder, "1/2", "2/2").items()}
    for path in gone.values():
        (folder / path).unlink()
    second = index(model, folder, "shared.h5", share=WorkShare(2, 2))
    assert (second.update.removed, len(second)) == (0, IMAGES)
    first = index(model, folder, "shared.h5", share=WorkShare(1, 2))
    assert (first.update.removed, len(first)) == (2, IMAGES - 2)
    (folder / sorted(of(folder, "2/2")["2/2"])[0]).unlink()
    assert index(model, folder, "shared.h5").update.removed == 1


def test_a_share_replaces_and_leaves_out_its_own_files_and_no_others(model: FakeEncoder, folder: Path) -> None:
    index(model, folder, "shared.h5")
    mine, others = (sorted(files) for files in of(folder, "2/2", "1/2").values())
    for path in (mine[0], others[0]):
        save_image(folder / path, seed=99)
    for path in (mine[1], others[1]):
        (folder / path).write_bytes(b"broken")
    second = index(model, folder, "shared.h5", share=WorkShare(2, 2))
    assert (second.update.added, second.update.removed) == (1, 1)
    assert mine[1] not in second.rows.paths and others[1] in second.rows.paths
    first = index(model, folder, "shared.h5", share=WorkShare(1, 2))
    assert (first.update.added, first.update.removed) == (1, 1)
    assert set(SkippedList(Path("shared.h5")).entries) == {mine[1], others[1]}, "neither list is lost"
    assert same(first, index(model, folder, "alone.h5"))


def test_a_share_without_a_file_is_no_mistake(model: FakeEncoder, photos: Path) -> None:
    sizes = [len(index(model, photos, "shared.h5", share=WorkShare(number, 50))) for number in range(50, 0, -1)]
    assert sizes[0] == 0 and sizes[-1] == 3


def test_what_changes_rows_of_every_share_wants_a_run_without_shares(model: FakeEncoder, photos: Path) -> None:
    index(model, photos, "shared.h5")
    pattern = FootageSettings(pattern="{camera}.png")
    with pytest.raises(UsageError, match="--pattern or --detect differ") as told:
        index(model, photos, "shared.h5", share=WorkShare(1, 2), footage=pattern)
    assert "without --share" in told.value.hint
    index(model, photos, "shared.h5", footage=pattern)
    index(model, photos, "shared.h5", share=WorkShare(1, 2), footage=pattern)


class TwoWays(FakeEncoder):
    """float32, and a way that is a little off."""

    def image_ways(self) -> list[ImageWay]:
        return [
            ImageWay("fp32", "fp32", "", self.image_arrays, 8),
            ImageWay("bf16", "bf16", "-bf16", self.off, 8),
        ]

    def off(self, image_BCHW: Embeddings) -> Embeddings:
        return self.image_arrays(image_BCHW) + np.float32(1e-6)


@pytest.mark.parametrize("path", [None, "shared.h5"])
def test_all_shares_embed_in_the_way_that_the_first_of_them_chose(
    path: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tried = TwoWays(), []

    def other_way_each_time(encoder: TwoWays, precision: str, **_: object) -> ImageWay:
        tried.append(precision)
        return encoder.image_ways()[len(tried) % 2]

    with monkeypatch.context() as patched:
        patched.setattr("tbps_cli.searching.index_way.choose_way", other_way_each_time)
        begun = index(model, folder, path, share=WorkShare(2, 50))
        assert len(begun) < IMAGES
        if not len(begun):
            index(model, folder, path, share=WorkShare(3, 50))
        assert tried == ["auto"]
    for number in range(1, 51):
        made = index(model, folder, path, share=WorkShare(number, 50))
    assert len(made) == IMAGES
    assert index(model, folder, path, precision="bf16").update.added == 0


def test_another_precision_or_model_than_that_of_the_other_shares_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shared.h5.way.json").write_text('["0123456789abcdef", "-bf16"]')
    with pytest.raises(UsageError, match=r"--precision fp32: the other shares embed in bf16 \(.*way\.json\)"):
        index(TwoWays(), folder, "shared.h5", share=WorkShare(1, 2), precision="fp32")
    with pytest.raises(UsageError, match="the other shares embed in bf16"):
        index(FakeEncoder(), folder, "shared.h5", share=WorkShare(1, 2))
    with pytest.raises(CacheError, match="another model"):
        index(FakeEncoder("f" * 16), folder, "shared.h5", share=WorkShare(1, 2))
    (tmp_path / "shared.h5.way.json").write_text("")
    with pytest.raises(CacheError, match="cannot be read"):
        index(FakeEncoder(), folder, "shared.h5", share=WorkShare(1, 2))


# The file that they fill ------------------------------------------------------------------------


def rows(*names: str) -> list[Row]:
    return [Row(name, 1, 1, f"{name:>032}") for name in names]


def test_who_only_appends_joins_the_own_parts_and_leaves_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PARTS", 4)
    path = tmp_path / "shared.h5"
    other = FeatureFile.open(path, "mark")
    other.append(rows("other"), np.eye(1, 4, dtype=np.float32))
    theirs = set(parts.part_paths(path))
    mine = FeatureFile.open(path, "mark")
    mine.appends_only = True
    for number in range(11):
        mine.append(rows(f"{number:02d}"), np.eye(1, 4, number % 4, dtype=np.float32))
        assert len(parts.part_paths(path)) <= 1 + 4 and theirs <= set(parts.part_paths(path))
    mine.settle()
    assert not path.exists() and len(mine) == 12
    last = FeatureFile.open(path, "mark")
    last.settle()
    assert sorted(last.known().paths) == [*(f"{number:02d}" for number in range(11)), "other"]
    assert path.exists() and parts.part_paths(path) == []


@pytest.mark.parametrize("locks", [True, False])
def test_what_others_are_writing_is_removed_only_where_locks_say_that_nobody_is(
    locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        monkeypatch.setattr(parts, "fcntl", None)
    file = FeatureFile.open(tmp_path / "shared.h5", "mark")
    file.append(rows("a"), np.eye(1, 4, dtype=np.float32))
    half_written = parts.parts_folder(file.path) / ".000002-other.h5.12345678.tmp"
    half_written.write_bytes(b"half")
    file.compact()
    assert half_written.exists() != locks


@pytest.mark.parametrize("how", ["merge", "join"])
def test_where_a_disk_has_no_locks_a_part_that_comes_during_a_merge_is_not_lost(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "fcntl", None)
    path = tmp_path / "shared.h5"
    merging, other = FeatureFile.open(path, "mark"), FeatureFile.open(path, "mark")
    for name in ("a", "b"):
        merging.append(rows(name), np.eye(1, 4, dtype=np.float32))
    load, late = merging._load, ["late"]

    def loaded_before_another_appends() -> None:
        load()
        if late:
            other.append(rows(late.pop()), np.eye(1, 4, dtype=np.float32))

    monkeypatch.setattr(merging, "_load", loaded_before_another_appends)
    if how == "merge":
        merging.compact()
    else:
        merging._join_parts()
    assert sorted(FeatureFile.open(path, "mark").known().paths) == ["a", "b", "late"]


# torchrun ---------------------------------------------------------------------------------------


def test_a_process_of_torchrun_does_its_share_and_only_the_first_one_talks(
    tbps: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path / "run")
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    said = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        status, out, _ = tbps("index", str(folder), "--ckpt", str(run.folder), "--index", "shared.h5")
        assert status == 0
        said.append(out)
    assert said[0] == "" and f": {IMAGES} images, {len(of(folder, '1/2')['1/2'])} added" in said[1]
    monkeypatch.delenv("MASTER_PORT")
    status, out, _ = tbps("index", str(folder), "--ckpt", str(run.folder), "--index", "shared.h5")
    assert status == 0 and f"{IMAGES} images, 0 added" in out


@pytest.mark.slow
def test_torchrun_with_two_processes_makes_the_index_of_one(folder: Path, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), "-m", "tbps_cli"]
    words = ["index", str(folder), "--ckpt", str(run.folder), "--index", "shared.h5"]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, *words], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images,") == 1
    with pytest.raises(SystemExit):
        app([*words[:-1], "alone.h5"])
    from tbps_cli import load

    model = load(run.folder)
    assert same(open_index(model, Path("shared.h5")), open_index(model, Path("alone.h5")))
    assert not torch.distributed.is_initialized()


def test_shares_fill_an_index_and_no_database(tbps: Callable[..., tuple[int, str, str]], folder: Path) -> None:
    status, _, err = tbps("index", str(folder), "--gallery", "postgresql://nowhere/x", "--share", "1/2")
    assert status == 2 and "--share: shares fill an index" in err and "--move" in err
