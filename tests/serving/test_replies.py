"""What the API says of itself, and of requests that cannot be answered: a line that names what is wrong, a hint."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tbps_cli.serving.replies import add_errors

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"text": ', "the body is no JSON: Expecting value (character 9)."),
        ("[1]", "the body is no JSON object."),
        ("[" * 50_000, "the body is no JSON."),
        (b"\xff\xfe\x00", "the body is no JSON."),
        ("", "the body is no JSON object."),
        ('{"text": "red", "tex": 1}', "tex: there is no such key."),
        ("{}", "the query is empty."),
        ('{"text": "red", "group": "person"}', "group person: no image here has a person."),
    ],
)
def test_a_request_that_makes_no_sense_is_told_what_and_how_it_should_be(
    serving, photos: Path, body: str | bytes, said: str
) -> None:
    reply = serving(photos).post("/v1/search", content=body, headers=JSON)
    assert reply.status_code in (400, 422)
    assert reply.json()["error"] == said
    hint = reply.json().get("hint", "")
    assert hint or "group" in said
    assert "--" not in hint and "tbps search" not in hint


def test_no_hint_names_an_option_of_the_command_line(serving, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbps_cli.searching.sure import check_sure

    def refused(*_: Any, **__: Any) -> None:
        check_sure(0.9, [type("Sum", (), {"plain": False})()])

    monkeypatch.setattr("tbps_cli.serving.service.ask", refused)
    said = serving(photos).post("/v1/search", json={"text": "red, no green", "sure": 0.9}).json()
    assert said["error"].startswith("sure is for a sentence alone")
    assert said["hint"].endswith('unless "plain" is true.')


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in tbps-lite without what reads videos, for a clip."""
    api = FastAPI()
    add_errors(api)
    api.get("/clip")(lambda: import_module("av"))
    api.get("/ours")(lambda: import_module("tbps_cli.gone"))
    monkeypatch.setitem(sys.modules, "av", None)
    reply = TestClient(api).get("/clip")
    assert (reply.status_code, reply.json()["error"]) == (501, "this needs PyAV, which is not installed.")
    assert reply.json()["hint"] == "Type: pip install 'tbps-lite[video]'"
    with pytest.raises(ModuleNotFoundError):
        TestClient(api).get("/ours")


def test_a_body_that_is_sent_as_something_else_is_told_the_content_type(serving, photos: Path) -> None:
    reply = serving(photos).post("/v1/search", content='{"text": "red"}', headers={"content-type": "text/plain"})
    assert (reply.status_code, reply.json()["error"]) == (422, "the body is no JSON object.")
    assert "content-type: application/json" in reply.json()["hint"]


def test_a_view_and_a_method_that_there_is_not_are_named(serving, photos: Path) -> None:
    client = serving(photos)
    said = client.get("/v1/pictures/0.0123456789abcdef?view=raw").json()["error"]
    assert said == "view: Input should be 'thumbnail', 'crop', 'frame' or 'clip'."
    reply = client.put("/v1/search", json={})
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert reply.json()["error"] == "/v1/search is not asked with PUT."


def test_an_image_with_too_many_pixels_is_told_to_be_smaller(
    serving, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serving(photos)
    assert client.post("/v1/images", content=b"text").json()["hint"] == "Send a JPEG, PNG or WebP file."
    monkeypatch.setattr("tbps_cli.serving.uploads.MOST_PIXELS", 100)
    reply = client.post("/v1/images", content=(photos / "red.png").read_bytes())
    assert reply.status_code == 422 and reply.json()["hint"] == "Send a smaller one."


def test_an_image_whose_file_is_gone_is_not_there_in_any_view(serving, photos: Path) -> None:
    client = serving(photos)
    hit = next(
        one for one in client.post("/v1/search", json={"text": "red"}).json()["hits"] if one["path"] == "red.png"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tbps_cli.serving.served.ServedGallery._opened", lambda self: self._view.gallery)  # not seen yet
        (photos / "red.png").unlink()
        place, wanted = (
            f"/v1/pictures/{hit['id']}",
            {"error": "red.png cannot be read any more.", "hint": "Was it moved or deleted?"},
        )
        for path in (f"{place}?view=thumbnail", f"{place}?view=crop", f"{place}?view=frame", f"{place}/facts"):
            reply = client.get(path)
            assert (reply.status_code, reply.json()) == (404, wanted), path
        for asked in ({"form": "zip", "pictures": [hit["id"]]},):
            reply = client.post("/v1/export", json=asked)
            assert (reply.status_code, reply.json()) == (404, wanted)
        box = {"plus": [{"picture": hit["id"], "box": [0, 0, 9, 9]}]}
        reply = client.post("/v1/search", json=box)
        assert (reply.status_code, reply.json()) == (404, wanted)


# What is described ----------------------------------------------------------------------------


def described(client) -> dict[str, Any]:
    return client.get("/openapi.json").json()


def test_every_answer_and_every_body_is_described_with_an_example(serving, photos: Path) -> None:
    known = described(serving(photos))
    operations = [(path, method, one) for path, of in known["paths"].items() for method, one in of.items()]
    assert len(operations) >= 13
    for path, method, one in operations:
        for status, answer in one["responses"].items():
            assert status != "204" or "content" not in answer
            for kind, content in answer.get("content", {}).items():
                a_file = content["schema"].get("format") == "binary"
                assert a_file or "example" in content, (path, method, status, kind)
        assert "HTTPValidationError" not in json.dumps(one), (path, method)
        body = one.get("requestBody")
        for kind, content in (body or {}).get("content", {}).items():
            if kind == "application/json":
                name = content["schema"]["$ref"].rpartition("/")[2]
                assert known["components"]["schemas"][name]["examples"], name


def test_the_examples_are_what_is_asked_and_answered(serving, photos: Path) -> None:
    client = serving(photos)
    known = described(client)
    hit = client.post("/v1/search", json={"text": "red"}).json()["hits"][0]
    sent = client.post("/v1/images", content=(photos / "red.png").read_bytes()).json()
    for path, of in known["paths"].items():
        for method, one in of.items():
            if path == "/v1/watch/events":
                continue
            place = path.replace("{id}", sent["id"] if "images" in path else hit["id"])
            bodies: list[dict[str, Any]] = [{}]
            body = one.get("requestBody", {}).get("content", {})
            if "application/json" in body:
                name = body["application/json"]["schema"]["$ref"].rpartition("/")[2]
                text = json.dumps(known["components"]["schemas"][name]["examples"]).replace(
                    "0.9f86d081884c7d65", hit["id"]
                )
                bodies = [{"json": asked} for asked in json.loads(text)]
            elif body:
                bodies = [{"content": (photos / "red.png").read_bytes()}]
            for asked in bodies:
                reply = client.request(method, place, **asked)
                if method == "delete":
                    assert reply.status_code == 404  # that is no question
                    continue
                status = str(reply.status_code)
                assert status in ("200", "201"), (path, asked, reply.text)
                kind = reply.headers["content-type"].partition(";")[0]
                content = one["responses"][status]["content"][kind]
                if kind == "application/json" and "example" in content:
                    assert set(content["example"]) <= set(reply.json()), path
