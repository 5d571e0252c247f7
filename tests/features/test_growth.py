"""A large feature file grows at the cost of what is added, and is opened without a look at each row."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbps_cli.errors import CacheError
from tbps_cli.features import hdf5, mapping, merging, parts, rows, snapshot, store
from tbps_cli.features.merging import BackgroundMerge
from tbps_cli.features.parts import part_paths, parts_folder, unfinished, unfinished_paths
from tbps_cli.features.rows import Row, Rows, texts
from tbps_cli.features.snapshot import load
from tbps_cli.features.store import FeatureFile

WIDTH = 16


def some(first: int, count: int, version: int = 0) -> tuple[list[Row], np.ndarray]:
    made = [
        Row(f"cam/{n:05d}.jpg", n, version, f"{n:016x}{version:016x}", f"c{n % 5}") for n in range(first, first + count)
    ]
    return made, vectors_of(made)


def vectors_of(made: Rows | list[Row]) -> np.ndarray:
    """A vector that tells its row."""
    return np.array([[row.size, row.mtime] + [0] * (WIDTH - 2) for row in made], np.float32).reshape(-1, WIDTH)


@pytest.fixture
def path(tmp_path: Path, monkeypatch) -> Path:
    """A file of 5,000 rows that counts as a large one."""
    monkeypatch.setattr(store, "FEW", 100)
    file = FeatureFile.open(tmp_path / "gallery.h5", "f1")
    file.append(*some(0, 5000))
    file.compact()
    return file.path


def test_a_hundred_rows_more_write_a_hundred_rows(path: Path) -> None:
    before, size = path.stat(), path.stat().st_size
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 100))
    file.settle()
    assert path.stat().st_ino == before.st_ino, "the file was written again"
    written = sum(part.stat().st_size for part in part_paths(path))
    assert written < size / 20, f"{written:,} bytes were written for 100 of 5,100 rows, whose file has {size:,}"
    assert len(FeatureFile.open(path, "f1")) == 5100


def test_parts_are_merged_when_they_hold_an_eighth_of_the_rows(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 600))
    file.settle()
    assert len(part_paths(path)) == 1
    file.append(*some(5600, 100))
    file.settle()
    assert not parts_folder(path).exists()
    assert len(FeatureFile.open(path, "f1")) == len(file) == 5700


def test_merging_is_put_off_while_somebody_waits(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 4000))
    file.settle(share=1)
    assert len(part_paths(path)) == 1 and len(file) == 9000
    file.append(*some(9000, 1000))
    file.settle(share=1)
    assert not parts_folder(path).exists()


def test_many_small_parts_are_joined_without_a_touch_of_the_file(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "PARTS", 4)
    inode = path.stat().st_ino
    file = FeatureFile.open(path, "f1")
    for number in range(10):
        file.append(*some(5000 + 10 * number, 12))  # two of each are replaced by the next
        assert len(part_paths(path)) < 4
    assert path.stat().st_ino == inode
    assert [row.size for row in FeatureFile.open(path, "f1").known()] == list(range(5102))


def test_parts_that_were_joined_but_not_removed_are_not_counted_twice(path: Path, monkeypatch) -> None:
    """As if the process had been killed between the two."""
    monkeypatch.setattr(store, "PARTS", 3)
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 10))
    file.append(*some(5000, 10, version=1))
    old = {part: part.read_bytes() for part in part_paths(path)}
    file.append(*some(5010, 10))
    (joined,) = part_paths(path)
    for part, content in old.items():
        part.write_bytes(content)
    again = FeatureFile.open(path, "f1")
    assert [row.mtime for row in again.known()[5000:]] == [1] * 10 + [0] * 10
    assert again.matrix()[5000:, 1].tolist() == [1] * 10 + [0] * 10
    again.append(*some(5020, 1))
    assert len(FeatureFile.open(path, "f1")) == 5021
    again.compact()
    assert len(FeatureFile.open(path, "f1")) == 5021
    assert not joined.exists()


def test_opening_and_asking_for_a_few_paths_decodes_a_few(path: Path, monkeypatch) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(*some(4990, 20, version=3))
    decoded = []
    decode = rows._text
    monkeypatch.setattr(rows, "_text", lambda value: decoded.append(value) or decode(value))
    again = FeatureFile.open(path, "f1")
    again.settle()
    assert again.matrix().shape == (5010, WIDTH)
    assert again.places(["cam/00007.jpg", "cam/05009.jpg", "cam/09999.jpg"]).tolist() == [7, 5009, -1]
    assert again.snapshot.places_of_contents(texts([f"{n:032x}" for n in (7, 3)])).tolist() == [-1, -1]
    assert not decoded
    assert again.known()[5009].mtime == 3
    assert len(decoded) < 10


def test_columns_of_a_large_file_are_mapped(path: Path) -> None:
    for name, column in FeatureFile.open(path, "f1").known().columns.items():
        assert not column.flags.owndata and not column.flags.writeable, name


def test_vectors_of_a_file_and_its_parts_are_one_array_of_which_little_is_in_memory(path: Path) -> None:
    whole = path.read_bytes()
    file = FeatureFile.open(path, "f1")
    file.append(*some(2000, 3, version=1))
    file.append(*some(5000, 50))
    file.settle()
    matrix = file.matrix()
    assert matrix.tolist() == vectors_of(file.known()).tolist() == file.vectors(np.arange(5050)).tolist()
    assert [row.mtime for row in file.known()[1999:2004]] == [0, 1, 1, 1, 0]
    assert not matrix.flags.writeable and not matrix.base.flags.writeable, "what is known of it could not be kept"
    assert path.read_bytes() == whole
    del file
    assert matrix[5049, 0] == 5049, "the memory outlives the file"


def test_vectors_are_joined_by_copying_where_nothing_can_be_laid_over_memory(path: Path, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("not permitted")

    monkeypatch.setattr(mapping, "_lay_over", refused)
    file = FeatureFile.open(path, "f1")
    file.append(*some(4999, 3, version=2))
    assert file.matrix().tolist() == vectors_of(file.known()).tolist()


def test_a_file_that_was_renamed_over_meanwhile_gives_the_vectors_that_were_opened(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 5))
    other = FeatureFile.open(path, "f1")
    other.keep(np.arange(len(other)) >= 10)
    assert file.matrix().tolist() == vectors_of(file.known()).tolist()
    assert len(file) == 5005


def test_contents_are_found_in_the_file_and_its_parts_and_replaced_ones_are_not(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(*some(7, 1, version=1))
    file.append(*some(5000, 2))
    names = [
        "0" * 15 + "7" + "0" * 16,
        "0" * 15 + "7" + "0" * 15 + "1",
        some(5001, 1)[0][0].content,
        some(8, 1)[0][0].content,
    ]
    for opened in (file, FeatureFile.open(path, "f1")):
        assert opened.snapshot.places_of_contents(texts(names)).tolist() == [-1, 7, 5001, 8]
    file.compact()
    assert FeatureFile.open(path, "f1").snapshot.places_of_contents(texts(names)).tolist() == [-1, 7, 5001, 8]


def test_a_file_without_what_finds_its_rows_finds_them_all_the_same(path: Path, monkeypatch) -> None:
    """As earlier versions wrote it."""
    monkeypatch.setattr(store, "INDEXED", 10**9)
    file = FeatureFile.open(path, "f1")
    file.renewed = True
    file.settle()
    (main,) = load(path, "f1")
    assert not main.lookups
    old = FeatureFile.open(path, "f1")
    old.append(*some(4999, 2, version=1))
    assert old.places(["cam/04999.jpg", "cam/05000.jpg"]).tolist() == [4999, 5000]
    assert [row.mtime for row in old.known()[4998:]] == [0, 1, 1]


def test_dropping_takes_rows_out_of_the_file_and_its_parts_at_once(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append([Row("secret.jpg", 1, 2, "c0ffee")], np.full((1, WIDTH), 3.25, np.float32))
    file.append(*some(5000, 5))
    names = file.known().paths
    file.keep(np.array([name not in ("secret.jpg", "cam/00017.jpg") for name in names]))
    left = b"".join(item.read_bytes() for item in path.parent.rglob("*") if item.is_file())
    assert b"secret.jpg" not in left and b"cam/00017.jpg" not in left and b"c0ffee" not in left
    assert np.full(WIDTH, 3.25, np.float32).tobytes() not in left
    assert len(FeatureFile.open(path, "f1")) == 5004


# Rows that have gone ------------------------------------------------------------------------------


def gone(file: FeatureFile, *numbers: int) -> np.ndarray:
    names = {f"cam/{number:05d}.jpg" for number in numbers}
    return np.array([name in names for name in file.known().paths])


def test_rows_that_vanish_cost_what_they_are_and_are_found_by_nobody(path: Path) -> None:
    inode, size = path.stat().st_ino, path.stat().st_size
    file = FeatureFile.open(path, "f1")
    file.drop(gone(file, 3, 17, 4999))
    assert path.stat().st_ino == inode
    assert sum(part.stat().st_size for part in part_paths(path)) < size / 20
    for opened in (file, FeatureFile.open(path, "f1")):
        assert len(opened) == 4997
        assert {row.size for row in opened.known()} == set(range(5000)) - {3, 17, 4999}
        assert opened.matrix().tolist() == vectors_of(opened.known()).tolist()
        assert opened.matrix().tolist() == opened.vectors(np.arange(4997)).tolist()
        paths = [f"cam/{number:05d}.jpg" for number in (2, 3, 17, 4998, 4997, 4999)]
        place_K = opened.places(paths)
        assert (place_K >= 0).tolist() == [True, False, False, True, True, False]
        assert [opened.known().paths[place] for place in place_K[place_K >= 0]] == [paths[0], *paths[3:5]]
        contents = texts([some(number, 1)[0][0].content for number in (2, 3, 4998)])
        place_K = opened.snapshot.places_of_contents(contents)
        assert place_K[1] == -1 and opened.known().columns["size"][place_K[[0, 2]]].tolist() == [2, 4998]


def test_a_row_that_comes_back_is_there_once(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.drop(gone(file, 3, 4))
    file.append(*some(3, 1, version=7))
    for opened in (file, FeatureFile.open(path, "f1")):
        assert len(opened) == 4999 and len(set(opened.known().paths)) == 4999
        assert opened.known()[opened.places(["cam/00003.jpg"])[0]].mtime == 7
        assert opened.matrix().tolist() == vectors_of(opened.known()).tolist()
    file.drop(gone(file, 3))
    assert FeatureFile.open(path, "f1").places(["cam/00003.jpg"]).tolist() == [-1]


def test_a_row_that_another_process_has_replaced_meanwhile_does_not_go(path: Path) -> None:
    file, other = FeatureFile.open(path, "f1"), FeatureFile.open(path, "f1")
    other.append(*some(3, 1, version=2))
    file.drop(gone(file, 3, 4))
    assert len(FeatureFile.open(path, "f1")) == len(file) == 4999
    assert file.known()[3].mtime == 2


def test_parts_are_joined_without_bringing_back_what_has_gone(path: Path, monkeypatch) -> None:
    """Also a row of the file that was replaced first, so that the list names the facts of the later one."""
    file = FeatureFile.open(path, "f1")
    file.append(*some(3, 2, version=1))
    file.append(*some(5000, 2))
    file.drop(gone(file, 3, 5000, 10))
    inode = path.stat().st_ino
    file._join_parts()
    assert len(part_paths(path)) == 1 and path.stat().st_ino == inode
    for opened in (file, FeatureFile.open(path, "f1")):
        assert {row.size for row in opened.known()} == set(range(5002)) - {3, 5000, 10}
        assert opened.matrix().tolist() == vectors_of(opened.known()).tolist()
    file.compact()
    assert {row.size for row in FeatureFile.open(path, "f1").known()} == set(range(5002)) - {3, 5000, 10}


def test_a_content_that_a_row_which_has_gone_had_is_found_in_another_row(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    content = some(7, 1)[0][0].content
    file.append([Row("copy.jpg", 7, 0, content)], vectors_of([Row("", 7, 0)]))
    file.compact()
    file.drop(gone(file, 7))
    assert file.known().paths[file.snapshot.places_of_contents(texts([content]))[0]] == "copy.jpg"


def test_many_rows_that_vanish_are_a_reason_to_merge(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.drop(gone(file, *range(0, 5000, 20)))
    file.settle()
    assert len(part_paths(path)) == 1
    file.drop(gone(file, *range(1, 5000, 8)))
    file.settle()
    assert not parts_folder(path).exists() and len(FeatureFile.open(path, "f1")) == 5000 - 250 - 625


def test_everything_may_go(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.drop(np.ones(5000, bool))
    again = FeatureFile.open(path, "f1")
    assert len(again) == 0 and again.matrix().shape == (0, WIDTH)
    again.append(*some(1, 2))
    assert sorted(row.size for row in FeatureFile.open(path, "f1").known()) == [1, 2]


def test_what_has_gone_leaves_the_disk_at_once_where_it_must(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append([Row("secret.jpg", 1, 2, "c0ffee")], np.full((1, WIDTH), 3.25, np.float32))
    file.compact()
    file.drop(np.array([name == "secret.jpg" for name in file.known().paths]))

    def left() -> bytes:
        return b"".join(item.read_bytes() for item in path.parent.rglob("*") if item.is_file())

    assert b"secret.jpg" in left()
    assert not file.still_holds(lambda rows: rows.columns["path"] == b"other.jpg")
    assert file.still_holds(lambda rows: rows.columns["path"] == b"secret.jpg")
    file.keep(np.ones(len(file), bool))
    assert b"secret.jpg" not in left() and np.full(WIDTH, 3.25, np.float32).tobytes() not in left()
    assert len(FeatureFile.open(path, "f1")) == 5000


def test_parts_that_a_killed_merge_left_go_with_what_must_go_and_those_of_others_do_not_count(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 3))
    (part,) = part_paths(path)
    content = part.read_bytes()
    file.compact()
    FeatureFile.open(path, "f1").append(*some(6000, 2))
    assert not file.still_holds(lambda rows: np.zeros(len(rows), bool)), "what others append is no leftover"
    part.write_bytes(content)
    assert file.still_holds(lambda rows: np.zeros(len(rows), bool))
    file.keep(np.ones(len(file), bool))
    assert not part.exists() and len(file) == 5005


def test_a_version_that_knows_no_lists_of_what_has_gone_refuses_them(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.drop(gone(file, 3))
    (part,) = part_paths(path)
    assert b"tbps-features-1" not in part.read_bytes() and b"tbps-features-1" in path.read_bytes()


def test_a_damaged_list_of_what_has_gone_is_noticed(path: Path) -> None:
    file = FeatureFile.open(path, "f1")
    file.drop(gone(file, 3))
    (part,) = part_paths(path)
    part.write_bytes(part.read_bytes().replace(b"cam/00003.jpg", b"cam/00004.jpg"))
    with pytest.raises(CacheError, match="checksum"):
        FeatureFile.open(path, "f1")


# Merged in the background -------------------------------------------------------------------------


def merged_meanwhile(file: FeatureFile) -> BackgroundMerge:
    file.merge_meanwhile()
    assert file._merging is not None
    assert file._merging.wait(30)
    return file._merging


def test_a_merge_that_is_due_is_left_to_the_next_one_and_done_while_it_works(path: Path, monkeypatch) -> None:
    inode = path.stat().st_ino
    for number in range(7):  # as many runs, none of which adds much
        file = FeatureFile.open(path, "f1")
        file.merge_meanwhile()
        file.append(*some(5000 + 100 * number, 100))
        if number == 6:
            file.drop(gone(file, 7, 5003))
        file.settle()
    assert path.stat().st_ino == inode and len(part_paths(path)) == 8
    begun, fill = threading.Event(), store.fill
    monkeypatch.setattr(store, "fill", lambda *words, **more: (begun.set(), fill(*words, **more)))
    again = FeatureFile.open(path, "f1")
    again.merge_meanwhile()
    assert begun.wait(30)  # else the merge may hold what is appended now
    again.append(*some(6000, 3))
    again.drop(gone(again, 8, 6001))
    again.settle()
    numbers = set(range(5700)) - {7, 8, 5003} | {6000, 6002}
    for opened in (again, FeatureFile.open(path, "f1")):
        assert {row.size for row in opened.known()} == numbers
        assert opened.matrix().tolist() == vectors_of(opened.known()).tolist()
    assert len(load(path, "f1")[0].rows) == 5698 and len(part_paths(path)) == 2


def test_what_comes_while_a_merge_goes_on_stays_beside_the_new_file(path: Path, monkeypatch) -> None:
    file, other = FeatureFile.open(path, "f1"), FeatureFile.open(path, "f1")
    file.append(*some(5000, 700))
    begun, going = threading.Event(), threading.Event()
    fill = store.fill

    def slowly(*words: object, **more: object) -> None:
        begun.set()
        going.wait(30)
        fill(*words, **more)

    monkeypatch.setattr(store, "fill", slowly)
    file.merge_meanwhile()
    assert begun.wait(30)
    monkeypatch.setattr(store, "fill", fill)
    other.append(*some(9000, 5))
    other.append(*some(10, 1, version=4))
    other.drop(gone(other, 11))
    going.set()
    file.settle()
    assert len(load(path, "f1")[0].rows) == 5700 and len(part_paths(path)) == 3
    for opened in (file, FeatureFile.open(path, "f1")):
        assert {row.size for row in opened.known()} == (set(range(5700)) | set(range(9000, 9005))) - {11}
        assert opened.known()[opened.places(["cam/00010.jpg"])[0]].mtime == 4
        assert opened.matrix().tolist() == vectors_of(opened.known()).tolist()


@pytest.mark.parametrize("what", ["keep", "join", "compact"])
def test_a_merge_is_thrown_away_where_somebody_changed_what_it_read(path: Path, monkeypatch, what: str) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 400))
    file.append(*some(5400, 400))
    begun, going = threading.Event(), threading.Event()
    fill = store.fill

    def slowly(*words: object, **more: object) -> None:
        fill(*words, **more)
        begun.set()
        going.wait(30)

    monkeypatch.setattr(store, "fill", slowly)
    file.merge_meanwhile()
    assert begun.wait(30)
    monkeypatch.setattr(store, "fill", fill)
    other = FeatureFile.open(path, "f1")
    numbers = set(range(5800))
    if what == "keep":
        other.keep(~gone(other, 5))
        numbers -= {5}
        assert not unfinished_paths(path), "the rows that were to go are still there"
    elif what == "join":
        other._join_parts()
    else:
        other.compact()
    going.set()
    merging = file._merging
    file.settle()
    assert merging is not None and not merging.merged and merging.error is None
    assert not unfinished_paths(path)
    assert {row.size for row in FeatureFile.open(path, "f1").known()} == numbers


def test_one_process_merges_at_a_time(path: Path) -> None:
    FeatureFile.open(path, "f1").append(*some(5000, 700))
    file = FeatureFile.open(path, "f1")
    with unfinished(path) as place:
        assert place is not None
        merging = merged_meanwhile(file)
        assert not merging.merged and not merging.impossible
        file.settle()
    assert len(part_paths(path)) == 1
    again = FeatureFile.open(path, "f1")
    assert merged_meanwhile(again).merged


def test_without_locks_a_merge_is_done_at_the_end(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(parts, "fcntl", None)
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 700))
    again = FeatureFile.open(path, "f1")
    again.merge_meanwhile()
    again.settle()
    assert len(load(path, "f1")) == 1 and len(again) == 5700


def test_a_merge_that_nobody_waits_for_leaves_nothing_behind(path: Path, monkeypatch) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 700))
    begun = threading.Event()
    monkeypatch.setattr(snapshot, "BLOCK", 8)
    blocks = snapshot.Snapshot.blocks

    def slowly(*words: object) -> Iterator[np.ndarray]:
        for block in blocks(*words):
            begun.set()
            time.sleep(0.01)
            yield block

    monkeypatch.setattr(snapshot.Snapshot, "blocks", slowly)
    file.merge_meanwhile()
    assert begun.wait(30) and unfinished_paths(path)
    merging = file._merging
    del file
    gc.collect()
    assert merging is not None and not merging.running and not merging.merged
    assert not unfinished_paths(path) and len(FeatureFile.open(path, "f1")) == 5700


@pytest.mark.slow
def test_ctrl_c_while_a_merge_is_waited_for_loses_nothing(path: Path, monkeypatch, caplog) -> None:
    FeatureFile.open(path, "f1").append(*some(5000, 700))
    before, going, blocks = path.read_bytes(), threading.Event(), snapshot.Snapshot.blocks

    def slowly(*words: object) -> Iterator[np.ndarray]:
        going.wait(30)
        yield from blocks(*words)

    monkeypatch.setattr(snapshot.Snapshot, "blocks", slowly)
    file = FeatureFile.open(path, "f1")
    file.merge_meanwhile()
    assert file.merging
    interrupt = threading.Timer(1.3, lambda: (signal.raise_signal(signal.SIGINT), time.sleep(0.1), going.set()))
    interrupt.start()
    with caplog.at_level("INFO", logger="tbps"), pytest.raises(KeyboardInterrupt):
        file.settle()
    interrupt.join()
    assert "can be interrupted" in caplog.text
    assert path.read_bytes() == before and not unfinished_paths(path)
    assert len(FeatureFile.open(path, "f1")) == 5700


def test_ctrl_c_at_any_moment_of_waiting_for_a_merge_ends_it(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(merging, "LOOK", 0.001)

    def until_stopped(*words: Any) -> None:
        while True:
            time.sleep(0.001)
            words[-1]()

    for moment in range(60):  # so many lines of Python: several looks
        merge, lines = BackgroundMerge(path, "f1", until_stopped), itertools.count()

        def interrupt(frame: Any, event: str, _: Any, lines: Iterator[int] = lines, moment: int = moment) -> Any:
            if event == "line" and next(lines) == moment:
                raise KeyboardInterrupt  # and nothing else is traced from here on
            return interrupt

        before = sys.gettrace()
        with pytest.raises(KeyboardInterrupt):
            sys.settrace(lambda frame, *_: interrupt if frame.f_code is not BackgroundMerge.wait.__code__ else None)
            try:
                merge.wait(60)
            finally:
                sys.settrace(before)
        assert not merge.running and not merge.merged, moment
    assert not unfinished_paths(path)


def test_a_disk_that_is_full_costs_the_merge_and_nothing_else(path: Path, monkeypatch, caplog) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(*some(5000, 700))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hdf5, "_reserve", full)
    file.merge_meanwhile()
    file.settle()
    assert "No space left" in caplog.text and len(file) == 5700
    assert len(FeatureFile.open(path, "f1")) == 5700


names_used = st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), names_used),
        st.tuples(st.sampled_from(["keep", "drop"]), names_used),
        st.tuples(st.sampled_from(["settle", "compact", "open", "join", "meanwhile"]), st.just([])),
    ),
    max_size=14,
)


@pytest.fixture
def small_limits(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(store, "FEW", 0)
    monkeypatch.setattr(store, "SHARE", 2)
    monkeypatch.setattr(store, "PARTS", 5)
    monkeypatch.setattr(store, "INDEXED", 4)
    return


@given(steps)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_done_in_whatever_order_gives_the_rows_of_a_dictionary(
    tmp_path_factory, small_limits, done
) -> None:
    path = tmp_path_factory.mktemp("any") / "gallery.h5"
    file, expected = FeatureFile.open(path, "f1"), dict[str, int]()
    for version, (step, numbers) in enumerate(done, 1):
        if step == "append":
            made = [Row(f"{number}.jpg", number, version, f"{number:x}-{version:x}") for number in numbers]
            file.append(made, vectors_of(made))
            expected |= {row.path: version for row in made}
        elif step == "keep":
            gone = {f"{number}.jpg" for number in numbers}
            file.keep(np.array([name not in gone for name in file.known().paths], bool))
            expected = {name: at for name, at in expected.items() if name not in gone}
        elif step == "drop":
            gone = {f"{number}.jpg" for number in numbers}
            file.drop(np.array([name in gone for name in file.known().paths], bool))
            expected = {name: at for name, at in expected.items() if name not in gone}
        elif step == "open":
            file = FeatureFile.open(path, "f1")
        else:
            doing = {"settle": file.settle, "compact": file.compact, "join": file._join_parts}
            doing.get(step, file.merge_meanwhile)()
        assert {row.path: row.mtime for row in file.known()} == expected
        assert len(file) == len(expected)
        if expected:
            assert file.matrix().tolist() == vectors_of(file.known()).tolist()
            assert file.places(list(expected)).tolist() == [file.known().paths.index(name) for name in expected]
            place = file.snapshot.places_of_contents(file.known().columns["content"])
            assert place.tolist() == list(range(len(expected)))
    assert {row.path: row.mtime for row in FeatureFile.open(path, "f1").known()} == expected
