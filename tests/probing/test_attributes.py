"""R@1 by what captions name: the groups against the renderer's truth, the figures against loops, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.runs import tiny_run
from support.tricks import ColourReader

from tbps_cli.data.open import open_dataset
from tbps_cli.data.types import Dataset
from tbps_cli.probing.attributes import ATTRIBUTES, bags, by_attribute, colours, gender, hats
from tbps_cli.retrieval.evaluate import Evaluation, evaluate
from tbps_cli.synthetic.build import build


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    build(folder / "synthetic", identities=80, seed=2, workers=1)
    return folder


@pytest.fixture(scope="module")
def drawn(root: Path) -> Dataset:
    return open_dataset("synthetic", root)


@pytest.fixture(scope="module")
def scored(drawn: Dataset) -> Evaluation:
    return evaluate(ColourReader(), drawn)


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("A man in a navy shirt. He has two backpacks.", [{"man"}, {"blue"}, {"backpack"}, set()]),
        ("The lady wears a knit hat and a dark gray coat.", [{"woman"}, {"grey"}, set(), {"beanie"}]),
        ("A pedestrian with a bag and a cap", [set(), set(), {"bag"}, {"cap"}]),
        ("A man walks beside a woman.", [{"both"}, set(), set(), set()]),
        ("Human, manly, hemlock; shared covered capacity", [set(), set(), set(), set()]),
    ],
)
def test_a_caption_is_read_word_by_word(caption: str, named: list[set[str]]) -> None:
    assert [read(caption) for read in (gender, colours, bags, hats)] == named


def test_the_groups_of_drawn_captions_are_what_the_renderer_says_that_they_name(root: Path) -> None:
    records = json.loads((root / "synthetic" / "reid_raw.json").read_text(encoding="utf-8"))
    pairs = [pair for record in records for pair in zip(record["captions"], record["named"], strict=True)]
    assert len(pairs) > 400
    for caption, named in pairs:
        truth: dict[str, set[str]] = {}
        for item in named:
            slot, _, value = item.partition("=")
            truth.setdefault(slot, set()).add(value)
        assert gender(caption) == truth.get("gender", set()), caption
        assert bool(hats(caption)) == ("hat" in truth), caption
        assert bool(bags(caption)) == bool({"bag", "bag colour"} & truth.keys()), caption
        spoken = set().union(
            *(values for slot, values in truth.items() if "colour" in slot or slot in ("accent", "inner"))
        )
        assert colours(caption) == {"beige" if hue in ("tan", "khaki") else hue for hue in spoken - {"blond"}}, caption


def test_every_figure_is_that_of_plain_loops(scored: Evaluation) -> None:
    found = by_attribute(scored)
    first = scored.sides["text_to_image"].details.first_Q.tolist()
    split = scored.split
    for group in found.groups:
        read, value = ATTRIBUTES[str(group["attribute"])], group["value"]
        chosen = [
            place
            for place, caption in enumerate(split.captions)
            if (value in read(caption) if value != "none" else not read(caption))
        ]
        assert group["captions"] == len(chosen) > 0
        assert group["persons"] == len({split.caption_person[place] for place in chosen})
        assert group["R1"] == pytest.approx(100 * sum(first[place] == 1 for place in chosen) / len(chosen))
        span: Any = group["interval"]
        assert span is None or span[0] <= group["R1"] <= span[1]
    assert {group["attribute"] for group in found.groups} == set(ATTRIBUTES)
    by_gender = {group["value"]: group for group in found.groups if group["attribute"] == "gender"}
    assert found.gap is not None
    difference: Any = found.gap["man_minus_woman"]
    assert difference == pytest.approx(by_gender["man"]["R1"] - by_gender["woman"]["R1"])
    assert found.gap["interval"][0] <= difference <= found.gap["interval"][1]


def blamed(scored: Evaluation, share: float) -> Evaluation:
    """The evaluation with a share of the captions that say woman answered wrong, and all others right."""
    side = scored.sides["text_to_image"]
    says = np.array([gender(caption) == {"woman"} for caption in scored.split.captions])
    wrong = says & (np.random.default_rng(0).random(len(says)) < share)
    details = replace(side.details, first_Q=np.where(wrong, 5, 1))
    return replace(scored, sides={**scored.sides, "text_to_image": replace(side, details=details)})


def test_a_model_that_fails_for_women_is_found_and_an_even_one_is_not(scored: Evaluation) -> None:
    bad = by_attribute(blamed(scored, 0.5)).gap
    even = by_attribute(blamed(scored, 0.0)).gap
    assert bad is not None and even is not None
    assert bad["interval"][0] > 10
    assert (even["man_minus_woman"], even["interval"]) == (0, [0, 0])


def test_a_wider_level_gives_a_wider_interval_and_one_person_none(scored: Evaluation) -> None:
    narrow, wide = (by_attribute(scored, level).groups[0]["interval"] for level in (50, 99))
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1] and wide != narrow
    alone = replace(scored.split, caption_person=[1] * len(scored.split.captions))
    assert {group["interval"] for group in by_attribute(replace(scored, split=alone)).groups} == {None}


def test_the_command_adds_the_table_and_the_document(tmp_path: Path, root: Path, tbps, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    tiny_run(tmp_path / "runs" / "tiny-0001")
    words = ("eval", "--data-root", str(root), "--attributes")
    status, out, _ = tbps(*words, "--json")
    document = json.loads(out)
    assert status == 0 and document["text_to_image"]["R1"] >= 0
    assert {group["attribute"] for group in document["attributes"]["groups"]} == {"gender", "colour", "bag", "hat"}
    assert (document["attributes"]["level"], document["attributes"]["over"]) == (95, "persons")
    for style in ([], ["--plain"]):
        _, out, _ = tbps(*words, *style)
        for said in ("synthetic test, text to image by what a caption names", "man", "woman", "95 % interval", "hat"):
            assert said in out
        assert "R@1 of captions that say man minus those that say woman: " in out
    assert "90 % interval" in tbps(*words, "--interval", "90")[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--format", "csv"], "--attributes and --format csv exclude"), (["--probe"], "--probe and --attributes exclude")],
)
def test_what_cannot_be_meant_is_one_line(tmp_path: Path, tbps, monkeypatch, more: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = tbps("eval", "--attributes", *more)
    assert (status, out) == (2, "") and said in err
