"""A gallery in a database is served like any other: same answers, images from their sources, no password anywhere."""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from serving.conftest import paint, until
from support.encoder import COLOURS, FakeEncoder

pytest.importorskip("psycopg", reason="the extra postgres is not installed")
pytest.importorskip("pgvector", reason="the extra postgres is not installed")

from support.milvus_server import MilvusProcess, NoMilvus
from support.postgres_server import Server

from tbps_cli.databases import postgres_link
from tbps_cli.databases.opening import open_database
from tbps_cli.errors import DatabaseError, UsageError
from tbps_cli.features.rows import Row, Rows
from tbps_cli.searching.database_gallery import place_here
from tbps_cli.searching.filling import bring_up_to_date
from tbps_cli.searching.index import index
from tbps_cli.serving import served_database
from tbps_cli.serving.served import Settings
from tbps_cli.serving.server import Given

SECRET = "geheim-42%40x"
MODEL = FakeEncoder()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server.or_skip(password="geheim-42@x")
    made.create("postgres")
    yield made
    made.remove()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_database, "LOOK", 0.3)
    monkeypatch.setattr(served_database, "AGAIN", 0.1)
    monkeypatch.setattr(postgres_link, "AGAIN", 0.3)


def url_of(server: Server, gallery: str) -> str:
    return f"postgresql://postgres:{SECRET}@127.0.0.1:{server.port}/postgres?gallery={gallery}"


def fill(url: str, folder: Path) -> None:
    """What `tbps index FOLDER --gallery URL` does."""
    database = open_database(url, create=True, fingerprint=MODEL.fingerprint, about={"run": "runs/fake"})
    bring_up_to_date(database, index(MODEL, folder), complete=True)
    database.close()


def search(client, **body) -> list[dict]:
    reply = client.post("/v1/search", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()["hits"]


def test_answers_and_images_are_those_of_the_folder(serving, photos: Path, server: Server) -> None:
    url = url_of(server, "alike")
    fill(url, photos)
    client = serving(photos, url)
    name = f"postgresql://postgres@127.0.0.1:{server.port}/postgres?gallery=alike"
    known = client.get("/v1/galleries").json()["galleries"]
    assert [one["name"] for one in known] == ["photos", name]
    assert known[1]["cameras"] == [{"name": "cam1"}, {"name": "cam2"}] and known[1]["images"] == 3
    assert (known[1]["first"], known[1]["last"]) == (known[0]["first"], known[0]["last"])
    for text in ("red", "red at camera cam1", "green on 2026-01-05", "somebody, no red"):
        near, far = search(client, text=text), search(client, text=text, gallery=name)
        assert [hit["path"] for hit in far] == [f"photos/{hit['path']}" for hit in near]
        assert [hit["score"] for hit in far] == pytest.approx([hit["score"] for hit in near], abs=1e-5)
    assert len(search(client, text="red", gallery=name, cameras=["cam2"])) == 1
    id = search(client, text="red", gallery=name)[0]["id"]
    for view in ("thumbnail", "crop", "frame"):
        reply = client.get(f"/v1/pictures/{id}", params={"view": view})
        assert Image.open(io.BytesIO(reply.content)).size == (16, 32)
    assert client.get(f"/v1/pictures/{id}/facts").json()["path"] == "photos/red.png"
    assert client.post("/v1/explain", json={"text": "a red coat", "picture": id}).json()["words"]
    assert search(client, plus=[{"picture": id}], gallery="photos")[0]["path"] == "red.png"
    for form in ("csv", "html", "zip"):
        assert client.post("/v1/export", json={"form": form, "pictures": [id]}).status_code == 200
    for bad in ("1.~", "1.~Li4vLi4vZXRjL3Bhc3N3ZA", "1.~AA", "1.~AAA", "1.~=", "1.0000000000000000", "0.~cmVkLnBuZw"):
        assert client.get(f"/v1/pictures/{bad}").status_code in (404, 422), bad


def test_crops_come_from_their_sources(serving, tmp_path: Path, server: Server) -> None:
    frame = Image.new("RGB", (80, 40), COLOURS["green"])
    frame.paste(COLOURS["red"], (10, 4, 26, 36))
    frame.paste(COLOURS["blue"], (50, 4, 66, 36))
    frame.save(tmp_path / "frame.png")
    url = url_of(server, "crops")
    database = open_database(url, create=True, fingerprint=MODEL.fingerprint)
    root = database.add_root("cams", place_here(tmp_path))
    boxes = {"red": (10, 4, 16, 32), "blue": (50, 4, 16, 32)}
    rows = [Row(f"{root}/frame.png#{n}", source=f"{root}/frame.png", box=box) for n, box in enumerate(boxes.values())]
    database.add(Rows.of(rows), MODEL.encode_images([Image.new("RGB", (16, 32), COLOURS[name]) for name in boxes]))
    database.close()
    client = serving(url)
    hit = search(client, text="red")[0]
    crop = Image.open(io.BytesIO(client.get(f"/v1/pictures/{hit['id']}?view=crop").content))
    assert crop.size == (16, 32) and crop.convert("RGB").getpixel((8, 16))[0] > 200
    assert client.get(f"/v1/pictures/{hit['id']}/facts").json() | {"id": ""} == {
        "id": "", "gallery": client.service.galleries[0].name, "path": "cams/frame.png#0", "source": "cams/frame.png",
        "box": [10, 4, 16, 32], "others": [[50, 4, 16, 32]], "frame": {"width": 80, "height": 40},
    }  # fmt: skip
    part = {"picture": hit["id"], "box": [50, 4, 16, 32]}
    assert search(client, plus=[part])[0]["path"] == "cams/frame.png#1"


def test_what_comes_and_goes_is_seen(serving, photos: Path, server: Server) -> None:
    url = url_of(server, "moving")
    fill(url, photos)
    client = serving(url)
    hit = search(client, text="red")[0]
    paint(photos / "more.png", "yellow")
    fill(url, photos)
    assert until(lambda: client.get("/v1/galleries").json()["galleries"][0]["images"] == 4)
    (photos / "red.png").unlink()
    fill(url, photos)
    assert client.get(f"/v1/pictures/{hit['id']}").status_code == 404
    assert client.post("/v1/search", json={"plus": [{"picture": hit["id"]}]}).status_code == 404


def test_nobody_watches_it_and_that_is_said(serving, photos: Path, server: Server) -> None:
    url = url_of(server, "unwatched")
    fill(url, photos)
    client = serving(url)
    reply = client.post("/v1/watch", json={"text": "red"})
    assert reply.status_code == 422 and "lies in a database" in reply.json()["error"]
    known = client.get("/v1/galleries").json()["galleries"][0]
    assert known["watchable"] is False and "database" in known["unwatchable"]


def test_a_server_that_stops_is_said_and_comes_back_by_itself(serving, photos: Path, server: Server) -> None:
    url = url_of(server, "stopped")
    fill(url, photos)
    client = serving(photos, url)
    name = client.get("/v1/galleries").json()["galleries"][1]["name"]
    id = search(client, text="red", gallery=name)[0]["id"]
    server.stop()
    try:
        reply = client.post("/v1/search", json={"text": "red", "gallery": name})
        assert (
            reply.status_code == 503 and reply.headers["retry-after"] and "cannot be reached" in reply.json()["error"]
        )
        began = time.monotonic()
        assert client.get(f"/v1/pictures/{id}").status_code == 503
        assert client.post("/v1/search", json={"plus": [{"picture": id}]}).status_code == 503
        assert time.monotonic() - began < 2  # nobody waits for it in turn
        assert client.get("/v1/galleries").json()["galleries"][1]["state"] == "failed"
        assert search(client, text="red", gallery="photos")
    finally:
        server.start()
    assert until(lambda: client.post("/v1/search", json={"text": "red", "gallery": name}).status_code == 200)
    assert client.get(f"/v1/pictures/{id}").status_code == 200
    assert client.get("/v1/galleries").json()["galleries"][1]["state"] == "ready"


def test_a_server_that_is_down_at_the_start_is_waited_for(serving, photos: Path, server: Server) -> None:
    url = url_of(server, "later")
    fill(url, photos)
    server.stop()
    try:
        client = serving(url, wait=False)
        reply = client.post("/v1/search", json={"text": "red"})
        assert reply.status_code == 503 and "cannot be reached" in reply.json()["error"]
        assert client.get("/v1/galleries").json()["galleries"][0]["state"] == "failed"
    finally:
        server.start()
    assert until(lambda: client.post("/v1/search", json={"text": "red"}).status_code == 200)


def test_what_will_not_get_better_is_said_at_the_start(serving, photos: Path, server: Server) -> None:
    with pytest.raises(DatabaseError, match="no gallery in this database"):
        serving(url_of(server, "nothing"))
    with pytest.raises(DatabaseError, match="does not accept"):
        serving(url_of(server, "nothing").replace(SECRET, "wrong"))
    with pytest.raises(DatabaseError, match="does not exist"):
        serving(url_of(server, "nothing").replace("/postgres?", "/nowhere?"))
    fill(url_of(server, "other"), photos)
    with pytest.raises(DatabaseError, match="another model"):
        serving(url_of(server, "other"), model=FakeEncoder("f" * 16))


def test_the_password_is_shown_nowhere(
    serving, photos: Path, server: Server, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    from tbps_cli.searching.audit import AuditLog

    caplog.set_level(logging.DEBUG)
    url = url_of(server, "secret")
    fill(url, photos)
    client = serving(url, audit=AuditLog(tmp_path / "audit.jsonl"))
    hit = search(client, text="red")[0]
    said = [client.get(path).text for path in ("/", "/v1/galleries", "/metrics", "/v1/watch", "/openapi.json")]
    said += [client.post("/v1/watch", json={"text": "red"}).text, json.dumps(hit), repr(client.service.galleries)]
    said += [client.post("/v1/export", json={"form": "html", "pictures": [hit["id"]]}).text]
    server.stop()
    try:
        said += [client.post("/v1/search", json={"text": "red"}).text, client.get("/v1/galleries").text]
    finally:
        server.start()
    said += [caplog.text, (tmp_path / "audit.jsonl").read_text()]
    assert "cannot be reached" in said[-4]
    for secret in (SECRET, "geheim", "42@x"):
        assert not [text for text in said if secret in text]


def test_a_slow_database_keeps_nobody_else_waiting(serving, photos: Path, server: Server, monkeypatch) -> None:
    url = url_of(server, "slow")
    fill(url, photos)
    client = serving(photos, url)
    name = client.get("/v1/galleries").json()["galleries"][1]["name"]
    view = client.service.galleries[1].view
    gate = threading.Event()
    real = view.gallery.database.search
    monkeypatch.setattr(view.gallery.database, "search", lambda *given: gate.wait(20) and real(*given))
    asked = {"text": "red", "gallery": name}
    threads = [threading.Thread(target=client.post, args=("/v1/search",), kwargs={"json": asked}) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        assert until(lambda: client.get("/metrics").text.count('tbps_waiting{work="databases"}'))
        assert search(client, text="red", gallery="photos")
    finally:
        gate.set()
        for thread in threads:
            thread.join()


def test_urls_among_sources_are_galleries_of_their_own() -> None:
    one, other = "postgresql://u:geheim@a/x", "postgresql://u:geheim@b/x"
    with pytest.raises(UsageError, match="gallery of its own") as told:
        Given(["photos", one]).find()
    assert "geheim" not in told.value.message
    shards, named = Given([one, other]), Given((), [f"{one} {other}", one])
    shards.find()
    named.find()
    assert [found.name for found in shards.found] == ["postgresql://u@a/x, postgresql://u@b/x"]
    assert [found.name for found in named.found] == ["postgresql://u@a/x, postgresql://u@b/x", "postgresql://u@a/x"]
    with pytest.raises(UsageError, match="given twice") as told:
        Given([one], [one]).find()
    assert "geheim" not in told.value.message


def test_images_may_lie_elsewhere_on_this_machine(serving, photos: Path, server: Server, tmp_path: Path) -> None:
    url = url_of(server, "elsewhere")
    fill(url, photos)
    photos.rename(tmp_path / "moved")
    client = serving(url, settings=Settings(root=tmp_path / "moved"))
    assert client.get(f"/v1/pictures/{search(client, text='red')[0]['id']}").status_code == 200
    with pytest.raises(UsageError, match="--root"):
        Given([str(tmp_path / "moved")]).find(tmp_path)


@pytest.fixture
def milvus() -> Iterator[MilvusProcess]:
    try:
        server = MilvusProcess.new()
    except NoMilvus as error:
        pytest.skip(f"no Milvus server here: {error}")
    yield server
    server.remove()


@pytest.mark.slow
def test_a_gallery_in_milvus_is_served_and_comes_back_after_a_kill(
    serving, photos: Path, milvus: MilvusProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = milvus.url().replace("milvus://", f"milvus://root:{SECRET}@")
    fill(url, photos)
    client = serving(photos, url)
    known = client.get("/v1/galleries").json()["galleries"][1]
    name = known["name"]
    assert known["images"] == 3 and known["cameras"] == [{"name": "cam1"}, {"name": "cam2"}]
    for asked in (
        {"text": "red"},
        {"text": "red at camera cam1"},
        {"text": "red", "where": "path like '*2026*' and not camera == 'cam1'"},
        {"text": "red", "cameras": ["cam2"]},
    ):
        near, far = search(client, **asked), search(client, **asked, gallery=name)
        assert near and [hit["path"] for hit in far] == [f"photos/{hit['path']}" for hit in near]
        assert [hit["score"] for hit in far] == pytest.approx([hit["score"] for hit in near], abs=1e-5)
    id = search(client, text="red", gallery=name)[0]["id"]
    for view in ("thumbnail", "crop", "frame"):
        reply = client.get(f"/v1/pictures/{id}", params={"view": view})
        assert Image.open(io.BytesIO(reply.content)).size == (16, 32)
    assert search(client, plus=[{"picture": id}], gallery=name)[0]["path"] == "photos/red.png"
    watched = client.post("/v1/watch", json={"text": "red", "gallery": name})
    assert watched.status_code == 422 and "lies in a database" in watched.json()["error"]
    milvus.kill()
    lost = client.post("/v1/search", json={"text": "red", "gallery": name})
    assert lost.status_code == 503 and "no Milvus server answers" in lost.json()["error"]
    assert client.get(f"/v1/pictures/{id}").status_code == 503
    assert search(client, text="red")
    milvus.start()
    assert until(lambda: client.get("/v1/galleries").json()["galleries"][1]["state"] == "ready", seconds=120)
    assert search(client, text="red", gallery=name)[0]["id"] == id
    said = [client.get(path).text for path in ("/", "/v1/galleries", "/metrics")]
    said += [lost.text, watched.text, repr(client.service.galleries), caplog.text]
    for secret in (SECRET, "geheim", "42@x"):
        assert not [text for text in said if secret in text]
