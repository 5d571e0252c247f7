"""Codes on the disk: added to, damaged, outdated, written by two at once, killed in the middle."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from support.damage import damaged

from tbps_cli.errors import CacheError
from tbps_cli.features import store
from tbps_cli.features.parts import codes_folder, remove_codes
from tbps_cli.features.rows import Row
from tbps_cli.features.store import FeatureFile
from tbps_cli.retrieval import code_files
from tbps_cli.retrieval.code_files import Coded, UnusableCodes, open_codes, write_codes
from tbps_cli.retrieval.rank import topk

WIDTH = 160
vector_GE = np.random.default_rng(0).standard_normal((9000, WIDTH)).astype(np.float16)


def rows(start, stop):
    return [Row(f"{place}.jpg", 1, 1, f"{place:032x}") for place in range(start, stop)]


@pytest.fixture
def file(tmp_path):
    made = FeatureFile.open(tmp_path / "people.h5", "0123", dtype=np.float16)
    made.append(rows(0, 3000), vector_GE[:3000])
    made.settle()
    return made


def coded(file):
    now = file.snapshot
    return Coded(file.path, file.fingerprint, now.identity, now.rows, now.matrix())


def groups_of(coded):
    found = open_codes(coded)
    return None if found is None else [np.array(group) for group in found.groups]


def test_codes_are_written_once_and_read_back(file):
    assert open_codes(coded(file)) is None
    assert write_codes(coded(file)) == 3000
    assert write_codes(coded(file)) == 0
    found = open_codes(coded(file))
    assert len(found) == 3000 and len(found.groups) == 2
    right = found.frame.encode(file.matrix()).astype(np.int16)
    assert np.abs(right - np.stack(found.groups)).max() <= 1
    assert found.best(file.matrix()[:1].astype(np.float32), file.matrix(), 3)[1][0, 0] == 0
    names = sorted(path.name.partition(".")[2] for path in codes_folder(file.path).iterdir())
    assert names == ["", "0", "1", "frame", "json", "rows"]


def test_rows_that_come_are_added_in_the_same_frame(file):
    write_codes(coded(file))
    before, names = groups_of(coded(file)), set(codes_folder(file.path).iterdir())
    file.append(rows(3000, 3500), vector_GE[3000:3500])
    assert write_codes(coded(file)) == 500
    after = groups_of(coded(file))
    assert [len(group) for group in after] == [3500, 3500]
    assert all(np.array_equal(new[:3000], old) for new, old in zip(after, before, strict=True))
    assert set(codes_folder(file.path).iterdir()) == names
    file.compact()  # another file, with the same rows
    assert len(open_codes(coded(file))) == 3500


def test_rows_without_codes_are_left_to_who_searches(file):
    write_codes(coded(file))
    file.append(rows(3000, 3500), vector_GE[3000:3500])
    file.compact()
    assert len(open_codes(coded(file))) == 3000


def test_a_gallery_that_has_grown_much_gets_new_axes(file):
    write_codes(coded(file))
    name = open_head(file)["name"]
    file.append(rows(3000, 9000), vector_GE[3000:9000])
    assert write_codes(coded(file)) == 6000 and open_head(file)["name"] == name
    file.append(rows(9000, 12_000), vector_GE[:3000])
    assert write_codes(coded(file)) == 12_000 and open_head(file)["name"] != name
    assert len([path for path in codes_folder(file.path).iterdir() if path.suffix == ".0"]) == 1


def test_many_rows_of_another_kind_are_coded_with_all_others_anew_and_their_best_are_found(tmp_path):
    rng = np.random.default_rng(1)
    known = rng.standard_normal((6000, 512), dtype=np.float32) * np.arange(1, 513, dtype=np.float32) ** -0.5
    other = rng.standard_normal((900, 512), dtype=np.float32)
    every = np.concatenate([known, other])
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    file = FeatureFile.open(tmp_path / "people.h5", "0123", dtype=np.float16)
    file.append(rows(0, 6000), every[:6000])
    write_codes(coded(file))
    file.append(rows(6000, 6900), every[6000:])
    assert write_codes(coded(file)) == 6900
    query = every[6000::60]
    found, right = open_codes(coded(file)).best(query, file.matrix(), 10)[1], topk(query, file.matrix(), 10)[1]
    assert np.mean([len(set(mine) & set(exact)) / 10 for mine, exact in zip(found, right, strict=True)]) > 0.95
    file.append(rows(6900, 7000), every[2000:2100])
    assert write_codes(coded(file)) == 100


@pytest.mark.parametrize("wrong", [3.0, np.nan])
def test_a_few_rows_of_another_kind_are_left_without_codes_until_they_are_many(file, wrong):
    write_codes(coded(file))
    name = open_head(file)["name"]
    file.append(rows(3000, 3020), wrong * vector_GE[3000:3020])
    for _ in range(2):
        assert write_codes(coded(file)) == 0
        assert len(open_codes(coded(file))) == 3000
    if not np.isnan(wrong):
        file.append(rows(3020, 3030), wrong * vector_GE[3020:3030])
        assert write_codes(coded(file)) == 3030 and open_head(file)["name"] != name


def open_head(file):
    return json.loads((codes_folder(file.path) / "head.json").read_text())["codes"]


def test_codes_go_before_the_rows_that_they_are_of(file, monkeypatch):
    write_codes(coded(file))
    monkeypatch.setattr(FeatureFile, "_write_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    kept = np.ones(3000, bool)
    kept[7] = False
    with pytest.raises(KeyboardInterrupt):
        file.keep(kept)
    assert not codes_folder(file.path).exists()
    assert len(FeatureFile.open(file.path, "0123")) == 3000


def right(file, found):
    """Whether codes are those of the rows that are there now."""
    wanted = found.frame.encode(file.matrix()[: len(found)]).astype(np.int16)
    return np.abs(wanted - np.stack(found.groups)).max() <= 1


def bytes_in(file):
    return b"".join(path.read_bytes() for path in codes_folder(file.path).iterdir())


@pytest.fixture
def large(monkeypatch):
    """A file of 3,000 rows counts as a large one: its rows stay where they are."""
    monkeypatch.setattr(store, "FEW", 100)


def test_a_few_rows_that_changed_or_went_are_coded_again_and_not_the_others(large, file):
    write_codes(coded(file))
    name, old = open_head(file)["name"], groups_of(coded(file))[0][5].tobytes()
    file.append([Row("5.jpg", 2, 2, "f" * 32)], vector_GE[4000:4001])
    gone = np.zeros(3000, bool)
    gone[[7, 2999]] = True
    file.drop(gone)
    found = open_codes(coded(file))
    assert len(found) == 2998 and right(file, found), "whoever opens them codes these rows in memory"
    assert old in bytes_in(file)
    assert write_codes(coded(file)) == 2
    assert open_head(file)["name"] == name and open_head(file)["changed"] == 2
    assert right(file, open_codes(coded(file)))
    assert write_codes(coded(file)) == 0
    file.append(rows(3000, 3005), vector_GE[3000:3005])
    assert write_codes(coded(file)) == 5, "two stand where rows were, three behind"
    assert len(open_codes(coded(file))) == 3003 and right(file, open_codes(coded(file)))


def test_what_an_image_held_before_goes_from_the_codes_when_rows_are_merged(large, file):
    write_codes(coded(file))
    old = groups_of(coded(file))[0][5].tobytes()
    file.append([Row("5.jpg", 2, 2, "f" * 32)], vector_GE[4000:4001])
    file.drop(np.arange(3000) == 8)
    write_codes(coded(file))
    assert old in bytes_in(file)
    file.compact()
    assert write_codes(coded(file)) == 0
    assert old not in bytes_in(file)
    assert right(file, open_codes(coded(file))) and open_head(file)["changed"] == 0


def test_where_many_rows_changed_all_are_coded_anew(large, file):
    write_codes(coded(file))
    changed = [Row(f"{place}.jpg", 2, 2, f"{place:x}".rjust(32, "f")) for place in range(100)]
    file.append(changed, vector_GE[4000:4100])
    with pytest.raises(UnusableCodes, match="gone or changed"):
        open_codes(coded(file))
    assert write_codes(coded(file)) == 3000
    assert right(file, open_codes(coded(file)))


def test_a_damaged_list_of_changed_codes_is_noticed(large, file):
    write_codes(coded(file))
    file.append([Row("5.jpg", 2, 2, "f" * 32)], vector_GE[4000:4001])
    write_codes(coded(file))
    path = next(codes_folder(file.path).glob("*.changed-*"))
    path.write_bytes(damaged(path.read_bytes(), 3))
    with pytest.raises(UnusableCodes, match="damaged"):
        open_codes(coded(file))
    assert write_codes(coded(file)) == 3000


def test_a_gallery_that_has_long_been_open_is_not_touched_by_what_is_written(large, file):
    write_codes(coded(file))
    before = open_codes(coded(file))
    old = np.stack(before.groups)
    file.append([Row("5.jpg", 2, 2, "f" * 32)], vector_GE[4000:4001])
    file.drop(np.arange(3000) >= 2990)
    write_codes(coded(file))
    file.append(rows(3000, 3005), vector_GE[3000:3005])
    write_codes(coded(file))
    assert np.array_equal(np.stack(before.groups), old)


def test_an_index_that_another_model_makes_anew_begins_without_codes(file):
    write_codes(coded(file))
    assert len(FeatureFile.open(file.path, "4567", rebuild=True)) == 0
    assert not codes_folder(file.path).exists()


def test_codes_beside_another_gallery_are_not_used(file):
    write_codes(coded(file))
    with pytest.raises(UnusableCodes, match="another model"):
        open_codes(replace(coded(file), fingerprint="4567"))
    other = replace(coded(file), identity=(1, 2, 3, 4), rows=coded(file).rows.take(np.arange(3000)[::-1]))
    with pytest.raises(UnusableCodes, match="gone or changed"):
        open_codes(other)
    fewer = replace(coded(file), rows=coded(file).rows.take(np.arange(10)))
    with pytest.raises(UnusableCodes, match="gone or changed"):
        open_codes(fewer)
    assert write_codes(other) == 3000


def test_an_index_that_was_copied_keeps_its_codes(file, tmp_path):
    write_codes(coded(file))
    (tmp_path / "copy.h5").write_bytes(file.path.read_bytes())
    codes_folder(file.path).rename(codes_folder(tmp_path / "copy.h5"))
    assert len(open_codes(coded(FeatureFile.open(tmp_path / "copy.h5", "0123")))) == 3000


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("ending", ["json", "frame"])
def test_a_damaged_head_or_frame_is_noticed(file, ending, seed):
    write_codes(coded(file))
    path = next(codes_folder(file.path).glob(f"*.{ending}"))
    path.write_bytes(damaged(path.read_bytes(), seed))
    with pytest.raises(UnusableCodes, match="damaged"):
        open_codes(coded(file))
    assert write_codes(coded(file)) == 3000
    assert len(open_codes(coded(file))) == 3000


@pytest.mark.parametrize("group", ["0", "1"])
def test_damaged_codes_are_noticed_and_written_anew(file, group):
    write_codes(coded(file))
    path = next(codes_folder(file.path).glob(f"*.{group}"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(UnusableCodes, match="cut off"):
        open_codes(coded(file))
    path.write_bytes(np.random.default_rng(0).bytes(len(content)))
    with pytest.raises(UnusableCodes, match="not the codes"):
        open_codes(coded(file))
    path.unlink()
    with pytest.raises(UnusableCodes, match="missing"):
        open_codes(coded(file))
    assert write_codes(coded(file)) == 3000


def test_a_bit_that_flips_in_a_code_changes_no_score(file):
    write_codes(coded(file))
    path = next(codes_folder(file.path).glob("*.0"))
    content = bytearray(path.read_bytes())
    content[20 * 128 + 5] ^= 0x40
    path.write_bytes(content)
    found = open_codes(coded(file))
    query_1E = file.matrix()[20:21].astype(np.float32)
    score_1K, place_1K = found.best(query_1E, file.matrix(), 1)
    assert score_1K[0, 0] == pytest.approx(float(file.matrix()[place_1K[0, 0]].astype(np.float32) @ query_1E[0]))


def test_an_index_is_still_coded_when_what_is_coded_was_damaged(file):
    """Arrays of random bytes have the right length: only the vectors say that they are wrong."""
    write_codes(coded(file))
    path = next(codes_folder(file.path).glob("*.1"))
    path.write_bytes(bytes(path.stat().st_size))
    assert write_codes(coded(file)) == 3000
    assert len(open_codes(coded(file))) == 3000


def test_a_processor_without_quick_integers_is_told(file, monkeypatch):
    write_codes(coded(file))
    monkeypatch.setattr(code_files, "quickest", lambda width: (code_files.quickest, 1e6))
    with pytest.raises(UnusableCodes, match="processor"):
        open_codes(coded(file))


def test_nan_in_the_vectors_is_no_traceback(tmp_path):
    made = FeatureFile.open(tmp_path / "people.h5", "0123")
    made.append(rows(0, 200), np.full((200, 8), np.nan, np.float32))
    with pytest.raises(CacheError, match="NaN"):
        write_codes(coded(made))


def test_codes_that_cannot_be_written_are_an_error_of_one_line(file):
    codes_folder(file.path).write_text("in the way")
    with pytest.raises(CacheError, match="cannot be written"):
        write_codes(coded(file))


PROCESSES = multiprocessing.get_context("fork")


def writes(path, ready, results):
    opened = FeatureFile.open(path, "0123")
    ready.wait(30)
    results.put(write_codes(coded(opened)))


def test_two_processes_that_write_at_once_leave_one_set_of_codes(file):
    ready, results = PROCESSES.Event(), PROCESSES.Queue()
    both = [PROCESSES.Process(target=writes, args=(file.path, ready, results)) for _ in range(2)]
    for one in both:
        one.start()
    ready.set()
    counts = sorted(results.get(timeout=60) for _ in both)
    for one in both:
        one.join(60)
    assert counts == [0, 3000]
    assert len(open_codes(coded(file))) == 3000
    assert len(list(codes_folder(file.path).glob("*.frame"))) == 1


def grows_for_ever(path):
    opened = FeatureFile.open(path, "0123")
    count = len(opened)
    while True:
        write_codes(coded(opened))
        more = [Row(f"{place}.jpg", 1, 1, f"{place:032x}") for place in range(count, count + 100)]
        opened.append(more, vector_GE[count % 8000 :][:100])
        count += 100
        if count % 1000 == 0:
            remove_codes(path)


def changes_for_ever(path):
    store.FEW = 100
    opened, version = FeatureFile.open(path, "0123"), 0
    while True:
        version += 1
        place = version % len(opened)
        opened.append([Row(f"{place}.jpg", 2, version, f"{version:032x}")], vector_GE[version % 9000][None])
        if version % 3 == 0:
            opened.drop(np.arange(len(opened)) == 7 * version % len(opened))
        if version % 20 == 0:
            opened.compact()
        write_codes(coded(opened))


def test_kill_9_while_changed_codes_are_written_leaves_right_ones(file, monkeypatch):
    monkeypatch.setattr(store, "FEW", 100)
    rng = np.random.default_rng(5)
    for _ in range(6):
        child = PROCESSES.Process(target=changes_for_ever, args=(file.path,))
        child.start()
        time.sleep(float(rng.uniform(0.05, 0.4)))
        os.kill(child.pid, signal.SIGKILL)
        child.join(30)
        opened = FeatureFile.open(file.path, "0123")
        found = open_codes(coded(opened))
        assert found is None or right(opened, found)
        write_codes(coded(opened))
        assert right(opened, open_codes(coded(opened))) and len(open_codes(coded(opened))) == len(opened)


def test_kill_9_while_codes_are_written_leaves_the_old_ones_the_new_ones_or_none(file):
    rng = np.random.default_rng(3)
    for _ in range(6):
        child = PROCESSES.Process(target=grows_for_ever, args=(file.path,))
        child.start()
        time.sleep(float(rng.uniform(0.1, 0.4)))
        os.kill(child.pid, signal.SIGKILL)
        child.join(30)
        now = coded(FeatureFile.open(file.path, "0123"))
        found = open_codes(now)
        assert found is None or len(found) <= len(now.rows)
        write_codes(now)
        assert len(open_codes(now)) == len(now.rows)
