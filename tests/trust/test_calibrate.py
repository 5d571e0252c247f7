"""`tbps eval --calibration`, and what `tbps search` makes of it, on a tiny run."""

from __future__ import annotations

import csv
import io
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support.runs import tiny_run
from support.sets import cuhk_records, save_image, write_set


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    tiny_run(place / "runs" / "tiny-0001")
    write_set(place / "data" / "synthetic", cuhk_records(persons=(1, 24, 12)))
    return place


@pytest.fixture(autouse=True)
def at_the_place(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))


def test_it_reports_on_test_what_was_fitted_on_val_and_keeps_it_in_the_run(tbps):
    status, out, err = tbps("eval", "--calibration", "--json", "--svg", "drawn.svg")
    document = json.loads(out)
    assert status == 0, err
    assert (document["fitted"]["split"], document["split"]) == ("val", "test")
    assert document["fitted"]["persons"] == 24 and document["queries"] == 48
    assert {"ECE", "Brier", "bins"} == set(document["hits"])
    assert sum(row["hits"] for row in document["first_hit"]["bins"]) == 48
    assert [one["level"] for one in document["sets"]] == [0.8, 0.9, 0.95]
    assert all(0 <= one[key] <= 1 for one in document["sets"] for key in ("present_refused", "absent_refused"))
    assert Path(document["fitted"]["file"]) == Path("runs/tiny-0001/calibration.json")
    assert ElementTree.parse("drawn.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("plain", [[], ["--plain"]])
def test_its_table_names_the_figures(tbps, plain):
    status, out, _ = tbps("eval", "--calibration", *plain)
    assert status == 0
    for said in ("ECE", "Brier", "first ten hits", "--sure", "holds the person", "Fitted on val (96 captions"):
        assert said in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "val"], "it is fitted on val"),
        (["--probe"], "--probe and --calibration exclude each other"),
        (["--rerank"], "--calibration and --rerank exclude each other"),
        (["--seed", "3"], "--seed is that of --probe or --degrade"),
        (["--data", "synthetic,cuhk-pedes"], "a model keeps the calibration of one data set"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tbps, options, said):
    status, _, err = tbps("eval", "--calibration", *options)
    assert status == 2 and said in err


def test_a_data_set_with_too_few_people_in_val_is_one_line(tbps):
    write_set(Path("data/synthetic"), cuhk_records(persons=(1, 3, 3)))
    status, _, err = tbps("eval", "--calibration")
    assert status == 1 and "captions of 3 persons are too few" in err
    assert not Path("runs/tiny-0001/calibration.json").exists()


def test_every_hit_has_its_place_among_the_gallerys_scores_and_after_calibration_a_probability(tbps):
    _, out, _ = tbps("search", "a man", "--json")
    hits = json.loads(out)["hits"]
    assert all({"percentile", "z"} <= set(hit) and "probability" not in hit for hit in hits)
    assert [hit["percentile"] for hit in hits] == sorted((hit["percentile"] for hit in hits), reverse=True)
    tbps("eval", "--calibration")
    _, out, _ = tbps("search", "a man", "--json")
    hits = json.loads(out)["hits"]
    assert all(0 < hit["probability"] < 1 for hit in hits)
    _, out, _ = tbps("search", "a man", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["probability"]) for row in rows] == [hit["probability"] for hit in hits]
    _, out, _ = tbps("search", "a man")
    assert {"above", "z", "likely"} <= set(out.split())
    image = str(next(Path("data/synthetic/imgs").rglob("*.png")))
    _, out, _ = tbps("search", "--image", image, "--json")
    assert all("probability" not in hit for hit in json.loads(out)["hits"]), "only sentences were calibrated"


def test_sure_gives_a_set_or_says_that_there_is_no_confident_match(tbps):
    tbps("eval", "--calibration")
    for query in ("Person 26 as seen in image 0.", "something else"):
        for level in ("0.5", "0.9"):
            status, out, _ = tbps("search", query, "--sure", level, "--json", "--top", "100")
            document = json.loads(out)
            assert status == 0 and document["sure"]["level"] == float(level)
            assert len(document["hits"]) == document["sure"]["size"]
            assert document["sure"]["confident"] is (document["sure"]["size"] > 0)
            _, out, _ = tbps("search", query, "--sure", level)
            assert ("No confident match" in out) is not document["sure"]["confident"]


def test_sure_without_a_calibration_says_how_to_make_one_before_anything_is_embedded(tbps):
    status, _, err = tbps("search", "a man", "--sure", "0.9")
    assert status == 1 and "was never calibrated" in err and "tbps eval --calibration --ckpt runs/tiny-0001" in err
    assert not Path("cache").exists()


@pytest.mark.parametrize("level", ["0", "1", "nan", "1.5", "0.999"])
def test_sure_needs_a_probability(tbps, level):
    status, _, err = tbps("search", "a man", "--sure", level)
    assert status == 2 and err.startswith(f"Error: --sure {level}: ")


def test_sure_is_for_sentences(tbps):
    for more in (["--minus", "a hat"], ["--image", str(next(Path("data").rglob("*.png")))]):
        status, _, err = tbps("search", "a man", "--sure", "0.9", *more)
        assert status == 2 and "--sure is for a sentence alone" in err


def test_sure_in_an_empty_folder_and_where_nothing_passes_the_filter(tbps):
    tbps("eval", "--calibration")
    Path("empty").mkdir()
    status, out, err = tbps("search", "a man", "--sure", "0.9", "--in", "empty")
    assert status == 1 and "empty" in err and "Traceback" not in err
    status, out, err = tbps("search", "a man", "--sure", "0.9", "--where", 'path like "nowhere*"', "--json")
    assert status == 0 and json.loads(out)["hits"] == [] and "sure" not in json.loads(out)


def test_other_settings_than_those_of_the_calibration_are_not_judged_by_it(tbps):
    tbps("eval", "--calibration")
    status, _, err = tbps("search", "a man", "--sure", "0.9", "--set", "method.long_captions=chunk")
    assert status == 1 and "was never calibrated as it is" in err
    assert "other weights or settings" in err


def test_a_folder_of_one_image_is_searched_with_all_figures(tbps):
    tbps("eval", "--calibration")
    save_image(Path("one/only.png"))
    status, out, _ = tbps("search", "a man", "--in", "one", "--json")
    (hit,) = json.loads(out)["hits"]
    assert status == 0 and hit["percentile"] == 0 and "z" not in hit and 0 < hit["probability"] < 1


@pytest.mark.slow
def test_an_export_takes_the_calibration_along(tbps):
    tbps("eval", "--calibration")
    assert tbps("export", "--out", "exported")[0] == 0
    kept = [Path(folder) / "calibration.json" for folder in ("runs/tiny-0001", "exported")]
    assert kept[0].read_bytes() == kept[1].read_bytes()
    status, out, _ = tbps("search", "a man", "--ckpt", "exported", "--explain", "--json")
    hits = json.loads(out)["hits"]
    assert status == 0 and all(0 < hit["probability"] < 1 for hit in hits)
    assert all(word["grid"] is None for hit in hits for word in hit["explain"]), "graphs have no gradients"


def test_a_damaged_calibration_stops_sure_but_no_other_search(tbps):
    Path("runs/tiny-0001/calibration.json").write_text("{}")
    status, out, err = tbps("search", "a man", "--json")
    assert status == 0 and "probability" not in json.loads(out)["hits"][0]
    assert "calibration.json: is no calibration" in err
    status, _, err = tbps("search", "a man", "--sure", "0.9")
    assert status == 1 and "calibration.json: is no calibration" in err and "Traceback" not in err
