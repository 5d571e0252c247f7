"""Scores as a person reads them: rank tables, the protocol beside them, intervals, two runs compared.

Every function takes documents as `--json` prints them, so that a table can say nothing that the
document does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tbps_cli.cli.output import stdout
from tbps_cli.cli.render import line, table
from tbps_cli.escape import printable
from tbps_cli.retrieval import guard
from tbps_cli.types import Scores

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
    if style == "table":
        line(_ranks_title(documents), style="bold")
        table(headings, rows, right=_SCORES)
    elif style == "plain":
        line(_ranks_title(documents))
        stdout.write(_pretty(headings, rows) + "\n")
    else:
        stdout.write((_markdown if style == "md" else _latex)(headings, rows) + "\n")
    for text in map(printable, _remarks(documents)):
        if style in ("table", "plain"):
            line(text)
        else:
            stdout.write(f"% {text}\n".replace("·", ";") if style == "latex" else f"\n{text}\n")


def _remarks(documents: Sequence[Document]) -> list[str]:
    """The lines under a table: intervals, ceilings, protocols; of several data sets each with its name."""
    found = []
    for document in documents:
        lines = interval_lines(document) + ceiling_line(document) + published_line(document)
        lines.append(protocol_line(document))
        found.append((document["data"], lines))
    if len({tuple(lines) for _, lines in found}) == 1:
        return found[0][1]
    return [f"{data}: {text}" for data, lines in found for text in lines]


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


def protocol_line(document: Document) -> str:
    """Under which conditions a score was measured, in one line."""
    protocol = document["protocol"]
    selected = {
        None: "how the weights were selected is unknown",
        "test": "weights selected on test, as the papers do (honest: --set train.select_on=val)",
    }.get(protocol["selected_on"], f"weights selected on {protocol['selected_on']}")
    reranked = "re-ranked" if protocol["reranked"] else "not re-ranked"
    wrong = guard.troubles(protocol["guard"]) if "guard" in protocol else []
    if protocol["batch_dependent"] and not any("rest of the batch" in text for text in wrong):
        wrong.insert(0, "embeddings depend on the rest of the batch")
    return " · ".join([f"Protocol: {selected}", reranked, protocol["precision"], *wrong])


def _ranks_title(documents: Sequence[Document]) -> str:
    first = documents[0]
    sets = ", ".join(
        f"{document['data']} {document['split']} ({document['queries']:,} captions, {document['gallery']:,} images)"
        for document in documents
    )
    return f"{first['method']} · {first['run']} · {sets}"


def _digits(style: str) -> int:
    return 3 if style == "plain" else 2


def _pretty(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from prettytable import PrettyTable

    made = PrettyTable(list(headings))
    for name in _SCORES:
        made.align[name] = "r"
    made.add_rows([list(row) for row in rows])
    return str(made.get_string())


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---:" if heading in _SCORES else "---" for heading in headings]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, marks, *rows))


def _latex(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    columns = "".join("r" if heading in _SCORES else "l" for heading in headings)
    body = [" & ".join(cell.replace("_", r"\_") for cell in cells) + r" \\" for cells in (headings, *rows)]
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", body[0], r"\hline", *body[1:], r"\hline"]
    return "\n".join([*lines, r"\end{tabular}"])


def _ranks_csv(documents: Sequence[Document]) -> str:
    import csv
    import io

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    protocol = list(documents[0]["protocol"])
    intervals = [f"{name}_{end}" for name in _SCORES for end in ("low", "high")] * ("interval" in documents[0])
    facts = ["run", "method", "data", "split", "queries", "gallery"]
    writer.writerow([*facts, "task", *_SCORES, *protocol, *intervals])
    for document in documents:
        for task, side in _SIDES.items():
            scores = [document[side][name] for name in _SCORES]
            shown = [guard.words(value) if name == "guard" else value for name, value in document["protocol"].items()]
            found = document.get("interval", {})
            of_side = found if task == "t2i" else found.get(side, {})
            limits = [value for name in _SCORES for value in of_side.get(name, ())]
            writer.writerow([*(document[fact] for fact in facts), task, *scores, *shown, *limits])
    return text.getvalue()


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
        line(f"{'second' if number else 'first'} run. {protocol_line(run)}")
    for name, (one, two) in document["protocol_differs"].items():
        line(f"Warning: {name} differs between the runs ({one} and {two}): not the same protocol.", style="yellow")


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
            table([f"{title}: rank", "AP", "image", "caption"], rows)
    line()
