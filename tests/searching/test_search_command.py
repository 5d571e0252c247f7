"""`tbps search` and `tbps index` as a user meets them, on a tiny run of random weights."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from pathlib import Path

import pytest
from support.runs import tiny_run
from support.sets import cuhk_records, save_image, write_set
from typer.testing import CliRunner

from tbps_cli.cli.app import app

runner = CliRunner()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a folder of images with useless files among them, and the run's own data set."""
    place = tmp_path_factory.mktemp("made")
    tiny_run(place / "runs" / "tiny-0001")
    for seed in range(5):
        save_image(place / "photos" / f"{seed}.jpg", seed)
    (place / "photos" / "corrupt.jpg").write_bytes(b"\xff\xd8\xff" + bytes(300))
    (place / "photos" / "notes.txt").write_text("no image")
    save_image(place / "photos" / "tiny.png", 9, size=(6, 20))
    write_set(place / "data" / "synthetic", cuhk_records(persons=(1, 1, 3)))
    return place


@pytest.fixture(autouse=True)
def at_the_place(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def run(*arguments: str, status: int = 0):
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == status, result.stderr
    return result


def test_a_folder_is_searched_by_the_newest_run() -> None:
    result = run("search", "a man in red", "--in", "photos", "--top", "3")
    assert [line.split()[0] for line in result.stdout.splitlines() if ".jpg" in line] == ["1", "2", "3"]
    assert {"rank", "score", "file"} <= set(result.stdout.split())
    for said in ("the newest run", "2 files are left out", "corrupt.jpg", "tiny.png", "5 added", "5 images"):
        assert said in result.stderr
    assert "notes.txt" not in result.stderr
    again = run("search", "a man in red", "--in", "photos")
    assert "left out" not in again.stderr and "added" not in again.stderr


def test_without_a_folder_the_runs_own_test_set_is_searched() -> None:
    result = run("search", "Person 4 as seen in image 1.", "--json")
    made = json.loads(result.stdout)
    assert (made["gallery"], made["size"], made["persons"]) == ("synthetic test", 6, [4])
    assert {hit["person"] for hit in made["hits"]} == {3, 4, 5}
    assert all(hit["right"] == (hit["person"] == 4) for hit in made["hits"])
    assert made["run"] == "runs/tiny-0001"
    assert "✓" in run("search", "Person 4 as seen in image 1.").stdout
    assert json.loads(run("search", "x", "--split", "train", "--json").stdout)["size"] == 2


def test_each_form_of_answer_fits_its_reader() -> None:
    document = json.loads(run("search", "red", "--in", "photos", "--json", "--top", "2").stdout)
    assert [hit["rank"] for hit in document["hits"]] == [1, 2]
    table = list(csv.DictReader(io.StringIO(run("search", "red", "--in", "photos", "--csv", "--top", "2").stdout)))
    assert [row["path"] for row in table] == [hit["path"] for hit in document["hits"]]
    lines = run("search", "red", "--in", "photos", "--paths", "--top", "2").stdout.splitlines()
    assert lines == [hit["file"] for hit in document["hits"]] and all(Path(line).is_file() for line in lines)
    assert run("search", "red", "--in", "photos", "-0", "--top", "2").stdout == "".join(f"{line}\0" for line in lines)


def test_many_queries_give_a_list() -> None:
    Path("q.txt").write_text("red\nblue\n")
    documents = json.loads(run("search", "--queries", "q.txt", "--in", "photos", "--json").stdout)
    assert [document["query"] for document in documents] == ["red", "blue"]
    Path("q.txt").write_text("red\n")
    assert isinstance(json.loads(run("search", "--queries", "q.txt", "--in", "photos", "--json").stdout), list)


def test_the_page_and_the_copies_are_written() -> None:
    result = run("search", "red", "--in", "photos", "--top", "2", "--html", "hits.html", "--copy-to", "hits")
    assert "Written: hits.html" in result.stderr and "Copied: 2 images" in result.stderr
    assert Path("hits.html").read_text().count("data:image/jpeg") == 2
    assert len(list(Path("hits").iterdir())) == 2


def test_a_mixture_with_filter_and_lowest_score() -> None:
    options = ["--image", "photos/3.jpg", "--with-self", "--minus", "a bag"]
    options += ["--where", 'path like "3*"', "--min-score", "-1"]
    document = json.loads(run("search", "red", "--in", "photos", "--json", *options).stdout)
    assert [hit["path"] for hit in document["hits"]] == ["3.jpg"]
    assert (document["image"], document["minus"], document["candidates"]) == ("photos/3.jpg", "a bag", 1)
    nothing = run("search", "red", "--in", "photos", "--min-score", "1.1")
    assert "No image fits." in nothing.stderr


def test_an_index_is_made_and_searched() -> None:
    result = run("index", "photos", "--index", "people.h5")
    assert "5 images, 5 added (5 embedded), 0 removed, 2 left out" in result.stdout
    by_folder = json.loads(run("search", "red", "--in", "photos", "--json").stdout)
    by_index = json.loads(run("search", "red", "--in", "people.h5", "--json").stdout)
    assert [hit["path"] for hit in by_index["hits"]] == [hit["path"] for hit in by_folder["hits"]]
    Path("photos").rename("moved")
    told = run("search", "red", "--in", "people.h5", "--root", "moved", "--copy-to", "hits")
    assert "Copied: 5 images to hits" in told.stderr and "cannot be shown" not in told.stderr
    Path("moved").rename("photos")
    document = json.loads(run("index", "photos", "--index", "people.h5", "--json").stdout)
    assert (document["size"], document["added"], document["left_out_in_all"]) == (5, 0, 2)


def test_an_index_can_be_taken_as_it_is() -> None:
    first = json.loads(run("search", "red", "--in", "photos", "--json", "-n").stdout)
    assert first["size"] == 5, "without an index there is one now"
    save_image(Path("photos/new.jpg"), 77)
    Path("photos/0.jpg").unlink()
    as_it_is = json.loads(run("search", "red", "--in", "photos", "--json", "--no-index").stdout)
    assert as_it_is["hits"] == first["hits"]
    assert {hit["path"] for hit in json.loads(run("search", "red", "--in", "photos", "--json").stdout)["hits"]} == {
        *("1.jpg", "2.jpg", "3.jpg", "4.jpg", "new.jpg")
    }


def test_an_index_that_cannot_be_written_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a file").write_text("")
    monkeypatch.setenv("TBPS_CACHE_DIR", str(Path("a file").absolute()))
    told = run("index", "photos", status=1)
    assert "Error: the index of photos could not be written, so nothing is kept." in told.stderr


def test_an_image_is_left_out_of_its_own_hits_unless_it_is_asked_for() -> None:
    shutil.copy("photos/3.jpg", "photos/copy.jpg")
    shutil.copy("photos/3.jpg", "elsewhere.jpg")
    for image in ("photos/3.jpg", "elsewhere.jpg"):
        document = json.loads(run("search", "--image", image, "--in", "photos", "--json", "--top", "4").stdout)
        assert sorted(hit["path"] for hit in document["hits"]) == ["0.jpg", "1.jpg", "2.jpg", "4.jpg"]
        assert [hit["rank"] for hit in document["hits"]] == [1, 2, 3, 4]
    again = run("search", "--image", "photos/3.jpg", "--with-self", "--in", "photos", "--json", "--top", "2")
    assert {hit["path"] for hit in json.loads(again.stdout)["hits"]} == {"3.jpg", "copy.jpg"}
    nothing = run("search", "--image", "photos/3.jpg", "--in", "photos", "--where", 'path == "3.jpg"')
    assert "No image fits." in nothing.stderr


def test_an_index_suggests_a_search_with_the_same_model() -> None:
    plain = run("index", "photos").stdout
    assert plain.splitlines()[-1] == 'Search it: tbps search "a man in a white shirt" --in photos'
    Path("runs/tiny-0001").rename("my run")
    named = run("index", "photos", "--ckpt", "my run", "--set", "method.temperature=0.5").stdout.splitlines()[-1]
    assert named.endswith("--in photos --ckpt 'my run' --set method.temperature=0.5")
    again = run(*shlex.split(named.partition("tbps ")[2]))
    assert "added" not in again.stderr, "the index of another model was searched"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["search"], 2, "the query is empty"),
        (["search", "  ", "--in", "photos"], 2, "the query is empty"),
        (["search", "x", "--in", "gone"], 1, "--in gone: there is no such"),
        (["search", "x", "--json", "--csv"], 2, "exclude each other"),
        (["search", "x", "--queries", "q.txt"], 2, "exclude each other"),
        (["search", "--queries", "gone.txt"], 1, "--queries gone.txt does not exist"),
        (["search", "x", "--image", "gone.png"], 2, "--image gone.png"),
        (["search", "--image", "photos/corrupt.jpg", "--in", "photos"], 1, "corrupt.jpg cannot be read"),
        (["search", "x", "--where", "camra == 1"], 2, "no field 'camra'"),
        (["search", "x", "--top", "0"], 2, "--top"),
        (["search", "x", "--html", "hits.txt"], 2, "must end in .html"),
        (["search", "x", "--copy-to", "photos"], 2, "--copy-to photos"),
        (["search", "x", "--ckpt", "gone"], 1, "gone"),
        (["search", "x", "--in", "people.sqlite"], 1, "people.sqlite"),
        (["search", "x", "--split", "all"], 2, "--split"),
        (["search", "x", "--in", "photos", "--root", "photos"], 2, "--root photos: only an index file"),
        (["search", "x", "--root", "photos"], 2, "--root photos: only an index file"),
        (["index", "gone"], 1, "gone: there is no such file or folder"),
        (["index", "photos", "--index", "data"], 2, "--index data is a folder"),
    ],
)
def test_mistakes_are_one_line_with_their_status(arguments: list[str], status: int, message: str) -> None:
    result = run(*arguments, status=status)
    assert result.stdout == ""
    assert message in result.stderr and "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error:")]) == 1
