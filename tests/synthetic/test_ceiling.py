"""The ceiling of the synthetic set: offered where its truth is recorded, by nobody else."""

from __future__ import annotations

import json

import pytest
from support.sets import cuhk_records, write_set

from tbps_cli.data.open import ceiling, open_dataset


def drawn_records():
    """Two test persons; one is named wholly, the other as the first one's twin."""
    records = cuhk_records(persons=(1, 1, 2), images=1)
    clothes = {3: ["red coat", "black bag"], 4: ["red coat", "white hat"]}
    for record in records:
        record["attributes"] = clothes.get(record["id"], ["blue coat"])
        record["named"] = [["red coat", "black bag"], ["red coat"]] if record["id"] == 3 else [record["attributes"][:1]]
    return records


def test_a_twin_halves_the_chance_at_rank_one(tmp_path) -> None:
    write_set(tmp_path / "synthetic", drawn_records())
    found = ceiling(open_dataset("synthetic", tmp_path), "test")
    # "red coat, black bag" is certain; "red coat" alone ties twice, once for each person.
    assert found is not None
    assert found["R1"] == pytest.approx(100 * (1 + 0.5 + 0.5) / 3)
    assert found["R5"] == pytest.approx(100)


def test_images_that_were_left_out_do_not_count(tmp_path) -> None:
    write_set(tmp_path / "synthetic", drawn_records())
    dataset = open_dataset("synthetic", tmp_path)
    dataset.images = [image for image in dataset.images if image.person != 4]
    assert (ceiling(dataset, "test") or {})["R1"] == pytest.approx(100)


@pytest.mark.parametrize("broken", [{"attributes": []}, {"named": None}, {"named": [["green coat"]]}, {"named": [7]}])
def test_records_without_a_whole_truth_have_no_ceiling(tmp_path, broken) -> None:
    records = drawn_records()
    records[-1].update(broken)
    write_set(tmp_path / "synthetic", records)
    assert ceiling(open_dataset("synthetic", tmp_path), "test") is None


def test_other_data_sets_have_none(tmp_path) -> None:
    write_set(tmp_path / "CUHK-PEDES", drawn_records())
    assert ceiling(open_dataset("cuhk-pedes", tmp_path), "test") is None


def test_the_file_need_not_be_there_any_more(tmp_path) -> None:
    write_set(tmp_path / "synthetic", drawn_records())
    dataset = open_dataset("synthetic", tmp_path)
    (tmp_path / "synthetic" / "reid_raw.json").unlink()
    assert ceiling(dataset, "test") is None
    assert json.dumps(ceiling(dataset, "val")) == "null"
