"""A large gallery is searched by its codes: the same answers, and an exact scan wherever they cannot be used."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from benchmarks._spectra import SPECTRA, Drawn
from support.encoder import FakeEncoder

from tbps_cli.features.parts import codes_folder
from tbps_cli.features.rows import Row
from tbps_cli.features.store import FeatureFile
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.parse import parse
from tbps_cli.searching import coding, gallery
from tbps_cli.searching.forget import forget
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index
from tbps_cli.searching.query import Query
from tbps_cli.searching.ranking import _Ranker, answers

ROWS = 6000


@pytest.fixture(scope="module")
def drawn():
    made = Drawn(SPECTRA["base"], ROWS + 500, 20)
    return made, np.concatenate(list(made.blocks())).astype(np.float16)


def rows(made, start, stop):
    return [
        Row(f"{place}.jpg", 1, 1, f"{place:032x}", f"c{made.camera_G[place]}", person=int(made.person_G[place]))
        for place in range(start, stop)
    ]


@pytest.fixture
def place(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "CODED", 5000)
    monkeypatch.setattr(gallery, "FEW", 100)
    made, vector_GE = drawn
    about = {"run": "runs/x", "folder": str(tmp_path)}
    file = FeatureFile.open(tmp_path / "people.h5", FakeEncoder().fingerprint, dtype=np.float16, about=about)
    file.append(rows(made, 0, ROWS), vector_GE[:ROWS])
    file.settle()
    return file.path


@pytest.fixture
def opened(place):
    def again():
        return open_index(FakeEncoder(), place)

    return again


@pytest.fixture
def lines(caplog):
    with caplog.at_level(logging.INFO, logger="tbps"):

        def said():
            text = "\n".join(
                record.getMessage() for record in caplog.records if "its images" not in record.getMessage()
            )
            caplog.clear()
            return text

        yield said


def ranked(found, query_QE, where=None, top=10):
    return _Ranker(found, None if where is None else parse(where)).rank(query_QE, top)


def same(one, other, least=0.995):
    shared = [len(set(a[1]) & set(b[1])) / len(b[1]) for a, b in zip(one, other, strict=True)]
    return np.mean(shared) >= least


def test_a_gallery_with_codes_gives_the_answers_of_one_without(drawn, opened, lines):
    query_QE = drawn[0].query_QE
    wheres = [None, "camera == 'c3'", "camera != 'c3'"]
    plain = opened()
    assert plain.cascade is None
    right = [ranked(plain, query_QE, where) for where in wheres]
    assert coding.write_codes_of(plain) == ROWS
    assert "6,000 images coded" in lines()
    found = opened()
    assert len(found.cascade) == ROWS
    for where, expected in zip(wheres, right, strict=True):
        answer = ranked(found, query_QE, where)
        assert same(answer, expected)
        assert all(np.allclose(a[0], b[0], atol=1e-3) for a, b in zip(answer, expected, strict=True))
    assert lines() == ""


def test_a_small_gallery_has_no_codes(opened, monkeypatch, place):
    monkeypatch.setattr(gallery, "CODED", ROWS + 1)
    assert coding.write_codes_of(opened()) == 0
    assert not codes_folder(place).exists()


def test_images_that_came_since_are_found_too(drawn, opened, place, lines):
    made, vector_GE = drawn
    coding.write_codes_of(opened())
    file = FeatureFile.open(place, FakeEncoder().fingerprint)
    file.append(rows(made, ROWS, ROWS + 500), vector_GE[ROWS:])
    lines()
    found = opened()
    query_QE = vector_GE[[ROWS + 7, 9]].astype(np.float32)
    assert [place_K[0] for _, place_K in ranked(found, query_QE)] == [ROWS + 7, 9]
    assert len(found.cascade) == ROWS and len(found) == ROWS + 500
    here = f"camera == 'c{made.camera_G[ROWS + 7]}'"
    assert ranked(found, query_QE[:1], here)[0][1][0] == ROWS + 7
    assert lines() == ""
    assert coding.write_codes_of(found) == 500
    assert len(opened().cascade) == ROWS + 500


def test_a_person_who_was_forgotten_is_in_no_codes(opened, place, lines):
    coding.write_codes_of(opened())
    forget([str(place.parent / "5.jpg")], place)
    assert not codes_folder(place).exists()
    found = opened()
    assert len(found) == ROWS - 1 and found.cascade is None
    assert coding.write_codes_of(found) == ROWS - 1


def test_damaged_codes_are_said_once_and_the_search_is_exact(drawn, opened, place, lines):
    query_QE = drawn[0].query_QE
    right = ranked(opened(), query_QE)
    coding.write_codes_of(opened())
    path = next(codes_folder(place).glob("*.1"))
    path.write_bytes(path.read_bytes()[:1000])
    lines()
    found = opened()
    for _ in range(2):
        answer = ranked(found, query_QE)
        assert all(np.array_equal(a[1], b[1]) for a, b in zip(answer, right, strict=True))
    said = lines()
    assert said.count("codes are not used") == 1 and "is cut off. tbps index writes them anew." in said


def test_few_images_behind_a_filter_and_many_wanted_ones_are_ranked_by_their_vectors(drawn, opened, monkeypatch):
    query_QE = drawn[0].query_QE[:2]
    coding.write_codes_of(opened())
    found = opened()
    assert found.cascade is not None
    monkeypatch.setattr(found.cascade, "best", None)
    assert len(ranked(found, query_QE, "person == 7")[0][1]) <= 20
    assert len(ranked(found, query_QE, top=ROWS)[0][1]) == ROWS


def test_tbps_index_writes_codes_and_a_search_does_not(monkeypatch, tmp_path, painted, lines):
    from tbps_cli.searching.search import open_gallery

    monkeypatch.setattr(gallery, "CODED", 3)
    for number in range(4):
        painted(tmp_path / "photos" / f"{number}.png", ["red", "green", "blue", "yellow"][number])
    model = FakeEncoder()
    _, searched = open_gallery(model, tmp_path / "photos")
    assert searched.file is not None and not codes_folder(searched.file.path).exists()
    made = index(model, tmp_path / "photos")
    assert len(made.cascade) == 4
    (tmp_path / "photos" / "2.png").unlink()
    assert len(index(model, tmp_path / "photos").cascade) == 3


def test_a_disk_that_is_full_costs_time_and_nothing_else(opened, place, lines, monkeypatch):
    codes_folder(place).write_text("in the way")
    assert coding.write_codes_of(opened()) == 0
    assert "cannot be written" in lines()


# What needs more than the best few ---------------------------------------------------------------


@pytest.fixture
def both(drawn, opened):
    """(queries, the gallery with its codes, the same without)."""
    plain = opened()
    coding.write_codes_of(plain)
    found = opened()
    assert found.cascade is not None
    return drawn[0].query_QE, found, replace(plain, file=None)


def answer(query_QE, found, numbers, **options):
    queries = [Query(str(number)) for number in numbers]
    return answers(FakeEncoder(), found, queries, vector_QE=query_QE[list(numbers)], **options)


def asked(both, numbers=range(8), **options):
    query_QE, found, plain = both
    return zip(answer(query_QE, found, numbers, **options), answer(query_QE, plain, numbers, **options), strict=True)


@pytest.mark.parametrize("group", ["person", "near-duplicate"])
@pytest.mark.parametrize("options", [{}, {"where": "camera != 'c3'"}, {"per_group": 3}, {"top": 40}])
def test_groups_are_the_same_with_codes_and_without(both, group, options):
    for mine, right in asked(both, group=group, **options):
        assert [(hit.path, hit.group, hit.members, hit.rank) for hit in mine.hits] == [
            (hit.path, hit.group, hit.members, hit.rank) for hit in right.hits
        ]
        assert [hit.score for hit in mine.hits] == [hit.score for hit in right.hits]
        assert (mine.groups, mine.candidates) == (right.groups, right.candidates)
        assert [hit.percentile for hit in mine.hits] == [hit.percentile for hit in right.hits]


@pytest.mark.parametrize("group", [None, "person"])
def test_a_lowest_score_leaves_the_same_images_and_groups(both, group):
    query_QE, _, plain = both
    lowest = answer(query_QE, plain, [0], top=30)[0].hits[-1].score
    for mine, right in asked(both, [0], group=group, min_score=lowest, top=50):
        assert mine.hits == right.hits and mine.groups == right.groups


@pytest.mark.parametrize(
    "where",
    ["score > 0.2", "score <= 0.1", "score > 0.1 and camera == 'c3'", "not score < 0.3 or camera == 'c1'", "score > 9"],
)
def test_filters_by_score_give_the_same_images(both, where):
    for mine, right in asked(both, where=where):
        assert [hit.path for hit in mine.hits] == [hit.path for hit in right.hits]
        query_QE, _, plain = both
        score_G = plain.vector_GE.astype(np.float32) @ query_QE[int(mine.query.text)]
        fits_G = mask(parse(where).tree, plain.columns.scored(score_G))
        order = np.argsort(-score_G, kind="stable")
        best = [f"{place}.jpg" for place in order[fits_G[order]][:10]]
        assert len(set(best) & {hit.path for hit in mine.hits}) >= len(best) - 1


def test_all_images_down_to_a_score_are_counted_without_reading_all(both):
    query_QE, found, plain = both
    score_G = plain.vector_GE.astype(np.float32) @ query_QE[0]
    for rank in (1, 40, 700, ROWS):
        lowest = float(np.sort(score_G)[-rank]) - 1e-6
        score_K, place_K = found.down_to(query_QE[0], lowest)
        assert len(place_K) == rank and (np.diff(score_K) <= 0).all()
        few = np.arange(0, ROWS, 2)
        assert set(found.down_to(query_QE[0], lowest, few)[1]) == set(place_K) & set(few)
