"""A large feature file grows at the cost of what is added, and is opened without a look at each row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbps_cli.features import mapping, rows, store
from tbps_cli.features.parts import part_paths, parts_folder
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


names_used = st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), names_used),
        st.tuples(st.just("keep"), names_used),
        st.tuples(st.sampled_from(["settle", "compact", "open", "join"]), st.just([])),
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
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        elif step == "open":
            file = FeatureFile.open(path, "f1")
        else:
            {"settle": file.settle, "compact": file.compact, "join": file._join_parts}[step]()
        assert {row.path: row.mtime for row in file.known()} == expected
        assert len(file) == len(expected)
        if expected:
            assert file.matrix().tolist() == vectors_of(file.known()).tolist()
            assert file.places(list(expected)).tolist() == [file.known().paths.index(name) for name in expected]
            place = file.snapshot.places_of_contents(file.known().columns["content"])
            assert place.tolist() == list(range(len(expected)))
