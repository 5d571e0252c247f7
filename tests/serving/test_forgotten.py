"""What is forgotten while it is served is not given out any more: no hit, no image, no embedding, no alert."""

from __future__ import annotations

import json
from pathlib import Path

from serving.conftest import until
from support.encoder import FakeEncoder

from tbps_cli.searching.forget import forget
from tbps_cli.searching.index import index
from tbps_cli.serving.served import Settings
from tbps_cli.serving.standing import StandingQuestions


def paths(client) -> list[str]:
    return [hit["path"] for hit in client.post("/v1/search", json={"text": "red"}).json()["hits"]]


def test_what_is_forgotten_is_gone_with_the_next_request(serving, photos: Path) -> None:
    client = serving(photos, settings=Settings(refresh=False))
    hit = client.post("/v1/search", json={"text": "red"}).json()["hits"][0]
    assert hit["path"] == "red.png" and client.get(f"/v1/pictures/{hit['id']}").status_code == 200
    forget([str(photos / "red.png")])
    assert "red.png" not in paths(client) and len(paths(client)) == 2
    for view in ("thumbnail", "crop", "frame", "clip"):
        assert client.get(f"/v1/pictures/{hit['id']}?view={view}").status_code == 404
    assert client.get(f"/v1/pictures/{hit['id']}/facts").status_code == 404
    assert client.post("/v1/search", json={"plus": [{"picture": hit["id"]}]}).status_code == 404
    assert client.post("/v1/explain", json={"text": "red", "picture": hit["id"]}).status_code == 404
    assert client.post("/v1/export", json={"form": "zip", "pictures": [hit["id"]]}).status_code == 404
    assert client.get("/v1/galleries").json()["galleries"][0]["images"] == 2


def test_an_index_file_forgets_at_once_too(serving, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "people.h5"
    index(FakeEncoder(), photos, file)
    client = serving(file, settings=Settings(refresh=False))
    assert "red.png" in paths(client)
    forget([str(photos / "red.png")], file)
    assert "red.png" not in paths(client)


def test_a_list_that_cannot_be_read_stops_the_answers(serving, photos: Path, tmp_path: Path) -> None:
    client = serving(photos, settings=Settings(refresh=False))
    assert paths(client)
    (tmp_path / "cache" / "forgotten.jsonl").mkdir()
    reply = client.post("/v1/search", json={"text": "red"})
    assert reply.status_code == 500 and "forgotten.jsonl" in reply.json()["error"]


def test_alerts_of_forgotten_images_are_not_listed(serving, photos: Path) -> None:
    client = serving(photos)
    served = client.service.galleries[0]
    journal = StandingQuestions([served])._journal(served.name)
    journal.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"id": name, "found": "2026-01-05", "query": "red", "path": name, "file": str(photos / name)}
        for name in ("red.png", "cam1/cam1_20260105-100000.png")
    ]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(client.get("/v1/watch").json()["alerts"]) == 2
    forget([str(photos / "red.png")])
    told = until(lambda: client.get("/v1/watch").json()["alerts"])
    assert [alert["path"] for alert in told] == ["cam1/cam1_20260105-100000.png"] and "file" not in told[0]
