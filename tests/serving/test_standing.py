"""Standing questions: kept, watched for, told once to whoever listens, also after a connection was lost."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

from serving.conftest import paint, until
from support.encoder import FakeEncoder

from tbps_cli.searching import watching
from tbps_cli.searching.index import index
from tbps_cli.searching.watching import watch
from tbps_cli.serving import standing
from tbps_cli.serving.served import ServedGallery
from tbps_cli.serving.standing import StandingQuestions


def fill(folder: Path, count: int = 60) -> None:
    """Enough images to set a threshold by; none is red."""
    for number in range(count):
        paint(folder / f"{number:03d}.png", ("green", "blue", "yellow")[number % 3], (16, 32 + number))


def test_a_question_is_told_of_what_arrives_and_of_nothing_before(serving, tmp_path: Path) -> None:
    folder = tmp_path / "cams"
    fill(folder)
    paint(folder / "old.png", "red")
    client = serving(folder)
    made = client.post("/v1/watch", json={"text": "red"})
    assert made.status_code == 201
    again = client.post("/v1/watch", json={"text": " red "}).json()
    assert again["id"] == made.json()["id"]
    until(lambda: client.get("/v1/watch").json()["questions"])
    paint(folder / "new.png", "red", (18, 40))
    told = until(lambda: client.get("/v1/watch").json()["alerts"], 40)
    assert [alert["path"] for alert in told] == ["new.png"]
    assert "file" not in told[0]
    assert until(lambda: client.get(f"/v1/pictures/{told[0]['picture']}").status_code == 200)
    assert client.delete(f"/v1/watch/{made.json()['id']}").status_code == 204
    assert client.delete(f"/v1/watch/{made.json()['id']}").status_code == 404
    assert client.get("/v1/watch").json()["questions"] == []


def test_what_arrives_as_soon_as_a_question_is_kept_is_told(serving, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "cams"
    fill(folder)
    paint(folder / "old.png", "red")
    began = threading.Event()

    def late(*given, **options):  # the thread that watches may have to wait for the one before it
        began.wait(20)
        return watch(*given, **options)

    monkeypatch.setattr("tbps_cli.serving.standing.watch", late)
    client = serving(folder)
    made = client.post("/v1/watch", json={"text": "red"}).json()
    paint(folder / "new.png", "red", (18, 40))
    began.set()
    assert [one["path"] for one in until(lambda: client.get("/v1/watch").json()["alerts"], 40)] == ["new.png"]
    client.delete(f"/v1/watch/{made['id']}")
    paint(folder / "meanwhile.png", "red", (18, 41))
    client.post("/v1/watch", json={"text": "red"})  # asked anew: of what arrives from now on
    paint(folder / "newer.png", "red", (18, 42))
    told = until(lambda: [one for one in client.get("/v1/watch").json()["alerts"] if one["path"] != "new.png"], 40)
    assert [one["path"] for one in told] == ["newer.png"]


def test_a_question_that_was_deleted_alerts_nobody_any_more(serving, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "cams"
    fill(folder)
    client = serving(folder)
    red, coat = (client.post("/v1/watch", json={"text": text}).json() for text in ("red", "a red coat"))
    judging, going, dots = threading.Event(), threading.Event(), watching.dots

    def held_up(query_QE, vector_GE):
        if len(vector_GE) == 61:  # the new image is about to be told
            judging.set()
            going.wait(40)
        return dots(query_QE, vector_GE)

    monkeypatch.setattr(watching, "dots", held_up)
    paint(folder / "new.png", "red", (18, 40))
    assert judging.wait(40)
    assert client.delete(f"/v1/watch/{red['id']}").status_code == 204
    going.set()
    told = until(lambda: client.get("/v1/watch").json()["alerts"], 40)
    assert [(alert["query"], alert["path"]) for alert in told] == [("a red coat", "new.png")]

    served = client.service.galleries[0]
    questions = StandingQuestions([served])
    questions.remove(questions.add(served, "red")["id"])
    line = {"id": "1", "found": "2026-01-01T00:00:00Z", "query": "red", "path": "red.png"}  # told before
    with questions._journal(served.name).open("a") as journal:
        journal.write(json.dumps(line) + "\n")

    monkeypatch.setattr(standing, "PAUSE", 0.01)

    async def listened() -> list[str]:
        found: list[str] = []
        async for event in questions.events("0"):
            if event.startswith(":"):  # nothing more
                break
            found += [json.loads(event.split("data: ")[1])["query"]] if "event: alert" in event else []
        return found

    assert asyncio.run(listened()) == ["a red coat"]
    questions.close()
    client.delete(f"/v1/watch/{coat['id']}")


def test_questions_outlive_the_server(serving, tmp_path: Path) -> None:
    folder = tmp_path / "cams"
    fill(folder, 3)
    serving(folder).post("/v1/watch", json={"text": "a man in red"})
    assert [one["text"] for one in serving(folder).get("/v1/watch").json()["questions"]] == ["a man in red"]


def test_an_index_file_is_not_watched(serving, photos: Path, tmp_path: Path) -> None:
    index(FakeEncoder(), photos, tmp_path / "people.h5")
    reply = serving(tmp_path / "people.h5").post("/v1/watch", json={"text": "red"})
    assert reply.status_code == 422 and "index file" in reply.json()["error"]


def test_a_damaged_list_of_questions_is_said_and_none_is_asked(tmp_path: Path, caplog) -> None:
    folder = tmp_path / "serve"
    folder.mkdir()
    (folder / "questions.json").write_text('[{"id": 1}]')

    async def scenario() -> None:
        questions = StandingQuestions([], folder=folder)
        questions.start(asyncio.get_running_loop())
        assert questions.all() == []
        questions.close()

    asyncio.run(scenario())
    assert "cannot be read" in caplog.text
    assert (folder / "questions.damaged.json").read_text() == '[{"id": 1}]'


def test_two_servers_on_one_cache_lose_no_question(serving, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        fill(folder, 3)
    first, second = serving(folders[0]), serving(folders[1])
    kept = first.post("/v1/watch", json={"text": "red"}).json()
    second.post("/v1/watch", json={"text": "green"})
    first.post("/v1/watch", json={"text": "blue"})
    assert second.delete(f"/v1/watch/{kept['id']}").status_code == 204
    both = serving(*folders).get("/v1/watch").json()["questions"]
    assert [(one["gallery"], one["text"]) for one in both] == [("two", "green"), ("one", "blue")]


def test_questions_and_alerts_of_another_server_on_the_same_cache_are_taken_up(
    serving, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(standing, "LOOK", 0.1)
    folder = tmp_path / "cams"
    fill(folder)
    first, second = serving(folder), StandingQuestions([ServedGallery(0, "cams", FakeEncoder(), None, [folder])])
    made = second.add(second.galleries[0], "red")
    assert until(lambda: watchers() == {"tbps-watch-0"})
    second.close()  # only the first one watches now
    paint(folder / "new.png", "red", (18, 40))
    told = until(lambda: first.get("/v1/watch").json()["alerts"], 40)
    assert [alert["path"] for alert in told] == ["new.png"]
    second.remove(made["id"])
    assert until(lambda: not watchers())


def watchers() -> set[str]:
    """The threads that watch galleries."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("tbps-watch")}


def test_questions_that_come_and_go_at_once_leave_one_thread(serving, tmp_path: Path) -> None:
    folder = tmp_path / "cams"
    fill(folder, 3)
    client = serving(folder)
    served, asked = client.service.galleries[0], [f"number {n}" for n in range(12)]
    questions = StandingQuestions([served])

    def come_and_go(text: str) -> None:
        questions.remove(questions.add(served, text)["id"])

    kept = questions.add(served, "red")
    threads = [threading.Thread(target=come_and_go, args=[text]) for text in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert questions.all() == [kept]
    mine = [questions._watching["cams"].thread]
    assert until(lambda: [one for one in threading.enumerate() if one.name == "tbps-watch-0" and one in mine] == mine)
    questions.remove(kept["id"])
    questions.close()
    assert until(lambda: not watchers())


def test_a_question_whose_sources_are_away_is_asked_when_they_are_back(serving, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(standing, "AGAIN", 0.1)
    folder = tmp_path / "cams"
    fill(folder)
    client = serving(folder)
    client.post("/v1/watch", json={"text": "red"})
    questions = StandingQuestions([ServedGallery(0, "cams", FakeEncoder(), None, [folder])])
    folder.rename(tmp_path / "away")

    async def begin() -> None:
        questions.start(asyncio.get_running_loop())

    asyncio.run(begin())
    threading.Event().wait(0.3)
    (tmp_path / "away").rename(folder)
    paint(folder / "new.png", "red", (18, 40))
    assert until(lambda: questions.alerts(5), 40)
    questions.close()


def test_a_question_of_unprintable_marks_is_empty(serving, photos: Path) -> None:
    reply = serving(photos).post("/v1/watch", json={"text": "\0\x1b"})
    assert reply.status_code == 422 and "empty" in reply.json()["error"]


def test_an_alert_waits_until_its_image_can_be_shown(serving, photos: Path) -> None:
    client = serving(photos)
    served = client.service.galleries[0]
    questions = StandingQuestions([served])
    journal = questions._journal(served.name)
    journal.parent.mkdir(parents=True, exist_ok=True)
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    lines = [
        {"id": name, "found": found, "query": "red", "path": name}
        for name, found in (("gone.png", "2026-01-01T00:00:00Z"), ("red.png", now), ("new.png", now))
    ]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))

    async def listened() -> list[str]:
        found: list[str] = []
        async for event in questions.events("0"):
            found += [json.loads(event.split("data: ")[1])["path"]] if "event: alert" in event else []
            if len(found) == 2:
                assert sorted(one["path"] for one in questions.alerts(5)) == ["gone.png", "red.png"]
                paint(photos / "new.png", "red", (18, 40))
                served.look()
            if len(found) == 3:
                return found
        return found

    assert asyncio.run(listened()) == ["gone.png", "red.png", "new.png"]


def test_a_listener_that_comes_back_is_told_what_it_missed(serving, tmp_path: Path) -> None:
    folder = tmp_path / "cams"
    fill(folder, 3)
    client = serving(folder)
    served = client.service.galleries[0]
    questions = StandingQuestions([served])
    journal = questions._journal(served.name)
    journal.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"id": f"{n}", "found": f"2026-01-0{n}", "query": "red", "path": f"{n}.png"} for n in (1, 2, 3)]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))

    async def listened(after: str | None, wanted: int) -> list[str]:
        found = []
        events = questions.events(after)
        async for event in events:
            found.append(event)
            if len(found) == wanted + 1:
                break
        await events.aclose()
        return found[1:]

    events = asyncio.run(listened("1", 2))
    assert [event.split("\n")[0] for event in events] == ["id: 2", "id: 3"]
    assert json.loads(events[1].split("data: ")[1])["path"] == "3.png"
    assert asyncio.run(listened("nonsense", 0)) == []
    assert [alert["path"] for alert in questions.alerts(2)] == ["3.png", "2.png"]
