"""`tbps eval --probe`: its two ends, a bag of words and a perfect reader, and what is reported of the pairs."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from support.reader import bag_of_words, oracle, read_records, write_spoken
from support.runs import tiny_run

from tbps_cli.data.open import open_dataset
from tbps_cli.errors import DataError
from tbps_cli.probing.changes import KINDS
from tbps_cli.probing.probe import changed, probe


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A synthetic test split of 150 persons whose images are noise."""
    return write_spoken(tmp_path_factory.mktemp("spoken"), 150)


def shares(document):
    return {(change["change"], change["captions_of"]): change["true_first"] for change in document["changes"]}


def test_a_perfect_reader_of_what_was_drawn_gets_every_pair_right(drawn):
    document = probe(oracle(drawn), "synthetic", data_root=drawn.parent).document()
    found = shares(document)
    assert {kind for kind, _ in found} == set(KINDS) and len(found) == 8
    assert set(found.values()) == {100.0}
    assert document["same_words"]["true_first"] == 100.0 and document["without_pairs"] == []
    assert all(change["pairs"] >= 50 and change["ties"] == 0 for change in document["changes"])


def test_a_bag_of_words_that_knows_every_word_of_an_image_gets_half_where_only_the_order_differs(drawn):
    document = probe(bag_of_words(drawn, sees=True), "synthetic", data_root=drawn.parent).document()
    for (kind, source), share in shares(document).items():
        if kind in ("colour", "negation"):
            assert share == 50.0, f"{kind} of {source}: {share}"
    assert document["same_words"]["ties"] == document["same_words"]["pairs"] > 1000
    assert document["same_words"]["interval"] == [50.0, 50.0]


def test_a_bag_of_words_that_does_not_look_at_the_image_gets_half_of_everything(drawn):
    found = shares(probe(bag_of_words(drawn, sees=False), "synthetic", data_root=drawn.parent).document())
    assert len(found) == 8
    for (kind, source), share in found.items():
        assert 48 <= share <= 52, f"{kind} of {source}: {share}"


def test_an_interval_is_one_over_persons(drawn):
    found = probe(bag_of_words(drawn, sees=True), "synthetic", data_root=drawn.parent)
    (change,) = (one for one in found.document()["changes"] if one["change"] == "side")
    judged = zip(found.pairs, found.won_N.tolist(), strict=True)
    won = [(pair.image // 3, one) for pair, one in judged if pair.kind == "side"]
    by_person: dict[int, list[float]] = {}
    for person, one in won:
        by_person.setdefault(person, []).append(one)
    rng = np.random.default_rng(5)
    everyone = list(by_person.values())
    means = []
    for _ in range(2000):
        drawn_persons = [everyone[place] for place in rng.integers(len(everyone), size=len(everyone))]
        means.append(100 * np.mean([one for person in drawn_persons for one in person]))
    assert change["persons"] == len(everyone) and change["pairs"] == len(won)
    assert change["true_first"] == pytest.approx(100 * np.mean([one for _, one in won]))
    assert change["interval"] == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist(), abs=0.7)


def test_captions_that_say_nothing_of_clothes_are_an_error_before_weights_are_read(cuhk, tmp_path):
    run = tiny_run(tmp_path / "runs" / "tiny-0001")
    (run.folder / "weights.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"cuhk-pedes test: no caption can be changed") as refused:
        probe(run.folder, open_dataset("cuhk-pedes", cuhk))
    assert "colours" in (refused.value.hint or "")


def test_a_set_drawn_before_sides_were_recorded_is_probed_without_them(drawn, tmp_path):
    records = [{name: value for name, value in record.items() if name != "sides"} for record in read_records(drawn)]
    folder = tmp_path / "synthetic"
    folder.mkdir()
    (folder / "imgs").symlink_to(drawn / "imgs")
    (folder / "reid_raw.json").write_text(json.dumps(records))
    kinds = {pair.kind for pair in changed(open_dataset("synthetic", tmp_path), "test")}
    assert kinds == set(KINDS) - {"side"}


def test_changed_captions_need_no_torch():
    program = (
        "import sys, tbps_cli.cli.stress, tbps_cli.probing.plot, tbps_cli.probing.probe; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


# The command ----------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a run and a drawn set of 40 persons."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TBPS_DATA_ROOT", raising=False)
    write_spoken(tmp_path / "data", 40)
    tiny_run(tmp_path / "runs" / "tiny-0001")
    return tmp_path


def test_the_command_prints_its_document_and_the_same_again(place, tbps):
    status, out, err = tbps("eval", "--probe", "--json", "--interval", "90")
    assert status == 0, err
    document = json.loads(out)
    assert document["method"] == "clip" and document["data"] == "synthetic" and document["level"] == 90
    assert document["protocol"]["selected_on"] == "val"
    assert [change["change"] for change in document["changes"]] == [
        kind for kind in KINDS for _ in range(1 if kind in ("side", "count") else 2)
    ]
    assert 0 < document["changes"][0]["true_first"] < 100
    assert tbps("eval", "--probe", "--json", "--interval", "90", "--workers", "1", "--batch", "7")[1] == out
    assert json.loads(tbps("eval", "--probe", "--json", "--seed", "1")[1])["changes"] != document["changes"]


def test_the_table_says_shares_intervals_protocol_and_shows_a_pair_of_each_kind(place, tbps):
    status, out, _ = tbps("eval", "--probe", "--svg", "probe.svg")
    assert status == 0
    assert "95 % interval" in out and "Protocol: weights selected on val" in out and "a bag of words gets 50 %" in out
    for kind in KINDS:
        assert f"\n{kind}: " in out
    drawing = ElementTree.fromstring((place / "probe.svg").read_text(encoding="utf-8"))
    texts = [element.text for element in drawing.iter() if element.text and element.text.strip()]
    assert texts.count("colour") == 2 and "50 %" in texts
    assert "+----------+" in tbps("eval", "--probe", "--plain")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--probe", "--degrade"], "--probe and --degrade exclude each other"),
        (["--probe", "--rerank"], "--probe and --rerank exclude each other"),
        (["--degrade", "--format", "latex"], "--degrade and --format latex exclude each other"),
        (["--svg", "x.svg"], "--svg draws what --probe, --degrade or --calibration finds"),
        (["--seed", "3"], "--seed is that of --probe or --degrade"),
        (["--probe", "--svg", "x.png"], "--svg x.png: the name must end in .svg"),
        (["--probe", "--svg", "no/x.svg"], "no"),
        (["--degrade", "blur,fog"], "'fog' is not a degradation"),
        (["--degrade", ","], "no degradation is named"),
        (["--probe", "--interval", "100"], "--interval 100"),
        (["--probe", "--seed", "-1"], "--seed"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(tmp_path, monkeypatch, tbps, words, said):
    monkeypatch.chdir(tmp_path)
    status, out, err = tbps("eval", "--ckpt", "no-such-run", *words)
    assert (status, out) == (2, "")
    assert said in err and "no-such-run" not in err
