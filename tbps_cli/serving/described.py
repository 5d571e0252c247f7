"""What `GET /openapi.json` says of answers: an example of each, and the mistakes that are possible."""

from __future__ import annotations

from typing import Any

from tbps_cli.serving.security import UPLOAD_BYTES

Answers = dict[int | str, dict[str, Any]]

PICTURE, UPLOAD, QUESTION = "0.9f86d081884c7d65", "26773cf52a02fc85", "977f0fed0fc3"
_PROBLEM = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "hint": {"type": "string"}},
    "required": ["error"],
}
_MISTAKES = {
    404: (
        "It is not there (any more).",
        {"error": "gallery x: there is no such gallery.", "hint": "There are: station."},
    ),
    413: ("It is too large.", {"error": "the request is larger than 256 kB."}),
    422: ("It makes no sense.", {"error": "since 2026-02-31: no day or moment.", "hint": "For example: 2026-01-05"}),
    503: (
        "Nothing is indexed yet, a database is away, or too many wait; `Retry-After` says for how many seconds.",
        {"error": "the server is busy.", "hint": "Try again in a moment."},
    ),
}
_HIT = {
    "rank": 1,
    "path": "clips/cam1_2026-01-05T10-00-00.mp4#t=15.000&xywh=42,311,38,105",
    "score": 0.4164,
    "person": None,
    "file": "/srv/clips/cam1_2026-01-05T10-00-00.mp4",
    "camera": "cam1",
    "time": "2026-01-05T10:00:15",
    "source": "clips/cam1_2026-01-05T10-00-00.mp4",
    "seconds": 15.0,
    "box": [42, 311, 38, 105],
    "track": "5",
    "percentile": 99.8765,
    "z": 2.6,
    "id": PICTURE,
}
SEARCH = {
    "query": "a woman in a red coat",
    "gallery": "station",
    "size": 1619,
    "run": "runs/demo-0001",
    "hits": [_HIT],
    "indexing": False,
}
GALLERIES = {
    "model": "runs/demo-0001",
    "calibrated": True,
    "blurred": False,
    "galleries": [
        {
            "name": "station",
            "state": "ready",
            "watchable": True,
            "images": 1619,
            "fields": ["path", "camera", "time"],
            "cameras": [{"name": "cam1", "images": 1619}],
            "first": "2026-01-05T10:00:00",
            "last": "2026-01-05T18:00:00",
            "groups": ["near-duplicate"],
        }
    ],
}
FACTS = {"id": PICTURE, "gallery": "station", "path": "cam1/1.jpg", "frame": {"width": 768, "height": 576}}
EXPLAINED = {
    "picture": PICTURE,
    "words": [{"word": "red", "support": 0.031, "instead": None, "grid": [[0.0, 1.0], [0.2, 0.0]]}],
}
SENT = {"id": UPLOAD, "width": 100, "height": 237}
ASKED = {"id": QUESTION, "gallery": "station", "text": "a man in a red coat", "since": "2026-01-05T10:00:00Z"}
WATCH = {"questions": [ASKED], "alerts": [], "budget": "5/day"}
EVENTS = (
    "retry: 3000\nid: 0\nevent: now\ndata: {}\n\n"
    f'id: 1\nevent: alert\ndata: {{"query": "a man in a red coat", "score": 0.41, "picture": "{PICTURE}"}}\n\n'
)

UPLOADED = {
    "requestBody": {
        "required": True,
        "description": f"The file itself, at most {UPLOAD_BYTES >> 20} MB.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
"""The body that POST /v1/images takes, which is no JSON."""


def json_answer(example: Any, *mistakes: int, status: int = 200) -> Answers:
    """A JSON object like the example, or one of these mistakes."""
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {status: {"description": "The answer.", "content": content}} | mistakes_of(*mistakes)


def file_answer(*kinds: str, mistakes: tuple[int, ...] = ()) -> Answers:
    """A file of one of these media types, or one of these mistakes."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {200: {"description": "The file.", "content": content}} | mistakes_of(*mistakes)


def text_answer(kind: str, example: str, *mistakes: int) -> Answers:
    """A text like the example, or one of these mistakes."""
    content = {kind: {"schema": {"type": "string"}, "example": example}}
    return {200: {"description": "The answer.", "content": content}} | mistakes_of(*mistakes)


def mistakes_of(*statuses: int) -> Answers:
    """Mistakes with these statuses."""
    return {
        status: {"description": said, "content": {"application/json": {"schema": _PROBLEM, "example": example}}}
        for status in statuses
        for said, example in [_MISTAKES[status]]
    }
