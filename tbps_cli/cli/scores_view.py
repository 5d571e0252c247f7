"""Scores as a person reads them: rank tables, the protocol beside them, intervals, two runs compared.

Every function takes documents as `--json` prints them, so that a table can say nothing that the
document does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tbps_cli.cli.output import stdout
from tbps_cli.cli.render import line, table
from tbps_cli.escape import printable
from tbps_cli.retrieval import guard
from tbps_cli.retrieval.compare import said
from tbps_cli.types import Scores

if TYPE_CHECKING:
    from prettytable import PrettyTable

Document = Mapping[str, Any]

GAIN, LOSS = "gained most", "lost most"
_SCORES = Scores._fields
_SIDES = {"t2i": "text_to_image", "i2t": "image_to_text"}


def ranks(documents: Sequence[Document], style: str = "table") -> None:
    """Evaluations (as `tbps eval --json` gives them) as one table: table, plain, md, latex or csv."""
    if style == "csv":
        stdout.write_exactly(_ranks_csv(documents))
        return
    several = len(documents) > 1
    headings = ["data"] * several + ["task", *_SCORES]
    rows = [
        [document["data"]] * several + [task] + [f"{document[side][name]:.{_digits(style)}f}" for name in _SCORES]
        for document in documents
        for task, side in _SIDES.items()
    ]
    rows = [list(map(printable, row)) for row in rows]
    remarks = [list(map(printable, _remarks_on(document))) for document in documents]
    if style == "latex":
        stdout.write(_latex(headings, rows, remarks) + "\n")
        return
    if style == "table":
        line(_ranks_title(documents), style="bold")
        table(headings, rows, right=_SCORES)
    elif style == "plain":
        line(_ranks_title(documents))
        stdout.write(f"{_pretty(headings, rows).get_string()}\n")
    else:
        stdout.write(_markdown(headings, rows) + "\n")
    names = [printable(document["data"]) for document in documents]
    for text in _together(names, remarks):
        if style in ("table", "plain"):
            line(text)
        else:
            stdout.write(f"\n{text}\n")


def _remarks_on(document: Document) -> list[str]:
    """The lines under a table: intervals, ceiling, published score, protocol."""
    lines = interval_lines(document) + ceiling_line(document) + published_line(document)
    return [*lines, document["protocol"]["line"]]


def _together(names: Sequence[str], remarks: Sequence[Sequence[str]]) -> list[str]:
    """The remarks on several data sets, each with its name; without it where they say the same of all."""
    if all(lines == remarks[0] for lines in remarks):
        return list(remarks[0])
    return [f"{name}: {text}" for name, lines in zip(names, remarks, strict=True) for text in lines]


def interval_lines(document: Document) -> list[str]:
    """The bootstrap interval of each direction; none when it was not asked for."""
    found = document.get("interval")
    if not found:
        return []
    return [
        f"{found['level']:g} % interval {task}: {_ends(found if task == 't2i' else found[side])}"
        for task, side in _SIDES.items()
    ] + [
        f"(bootstrap over {found['persons']:,} persons with all their queries, {found['resamples']:,} resamples, "
        f"seed {found['seed']}; it does not cover training with another seed)"
    ]


def _ends(scores: Document) -> str:
    return "  ".join(f"{name} [{scores[name][0]:.2f}, {scores[name][1]:.2f}]" for name in _SCORES)


def ceiling_line(document: Document) -> list[str]:
    """What a perfect reader of the drawn attributes reaches (synthetic pedestrians); none elsewhere."""
    found = document.get("ceiling")
    if not found:
        return []
    return [
        "upper bound t2i (ranking by the true attributes): "
        + "  ".join(f"{name} {value:.2f}" for name, value in found.items())
    ]


def published_line(document: Document) -> list[str]:
    """What the recipe's paper reports on this split, and whether R@1 differs from it at all; none elsewhere."""
    found = document.get("published")
    if not found:
        return []
    apart, open_ = document["text_to_image"]["R1"] - found["R1"], found["R1_chance"]
    verdict = "within sampling error" if abs(apart) <= open_ else "more than sampling error"
    mean = "" if found["mAP"] is None else f", mAP {found['mAP']:.2f}"
    return [
        f"published ({found['venue']}): R1 {found['R1']:.2f} ± {open_:.1f}{mean}; R1 here {apart:+.2f}: {verdict} "
        "(±: 95 % sampling error of the test captions; another seed adds about 2 points)"
    ]


def _ranks_title(documents: Sequence[Document]) -> str:
    first = documents[0]
    sets = ", ".join(
        f"{document['data']} {document['split']} ({document['queries']:,} captions, {document['gallery']:,} images)"
        for document in documents
    )
    return f"{first['method']} · {first['run']} · {sets}"


def _digits(style: str) -> int:
    return 3 if style == "plain" else 2


def _pretty(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> PrettyTable:
    from prettytable import PrettyTable

    made = PrettyTable(list(headings))
    for name in _SCORES:
        made.align[name] = "r"
    made.add_rows([list(row) for row in rows])
    return made


def _align_left(made: PrettyTable) -> None:
    for name in set(made.field_names) - set(_SCORES):
        made.align[name] = "l"


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from prettytable import TableStyle

    made = _pretty(headings, [[cell.replace("|", r"\|") for cell in row] for row in rows])
    made.set_style(TableStyle.MARKDOWN)
    _align_left(made)
    return str(made.get_string())


def _latex(headings: Sequence[str], rows: Sequence[Sequence[str]], remarks: Sequence[Sequence[str]]) -> str:
    """A tabular whose rows bear the letter of a footnote below it: their protocol is part of the table."""
    from prettytable import HRuleStyle, VRuleStyle

    distinct = list(dict.fromkeys(map(tuple, remarks)))
    marks = [rf"\textsuperscript{{{_letter(distinct.index(tuple(lines)))}}}" for lines in remarks for _ in _SIDES]
    cells = [list(map(_escaped, row)) for row in rows]
    marked = [[row[0] + mark, *row[1:]] for mark, row in zip(marks, cells, strict=True)]
    made = _pretty(headings, marked)
    _align_left(made)
    lines = made.get_latex_string(format=True, hrules=HRuleStyle.FRAME, vrules=VRuleStyle.NONE).splitlines()
    lines.insert(3, r"\hline")  # below the headings; prettytable draws either this line or those around the table
    notes = [
        (rf"\textsuperscript{{{_letter(place)}}} " if not number else "") + _escaped(text) + r"\par"
        for place, texts in enumerate(distinct)
        for number, text in enumerate(texts)
    ]
    return "\n".join([*lines, r"\par{\footnotesize", *notes, "}"])


def _letter(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else str(place)


_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "→": r"$\to$",
}


def _escaped(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _ranks_csv(documents: Sequence[Document]) -> str:
    facts = ["run", "method", "data", "split", "queries", "gallery"]
    intervals = [f"{name}_{end}" for name in _SCORES for end in ("low", "high")] * ("interval" in documents[0])
    protocol = [name for name in documents[0]["protocol"] if name not in _IN_LABELS]
    rows = []
    for document in documents:
        for task, side in _SIDES.items():
            shown = [_in_a_cell(name, document["protocol"][name]) for name in protocol]
            found = document.get("interval", {})
            of_side = found if task == "t2i" else found.get(side, {})
            limits = [value for name in _SCORES for value in of_side.get(name, ())]
            scores = [document[side][name] for name in _SCORES]
            rows.append([*(document[fact] for fact in facts), task, *scores, *shown, *limits])
    made = _pretty([*facts, "task", *_SCORES, *protocol, *intervals], rows)
    return str(made.get_csv_string(lineterminator="\n"))


_IN_LABELS = "queries", "gallery", "line", "choices"
"""What the labels of a protocol say already."""


def _in_a_cell(name: str, value: Any) -> object:
    """A value of a protocol in a cell of a table."""
    if name == "guard":
        return guard.words(value)
    return "; ".join(value) if name in ("labels", "settings") else value


# Parts of a score -----------------------------------------------------------------------------


def attributes(document: Document, *, plain: bool) -> None:
    """R@1 by what captions name, below the ranks of their data set."""
    found = document["attributes"]
    headings = ["attribute", "caption names", "captions", "persons", "R1", f"{found['level']:g} % interval"]
    rows: list[list[str]] = []
    ends: list[int] = []
    for group in found["groups"]:
        if rows and rows[-1][0] != group["attribute"]:
            ends.append(len(rows))
        span = _span(group["interval"])
        counts = [f"{group['captions']:,}", f"{group['persons']:,}", f"{group['R1']:.2f}"]
        rows.append([group["attribute"], group["value"], *counts, span])
    title = f"{document['data']} {document['split']}, text to image by what a caption names"
    line()
    line(title, style="bold")
    if plain:
        made = _pretty(headings, rows)
        _align_left(made)
        stdout.write(f"{made.get_string()}\n")
    else:
        table(headings, rows, right=headings[2:], ends=ends)
    gap = found["gender_gap"]
    if gap is not None:
        size, span = gap["man_minus_woman"], gap["interval"]
        beyond = span is not None and not span[0] <= 0 <= span[1]
        line(
            f"R@1 of captions that say man minus those that say woman: {size:+.2f} points {_span(span, '+')}, "
            f"{'more than' if beyond else 'within'} sampling error"
        )


def _span(ends: Sequence[float] | None, sign: str = "") -> str:
    return "" if ends is None else f"[{ends[0]:{sign}.2f}, {ends[1]:{sign}.2f}]"


# Two runs -------------------------------------------------------------------------------------


def comparison(document: Document) -> None:
    """What `tbps compare` found: scores beside each other, the verdict, queries that moved."""
    first, second = document["runs"]
    bootstrap = document["bootstrap"]
    line(f"{document['data']} {document['split']}: {first['run']} (first) · {second['run']} (second)", style="bold")
    headings = ["task", "score", "first", "second", "difference", f"{bootstrap['level']:g} % interval", "p"]
    rows = [[task, name, *_differing(document[side][name])] for task, side in _SIDES.items() for name in _SCORES]
    table(headings, rows, right=headings[2:])
    line(
        f"(paired bootstrap over {bootstrap['persons']:,} persons with all their queries, "
        f"{bootstrap['resamples']:,} resamples, seed {bootstrap['seed']})"
    )
    for sentence in document["verdict"]:
        line(sentence, style="bold")
    line(document["note"])
    _moves(document["queries"])
    for number, run in enumerate(document["runs"]):
        line(f"{'second' if number else 'first'} run. {run['protocol']['line']}")
    if not document["across_protocols"]:
        return  # the verdict says what differs
    for name, (one, two) in document["protocol_differs"].items():
        line(
            f"Warning: {name} differs between the runs ({said(one)} and {said(two)}): not the same protocol.",
            style="yellow",
        )


def _differing(item: Document) -> list[str]:
    low, high = item["interval"]
    chance = f"{item['p']:.3f}" if item["p"] >= 0.001 else "< 0.001"
    scores = [f"{item['first']:.2f}", f"{item['second']:.2f}", f"{item['difference']:+.2f}"]
    return [*scores, f"[{low:+.2f}, {high:+.2f}]", chance]


def _moves(queries: Document) -> None:
    line(
        f"R@1 of {queries['total']:,} captions: {queries['improved']:,} improved, {queries['worsened']:,} worsened, "
        f"{queries['total'] - queries['improved'] - queries['worsened']:,} unchanged"
    )
    for title, moved in ((GAIN, queries["gains"]), (LOSS, queries["losses"])):
        rows = [
            ["{} → {}".format(*item["ranks"]), "{:.1f} → {:.1f}".format(*item["ap"]), item["image"], item["caption"]]
            for item in moved
        ]
        if rows:
            line()
            table([f"{title}: rank", "AP", "image", "caption"], rows, prose=["caption"])
    line()
