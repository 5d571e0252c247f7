"""Feature files survive kills, full disks and strangers."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

from tbps_cli.errors import CacheError
from tbps_cli.features import hdf5, snapshot, store
from tbps_cli.features.parts import locked, part_paths
from tbps_cli.features.rows import Row, Rows, content_hash
from tbps_cli.features.store import FeatureFile, feature_path

ROWS = [
    Row("a/ä.jpg", 10, 1_700_000_000_123_456_789, "ab" * 16, "cam 1", "2024-01-02T03:04", 17),
    Row("a/b.jpg", 11, 5, "cd" * 16, person="0017"),
    Row("bad\udcff.png", 12),
]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4)


def some(*names: str) -> list[Row]:
    return [Row(name, 1, 2, "") for name in names]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "features" / "gallery.h5"


def test_rows_and_vectors_come_back_as_they_were(path) -> None:
    FeatureFile.open(path, "f1").append(ROWS, VECTORS)
    again = FeatureFile.open(path, "f1")
    again.compact()
    assert list(again.known()) == ROWS
    assert again.known().paths == [row.path for row in ROWS]
    matrix = again.matrix()
    assert isinstance(matrix, np.memmap)
    assert matrix.tolist() == VECTORS.tolist()
    assert sorted(item.name for item in path.parent.iterdir()) == ["gallery.h5"]
    with h5py.File(path) as file:
        assert file["vectors"].chunks is None
        assert file["vectors"].dtype == np.float32


def test_appending_replaces_a_known_path_and_keeps_the_order(path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(some("a", "b"), VECTORS[:2])
    file.compact()
    file.append(some("c"), VECTORS[2:])
    file.append(some("a"), VECTORS[2:] + 1)
    assert file.known().paths == ["a", "b", "c"]
    assert file.vectors([2, 0]).tolist() == [VECTORS[2].tolist(), (VECTORS[2] + 1).tolist()]
    assert file.matrix()[1:].tolist() == VECTORS[1:].tolist()
    assert file.matrix()[0].tolist() == (VECTORS[2] + 1).tolist()


def test_dropped_rows_stay_dropped(path) -> None:
    file = FeatureFile.open(path, "f1", dtype=np.float16)
    file.append(some("a", "b", "c"), VECTORS)
    file.keep(np.array([True, False, True]))
    for opened in (file, FeatureFile.open(path, "f1")):
        assert opened.known().paths == ["a", "c"]
        assert opened.matrix().dtype == np.float16
        assert opened.matrix().tolist() == VECTORS[[0, 2]].tolist()
    file.keep(np.zeros(2, bool))
    assert len(file) == len(FeatureFile.open(path, "f1")) == len(file.matrix()) == 0


def test_an_empty_file_has_an_empty_matrix_and_writes_nothing(path) -> None:
    file = FeatureFile.open(path, "f1")
    assert len(file.known()) == len(file.matrix()) == 0
    assert not path.parent.exists()


def test_vectors_of_other_weights_are_refused_or_made_anew(path, caplog) -> None:
    made = FeatureFile.open(path, "f1", about={"run": "runs/irra-0001"})
    made.append(ROWS, VECTORS)
    made.compact()
    with pytest.raises(CacheError, match="made by runs/irra-0001") as caught:
        FeatureFile.open(path, "f2")
    assert caught.value.hint
    assert list(FeatureFile.open(path, "f1").known()) == ROWS
    fresh = FeatureFile.open(path, "f2", rebuild=True)
    assert len(fresh) == 0
    assert "Rebuilding it" in caplog.text
    fresh.append(some("z"), VECTORS[:1])
    assert FeatureFile.open(path, "f2").known().paths == ["z"]


@pytest.mark.parametrize("content", [b"", b"not a feature file", b"\x89HDF\r\n\x1a\n" + bytes(200)])
def test_a_damaged_file_is_one_error_line_or_made_anew(path, content) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(CacheError, match="cannot be read as a feature file"):
        FeatureFile.open(path, "f1")
    assert len(FeatureFile.open(path, "f1", rebuild=True)) == 0


def test_a_file_of_somebody_else_is_refused(path) -> None:
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["vectors"] = VECTORS
    with pytest.raises(CacheError, match="not a feature file"):
        FeatureFile.open(path, "f1")


def test_two_writers_do_not_lose_each_others_rows(path) -> None:
    one, two = FeatureFile.open(path, "f1"), FeatureFile.open(path, "f1")
    one.append(some("a"), VECTORS[:1])
    two.append(some("b"), VECTORS[1:2])
    one.compact()
    two.append(some("c"), VECTORS[2:])
    two.compact()
    assert two.matrix().shape == (3, 4)
    assert FeatureFile.open(path, "f1").matrix().tolist() == VECTORS.tolist()


def test_a_full_disk_is_one_error_and_harms_nothing(path, monkeypatch) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(some("a"), VECTORS[:1])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(hdf5, "_reserve", full)
    with pytest.raises(CacheError, match="No space left"):
        file.append(some("b"), VECTORS[1:2])
    assert file.known().paths == ["a"]
    assert file.matrix().tolist() == VECTORS[:1].tolist()
    monkeypatch.undo()
    assert FeatureFile.open(path, "f1").matrix().tolist() == VECTORS[:1].tolist()
    assert not list(path.parent.glob("**/.*.tmp"))


def test_a_file_size_limit_is_met_before_half_a_file_is_written(path) -> None:
    code = f"""
        import numpy as np
        from pathlib import Path
        from tbps_cli.errors import CacheError
        from tbps_cli.features.store import FeatureFile
        from tbps_cli.features.rows import Row
        file = FeatureFile.open(Path({str(path)!r}), "f1")
        file.append([Row("a")], np.ones((1, 512), np.float32))
        try:
            file.append([Row(str(n)) for n in range(1000)], np.ones((1000, 512), np.float32))
        except CacheError as error:
            print(error.message)
    """
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], preexec_fn=limit, capture_output=True, text=True, timeout=60
    )
    assert "cannot be written: File too large" in done.stdout, done.stderr
    assert FeatureFile.open(path, "f1").known().paths == ["a"]


def test_an_unwritable_folder_is_one_error(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheError, match="cannot be written"):
        FeatureFile.open(tmp_path / "file" / "gallery.h5", "f1").append(some("a"), VECTORS[:1])


def test_kill_9_in_the_middle_of_appends_loses_no_acknowledged_row(path) -> None:
    code = f"""
        import numpy as np
        from pathlib import Path
        from tbps_cli.features.store import FeatureFile
        from tbps_cli.features.rows import Row
        file = FeatureFile.open(Path({str(path)!r}), "f1")
        batch = len(file)
        while True:
            file.append([Row(f"{{batch}}")], np.full((1, 64), batch, np.float32))
            print(batch, flush=True)
            if batch % 7 == 0:
                file.compact()
            batch += 1
    """
    promised = 0
    for after in (3, 17, 26):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        for _ in range(after):
            promised = int(process.stdout.readline()) + 1
        process.send_signal(signal.SIGKILL)
        promised = max([promised, *(int(line) + 1 for line in process.communicate()[0].split())])
        file = FeatureFile.open(path, "f1")
        assert len(file) >= promised
        matrix = file.matrix()
        assert matrix.tolist() == [[float(name)] * 64 for name in file.known().paths]
    assert FeatureFile.open(path, "f1").known().paths == [str(number) for number in range(len(matrix))]


def test_a_part_that_was_merged_but_not_removed_is_not_counted_twice(path, monkeypatch) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(some("a", "b"), VECTORS[:2])
    (part,) = path.with_name("gallery.h5.parts").glob("*.h5")
    content = part.read_bytes()
    file.keep(np.array([False, True]))
    part.parent.mkdir()
    part.write_bytes(content)
    assert FeatureFile.open(path, "f1").known().paths == ["b"]


def test_paths_in_the_cache_differ_by_real_folder_and_fingerprint(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "one" / "imgs").mkdir(parents=True)
    (tmp_path / "two" / "imgs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    one, two = (feature_path("features", tmp_path / name / "imgs", "f1") for name in ("one", "two"))
    assert one != two
    assert one.parent == tmp_path / "cache" / "features"
    assert feature_path("features", tmp_path / "link" / "imgs", "f1") == one
    assert feature_path("features", tmp_path / "one" / "imgs", "f2") != one
    assert feature_path("features", tmp_path / "one" / "imgs", "f1", "texts") != one


def test_equal_bytes_have_equal_hashes(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"picture")
    assert content_hash(tmp_path / "a") == content_hash(b"picture") != content_hash(b"other")
    assert list(Rows.of(ROWS)[1:]) == ROWS[1:]


# Other processes ------------------------------------------------------------------------------


def test_a_snapshot_stays_what_it_is_while_others_append_drop_and_merge(path) -> None:
    """Rows read before and vectors read after another's merge would be paired wrongly."""
    mine = FeatureFile.open(path, "f1")
    mine.append(some("b", "c"), VECTORS[1:])
    rows = mine.known()
    other = FeatureFile.open(path, "f1")
    other.keep(np.array([False, True]))
    other.append(some("a"), VECTORS[:1])
    other.compact()
    assert rows.paths == mine.known().paths == ["b", "c"]
    assert mine.matrix().tolist() == mine.vectors([0, 1]).tolist() == VECTORS[1:].tolist()
    mine.compact()
    assert (mine.known().paths, mine.matrix().tolist()) == (["c", "a"], VECTORS[[2, 0]].tolist())


def test_mapped_vectors_outlive_a_file_that_is_renamed_over_theirs(path) -> None:
    mine = FeatureFile.open(path, "f1")
    mine.append(some("a", "b"), VECTORS[:2])
    mine.compact()
    matrix = mine.matrix()
    other = FeatureFile.open(path, "f1")
    other.append(some("a"), VECTORS[2:])
    other.compact()
    assert matrix.tolist() == mine.matrix().tolist() == VECTORS[:2].tolist()


def test_a_part_that_vanishes_between_listing_and_opening_is_read_from_the_merged_file(path, monkeypatch) -> None:
    FeatureFile.open(path, "f1").append(some("a"), VECTORS[:1])
    listed = snapshot.part_paths
    merging = [True]

    def merged_meanwhile(of):
        parts = listed(of)
        if merging.pop() if merging else False:
            FeatureFile.open(path, "f1").compact()
        return parts

    monkeypatch.setattr(snapshot, "part_paths", merged_meanwhile)
    assert FeatureFile.open(path, "f1").matrix().tolist() == VECTORS[:1].tolist()


def test_a_generation_that_changes_while_it_is_read_is_read_again(path, monkeypatch) -> None:
    """The old file and a part that was written after it was merged never make one answer."""
    file = FeatureFile.open(path, "f1")
    file.append(some("a"), VECTORS[:1])
    file.compact()
    listed = snapshot.part_paths
    merging = [True]

    def changed_meanwhile(of):
        if merging.pop() if merging else False:
            other = FeatureFile.open(path, "f1")
            other.append(some("b"), VECTORS[1:2])
            other.keep(np.array([False, True]))
            other.append(some("c"), VECTORS[2:])
        return listed(of)

    monkeypatch.setattr(snapshot, "part_paths", changed_meanwhile)
    again = FeatureFile.open(path, "f1")
    assert (again.known().paths, again.matrix().tolist()) == (["b", "c"], VECTORS[1:].tolist())


def test_parts_of_a_killed_merge_never_come_back(path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(some("a", "b"), VECTORS[:2])
    (part,) = part_paths(path)
    content = part.read_bytes()
    file.keep(np.array([False, True]))
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(content)  # as if the merge had been killed before it removed the part
    file.append(some("c"), VECTORS[2:])
    file.compact()
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(content)  # and the next one too
    assert FeatureFile.open(path, "f1").known().paths == ["b", "c"]


def test_a_row_that_another_process_has_replaced_is_not_dropped(path) -> None:
    mine, other = FeatureFile.open(path, "f1"), FeatureFile.open(path, "f1")
    mine.append(some("a", "b"), VECTORS[:2])
    other.append([Row("a", 7, 8, "new")], VECTORS[2:])
    mine.keep(np.array([False, False]))
    assert list(mine.known()) == [Row("a", 7, 8, "new")]
    assert mine.matrix().tolist() == VECTORS[2:].tolist()


def test_appending_and_merging_at_once_loses_nothing(path) -> None:
    """Who merges removes the folder of the parts, and half-written files of the dead, but none of the living."""

    def work(number: int) -> None:
        file = FeatureFile.open(path, "f1")
        for turn in range(12):
            file.append([Row(f"{number}-{turn}")], np.full((1, 4), 100 * number + turn, np.float32))
            if turn % 3 == number % 3:
                file.compact()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    file = FeatureFile.open(path, "f1")
    file.compact()
    expected = {f"{number}-{turn}": 100 * number + turn for number in range(4) for turn in range(12)}
    assert dict(zip(file.known().paths, file.matrix()[:, 0].tolist(), strict=True)) == expected
    assert [item.name for item in path.parent.iterdir()] == ["gallery.h5"]


def test_a_long_run_keeps_few_files_open(path, monkeypatch) -> None:
    monkeypatch.setattr(store, "PARTS", 4)
    file = FeatureFile.open(path, "f1")
    for number in range(30):
        file.append(some(str(number)), VECTORS[:1])
        assert len(part_paths(path)) <= 4
    assert file.known().paths == [str(number) for number in range(30)]


def test_what_a_killed_writer_left_half_written_is_removed_and_a_strangers_file_is_not(path) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(some("a"), VECTORS[:1])
    (path.parent / ".gallery.h5.0123abcd.tmp").write_bytes(b"half")
    (path.parent / ".gallery.h5.notes.tmp").write_bytes(b"mine")
    (part_paths(path)[0].parent / ".000002-0.h5.0123abcd.tmp").write_bytes(b"half")
    file.compact()
    assert sorted(item.name for item in path.parent.iterdir()) == [".gallery.h5.notes.tmp", "gallery.h5"]


def test_one_damaged_part_costs_its_rows_and_no_others(path, caplog) -> None:
    file = FeatureFile.open(path, "f1")
    file.append(some("a"), VECTORS[:1])
    file.compact()
    file.append(some("b"), VECTORS[1:2])
    file.append(some("c"), VECTORS[2:])
    part_paths(path)[0].write_bytes(b"damaged")
    assert FeatureFile.open(path, "f1", rebuild=True).known().paths == ["a", "c"]
    assert caplog.text.count("Rebuilding it") == 1
    assert FeatureFile.open(path, "f1").known().paths == ["a", "c"]


def test_rows_of_crops_keep_where_they_come_from(tmp_path: Path) -> None:
    crop = Row("v.mp4#t=1.5&xywh=1,2,3,4", 10, 20, "c1", source="v.mp4", seconds=1.5, box=(1, 2, 3, 4), track="7")
    plain = Row("a.jpg", 1, 2, "c2", detection=None)
    file = FeatureFile.open(tmp_path / "a.h5", "0" * 16)
    file.append([plain], np.ones((1, 4)))
    file.append([crop], np.ones((1, 4)))
    assert list(FeatureFile.open(tmp_path / "a.h5", "0" * 16).known()) == [plain, crop], "from two parts"
    file.compact()
    assert list(FeatureFile.open(tmp_path / "a.h5", "0" * 16).known()) == [plain, crop]
    file.keep([True, False])
    assert list(FeatureFile.open(tmp_path / "a.h5", "0" * 16).known()) == [plain]


def test_a_file_without_crops_has_no_columns_for_them(tmp_path: Path) -> None:
    file = FeatureFile.open(tmp_path / "a.h5", "0" * 16)
    file.append([Row("a.jpg", 1, 2, "c")], np.ones((1, 4)))
    file.compact()
    with h5py.File(tmp_path / "a.h5") as opened:
        assert set(opened) == {"vectors", "path", "size", "mtime", "content", "camera", "time", "person"}


def test_a_place_where_no_folder_can_be_made_is_told_instead_of_tried_for_ever(tmp_path, monkeypatch):
    tried = []

    def mkdir(*_, **__):
        tried.append(1)
        assert len(tried) < 5000, "it goes on for ever"
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(CacheError, match=r"people\.h5 cannot be written"), locked(tmp_path / "people.h5", alone=True):
        pass
