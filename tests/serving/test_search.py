"""Searches over HTTP give what the command line gives; images are named by ids, and only those of galleries."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from serving.conftest import paint, until
from support.encoder import FakeEncoder

from tbps_cli.errors import UsageError
from tbps_cli.searching.audit import AuditLog
from tbps_cli.searching.document import document
from tbps_cli.searching.index import index
from tbps_cli.searching.index_state import FootageSettings
from tbps_cli.searching.query import Query
from tbps_cli.searching.ranking import answers
from tbps_cli.searching.sources import find_sources
from tbps_cli.serving import uploads
from tbps_cli.serving.served import ServedGallery, Settings


def ask(client, **body):
    return client.post("/v1/search", json=body)


def hits(reply) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [hit["path"] for hit in reply.json()["hits"]]


def test_an_answer_is_the_document_of_the_command_line_with_ids(serving, photos: Path) -> None:
    client = serving(photos)
    told = ask(client, text="red", plain=True).json()
    gallery = index(FakeEncoder(), photos)
    expected = document(answers(FakeEncoder(), gallery, [Query("red")])[0], gallery, gallery.run)
    ids = [hit.pop("id") for hit in told["hits"]]
    assert told.pop("indexing") is False
    assert told == expected | {"gallery": "photos"}
    assert len(set(ids)) == 3


def test_camera_and_time_of_the_sentence_are_understood(serving, photos: Path) -> None:
    client = serving(photos)
    told = ask(client, text="red at camera cam1").json()
    assert [hit["path"] for hit in told["hits"]] == ["cam1/cam1_20260105-100000.png"]
    assert [remark["kind"] for remark in told["understood"]["remarks"] if "cut" in remark] == ["camera"]
    assert len(hits(ask(client, text="red at camera cam1", plain=True))) == 3


def test_filters_are_the_columns_of_the_gallery(serving, photos: Path) -> None:
    client = serving(photos)
    known = client.get("/v1/galleries").json()["galleries"][0]
    assert known["cameras"] == [{"name": "cam1", "images": 1}, {"name": "cam2", "images": 1}]
    assert (known["first"], known["last"], known["images"]) == ("2026-01-05T10:00:00", known["last"], 3)
    assert hits(ask(client, text="red", cameras=["cam1", "nobody's"])) == ["cam1/cam1_20260105-100000.png"]
    assert hits(ask(client, text="red", since="2026-01-06", until="2026-01-06")) == ["cam2/cam2_20260106-180000.jpg"]
    assert hits(ask(client, text="red", where='camera == "cam2" or camera == none', cameras=["cam2"])) == [
        "cam2/cam2_20260106-180000.jpg"
    ]


def test_a_camera_whose_name_is_no_utf8_can_be_chosen(serving, tmp_path: Path) -> None:
    for name in (b"caf\xff1", b"caf\xfe1"):
        paint(Path(os.fsdecode(os.fsencode(tmp_path) + b"/photos/" + name + b"_20260105-100000.png")), "red")
    client = serving(
        tmp_path / "photos", settings=Settings(footage=FootageSettings(pattern="{camera}_{time:%Y%m%d-%H%M%S}"))
    )
    names = [one["name"] for one in client.get("/v1/galleries").json()["galleries"][0]["cameras"]]
    assert names == ["caf\\xfe1", "caf\\xff1"]
    for name in names:
        assert [os.fsencode(path)[3:4] for path in hits(ask(client, text="red", cameras=[name]))] == [
            bytes([int(name[5:7], 16)])
        ]


def test_a_sum_of_sentences_images_and_uploads(serving, photos: Path) -> None:
    client = serving(photos)
    blue = next(hit for hit in ask(client, text="blue").json()["hits"] if "cam2" in hit["path"])
    assert hits(ask(client, plus=[{"picture": blue["id"]}]))[0] == blue["path"]
    assert hits(ask(client, text="red blue", minus=[{"picture": blue["id"], "weight": 0.9}]))[0] == "red.png"
    assert hits(ask(client, text="red blue", minus=["red"]))[0] == blue["path"]
    sent = client.post("/v1/images", content=(photos / "cam1/cam1_20260105-100000.png").read_bytes()).json()
    assert (sent["width"], sent["height"]) == (16, 32)
    assert hits(ask(client, plus=[{"upload": sent["id"]}]))[0] == "cam1/cam1_20260105-100000.png"
    assert hits(ask(client, plus=[{"upload": sent["id"], "box": [0, 0, 9, 9]}]))[0] == "cam1/cam1_20260105-100000.png"
    assert client.get(f"/v1/images/{sent['id']}").headers["content-type"] == "image/jpeg"


def test_a_sentence_that_looks_like_a_path_is_a_sentence(serving, photos: Path) -> None:
    client = serving(photos)
    for text in ("./photos/red.png", "/etc/passwd", "~/x", "0.5:red"):
        told = ask(client, text="red", plus=[text], minus=[text + "!"]).json()
        assert [term.get("text") for term in told["terms"]] == ["red", text, text + "!"], told


def test_an_image_is_given_as_thumbnail_crop_and_frame(serving, photos: Path) -> None:
    client = serving(photos)
    id = ask(client, text="red", top=1).json()["hits"][0]["id"]
    for view in ("thumbnail", "crop", "frame"):
        reply = client.get(f"/v1/pictures/{id}", params={"view": view})
        image = Image.open(io.BytesIO(reply.content))
        assert image.size == (16, 32)
        red, green, _ = image.convert("RGB").getpixel((8, 8))
        assert red > 200 > 60 > green
    again = client.get(f"/v1/pictures/{id}", params={"view": "crop"})
    headers = {"if-none-match": again.headers["etag"]}
    assert client.get(f"/v1/pictures/{id}", params={"view": "crop"}, headers=headers).status_code == 304
    assert client.get(f"/v1/pictures/{id}", params={"view": "clip"}).status_code == 404
    known = client.get(f"/v1/pictures/{id}/facts").json()
    assert (known["path"], known["frame"]) == ("red.png", {"width": 16, "height": 32})


@pytest.mark.parametrize(
    "id", ["../../etc/passwd", "0./etc/passwd", "0.0000000000000000", "9.336aa01043fa1093", "x", "0.zzzzzzzzzzzzzzzz",
           "%2e%2e%2fred.png", "99999999999.336aa01043fa1093", "0.336AA01043FA1093 "]
)  # fmt: skip
def test_no_path_is_taken_from_an_id(serving, photos: Path, id: str) -> None:
    client = serving(photos)
    for path in (
        f"/v1/pictures/{id}",
        f"/v1/pictures/{quote(id, safe='')}",
        f"/v1/pictures/{quote(id, safe='')}/facts",
    ):
        assert client.get(path).status_code in (404, 422)


def test_an_image_that_is_gone_is_not_there(serving, photos: Path) -> None:
    client = serving(photos)
    found = {hit["path"]: hit["id"] for hit in ask(client, text="red").json()["hits"]}
    (photos / "red.png").unlink()
    gone = client.get(f"/v1/pictures/{found['red.png']}", params={"view": "crop"})
    assert gone.status_code in (404, 422)
    assert "Traceback" not in gone.text
    assert until(lambda: len(hits(ask(client, text="red"))) == 2)
    assert client.get(f"/v1/pictures/{found['red.png']}").status_code == 404
    kept = [id for path, id in found.items() if path != "red.png"]
    assert [client.get(f"/v1/pictures/{id}").status_code for id in kept] == [200, 200]


def test_what_arrives_is_found_without_a_restart(serving, photos: Path) -> None:
    client = serving(photos)
    paint(photos / "yellow.png", "yellow")
    assert until(lambda: "yellow.png" in hits(ask(client, text="yellow")))


def test_an_index_file_is_opened_anew_when_it_has_grown(serving, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "people.h5"
    index(FakeEncoder(), photos, file)
    client = serving(file)
    assert len(hits(ask(client, text="red"))) == 3
    paint(photos / "yellow.png", "yellow")
    index(FakeEncoder(), photos, file)
    assert until(lambda: len(hits(ask(client, text="red"))) == 4)


def test_several_galleries_and_one_that_is_not_there(serving, photos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    paint(other / "y.png", "yellow")
    client = serving(photos, other)
    assert hits(ask(client, text="red", gallery="other")) == ["y.png"]
    assert ask(client, text="red", gallery="nowhere").status_code == 404
    first, second = (ask(client, text="red", gallery=name).json()["hits"][0]["id"] for name in ("photos", "other"))
    reply = client.post("/v1/export", json={"form": "csv", "pictures": [first, second]})
    assert reply.status_code == 422 and "several galleries" in reply.text


def test_a_gallery_that_vanishes_keeps_answering_and_says_what_is_wrong(serving, photos: Path) -> None:
    client = serving(photos)
    for path in sorted(photos.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    photos.rmdir()
    assert until(lambda: client.get("/v1/galleries").json()["galleries"][0].get("trouble"))
    assert ask(client, text="red").status_code == 200


def test_an_empty_folder_says_so_and_is_filled_later(serving, tmp_path: Path) -> None:
    folder = tmp_path / "later"
    folder.mkdir()
    client = serving(folder, wait=False)
    assert until(lambda: client.get("/v1/galleries").json()["galleries"][0]["state"] == "failed")
    refused = ask(client, text="red")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    paint(folder / "red.png", "red")
    assert until(lambda: ask(client, text="red").status_code == 200)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "the query is empty"),
        ({"text": "red", "top": 0}, "top"),
        ({"text": "red", "where": "camera ="}, "where: expected a value"),
        ({"text": "red", "cameras": ["c\0"]}, "cameras.0"),
        ({"text": "red", "where": "nothing == 1"}, "nothing"),
        ({"text": "red", "since": "2026-02-31"}, "since 2026-02-31"),
        ({"text": "red", "sure": 0.9}, "calibrated"),
        ({"text": "red", "group": "person"}, "person"),
        ({"text": "red", "unknown": 1}, "unknown"),
        ({"plus": [{"text": "a", "picture": "0.00"}]}, "one of text, picture and upload"),
        ({"plus": [{"upload": "0123456789abcdef"}]}, "no such image"),
        ({"text": "x" * 2001}, "text"),
        ({"text": "red", "sort": "size"}, "sort"),
    ],
)
def test_what_makes_no_sense_is_one_line(serving, photos: Path, body: dict, said: str) -> None:
    reply = ask(serving(photos), **body)
    assert reply.status_code in (404, 422, 500)
    told = reply.json()
    assert said in told["error"] + told.get("hint", "")
    assert "\n" not in told["error"].split("\n    ")[0]


@pytest.mark.parametrize(
    "id", ["0.-00000000000000f", "0.+0000000000000ff", "0.0_0_0_0_0_0_0_01", "\u0660.00000000000000ff"]
)
def test_what_only_python_takes_for_a_number_is_no_id(serving, photos: Path, id: str) -> None:
    assert serving(photos).get(f"/v1/pictures/{id}").status_code == 404


def test_a_name_that_is_no_utf8_is_searched_shown_and_exported(serving, photos: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe red.png")
    (photos / "red.png").rename(photos / odd)
    client = serving(photos)
    hit = ask(client, text="red", top=1).json()["hits"][0]
    assert hit["path"] == odd
    assert client.get(f"/v1/pictures/{hit['id']}").status_code == 200
    assert client.get(f"/v1/pictures/{hit['id']}/facts").json()["path"] == odd
    for form in ("csv", "html", "zip"):
        assert client.post("/v1/export", json={"form": form, "pictures": [hit["id"]]}).status_code == 200
    (photos / odd).write_bytes(b"no image any more")
    reply = client.get(f"/v1/pictures/{hit['id']}?view=crop")
    assert reply.status_code in (404, 422) and reply.json()["error"]


def test_a_table_holds_no_formulas(serving, photos: Path) -> None:
    (photos / "red.png").rename(photos / "=1+2,red.png")
    client = serving(photos)
    hit = ask(client, text="red", top=1).json()["hits"][0]
    asked = {"form": "csv", "pictures": [hit["id"]], "title": "@SUM(1)"}
    line = client.post("/v1/export", json=asked).text.splitlines()[1]
    assert line.startswith("'@SUM(1),1,\"'=1+2,red.png\",0.0,")


def test_only_the_sources_are_watched_never_what_lies_around_them(photos: Path, tmp_path: Path) -> None:
    alone = paint(tmp_path / "alone.png", "red")
    both = ServedGallery(0, "both", FakeEncoder(), find_sources([photos, alone]), [photos, alone])
    assert both.folders == [photos]
    assert ServedGallery(0, "one", FakeEncoder(), find_sources([photos]), [photos]).folders == [photos]
    assert ServedGallery(0, "file", FakeEncoder(), tmp_path / "x.h5", [tmp_path / "x.h5"]).folders == []


def test_large_uploads_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "KEPT_BYTES", 3 * 16 * 32 * 2)
    kept, model = uploads.Uploads(), FakeEncoder()
    file = io.BytesIO()
    Image.new("RGB", (16, 32), "red").save(file, "PNG")
    first, second, third = (kept.add(model, file.getvalue()).id for _ in range(3))
    with pytest.raises(UsageError, match="any more"):
        kept.get(first)
    assert (kept.get(second).id, kept.get(third).id) == (second, third)


def test_what_is_no_json_and_no_image_is_refused(serving, photos: Path) -> None:
    client = serving(photos)
    reply = client.post("/v1/search", content=b"{", headers={"content-type": "application/json"})
    assert reply.status_code == 422
    assert client.post("/v1/images", content=b"").status_code == 422
    assert client.post("/v1/images", content=b"no image").status_code == 422
    bomb = io.BytesIO()
    Image.new("1", (20000, 20000)).save(bomb, "PNG")
    assert client.post("/v1/images", content=bomb.getvalue()).status_code == 422
    assert client.post("/v1/images", content=b"x" * (21 << 20)).status_code == 413
    assert client.post("/v1/search", content=b" " * (300 << 10)).status_code == 413
    assert client.get("/v1/nothing").json()["error"].endswith("there is nothing here.")


def test_chosen_hits_become_a_table_a_page_and_a_zip(serving, photos: Path) -> None:
    client = serving(photos)
    ids = [hit["id"] for hit in ask(client, text="red").json()["hits"]]

    def export(form: str):
        reply = client.post("/v1/export", json={"form": form, "pictures": ids[:2], "title": "<b>reds"})
        assert reply.status_code == 200, reply.text
        return reply

    assert export("csv").text.count("\n") == 3
    page = export("html").text
    assert "&lt;b&gt;reds" in page and "<b>reds" not in page
    with zipfile.ZipFile(io.BytesIO(export("zip").content)) as archive:
        assert [name.startswith("hits/00") for name in archive.namelist()] == [True, True]


def test_every_answer_has_its_line_in_the_log_first(serving, photos: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    client = serving(photos, audit=AuditLog(log))
    ask(client, text="red", top=1)
    line = json.loads(log.read_text().splitlines()[0])
    assert (line["asked"], line["client"], line["hits"]) == ("red", "127.0.0.1", ["red.png"])
    log.unlink()
    log.mkdir()
    refused = ask(client, text="red")
    assert refused.status_code >= 400 and "hits" not in refused.json()


def test_explain_says_which_words_an_image_supports(serving, photos: Path) -> None:
    client = serving(photos)
    id = ask(client, text="red", top=1).json()["hits"][0]["id"]
    told = client.post("/v1/explain", json={"text": "a red coat", "picture": id}).json()
    assert [word["word"] for word in told["words"]] == ["red", "coat"]


def test_a_blurred_server_says_so(serving, photos: Path) -> None:
    client = serving(photos, blur=True)
    id = ask(client, text="red", top=1).json()["hits"][0]["id"]
    assert client.get(f"/v1/pictures/{id}").status_code == 200
    assert client.get("/v1/galleries").json()["blurred"] is True
