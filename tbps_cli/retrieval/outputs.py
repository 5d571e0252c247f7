"""Files of an evaluation for one's own analysis: features as arrays, ranks as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tbps_cli.escape import exact_bytes, json_text
from tbps_cli.files import write_bytes
from tbps_cli.retrieval.evaluate import TASKS, Direction, Evaluation

SHOWN = 10
"""Places listed for each query."""


def save_features(evaluation: Evaluation, path: Path) -> None:
    """An .npz with text_QE, image_GE and what belongs to their rows; `numpy.load` reads it without pickles.

    Identities are kept as JSON text, since some data sets number their persons and others name them.
    """
    split = evaluation.split
    buffer = io.BytesIO()
    np.savez(
        buffer,
        text_QE=evaluation.embedded.text_QE,
        image_GE=evaluation.embedded.image_GE,
        caption=np.array(split.captions),
        caption_person=np.array([json.dumps(person) for person in split.caption_person]),
        caption_image=split.caption_image,
        image=np.array(_images(evaluation)),
        image_person=np.array([json.dumps(person) for person in split.image_person]),
    )
    write_bytes(path, buffer.getvalue())


def save_ranks(evaluation: Evaluation, path: Path) -> None:
    """One row a query, both directions: first rank, AP, INP and the first places; CSV or JSON by the name."""
    rows = [row for direction in TASKS for row in _rank_rows(evaluation, direction)]
    if path.suffix.lower() == ".json":
        write_bytes(path, json_text(rows, indent=1).encode())
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for row in rows:
        writer.writerow({name: " | ".join(map(str, v)) if isinstance(v, list) else v for name, v in row.items()})
    write_bytes(path, exact_bytes(text.getvalue()))


def _rank_rows(evaluation: Evaluation, direction: Direction) -> Iterator[dict[str, object]]:
    side = evaluation.sides[direction]
    texts, images = evaluation.split.captions, _images(evaluation)
    asked, searched = (texts, images) if direction == "text_to_image" else (images, texts)
    score_QK, index_QK = side.top(SHOWN)
    details = side.details
    for number, query in enumerate(asked):
        judged = details.relevant_Q[number] > 0
        yield {
            "task": TASKS[direction],
            "query": query,
            "person": side.person_Q[number],
            "relevant": int(details.relevant_Q[number]),
            "first_rank": int(details.first_Q[number]) if judged else None,
            "AP": round(float(details.ap_Q[number]), 6) if judged else None,
            "INP": round(float(details.inp_Q[number]), 6) if judged else None,
            "right": [side.person_G[index] == side.person_Q[number] for index in index_QK[number]],
            "top": [searched[index] for index in index_QK[number]],
            "scores": [round(float(score), 6) for score in score_QK[number]],
        }


def _images(evaluation: Evaluation) -> list[str]:
    return [path.relative_to(evaluation.split.root).as_posix() for path in evaluation.split.paths]
