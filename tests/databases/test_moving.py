"""A gallery that is copied arrives whole, whatever happens on the way; nothing is embedded, FROM stays as it is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.galleries import odd_rows, plain_rows, unit_rows
from support.milvus_server import MilvusProcess

from tbps_cli.databases.base import Database
from tbps_cli.databases.local import LocalDatabase
from tbps_cli.databases.opening import open_database
from tbps_cli.errors import DataError, TbpsError, UsageError
from tbps_cli.features.rows import Row, Rows
from tbps_cli.features.store import FeatureFile, feature_path
from tbps_cli.searching import galleries, moving
from tbps_cli.searching.database_gallery import place_here
from tbps_cli.searching.filling import bring_up_to_date
from tbps_cli.searching.gallery import Gallery, Roots
from tbps_cli.searching.moving import move
from tbps_cli.searching.withheld import list_beside, remember

ABOUT = {"run": "runs/irra-0001", "folder": "/data/photos", "sources": {"gate": "/data/gate"}}
FOLDER = {"run": "runs/irra-0001", "folder": "/data/photos"}
WIDTH = 16
_MOVE = """
import sys
from tbps_cli.searching import moving
moving.PAGE = 64
moving.move(sys.argv[1], sys.argv[2])
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


def index_of(path: Path, rows: Rows, about: dict = ABOUT, fingerprint: str = "model-1") -> Path:
    """An index file with vectors in float32."""
    file = FeatureFile.open(path, fingerprint, about=about)
    file.append(rows, unit_rows(len(rows), WIDTH))
    file.compact()
    return path


def contents(database: Database) -> dict[str, tuple[Row, list[float]]]:
    """Everything in it; rows that are there twice are a failure."""
    rows, vector_NE = database.page(None, 100_000)
    assert len(set(rows.paths)) == len(rows) == database.count()
    database.close()
    vectors = np.float16(vector_NE).tolist()
    return {row.path: (row, vector) for row, vector in zip(rows, vectors, strict=True)}


def local(path: Path) -> dict[str, tuple[Row, list[float]]]:
    return contents(LocalDatabase.open(path))


def test_an_index_goes_through_a_database_into_a_new_index_of_half_precision(tmp_path: Path, postgres_url: str) -> None:
    origin = index_of(tmp_path / "a.h5", odd_rows(300))
    before = origin.read_bytes()
    moved = move(origin, postgres_url)
    assert (moved.size, moved.copied, moved.replaced, moved.withheld, moved.in_target) == (300, 300, 0, 0, 300)
    assert moved.run == "runs/irra-0001"
    assert contents(open_database(postgres_url)) == local(origin)
    move(postgres_url, tmp_path / "b.h5")
    assert local(tmp_path / "b.h5") == local(origin)
    back = LocalDatabase.open(tmp_path / "b.h5")
    assert back.page(None, 1)[1].dtype == np.float16
    assert dict(back.about) == ABOUT and back.fingerprint == "model-1"
    assert origin.read_bytes() == before


def test_vectors_in_float32_stay_float32_or_a_line_says_that_they_are_rounded(tmp_path: Path, caplog) -> None:
    origin = index_of(tmp_path / "a.h5", plain_rows(20), FOLDER)
    move(origin, tmp_path / "b.h5")
    assert LocalDatabase.open(tmp_path / "b.h5").dtype == np.float32
    one, other = (LocalDatabase.open(tmp_path / name).page(None, 20)[1] for name in ("a.h5", "b.h5"))
    assert one.tolist() == other.tolist() and "rounded" not in caplog.text
    half = FeatureFile.open(tmp_path / "c.h5", "model-1", dtype=np.float16, about=FOLDER)
    half.append([Row("z.jpg", 1, 1)], unit_rows(1, WIDTH))
    move(origin, tmp_path / "c.h5")
    assert LocalDatabase.open(tmp_path / "c.h5").dtype == np.float16 and caplog.text.count("are rounded") == 1


def test_what_is_there_is_not_sent_again_and_what_has_changed_is_replaced(tmp_path: Path, postgres_url: str) -> None:
    origin = index_of(tmp_path / "a.h5", odd_rows(40))
    move(origin, postgres_url)
    target = open_database(postgres_url)
    target.delete(odd_rows(40).paths[3:5])
    other = Row("z/other.jpg", 1, 2)
    target.add(Rows.of([other, Row(odd_rows(40).paths[7], 5, 5)]), unit_rows(2, WIDTH))
    target.close()
    moved = move(origin, postgres_url)
    assert (moved.size, moved.copied, moved.replaced, moved.in_target) == (40, 3, 1, 41)
    found = contents(open_database(postgres_url))
    assert found.pop("z/other.jpg")[0] == other
    assert found == local(origin)
    assert move(origin, postgres_url).copied == 0


@pytest.mark.parametrize("page", [1, 7, 64])
def test_pages_of_any_size_bring_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(moving, "PAGE", page)
    origin = index_of(tmp_path / "a.h5", odd_rows(64))
    target = index_of(tmp_path / "b.h5", odd_rows(64).take(np.arange(5, 60, 3)))
    steps: list[tuple[int, int]] = []
    moved = move(origin, target, progress=lambda done, total: steps.append((done, total)))
    assert moved.size == moved.in_target == 64
    assert steps[-1] == (64, 64) and steps == sorted(steps)
    assert {path: row for path, (row, _) in local(target).items()} == {row.path: row for row in odd_rows(64)}


def test_folders_keep_their_names_unless_another_folder_has_them(tmp_path: Path, postgres_url: str) -> None:
    first = {**ABOUT, "sources": {"gate": "/data/gate", "hall": "/data/hall"}}
    here = place_here(Path("/"))
    second = {**ABOUT, "sources": {"gate": "/else/gate"}}
    crop = Row("gate/a.mp4#t=1", source="gate/a.mp4")
    move(index_of(tmp_path / "a.h5", Rows.of([Row("gate/1.jpg"), Row("hall/2.jpg"), crop]), first), postgres_url)
    for copied in (2, 2):  # under new names rows are sent again
        moved = move(index_of(tmp_path / "b.h5", Rows.of([Row("gate/1.jpg"), crop]), second), postgres_url)
        assert (moved.copied, moved.in_target) == (copied, 5)
    target = open_database(postgres_url)
    named = dict(target.roots())
    (other,) = named.keys() - {"gate", "hall"}
    assert named == {"gate": f"{here}data/gate", "hall": f"{here}data/hall", other: f"{here}else/gate"}
    found = contents(target)
    assert found.keys() >= {"gate/1.jpg", "hall/2.jpg", f"{other}/1.jpg", f"{other}/a.mp4#t=1"}
    assert found[f"{other}/a.mp4#t=1"][0].source == f"{other}/a.mp4"
    move(postgres_url, tmp_path / "c.h5")
    back = LocalDatabase.open(tmp_path / "c.h5").roots()
    assert back == {"gate": "/data/gate", "hall": "/data/hall", other: "/else/gate"}


def test_a_folder_that_was_copied_into_a_database_goes_on_there_without_embedding(
    tmp_path: Path, postgres_url: str
) -> None:
    rows = Rows.of([Row("1.jpg", 1, 2, "x"), Row("in/a.mp4#t=1", 3, 4, "y", source="in/a.mp4", box=(0, 0, 4, 8))])
    origin = index_of(tmp_path / "a.h5", rows, FOLDER)
    for copied in (2, 0):
        assert move(origin, postgres_url).copied == copied
    database = open_database(postgres_url)
    gallery = Gallery("photos", Roots(Path("/data/photos")), rows, unit_rows(2, WIDTH))
    filled = bring_up_to_date(database, gallery)
    assert (filled.size, filled.added, filled.removed, filled.names) == (2, 0, 0, ["photos"])
    assert contents(database).keys() == {"photos/1.jpg", "photos/in/a.mp4#t=1"}
    move(postgres_url, tmp_path / "b.h5")
    assert local(tmp_path / "b.h5") == local(origin), "alone, the folder is not named"
    assert dict(LocalDatabase.open(tmp_path / "b.h5").about) == FOLDER
    assert (again := move(postgres_url, origin)).copied == 0 and again.in_target == 2


def test_the_rows_of_two_folders_do_not_become_one(tmp_path: Path) -> None:
    one = index_of(tmp_path / "a.h5", Rows.of([Row("1.jpg", 1)]), {**FOLDER, "folder": "/data/hall"})
    target = index_of(tmp_path / "b.h5", Rows.of([Row("1.jpg", 2)]), FOLDER)
    move(one, target)
    assert {path: row.size for path, (row, _) in local(target).items()} == {"1.jpg": 2, "hall/1.jpg": 1}


def test_what_was_forgotten_or_is_too_old_is_not_copied(tmp_path: Path) -> None:
    origin = index_of(tmp_path / "a.h5", Rows.of([Row("1.jpg"), Row("2.jpg")]))
    remember([{"path": "/data/photos/1.jpg"}], list_beside(origin))
    moved = move(origin, tmp_path / "b.h5")
    assert (moved.size, moved.withheld) == (1, 1)
    assert list(local(tmp_path / "b.h5")) == ["2.jpg"]
    assert list_beside(tmp_path / "b.h5").is_file(), "the list goes with the index"


def test_a_target_of_another_model_and_a_place_without_rows_are_refused(tmp_path: Path, postgres_url: str) -> None:
    origin = index_of(tmp_path / "a.h5", odd_rows(3))
    other = index_of(tmp_path / "b.h5", odd_rows(3), {"run": "runs/other", "folder": "/x"}, "model-2")
    move(other, postgres_url)
    for target in (other, postgres_url):
        with pytest.raises(TbpsError, match="runs/other") as refused:
            move(origin, target)
        assert "Delete" not in str(refused.value.hint)
    for wrong, said in ((tmp_path / "none.h5", "there is no index"), (tmp_path, "is a folder"), ("nobody", "no index")):
        with pytest.raises(TbpsError, match=said) as refused:
            move(wrong, tmp_path / "c.h5")
        assert refused.value.hint
    with pytest.raises(UsageError, match="into itself"):
        move(origin, tmp_path / "." / "a.h5")
    assert not (tmp_path / "c.h5").exists()


def test_a_damaged_vector_is_not_copied_and_its_row_is_named(tmp_path: Path, postgres_url: str) -> None:
    file = FeatureFile.open(tmp_path / "a.h5", "model-1", about=ABOUT)
    vector_NE = unit_rows(50, WIDTH)
    vector_NE[31, 3] = np.nan
    rows = plain_rows(50)
    file.append(rows, vector_NE)
    file.compact()
    for target in (str(tmp_path / "b.h5"), postgres_url):
        with pytest.raises(DataError, match=rf"a\.h5: it is damaged: the vector of {rows.paths[31]} has"):
            move(tmp_path / "a.h5", target)


def test_a_gallery_with_a_name_is_its_index(tmp_path: Path) -> None:
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "1.jpg").write_bytes(b"")
    galleries.define("station", [tmp_path / "gate"])
    with pytest.raises(UsageError, match="no index yet"):
        move("station", tmp_path / "b.h5")
    place = feature_path("indexes", tmp_path / "gate", "model-1", "station")
    index_of(place, Rows.of([Row("gate/1.jpg")]), {**ABOUT, "sources": {"gate": str(tmp_path / "gate")}})
    assert move("station", tmp_path / "b.h5").size == 1
    galleries.define("station2", [tmp_path / "gate"])
    move(tmp_path / "b.h5", "station2")
    assert list(local(feature_path("indexes", tmp_path / "gate", "model-1", "station2"))) == ["gate/1.jpg"]


def test_the_command_says_what_it_copied(
    tbps: Callable[..., tuple[int, str, str]], tmp_path: Path, postgres_url: str
) -> None:
    origin = str(index_of(tmp_path / "a.h5", odd_rows(3)))
    status, out, err = tbps("index", "--move", origin, postgres_url, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "from": origin,
        "to": postgres_url,
        "run": "runs/irra-0001",
        "size": 3,
        "copied": 3,
        "replaced": 0,
        "left_out": 0,
        "size_of_target": 3,
    }
    status, out, _ = tbps("index", "--move", origin, postgres_url)
    assert status == 0 and out.startswith(f"{postgres_url}: 3 rows of {origin}, 0 copied now")
    status, _, err = tbps("index", "photos", "--move", origin, postgres_url)
    assert status == 2 and "--move takes two places" in err


# Killed ---------------------------------------------------------------------------------------


def killed(origin: str, target: str, times: int, rows: int) -> int:
    """Copy in a process that is killed again and again while it copies; how many kills hit it."""
    hits = 0
    for number in range(times):
        process = subprocess.Popen([sys.executable, "-c", _MOVE, origin, target], stderr=subprocess.PIPE)
        begun = time.monotonic()
        while process.poll() is None and time.monotonic() - begun < 60:
            if _size(target) > rows * (number + 1) // (times + 2):
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        hits += process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
    return hits


def _size(target: str) -> int:
    """How many rows are there so far."""
    try:
        database = LocalDatabase.open(Path(target)) if target.endswith(".h5") else open_database(target)
    except TbpsError:
        return 0
    try:
        return database.count()
    finally:
        database.close()


def check_kills(origin: str, target: str, times: int, rows: int) -> None:
    """Nothing is lost or doubled, however often a copy was killed."""
    hits = killed(origin, target, times, rows)
    assert hits == times, f"{hits} of {times} kills came while it copied"
    moved = move(origin, target)
    assert moved.size == moved.in_target == rows
    assert moved.copied < rows, "what was kept before the kills was copied again"
    opened = [LocalDatabase.open(Path(one)) if one.endswith(".h5") else open_database(one) for one in (origin, target)]
    assert contents(opened[0]) == contents(opened[1])


def test_a_copy_that_was_killed_twice_is_whole_in_the_end(tmp_path: Path, postgres_url: str) -> None:
    check_kills(str(index_of(tmp_path / "a.h5", plain_rows(4000))), postgres_url, 2, 4000)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["postgres", "local", "back"])
def test_a_copy_that_was_killed_ten_times_is_whole_in_the_end(tmp_path: Path, postgres_url: str, kind: str) -> None:
    first = str(index_of(tmp_path / "a.h5", plain_rows(8000)))
    if kind == "back":
        move(first, postgres_url)
        first = postgres_url
    check_kills(first, postgres_url if kind == "postgres" else str(tmp_path / "b.h5"), 10, 8000)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("milvus")
def test_a_copy_into_milvus_that_was_killed_ten_times_is_whole_in_the_end(
    tmp_path: Path, milvus_server: MilvusProcess
) -> None:
    target = milvus_server.url()
    check_kills(str(index_of(tmp_path / "a.h5", plain_rows(8000))), target, 10, 8000)
    move(target, tmp_path / "b.h5")
    assert local(tmp_path / "b.h5") == local(tmp_path / "a.h5")
