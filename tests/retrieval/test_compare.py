"""Two runs on one split: the bootstrap against loops, its p-value under chance, and `tbps compare`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.runs import tiny_recipe, tiny_run

from tbps_cli.models import open_model
from tbps_cli.retrieval.compare import Difference, compare, differences_of, p_value, verdict
from tbps_cli.retrieval.evaluate import Side, evaluate
from tbps_cli.retrieval.interval import draws
from tbps_cli.retrieval.metrics import Details


def side(first: np.ndarray, persons: list[int]) -> Side:
    """One direction with one relevant item a query, at these ranks."""
    details = Details(first, 1 / first, 1 / first, np.ones(len(first), np.int64), 50)
    nothing = np.empty((0, 1), np.float32)
    return Side(nothing, nothing, persons, persons, None, details)


def test_interval_and_p_value_equal_loops_over_the_drawn_persons() -> None:
    one, two = np.array([1, 4, 2, 1, 9, 1]), np.array([1, 1, 2, 3, 1, 1])
    persons = [5, 5, 6, 6, 7, 8]
    found = differences_of(side(one, persons), side(two, persons), resamples=60, seed=4)[0]
    changes = []
    for counts in np.concatenate(list(draws(4, 60, 4))):
        drawn = [q for row, person in enumerate((5, 6, 7, 8)) for q in range(6) if persons[q] == person
                 for _ in range(int(counts[row]))]  # fmt: skip
        hits = [sum(int(first[q] == 1) for q in drawn) for first in (one, two)]
        changes.append(100 * (hits[1] - hits[0]) / len(drawn))
    assert found.name == "R1"
    assert found.difference == pytest.approx(100 * (4 - 3) / 6)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(changes, [2.5, 97.5])))
    below, above = sum(change <= 1e-9 for change in changes), sum(change >= -1e-9 for change in changes)
    assert found.p == pytest.approx(min(1, 2 * (min(below, above) + 1) / 61))


def test_equal_runs_differ_by_nothing_whatever_the_rounding() -> None:
    first = np.random.default_rng(0).integers(1, 50, 300)
    persons = list(np.arange(300) // 3)
    for item in differences_of(side(first, persons), side(first, persons), resamples=500):
        assert (item.difference, item.low, item.high, item.p) == (0, 0, 0, 1)


def test_runs_that_differ_by_chance_alone_are_rarely_told_apart() -> None:
    rng = np.random.default_rng(0)
    persons = list(np.arange(200) // 2)
    values = [
        differences_of(side(rng.integers(1, 4, 200), persons), side(rng.integers(1, 4, 200), persons), resamples=200)
        for _ in range(200)
    ]
    share = np.mean([items[0].p < 0.05 for items in values])
    assert 0.01 <= share <= 0.09


def test_a_small_steady_gain_is_found_where_unpaired_intervals_overlap() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(1, 4, 400)
    two = np.where((one == 2) & (np.arange(400) % 10 == 0), 1, one)  # some 3 % of the captions move up
    found = differences_of(side(one, list(range(400))), side(two, list(range(400))), resamples=1000)[0]
    assert found.low > 0 and found.p < 0.01 and found.difference < 5


def test_p_value_is_never_zero_and_never_above_one() -> None:
    assert p_value(np.full(99, 2.0)) == pytest.approx(0.02)
    assert p_value(np.zeros(99)) == 1
    assert p_value(np.array([-1.0, 1.0, 1.0])) == 1


@pytest.mark.parametrize(
    ("difference", "p", "sentence"),
    [
        (0.4, 0.31, "0.4 points in R@1 is within sampling error (p = 0.31)."),
        (
            4.2,
            0.0002,
            "4.2 points in R@1 is more than sampling error (p < 0.001): the second run is better.",
        ),
        (
            -1.5,
            0.012,
            "1.5 points in R@1 is more than sampling error (p = 0.01): the first run is better.",
        ),
        (0.02, 0.9, "0.02 points in R@1 is within sampling error (p = 0.90)."),
    ],
)
def test_verdicts_are_plain_sentences(difference, p, sentence) -> None:
    assert verdict(Difference("R1", 50.0, 50.0 + difference, -9, 9, p)) == f"The difference of {sentence}"


def test_verdict_of_runs_without_any_difference() -> None:
    assert verdict(Difference("mAP", 50.0, 50.0, 0, 0, 1)) == "Both runs have the same mAP, for every person."


@pytest.fixture
def place(place) -> Path:
    """The folder with a second run beside the first."""
    tiny_run(place / "runs" / "tiny-0002", seed=1, selected_on="test")
    return place


RUNS = "runs/tiny-0001", "runs/tiny-0002"


def test_gains_and_losses_are_those_of_the_queries(place) -> None:
    one, two = (evaluate(open_model(run, device="cpu"), "cuhk-pedes", data_root=place / "data") for run in RUNS)
    found = compare(one, two, shown=100)
    first, second = (found.sides["text_to_image"].details for found in (one, two))
    pairs = list(zip(first.first_Q.tolist(), second.first_Q.tolist(), strict=True))
    assert found.queries.improved == sum(a != 1 and b == 1 for a, b in pairs)
    assert found.queries.worsened == sum(a == 1 and b != 1 for a, b in pairs)
    gain = {caption: b - a for caption, a, b in zip(one.split.captions, first.ap_Q, second.ap_Q, strict=True)}
    assert {moved.caption for moved in found.queries.gains} == {caption for caption, by in gain.items() if by > 0}
    assert {moved.caption for moved in found.queries.losses} == {caption for caption, by in gain.items() if by < 0}
    changes = [moved.ap[1] - moved.ap[0] for moved in found.queries.losses]
    assert changes == sorted(changes)
    assert found.unequal == {"selected_on": ["val", "test"]}
    assert len(compare(one, two, shown=1).queries.gains) <= 1


def test_compare_prints_one_document(place, tbps) -> None:
    status, out, _ = tbps("compare", *RUNS, "--data", "cuhk-pedes", "--json", "--worst", "2", "--across-protocols")
    assert status == 0
    document = json.loads(out)
    assert [run["run"] for run in document["runs"]] == list(RUNS)
    single = [json.loads(tbps("eval", "--ckpt", run, "--data", "cuhk-pedes", "--json")[1]) for run in RUNS]
    for side_name in ("text_to_image", "image_to_text"):
        for name, item in document[side_name].items():
            assert [item["first"], item["second"]] == [one[side_name][name] for one in single]
            assert item["difference"] == pytest.approx(item["second"] - item["first"])
            assert item["interval"][0] <= item["interval"][1] and 0 < item["p"] <= 1
    assert document["bootstrap"] == {"level": 95, "resamples": 10000, "seed": 0, "over": "persons", "persons": 6}
    assert len(document["verdict"]) == 2 and "seeds" in document["note"]


def test_no_difference_is_called_real_where_protocols_differ_unless_asked_for(place, tbps) -> None:
    words = ("compare", *RUNS, "--data", "cuhk-pedes")
    document = json.loads(tbps(*words, "--json")[1])
    assert document["protocol_differs"] == {"selected_on": ["val", "test"]}
    assert document["verdict"] == [
        "No difference is called real, because the protocols differ (selected_on: val and test). "
        "Evaluate both runs alike, or judge them as they are with --across-protocols."
    ]
    _, out, _ = tbps(*words)
    assert "No difference is called real" in out and "points in R@1" not in out and "Warning" not in out
    assert "points in R@1" in tbps(*words, "--across-protocols")[1]
    same = json.loads(tbps("compare", RUNS[0], RUNS[0], "--data", "cuhk-pedes", "--json")[1])
    assert same["protocol_differs"] == {} and "same R@1" in same["verdict"][0]


def test_compare_tells_a_person_what_differs(place, tbps) -> None:
    status, out, _ = tbps("compare", *RUNS, "--data", "cuhk-pedes", "--worst", "1", "--across-protocols")
    assert status == 0
    for said in (
        "points in R@1 is",
        "24 captions",
        "lost most",
        "seeds alone move R@1",
        "selected_on differs",
        "Protocol: weights selected on",
    ):
        assert said in out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["runs/tiny-0001"], 2, "Missing argument"),
        ([RUNS[0], "runs/none"], 1, "runs/none: there is no such file"),
        ([*RUNS, "--data", "a,b"], 2, "one data set"),
        ([*RUNS, "--worst", "-1"], 2, "--worst"),
        ([RUNS[0], "runs/other"], 2, "belong to different data sets"),
    ],
)
def test_mistakes_are_told_before_weights_are_read(place, tbps, words, status, said) -> None:
    recipe = tiny_recipe()
    other = recipe.model_copy(update={"data": recipe.data.model_copy(update={"name": "rstpreid"})})
    tiny_run(place / "runs" / "other", other)
    for run in (place / "runs").iterdir():
        (run / "weights.safetensors").write_bytes(b"broken")
    got, out, err = tbps("compare", *words)
    assert (got, out) == (status, "")
    assert said in err and "Traceback" not in err
