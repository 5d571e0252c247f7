"""`tbps eval --probe`, `--degrade` and `--calibration`: what a score hides, as tables and drawings.

Like the rank tables, everything printed comes from the document that `--json` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbps_cli.cli import render
from tbps_cli.cli.output import stdout
from tbps_cli.errors import UsageError
from tbps_cli.escape import printable

if TYPE_CHECKING:
    from tbps_cli.probing.degrade import Degraded
    from tbps_cli.probing.probe import Probed
    from tbps_cli.trust.calibrate import Calibrated

Document = Mapping[str, Any]
EVERY = "all"
"""All degradations."""
SOURCES = {"captions": "the data set", "renderer": "the renderer"}


@dataclass(frozen=True)
class Asked:
    """What the command line says of `--probe`, `--degrade` and `--calibration`."""

    probe: bool
    degrade: str | None
    calibration: bool
    svg: Path | None
    seed: int | None

    def __bool__(self) -> bool:
        return bool(self.flags)

    @property
    def flags(self) -> list[str]:
        """Which of the three were given."""
        given = {"--probe": self.probe, "--degrade": self.degrade is not None, "--calibration": self.calibration}
        return [flag for flag, is_given in given.items() if is_given]

    @property
    def kinds(self) -> list[str]:
        """The degradations, by name."""
        from tbps_cli.probing.degradations import DEGRADATIONS

        named = [name.strip() for name in (self.degrade or "").split(",") if name.strip()]
        return list(DEGRADATIONS) if named == [EVERY] else list(dict.fromkeys(named))

    def check(self, others: Mapping[str, object], style: str, split: str) -> None:
        """Raises for what cannot be meant, before anything is read. others: flag of `tbps eval` -> its value."""
        from tbps_cli.files import check_new_file

        if self.seed is not None and not (self.probe or self.degrade is not None):
            raise UsageError("--seed is that of --probe or --degrade.", "Add one of them.")
        if not self:
            if self.svg:
                raise UsageError("--svg draws what --probe, --degrade or --calibration finds.", "Add one of them.")
            return
        flag, *second = self.flags
        if second:
            raise UsageError(f"{flag} and {second[0]} exclude each other.", "Run them one after the other.")
        if self.calibration:
            from tbps_cli.trust.calibrate import check_split

            check_split(split)
        for other, given in {**others, f"--format {style}": style != "table"}.items():
            if given:
                raise UsageError(f"{flag} and {other} exclude each other.", "Leave one of them out.")
        check_new_file("--svg", self.svg, (".svg",))
        if self.degrade is not None:
            from tbps_cli.probing.degrade import check_kinds

            check_kinds(self.kinds)

    def work(self, level: float | None) -> Callable[..., Probed | Degraded | Calibrated]:
        """The library function that does it. Imported here: to change captions of an exported folder needs no torch."""
        from tbps_cli.retrieval.interval import LEVEL

        if self.calibration:
            from tbps_cli.trust.calibrate import calibrate

            return calibrate
        if self.probe:
            from tbps_cli.probing.probe import probe

            return partial(probe, level=level or LEVEL, seed=self.seed or 0)
        from tbps_cli.probing.degrade import degrade

        return partial(degrade, kinds=self.kinds, level=level or LEVEL, seed=self.seed or 0)


def run(
    asked: Asked,
    ckpt: Path | None,
    names: Sequence[str],
    split: str,
    *,
    data_root: Path | None,
    device: str,
    sets: Sequence[str],
    words: Path | None,
    level: float | None,
    batch: int | None,
    workers: int | None,
    as_json: bool,
    plain: bool,
) -> None:
    """Probe, degrade or calibrate on each data set, print what was found, and draw it."""
    from tbps_cli.models.checkpoint import find, open_data, open_encoder
    from tbps_cli.places import cache_dir
    from tbps_cli.probing import plot
    from tbps_cli.probing.probe import changed

    if asked.calibration and len(names) > 1:
        raise UsageError("--calibration: a model keeps the calibration of one data set.", "Name one with --data.")
    owner = find(ckpt, sets, names[0] if names else None)
    datasets = open_data(owner, names, split=split, data_root=data_root)
    if asked.probe:
        for dataset in datasets:  # before weights are read
            changed(dataset, split, asked.seed or 0)
    model, work = open_encoder(owner, device=device, words=words, data_root=data_root), asked.work(level)
    found = []
    for dataset in datasets:
        with render.progress(f"Embedding {dataset.name} {split}") as progress:
            made = work(
                model,
                dataset,
                split,
                batch=batch,
                cache_dir=cache_dir(),
                workers=workers,
                progress=progress,
            )
        found.append(made)
    documents = [one.document() for one in found]
    show, draw = _degrade, plot.curves
    if asked.probe:
        show, draw = _probe, plot.shares
    elif asked.calibration:
        show, draw = _calibration, plot.reliability
    if as_json:
        render.document(documents if len(documents) > 1 else documents[0])
    else:
        for document in documents:
            show(document, plain)
    for warning in dict.fromkeys(one.evaluation.warning for one in found if one.evaluation.warning):
        render.note(f"Warning: {warning}")
    if asked.svg:
        _draw(documents, draw, asked.svg)


def _draw(documents: Sequence[Document], draw: Callable[[Document], str], path: Path) -> None:
    from tbps_cli.files import write_text

    for number, document in enumerate(documents, 1):
        mark = f"-{document['data']}-{number}" if len(documents) > 1 else ""
        place = path.with_name(f"{path.stem}{mark}{path.suffix}")
        write_text(place, draw(document))
        render.note(f"Written: {place}")


# Tables ---------------------------------------------------------------------------------------


def _probe(document: Document, plain: bool) -> None:
    level = f"{document['level']:g} % interval"
    headings = ["change", "captions of", "pairs", "persons", "true first", level]
    rows = [
        [
            change["change"],
            SOURCES[change["captions_of"]],
            f"{change['pairs']:,}",
            f"{change['persons']:,}",
            f"{change['true_first']:.1f} %",
            _interval(change),
        ]
        for change in document["changes"]
    ]
    _table(document, headings, rows, headings[2:], [], plain)
    same = document["same_words"]
    if same["pairs"]:
        render.line(
            f"Same words in another order: {same['true_first']:.1f} % {_interval(same)} (a bag of words gets 50 %)"
        )
    if document["without_pairs"]:
        render.line(f"No caption could be changed in: {', '.join(document['without_pairs'])}.")
    render.line(f"R@1 of the same captions among all images: {document['R1']:.2f}")
    render.line(document["protocol"]["line"])
    for change in _first_of_each(document["changes"]):
        worst = change["examples"][0]
        how = f"{abs(worst['margin']):.3f} {'higher' if worst['margin'] > 0 else 'lower'}"
        render.line()
        render.line(f"{change['change']}: {worst['image']}, the true caption scores {how}", style="bold")
        render.definitions([("true", worst["true"]), ("false", worst["false"])], 5)


def _first_of_each(changes: Sequence[Document]) -> list[Document]:
    """The changes without those whose kind has been there before, of another source."""
    kinds = [change["change"] for change in changes]
    return [change for place, change in enumerate(changes) if change["change"] not in kinds[:place]]


def _degrade(document: Document, plain: bool) -> None:
    headings = ["degradation", "step", "R1", f"{document['level']:g} % interval", "R5", "R10", "mAP"]
    rows, ends = [["none", "", *_scores(document["clean"])]], [1]
    for curve in document["curves"]:
        rows += [[curve["degradation"], point["label"], *_scores(point)] for point in curve["points"]]
        ends.append(len(rows))
    _table(document, headings, rows, headings[2:], ends, plain)
    kept = document["kept"]
    if kept is None:
        render.line("No share of the clean R@1 can be given: it is 0.")
    else:
        render.line(
            f"On average over {kept['steps']} steps {kept['R1']:.1f} % of the clean R@1 is left {_interval(kept)}",
            style="bold",
        )
    render.line(document["protocol"]["line"])


def _calibration(document: Document, plain: bool) -> None:
    fitted, first, hits = document["fitted"], document["first_hit"], document["hits"]
    headings = ["said", "hits", "mean", "right", "first hits", "first mean", "first right"]
    tenths = {min(int(row["said"] * 10), 9): None for part in (hits, first) for row in part["bins"]}
    rows = [
        [f"{10 * tenth} - {10 * tenth + 10} %", *_said(hits["bins"], tenth), *_said(first["bins"], tenth)]
        for tenth in sorted(tenths)
    ]
    _table(document, headings, rows, headings[1:], [], plain)
    for name, part in (("first ten hits", hits), ("first hit", first)):
        render.line(f"{name}: ECE {100 * part['ECE']:.1f} %, Brier {part['Brier']:.3f}")
    render.line()
    headings = ["--sure", "holds the person", "images in it", "present refused", "absent refused"]
    rows = [
        [
            f"{one['level']:g}",
            f"{100 * one['coverage']:.1f} %",
            f"{one['size']:.1f}",
            f"{100 * one['present_refused']:.1f} %",
            f"{100 * one['absent_refused']:.1f} %",
        ]
        for one in document["sets"]
    ]
    _table(document, headings, rows, headings, [], plain, titled=False)
    render.line(
        f"Fitted on {fitted['split']} ({fitted['captions']:,} captions, {fitted['persons']:,} persons), "
        f"kept in {fitted['file']}"
    )
    if document["differs"]:
        render.line(f"The images of {document['split']} differ from those of {fitted['split']}: read this with care.")
    render.line(document["protocol"]["line"])


def _said(bins: Sequence[Document], tenth: int) -> list[str]:
    """Hits, mean probability and share of right ones in one tenth of the probabilities; blank where there are none."""
    for row in bins:
        if min(int(row["said"] * 10), 9) == tenth:
            return [f"{row['hits']:,}", f"{100 * row['said']:.1f} %", f"{100 * row['right']:.1f} %"]
    return ["", "", ""]


def _table(
    document: Document,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[str],
    ends: Sequence[int],
    plain: bool,
    *,
    titled: bool = True,
) -> None:
    title = (
        f"{document['method']} · {document['run']} · {document['data']} {document['split']} "
        f"({document['queries']:,} captions, {document['gallery']:,} images)"
    )
    if not plain:
        if titled:
            render.line(title, style="bold")
        render.table(headings, rows, right=right, ends=ends, optional=["R10", "R5", "mAP"])
        return
    from prettytable import PrettyTable

    made = PrettyTable(list(headings))
    for heading in right:
        made.align[heading] = "r"
    made.add_rows([[printable(cell) for cell in row] for row in rows])
    if titled:
        render.line(title)
    stdout.write(f"{made.get_string()}\n")


def _scores(scores: Document) -> list[str]:
    return [f"{scores['R1']:.2f}", _interval(scores), *(f"{scores[name]:.2f}" for name in ("R5", "R10", "mAP"))]


def _interval(found: Document) -> str:
    low, high = found["interval"]
    return f"[{low:.1f}, {high:.1f}]"
