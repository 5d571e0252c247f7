"""Tricks that raise a score without a better model: each gains on drawn pedestrians, and each is named by its label."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.runs import tiny_run
from support.sets import cuhk_records, write_set
from support.tricks import FUSIONS, ColourReader, Grouped, adapt, fused, over_all_queries, weighted

from tbps_cli.choices import Choice, Choices
from tbps_cli.cli.scores_view import _escaped
from tbps_cli.data.open import open_dataset
from tbps_cli.data.types import Dataset
from tbps_cli.errors import UsageError
from tbps_cli.models import open_model
from tbps_cli.models.run import Run
from tbps_cli.retrieval.choose import best_of
from tbps_cli.retrieval.compare import compare
from tbps_cli.retrieval.evaluate import Evaluation, evaluate
from tbps_cli.retrieval.independence import ScoreFunction
from tbps_cli.synthetic.build import build

pytestmark = pytest.mark.xdist_group("protocol")  # its fixtures take seconds: one worker makes them


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """160 persons; 20 each in val and test, about 62 images and 124 captions."""
    root = tmp_path_factory.mktemp("drawn")
    build(root / "synthetic", identities=160, seed=1, workers=1)
    return open_dataset("synthetic", root)


def chosen(what: str, candidates: list[Callable[[str], Evaluation]], trick: bool) -> Evaluation:
    """The candidate that scores best on test, or the one that scores best on val, scored on test."""
    if trick:
        return best_of(what, [candidate("test") for candidate in candidates])
    on_val = [candidate("val") for candidate in candidates]
    choices = best_of(what, on_val).protocol.choices
    best = max(range(len(candidates)), key=lambda place: on_val[place].scores.R1)
    found = candidates[best]("test")
    assert choices.made[what] == Choice("val", "synthetic", len(candidates))
    return found


def kept(data: Dataset, on: str, score: ScoreFunction) -> Evaluation:
    """The plain reader's embeddings, made once, ranked by some scores."""
    return evaluate(ColourReader(), data, on, score=score, cache_dir=data.root.parent / "cache")


def queries_together(data: Dataset, trick: bool) -> Evaluation:
    return evaluate(ColourReader(), data, score=over_all_queries if trick else None)


def grouped_by_person(data: Dataset, trick: bool) -> Evaluation:
    return evaluate(Grouped(data.split("train")) if trick else ColourReader(), data, batch=8)


def adapted_on_test(data: Dataset, trick: bool) -> Evaluation:
    model = ColourReader(0, noise=0, shift=0.2)
    if trick:
        adapt(model, data.split("test"))
    return evaluate(model, data)


def constants_on_test(data: Dataset, trick: bool) -> Evaluation:
    tried = [weighted(upper / 20) for upper in range(1, 20)]
    return chosen("constants", [lambda on, by=by: kept(data, on, by) for by in tried], trick)


def fusion_on_test(data: Dataset, trick: bool) -> Evaluation:
    tried = [fused(how) for how in FUSIONS]
    return chosen("fusion", [lambda on, by=by: kept(data, on, by) for by in tried], trick)


def file_on_test(data: Dataset, trick: bool) -> Evaluation:
    return chosen("file", [lambda on, n=n: evaluate(ColourReader(n), data, on) for n in range(3)], trick)


def epoch_on_test(data: Dataset, trick: bool) -> Evaluation:
    noise = {100 + epoch: 0.4 / (epoch + 1) for epoch in range(9)}
    tried = [lambda on, n=n: evaluate(ColourReader(n, noise=noise[n]), data, on) for n in noise]
    return chosen("epoch", tried, trick)


TRICKS = {
    queries_together: "queries: together",
    grouped_by_person: "embeddings depend on the rest of the batch",
    adapted_on_test: "adapted on what is scored",
    constants_on_test: "constants chosen on test (best of 19)",
    fusion_on_test: "fusion chosen on test (best of 4)",
    file_on_test: "file chosen on test (best of 3)",
    epoch_on_test: "epoch chosen on test (best of 9)",
}


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.__name__)
def test_a_trick_raises_r1_and_is_named(drawn: Dataset, trick) -> None:
    honest, tricked = trick(drawn, False), trick(drawn, True)
    print(f"\n{trick.__name__}: R@1 {honest.scores.R1:.1f} -> {tricked.scores.R1:.1f}: {tricked.protocol.labels}")
    assert tricked.scores.R1 > honest.scores.R1
    assert honest.protocol.labels == []
    assert [label for label in tricked.protocol.labels if label.startswith(TRICKS[trick])]
    assert len(tricked.protocol.labels) == 1, "one trick, one label"
    assert compare(honest, tricked).unequal != {}
    assert TRICKS[trick] in tricked.protocol.line or trick is epoch_on_test


def test_batches_in_the_order_of_the_file_tell_who_is_in_them(drawn: Dataset) -> None:
    """What PHP's authors saw: a great gain where both modalities share the modules, less than nothing where not."""
    plain = evaluate(ColourReader(), drawn).scores.R1
    shared, apart = (evaluate(Grouped(drawn.split("train"), shared=shared), drawn, batch=8) for shared in (True, False))
    guard = shared.protocol.guard
    assert guard.in_order == pytest.approx(shared.scores.R1)
    assert guard.shuffled is not None and guard.shuffled < plain < shared.scores.R1
    assert plain > apart.scores.R1
    assert f"R@1 of a part {guard.in_order:.1f} in the order of the file, {guard.shuffled:.1f} shuffled" in str(guard)


def by_rank(query_QE: np.ndarray, gallery_GE: np.ndarray) -> np.ndarray:
    return 1 / (60 + (-(query_QE @ gallery_GE.T)).argsort(axis=1).argsort(axis=1))


def softmax(query_QE: np.ndarray, gallery_GE: np.ndarray) -> np.ndarray:
    odds = np.exp(20 * (query_QE @ gallery_GE.T))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_single_questions_are_not_accused(drawn: Dataset, seed: int) -> None:
    model = ColourReader(seed)
    assert evaluate(model, drawn).protocol.labels == []
    assert evaluate(model, drawn, score=weighted(0.5)).protocol.labels == []
    # these look at the whole gallery, which whoever searches may do
    for options in ({"score": by_rank}, {"score": softmax}, {"rerank": True}):
        found = evaluate(model, drawn, **options).protocol
        assert (found.queries, found.guard.ok) == ("alone", True) and found.guard.order < 1e-6
    assert evaluate(model, drawn, rerank=True).protocol.labels == ["gallery: together"]


def test_a_score_from_the_place_in_the_file_is_named(drawn: Dataset) -> None:
    """Captions and images stand in one order in every data set: whoever looks at places needs no model."""

    def by_place(query_QE: np.ndarray, gallery_GE: np.ndarray) -> np.ndarray:
        where = np.linspace(0, 1, len(query_QE))[:, None] - np.linspace(0, 1, len(gallery_GE))
        return query_QE @ gallery_GE.T - 9 * np.abs(where)

    found = evaluate(ColourReader(), drawn, score=by_place)
    assert found.scores.R1 > evaluate(ColourReader(), drawn).scores.R1
    assert "scores depend on the order of the file" in found.protocol.labels


def test_a_score_that_cannot_be_had_for_one_query_is_named(drawn: Dataset) -> None:
    def needs_many(query_QE: np.ndarray, gallery_GE: np.ndarray) -> np.ndarray:
        if len(query_QE) < 32:
            raise ValueError("too few")
        return query_QE @ gallery_GE.T

    assert evaluate(ColourReader(), drawn, score=needs_many).protocol.queries == "together"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": lambda query, gallery: query[:, :3]}, "shape"),
        ({"score": lambda query, gallery: np.full((len(query), len(gallery)), np.nan)}, "not finite"),
        ({"score": over_all_queries, "rerank": True}, "exclude each other"),
    ],
)
def test_a_wrong_score_function_is_one_line(drawn: Dataset, options, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        evaluate(ColourReader(), drawn, **options)


def test_best_of_needs_one_split(drawn: Dataset) -> None:
    val, test = (evaluate(ColourReader(), drawn, split) for split in ("val", "test"))
    with pytest.raises(UsageError, match="one split"):
        best_of("file", [val, test])
    with pytest.raises(UsageError, match="not of 0"):
        best_of("file", [])


def test_a_choice_on_another_data_set_is_told_but_is_no_label(drawn: Dataset) -> None:
    made = Choices({"epoch": Choice("test", "cuhk-pedes"), "file": Choice("test", "cuhk-pedes", 3)})
    protocol = evaluate(ColourReader(), drawn, choices=made).protocol
    assert protocol.labels == []
    assert "weights selected on test of cuhk-pedes · file chosen on test of cuhk-pedes (best of 3)" in protocol.line


# Real weights -----------------------------------------------------------------------------------


def test_weights_that_were_changed_after_opening_are_named_and_their_cache_is_left_alone(place: Path) -> None:
    cache = place / "cache"
    model = open_model("runs/tiny-0001", device="cpu")
    before = evaluate(model, "cuhk-pedes", data_root=place / "data", cache_dir=cache)
    assert before.protocol.labels == []
    kept = {path: path.read_bytes() for path in sorted(cache.rglob("*.h5"))}
    next(model.method.parameters()).data.mul_(1.5)
    after = evaluate(model, "cuhk-pedes", data_root=place / "data", cache_dir=cache)
    assert after.protocol.labels == ["adapted on what is scored (its weights are not those that were opened)"]
    assert not np.array_equal(after.embedded.text_QE, before.embedded.text_QE)
    assert {path: path.read_bytes() for path in sorted(cache.rglob("*.h5"))} == kept != {}


def test_what_was_set_after_training_is_told_and_keeps_scores_apart(place: Path) -> None:
    plain = evaluate("runs/tiny-0001", "cuhk-pedes", data_root=place / "data")
    sets = ("method.long_captions=chunk",)
    changed = evaluate("runs/tiny-0001", "cuhk-pedes", data_root=place / "data", sets=sets)
    assert "set after training: method.long_captions=chunk" in changed.protocol.line
    assert changed.protocol.document()["settings"] == list(sets) and changed.protocol.labels == []
    assert compare(plain, changed).unequal == {"settings": ["as trained", "method.long_captions=chunk"]}


# Where it is said -------------------------------------------------------------------------------


def labelled(place: Path) -> str:
    choices = Choices({"epoch": Choice("test", "cuhk-pedes"), "file": Choice("test", "cuhk-pedes", 3)})
    tiny_run(place / "runs" / "tiny-0009", **choices.facts())
    return "runs/tiny-0009"


def test_the_labels_stand_in_every_form_of_a_table(place: Path, tbps) -> None:
    words = ("eval", "--ckpt", labelled(place), "--data", "cuhk-pedes")
    protocol = json.loads(tbps(*words, "--json")[1])["protocol"]
    assert protocol["labels"] == ["epoch chosen on test", "file chosen on test (best of 3)"]
    assert protocol["choices"]["file"] == {"on": "test", "data": "cuhk-pedes", "of": 3}
    for style in ([], ["--plain"], ["--format", "md"]):
        out = tbps(*words, *style)[1]
        assert "weights selected on test" in out and "file chosen on test (best of 3)" in out
    head, first, *_ = csv.reader(tbps(*words, "--format", "csv")[1].splitlines())
    assert dict(zip(head, first, strict=True))["labels"] == "; ".join(protocol["labels"])


def test_latex_has_the_protocol_as_a_footnote_of_the_rows(place: Path, tbps) -> None:
    out = tbps("eval", "--ckpt", labelled(place), "--data", "cuhk-pedes", "--format", "latex")[1]
    table, _, notes = out.partition(r"\end{tabular}")
    assert table.startswith("\\begin{tabular}{lrrrrr}\n\\hline\ntask & R1 & R5 & R10 & mAP & mINP \\\\\n\\hline\n")
    assert re.search(r"^t2i\\textsuperscript\{a\} & [\d.]+ &", table, re.MULTILINE)
    assert r"\footnotesize" in notes and r"\textsuperscript{a} Protocol: weights selected on test" in notes
    assert r"file chosen on test (best of 3) $\cdot$" in notes and "·" not in notes
    assert "\r" not in out


def test_latex_prints_every_sign_as_it_is() -> None:
    assert _escaped(r"a_b & 5 % of \x {1}~^#$") == (
        r"a\_b \& 5 \% of \textbackslash{}x \{1\}\textasciitilde{}\textasciicircum{}\#\$"
    )


def test_data_sets_of_different_protocols_have_footnotes_of_their_own(place: Path, tbps) -> None:
    write_set(place / "data" / "RSTPReid", cuhk_records(persons=(1, 2, 3)))
    own = str(place / "data" / "RSTPReid" / "reid_raw.json")
    words = ("eval", "--ckpt", labelled(place), "--data", f"cuhk-pedes,{own}", "--format", "latex")
    out = tbps(*words)[1]
    assert out.count(r"cuhk-pedes\textsuperscript{a} &") == 2 and out.count(r"\textsuperscript{b} &") == 2
    assert r"\textsuperscript{a} Protocol: weights selected on test, as the papers do" in out
    assert r"\textsuperscript{b} Protocol: weights selected on test of cuhk-pedes" in out


def test_an_export_and_its_card_carry_what_was_chosen(place: Path, tbps) -> None:
    status, _, _ = tbps("export", "--ckpt", labelled(place), "--format", "safetensors", "--out", "out")
    assert status == 0
    said = "Trained on `synthetic`; epoch chosen on test of cuhk-pedes; file chosen on test of cuhk-pedes (best of 3)."
    assert said in Path("out/README.md").read_text(encoding="utf-8")
    assert Run(Path("out")).choices == Run(place / "runs" / "tiny-0009").choices
    protocol = json.loads(tbps("eval", "--ckpt", "out", "--data", "cuhk-pedes", "--json")[1])["protocol"]
    assert protocol["labels"] == ["epoch chosen on test", "file chosen on test (best of 3)"]
