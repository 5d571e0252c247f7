"""`tbps index SOURCE --gallery URL`, and searches of what it filled, as a user meets them on a tiny run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psycopg
import pytest
from support.galleries import odd_rows, unit_rows
from support.runs import tiny_run
from support.sets import save_image
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.databases.opening import open_database
from tbps_cli.features.rows import Row, Rows
from tbps_cli.searching import database_gallery, filling
from tbps_cli.searching.filling import bring_up_to_date
from tbps_cli.searching.gallery import Gallery, Roots

runner = CliRunner()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    tiny_run(place / "runs" / "tiny-0001")
    for seed in range(5):
        save_image(place / "photos" / f"{seed}.jpg", seed)
    return place


@pytest.fixture(autouse=True)
def at_the_place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


def run(*arguments: str, status: int = 0):
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == status, result.stderr
    return result


def filled(url: str, *sources: str) -> dict[str, object]:
    """What `tbps index --json` says of the database."""
    return json.loads(run("index", *sources, "--gallery", url, "--json").stdout)["database"]


def test_a_database_is_filled_and_searched_like_the_folder_itself(postgres_url: str) -> None:
    first = filled(postgres_url, "photos")
    assert (first["size"], first["added"], first["removed"], first["names"]) == (5, 5, 0, ["photos"])
    near = json.loads(run("search", "a man in red", "--in", "photos", "--json").stdout)
    far = json.loads(run("search", "a man in red", "--in", postgres_url, "--json").stdout)
    assert [hit["path"] for hit in far["hits"]] == [f"photos/{hit['path']}" for hit in near["hits"]]
    assert far["size"] == near["size"] == 5
    for one, other in zip(near["hits"], far["hits"], strict=True):
        assert other["score"] == pytest.approx(one["score"], abs=1e-5)
        assert other["percentile"] == one["percentile"]
        assert Path(other["file"]).samefile(one["file"])
    run("search", "red", "--in", postgres_url, "--html", "hits.html", "--copy-to", "copies", "--top", "3")
    assert len(list(Path("copies").iterdir())) == 3 and "data:image/jpeg" in Path("hits.html").read_text()


def test_a_second_run_gives_what_differs_alone(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(postgres_url, "photos")
    monkeypatch.setattr(filling, "_rows_of", lambda *_: pytest.fail("the database was read"))
    assert filled(postgres_url, "photos") | {"size": 5} == {
        "gallery": postgres_url, "size": 5, "names": ["photos"], "added": 0, "removed": 0,
        "settled": True,
    }  # fmt: skip
    save_image(Path("photos/new.jpg"), 11)
    save_image(Path("photos/0.jpg"), 12)
    Path("photos/1.jpg").unlink()
    again = filled(postgres_url, "photos")
    assert (again["size"], again["added"], again["removed"]) == (5, 2, 1)


def test_an_index_that_is_waited_for_in_vain_is_told(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tbps_cli.databases.postgres.Postgres.settle", lambda *_: False)
    done = run("index", "photos", "--gallery", postgres_url, "--json")
    assert json.loads(done.stdout)["database"]["settled"] is False
    assert "the server gets no further with the index" in done.stderr and postgres_url in done.stderr


def test_without_its_journal_the_database_is_read_and_nothing_is_added_twice(postgres_url: str) -> None:
    filled(postgres_url, "photos")
    shutil.rmtree("cache/given")
    Path("photos/1.jpg").unlink()
    again = filled(postgres_url, "photos")
    assert (again["size"], again["added"], again["removed"]) == (4, 0, 1)


def test_rows_that_went_from_the_database_come_back(postgres_url: str) -> None:
    filled(postgres_url, "photos")
    database = open_database(postgres_url)
    database.delete(["photos/2.jpg", "photos/3.jpg"])
    database.close()
    again = filled(postgres_url, "photos")
    assert (again["size"], again["added"]) == (5, 2)


def test_rows_that_a_backup_brought_back_as_they_were_are_given_again(postgres_url: str) -> None:
    filled(postgres_url, "photos")
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("CREATE TABLE kept AS SELECT * FROM tbps.image")
    save_image(Path("photos/0.jpg"), 12)
    assert filled(postgres_url, "photos")["added"] == 1
    with psycopg.connect(
        postgres_url, autocommit=True
    ) as administrator:  # as pg_restore does: a table of another number
        administrator.execute("CREATE TABLE tbps.restored (LIKE tbps.image INCLUDING ALL)")
        administrator.execute("INSERT INTO tbps.restored SELECT * FROM kept")
        administrator.execute("DROP TABLE tbps.image")
        administrator.execute("ALTER TABLE tbps.restored RENAME TO image")
    again = filled(postgres_url, "photos")
    assert (again["size"], again["added"]) == (5, 1)
    assert filled(postgres_url, "photos")["added"] == 0


@pytest.mark.parametrize(
    ("before", "now", "goes_on"),
    [
        ([("1-A", 5)], [("1-A", 9)], True),
        ([("1-A", 5)], [("1-A", 4)], False),  # an older state of the same server
        ([("1-A", 5)], [("1-B", 9)], False),  # a standby was promoted
        ([("1-A", 5)], [("1-A", 9), ("1-A", 9)], False),
        ([], [], True),
    ],
)
def test_a_database_goes_on_only_with_a_longer_history(before: list, now: list, goes_on: bool) -> None:
    assert filling._goes_on(before, now) is goes_on


def test_two_machines_share_a_gallery_and_leave_each_others_rows(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(postgres_url, "photos")
    monkeypatch.setattr(filling, "place_here", lambda folder: f"other:{folder.resolve()}")
    Path("photos/1.jpg").unlink()
    second = filled(postgres_url, "photos")
    assert (second["names"], second["size"], second["added"], second["removed"]) == (["photos-2"], 9, 4, 0)


def test_one_file_as_a_source_takes_no_other_rows_away(postgres_url: str) -> None:
    filled(postgres_url, "photos")
    one = filled(postgres_url, "photos/3.jpg")
    assert (one["size"], one["removed"]) == (5, 0)


def test_what_is_forgotten_or_too_old_goes_from_the_database(postgres_url: str) -> None:
    filled(postgres_url, "photos")
    said = json.loads(run("index", "--forget", "photos/2.jpg", "--gallery", postgres_url, "--json").stdout)
    assert said["forgotten"]["database"] == {"gallery": postgres_url, "images": 1}
    assert filled(postgres_url, "photos")["size"] == 4
    run("index", "--forget", "photos/3.jpg")
    assert filled(postgres_url, "photos")["removed"] == 1


def test_several_sources_keep_their_names(postgres_url: str) -> None:
    save_image(Path("more/9.jpg"), 9)
    assert filled(postgres_url, "photos", "more")["names"] == ["more", "photos"]
    hits = json.loads(run("search", "red", "--in", postgres_url, "--json").stdout)["hits"]
    assert {hit["path"].partition("/")[0] for hit in hits} == {"more", "photos"}


def test_a_gallery_of_another_model_is_refused_before_anything_is_embedded(postgres_url: str) -> None:
    open_database(postgres_url, create=True, fingerprint="other", about={"run": "runs/other-0001"}).close()
    refused = run("index", "photos", "--gallery", postgres_url, status=1)
    assert "runs/other-0001" in refused.stderr and not list(Path("cache").glob("indexes/*"))
    refused = run("search", "red", "--in", postgres_url, status=1)
    assert "runs/other-0001" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "red", "--in", "photos", "--in", "{url}"), "a database is searched alone"),
        (("index", "{url}"), "not where images come from"),
        (("watch", "{url}", "--query", "red", "--budget", "5/day"), "not where images come from"),
        (("index", "photos", "--gallery", "name", "--gallery", "{url}"), "several are given"),
        (("index", "--gallery", "{url}"), "no source is given"),
        (("index", "photos", "--index", "{url}"), "--gallery"),
        (("search", "red", "--in", "{url}"), "there is no gallery"),
    ],
)
def test_mistakes_are_one_line_without_the_password(
    arguments: tuple[str, ...], said: str, new_postgres: Callable[[], str]
) -> None:
    url = new_postgres().replace("postgres@", "postgres:hidden-word@")
    result = runner.invoke(app, [part.format(url=url) for part in arguments])
    assert result.exit_code in (1, 2)
    assert said in result.stderr and "Hint:" in result.stderr
    assert "hidden-word" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "red", "--in"),
        ("index",),
        ("index", "--gallery"),
        ("index", "photos", "--gallery"),
        ("index", "--move", "x.h5"),
        ("watch", "--query", "red", "--budget", "5/day"),
    ],
)
@pytest.mark.parametrize("url", ["postgressql://u:hidden-word@h/db", "host=h user=u password=hidden-word"])
def test_a_mistyped_url_is_refused_without_the_password(arguments: tuple[str, ...], url: str) -> None:
    result = runner.invoke(app, [*arguments, url])
    assert "hidden-word" not in result.stdout + result.stderr


def test_a_url_in_capital_letters_is_one(postgres_url: str) -> None:
    assert filled(postgres_url.replace("postgresql", "PostgreSQL"), "photos")["size"] == 5


def test_a_file_whose_name_begins_like_one_that_is_forgotten_stays(postgres_url: str) -> None:
    save_image(Path("photos/a/0.jpg"), 7)
    save_image(Path("photos/a#1.jpg"), 8)
    filled(postgres_url, "photos")
    said = json.loads(run("index", "--forget", "photos/a", "--gallery", postgres_url, "--json").stdout)
    assert said["forgotten"]["database"]["images"] == 1
    assert filled(postgres_url, "photos")["size"] == 6


def test_the_password_is_in_no_output_log_or_file(new_postgres: Callable[[], str]) -> None:
    url = new_postgres().replace("postgres@", "postgres:hidden-word@")
    shown = [run("index", "photos", "--gallery", url), run("index", "photos", "--gallery", url, "--json")]
    audit = ("--audit", "audit.jsonl")
    shown += [run("search", "red", "--in", url, *extra, *audit) for extra in ((), ("--json",), ("--html", "hits.html"))]
    assert not any("hidden-word" in result.stdout + result.stderr for result in shown)
    for file in filter(Path.is_file, Path().rglob("*")):
        assert b"hidden-word" not in file.read_bytes(), file


def test_a_run_that_is_interrupted_goes_on_where_it_stopped(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery = Gallery("here", Roots(tmp_path / "photos"), odd_rows(90), unit_rows(90, 8), "runs/tiny-0001")
    monkeypatch.setattr(filling, "BATCH", 20)
    database = open_database(postgres_url, create=True, fingerprint="model")
    add = database.add
    calls = iter(range(3))

    def twice(rows: object, vector_NE: object) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt
        add(rows, vector_NE)

    monkeypatch.setattr(database, "add", twice)
    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(database, gallery)
    monkeypatch.setattr(database, "add", add)
    again = bring_up_to_date(database, gallery)
    assert (again.added, again.removed, again.size) == (50, 0, 90)
    shutil.rmtree("cache/given")
    assert bring_up_to_date(database, gallery).added == 0
    (found,) = database.search(unit_rows(90, 8)[7:8], 1)
    assert found.rows.paths == [f"photos/{odd_rows(90).paths[7]}"]
    database.close()
    assert np.isclose(found.score_K[0], 1, atol=1e-6)
    assert database_gallery.place_here(tmp_path).endswith(f":{tmp_path.resolve()}")


def test_a_file_with_a_number_sign_in_its_name_stays_when_another_is_given(postgres_url: str) -> None:
    save_image(Path("photos/a#1.jpg"), 8)
    filled(postgres_url, "photos")
    one = filled(postgres_url, "photos/3.jpg")
    assert (one["size"], one["removed"]) == (6, 0)


def test_shards_in_another_order_or_one_alone_are_refused(new_postgres: Callable[[], str]) -> None:
    first, second = new_postgres(), new_postgres()
    both = json.loads(run("index", "photos", "--gallery", first, "--gallery", second, "--json").stdout)["database"]
    assert both["size"] == 5
    for places in ([first], [second], [second, first], [first, second, new_postgres()]):
        said = run("search", "red", *(part for one in places for part in ("--in", one)), status=1).stderr
        assert "shard" in said and "Hint:" in said, said
        assert "shard" in run("index", "photos", *(x for one in places for x in ("--gallery", one)), status=1).stderr
    whole = new_postgres()
    filled(whole, "photos")
    assert "shard" in run("search", "red", "--in", whole, "--in", second, status=1).stderr
    found = run("search", "red", "--in", first, "--in", second, "--json")
    assert len(json.loads(found.stdout)["hits"]) == 5
    run("index", "--move", f"{first} {second}", "back.h5")
    run("index", "--move", "back.h5", new_postgres())


def test_persons_of_a_video_that_is_a_source_itself_are_sent_once_and_go_when_they_are_gone(
    postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Rows.of(
        [
            Row(f"clip.mp4#t={second}.000", 1, 2, f"{second:032x}", source="clip.mp4", seconds=second)
            for second in range(5)
        ]
    )

    def gallery(count: int) -> Gallery:
        video = Roots(tmp_path, {"clip.mp4": tmp_path / "clip.mp4"})
        return Gallery("here", video, rows.take(np.arange(count)), unit_rows(5, 8)[:count], "runs/tiny-0001")

    database = open_database(postgres_url, create=True, fingerprint="model")
    assert bring_up_to_date(database, gallery(5)).added == 5
    again = bring_up_to_date(database, gallery(5))
    assert (again.added, again.removed, caplog.messages) == (0, 0, [])
    shutil.rmtree("cache/given")
    fewer = bring_up_to_date(database, gallery(3))
    assert (fewer.added, fewer.removed, fewer.size) == (0, 2, 3)
    database.close()


def test_shards_are_searched_with_the_options_that_a_copy_names(new_postgres: Callable[[], str]) -> None:
    first, second = new_postgres(), new_postgres()
    run("index", "photos", "--index", "people.h5")
    said = run("index", "--move", "people.h5", f"{first} {second}").stdout
    assert f"--in {first} --in {second}" in said


def test_what_is_forgotten_goes_from_a_gallery_of_a_pattern_too(postgres_url: str) -> None:
    filled(postgres_url, "photos/*.jpg")
    run("index", "--forget", "photos/3.jpg")
    again = filled(postgres_url, "photos/*.jpg")
    assert (again["removed"], again["size"]) == (1, 4)


def test_what_is_too_old_goes_from_a_gallery_of_a_pattern_too(postgres_url: str) -> None:
    filled(postgres_url, "photos/*.jpg")
    os.utime("photos/3.jpg", (1, 1))
    again = filled(postgres_url, "photos/*.jpg", "--expire", "30d")
    assert (again["removed"], again["size"]) == (1, 4)
