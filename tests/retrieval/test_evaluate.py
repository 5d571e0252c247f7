"""`tbps eval` from a run folder to its documents, tables and files."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import support.oracles_retrieval as oracle
from support.runs import tiny_recipe, tiny_run
from support.sets import cuhk_records, write_set

from tbps_cli.cli.scores_view import published_line
from tbps_cli.data.open import open_dataset
from tbps_cli.models import open_model
from tbps_cli.recipe.load import load
from tbps_cli.retrieval import evaluate as evaluate_module
from tbps_cli.retrieval.evaluate import evaluate
from tbps_cli.retrieval.outputs import save_features, save_ranks


def test_document_holds_what_plain_loops_give(place) -> None:
    model = open_model(place / "runs" / "tiny-0001", device="cpu")
    evaluation = evaluate(model, "cuhk-pedes", data_root=place / "data")
    split = evaluation.split
    text, image = evaluation.embedded.text_QE, evaluation.embedded.image_GE
    document = evaluation.document()
    for name, query, gallery, persons in (
        ("text_to_image", text, image, (split.caption_person, split.image_person)),
        ("image_to_text", image, text, (split.image_person, split.caption_person)),
    ):
        expected = oracle.scores(oracle.similarity(query, gallery), *persons)
        assert document[name] == pytest.approx(expected, abs=1e-6)
    assert {key: document[key] for key in ("method", "data", "split", "queries", "gallery")} == {
        "method": "clip",
        "data": "cuhk-pedes",
        "split": "test",
        "queries": 24,
        "gallery": 12,
    }
    guard = document["protocol"].pop("guard")
    assert guard["ok"] and guard["rows"] == 12 + 16
    assert document["protocol"] == {
        "selected_on": "val",
        "reranked": False,
        "batch_dependent": False,
        "precision": "fp32",
        "queries": "alone",
        "gallery": "alone",
        "adapted": False,
        "settings": [],
        "labels": [],
        "line": "Protocol: weights selected on val · not re-ranked · fp32",
        "choices": {"epoch": {"on": "val", "data": None, "of": None}},
    }


def test_reranked_places_are_those_that_were_scored(place) -> None:
    model = open_model(place / "runs" / "tiny-0001", device="cpu")
    evaluation = evaluate(model, "cuhk-pedes", data_root=place / "data", rerank=True)
    side = evaluation.sides["text_to_image"]
    index_QK = side.top(12)[1]
    right = np.array(side.person_G)[index_QK] == np.array(side.person_Q)[:, None]
    assert (right.argmax(axis=1) + 1).tolist() == side.details.first_Q.tolist()
    assert evaluation.document()["protocol"]["reranked"] is True


def test_saved_features_and_ranks_come_back(place) -> None:
    model = open_model(place / "runs" / "tiny-0001", device="cpu")
    evaluation = evaluate(model, "cuhk-pedes", data_root=place / "data")
    save_features(evaluation, place / "f.npz")
    with np.load(place / "f.npz") as saved:
        assert saved["text_QE"].tolist() == evaluation.embedded.text_QE.tolist()
        assert saved["caption"].tolist() == evaluation.split.captions
        assert json.loads(saved["image_person"][0]) == evaluation.split.image_person[0]
    save_ranks(evaluation, place / "r.csv")
    save_ranks(evaluation, place / "r.json")
    rows = json.loads((place / "r.json").read_text(encoding="utf-8"))
    table = list(csv.DictReader((place / "r.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == len(table) == 24 + 12
    assert rows[0]["query"] == table[0]["query"] == evaluation.split.captions[0]
    first = evaluation.sides["text_to_image"].details.first_Q
    assert [row["first_rank"] for row in rows if row["task"] == "t2i"] == first.tolist()
    assert rows[0]["right"].index(True) + 1 == first[0] or not any(rows[0]["right"])


def test_eval_prints_one_json_document_and_embeds_once(place, tbps) -> None:
    status, out, _ = tbps("eval", "--data", "cuhk-pedes", "--json")
    assert status == 0
    document = json.loads(out)
    assert list(document) == [
        *("run", "method", "data", "split", "queries", "gallery"),
        *("text_to_image", "image_to_text", "protocol", "seconds"),
    ]
    assert list(document["text_to_image"]) == ["R1", "R5", "R10", "mAP", "mINP"]
    again = json.loads(tbps("eval", "--data", "cuhk-pedes", "--json")[1])
    assert again | {"seconds": 0} == document | {"seconds": 0}


def test_the_runs_own_data_set_is_the_default_and_is_missed_before_weights_are_read(place, tbps) -> None:
    (place / "runs" / "tiny-0001" / "weights.safetensors").write_bytes(b"broken")
    status, out, err = tbps("eval")
    assert (status, out) == (1, "")
    assert "ynthetic" in err and "prepare-data" in err


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        (["--plain"], "| task |"),
        ([], "task "),
        (["--format", "md"], "| task |    R1 |    R5 |    R10 |   mAP |  mINP |\n| :----|-----: |"),
        (["--format", "latex"], "\\begin{tabular}{lrrrrr}"),
        (["--format", "csv"], "run,method,data,split,queries,gallery,task,R1,R5,R10,mAP,mINP,selected_on"),
    ],
)
def test_each_format_carries_scores_and_protocol(place, tbps, style, shown) -> None:
    status, out, _ = tbps("eval", "--data", "cuhk-pedes", *style)
    assert status == 0
    assert shown in out
    assert "val" in out and "i2t" in out


def test_an_interval_is_added_with_and_without_its_percentage(place, tbps) -> None:
    document = json.loads(tbps("eval", "--data", "cuhk-pedes", "--interval", "--json")[1])
    found = document["interval"]
    facts = {key: found[key] for key in ("level", "resamples", "over", "persons")}
    assert facts == {"level": 95, "resamples": 2000, "over": "persons", "persons": 6}
    for side, ends in (("text_to_image", found), ("image_to_text", found["image_to_text"])):
        for name, score in document[side].items():
            assert ends[name][0] <= score <= ends[name][1]
    narrow = json.loads(tbps("eval", "--data", "cuhk-pedes", "--json", "--interval", "50")[1])["interval"]
    assert narrow["level"] == 50 and narrow["mAP"][0] > found["mAP"][0]
    assert "95 % interval t2i: R1 [" in tbps("eval", "--data", "cuhk-pedes", "--interval")[1]
    _, out, _ = tbps("eval", "--data", "cuhk-pedes", "--interval", "--format", "csv")
    head, first, *_ = csv.reader(out.splitlines())
    row = dict(zip(head, first, strict=True))
    assert float(row["mAP_low"]) == found["mAP"][0] and row["guard"].startswith(
        "guard: batch-independent (28 checked, max difference "
    )


def test_the_ceiling_of_drawn_pedestrians_stands_beside_their_score(place, tbps) -> None:
    records = cuhk_records(persons=(1, 1, 3))
    for record in records:
        record |= {"attributes": [f"hat {record['id']}"], "named": [[f"hat {record['id']}"]] * 2}
    write_set(place / "data" / "synthetic", records)
    assert json.loads(tbps("eval", "--json")[1])["ceiling"] == {"R1": 100, "R5": 100, "R10": 100, "mAP": 100}
    assert "upper bound t2i (ranking by the true attributes): R1 100.00" in tbps("eval")[1]
    assert "ceiling" not in json.loads(tbps("eval", "--data", "cuhk-pedes", "--json")[1])


def test_several_data_sets_share_one_table_and_give_a_list(place, tbps) -> None:
    write_set(place / "own" / "CUHK-PEDES", cuhk_records(persons=(1, 1, 3)))
    other = str(place / "own" / "CUHK-PEDES" / "reid_raw.json")
    status, out, _ = tbps("eval", "--data", f"cuhk-pedes,{other}", "--json")
    assert status == 0
    assert [document["gallery"] for document in json.loads(out)] == [12, 6]
    _, out, err = tbps("eval", "--data", f"cuhk-pedes,{other}", "--plain", "--html", str(place / "s.html"))
    assert out.count("t2i") == 2
    assert out.split("|")[1].strip() == "data"
    assert err.count("Written:") == 2
    assert len(list(place.glob("s-cuhk-pedes*.html"))) == 2


def test_html_sheet_is_written(place, tbps) -> None:
    status, _, err = tbps("eval", "--data", "cuhk-pedes", "--html", str(place / "sheet.html"))
    assert status == 0 and "sheet.html" in err
    text = (place / "sheet.html").read_text(encoding="utf-8")
    assert text.count('<section class="answer">') == 24
    assert "<dt>protocol</dt><dd><bdi>weights selected on val" in text


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--json", "--format", "md"], 2, "--json and --format md"),
        (["--html", "sheet.pdf"], 2, "--html sheet.pdf: the name must end in .html or .htm"),
        (["--save-ranks", "nowhere/r.csv"], 2, "there is no folder nowhere"),
        (["--save-features", "f.pt"], 2, ".npz"),
        (["--data", ","], 2, "no data set is named"),
        (["--data", "cuhk-pedez"], 1, "cuhk-pedez"),
        (["--split", "train"], 2, "train"),
        (["--batch", "0"], 2, "--batch"),
        (["--interval", "100"], 2, "between 0 and 100"),
        (["--interval", "--bogus"], 2, "--bogus"),
        (["--ckpt", "runs/none"], 1, "runs/none: there is no such file or folder"),
    ],
)
def test_mistakes_are_one_error_line(place, tbps, words, status, said) -> None:
    got, out, err = tbps("eval", *words)
    assert got == status
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_selection_on_test_is_said_with_the_honest_setting(place, tbps) -> None:
    tiny_run(place / "runs" / "tiny-0002", tiny_recipe(), selected_on="test")
    _, out, _ = tbps("eval", "--ckpt", "runs/tiny-0002", "--data", "cuhk-pedes", "--plain")
    assert "selected on test" in out and "train.select_on=val" in out


def test_the_published_score_stands_beside_that_of_its_own_test_split_alone(place, monkeypatch) -> None:
    part, recipe = open_dataset("cuhk-pedes", place / "data").split("test"), load("irra")
    assert evaluate_module._published(recipe, part) is None  # three persons are not CUHK-PEDES' thousand
    whole = replace(part, captions=(part.captions * 6156)[:6156])
    found = evaluate_module._published(recipe, whole)
    assert found == {"venue": "CVPR 2023", "R1": 73.38, "mAP": 66.13, "R1_chance": 1.1}
    assert evaluate_module._published(load("irra-icfg-pedes"), whole) is None
    document = {"published": found, "text_to_image": {"R1": 72.5}}
    assert "R1 73.38 ± 1.1, mAP 66.13; R1 here -0.88: within" in published_line(document)[0]
    assert "R1 here -2.38: more than sampling error" in published_line({**document, "text_to_image": {"R1": 71.0}})[0]
