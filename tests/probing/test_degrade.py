"""`tbps eval --degrade`: the curves, where they come from, and that nothing but the seed changes them."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import support.oracles_retrieval as oracle
from support.runs import YAML, irra_folder, tiny_recipe, tiny_run
from support.sets import cuhk_records, write_set

from tbps_cli.data.images import read_image
from tbps_cli.models import open_model
from tbps_cli.probing.degradations import DEGRADATIONS, degraded
from tbps_cli.probing.degrade import degrade
from tbps_cli.recipe.draft import Draft
from tbps_cli.recipe.load import build
from tbps_cli.retrieval.interval import interval
from tbps_cli.weights.weights_file import read_safetensors


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a run and a data set of 12 images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TBPS_DATA_ROOT", raising=False)
    write_set(tmp_path / "data" / "CUHK-PEDES", cuhk_records(persons=(1, 2, 6)))
    tiny_run(tmp_path / "runs" / "tiny-0001")
    return tmp_path


def test_every_point_is_what_plain_loops_give_for_degraded_images(place):
    model = open_model(place / "runs" / "tiny-0001", device="cpu")
    found = degrade(model, "cuhk-pedes", data_root=place / "data", kinds=["night", "crop"], seed=2)
    document, split = found.document(), found.evaluation.split
    text_QE = model.encode_texts(split.captions)
    for curve in document["curves"]:
        for point in curve["points"]:
            images = [degraded(read_image(path), curve["degradation"], point["step"], 2) for path in split.paths]
            similarity = oracle.similarity(text_QE, model.encode_images(images))
            expected = oracle.scores(similarity, split.caption_person, split.image_person)
            assert {name: point[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert [curve["degradation"] for curve in document["curves"]] == ["night", "crop"]
    assert document["clean"]["R1"] == found.evaluation.scores.R1


def test_intervals_are_those_of_an_evaluation_and_the_summary_is_a_mean_of_ratios(place):
    found = degrade("runs/tiny-0001", "cuhk-pedes", data_root=place / "data", kinds=["blur", "occlusion"], level=80)
    document = found.document()
    persons = found.evaluation.split.caption_person
    points = [point for curve in document["curves"] for point in curve["points"]]
    for point, kept in zip(points, found.points, strict=True):
        ends = interval(kept.details, persons, level=80)
        assert point["interval"] == pytest.approx([ends.low.R1, ends.high.R1])
    mean = np.mean([point["R1"] for point in points])
    assert document["kept"]["R1"] == pytest.approx(100 * mean / document["clean"]["R1"])
    low, high = document["kept"]["interval"]
    assert low <= document["kept"]["R1"] <= high and document["kept"]["steps"] == 8


def test_resamples_without_any_clean_hit_have_no_share_and_a_model_without_one_no_summary(place):
    found = degrade("runs/tiny-0001", "cuhk-pedes", data_root=place / "data", kinds=["night"])
    persons, sides = found.evaluation.split.caption_person, found.evaluation.sides

    def with_hits(hits):
        first_Q = np.where([person in hits for person in persons], 1, 20)
        side = replace(sides["text_to_image"], details=replace(sides["text_to_image"].details, first_Q=first_Q))
        return replace(found, evaluation=replace(found.evaluation, sides={**sides, "text_to_image": side})).document()

    low, high = with_hits({persons[0]})["kept"]["interval"]  # a third of the resamples draws this person never
    assert 0 <= low <= high <= 100 * len(set(persons))
    assert with_hits(set())["kept"] is None


def test_the_same_seed_gives_the_same_bytes_with_any_workers_and_batches(place, tbps):
    texts, drawings = [], []
    for number, options in enumerate((["--workers", "1"], ["--workers", "4", "--batch", "5"])):
        shutil.rmtree(place / "cache", ignore_errors=True)
        call = ["eval", "--degrade", "--data", "cuhk-pedes", "--seed", "7", "--svg", f"{number}.svg", "--json"]
        status, out, err = tbps(*call, *options)
        assert status == 0, err
        texts.append(out)
        drawings.append((place / f"{number}.svg").read_bytes())
    assert len(set(texts)) == 1 and len(set(drawings)) == 1
    assert [curve["degradation"] for curve in json.loads(texts[0])["curves"]] == list(DEGRADATIONS)


def test_degraded_embeddings_are_kept_apart_from_clean_ones_and_found_again(place, monkeypatch):
    model = open_model(place / "runs" / "tiny-0001", device="cpu")
    options = {"data_root": place / "data", "cache_dir": place / "cache", "kinds": ["jpeg"]}
    first = degrade(model, "cuhk-pedes", **options).document()
    kept = [path.name for path in (place / "cache" / "features").glob("*images*.h5")]
    assert len(kept) == 1 + 4
    monkeypatch.setattr(model, "image_arrays", lambda images: pytest.fail("an image is embedded again"))
    assert degrade(model, "cuhk-pedes", **options).document() == first


def test_the_table_has_a_row_a_step_and_the_drawing_a_curve_each(place, tbps):
    status, out, err = tbps("eval", "--data", "cuhk-pedes", "--degrade", "blur,night", "--svg", "curves.svg")
    assert status == 0, err
    rows = [line for line in out.splitlines() if line.startswith(("blur", "night"))]
    assert len(rows) == 8 and "3 % of the width" in rows[2] and "Protocol: " in out and "is left" in out
    drawing = ElementTree.fromstring((place / "curves.svg").read_text(encoding="utf-8"))
    assert sum(element.tag.endswith("polyline") for element in drawing.iter()) == 2
    assert sum(element.tag.endswith("circle") for element in drawing.iter()) == 2 * 5


def test_several_data_sets_give_a_list_and_a_drawing_each(place, tbps):
    write_set(place / "data" / "ICFG-PEDES", cuhk_records(persons=(1, 1, 3)), "ICFG-PEDES.json")
    call = ["eval", "--data", "cuhk-pedes,icfg-pedes", "--degrade", "jpeg", "--svg", "c.svg", "--json"]
    status, out, err = tbps(*call)
    assert status == 0, err
    assert [document["data"] for document in json.loads(out)] == ["cuhk-pedes", "icfg-pedes"]
    assert sorted(path.name for path in place.glob("*.svg")) == ["c-cuhk-pedes-1.svg", "c-icfg-pedes-2.svg"]


def test_an_official_file_is_degraded_too(place, tbps):
    values = tiny_recipe().model_dump(mode="json", exclude_none=True)
    method = {key: values["method"][key] for key in ("tower", "weights")} | {"name": "irra", "cross_layers": 1}
    run = tiny_run(place / "irra", build(Draft({**values, "name": "irra", "method": method}, {}, "irra")))
    state = read_safetensors(run.folder / "weights.safetensors")
    state = {name.replace("clip.", "base_model.").removeprefix("cross."): tensor for name, tensor in state.items()}
    official = irra_folder(place / "official", state)
    options = YAML.format(height=32, width=16).replace("stride_size: 16", "stride_size: 8")
    (official / "configs.yaml").write_text(options)
    status, out, err = tbps("eval", "--ckpt", "official", "--data", "cuhk-pedes", "--degrade", "crop", "--json")
    assert status == 0, err
    assert json.loads(out)["method"] == "irra" and len(json.loads(out)["curves"][0]["points"]) == 4


def test_a_drawing_that_cannot_be_written_is_refused_before_anything_is_embedded(place, tbps):
    status, out, err = tbps("eval", "--data", "cuhk-pedes", "--degrade", "--svg", "nowhere/c.svg")
    assert (status, out) == (2, "") and "--svg nowhere/c.svg" in err and not (place / "cache").exists()
