"""Who may ask, and how much."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from tbps_cli.errors import DataError, UsageError
from tbps_cli.serving.security import Access, Rates, is_loopback
from tbps_cli.serving.server import Address, Given, serve
from tbps_cli.serving.work_queue import Overloaded, WorkQueue

TOKEN = "a-token-of-24-characters"


def ask(client, **headers):
    return client.post("/v1/search", json={"text": "red"}, headers=headers)


def test_another_host_name_is_not_answered(serving, photos: Path) -> None:
    client = serving(photos, host="evil.example.org")
    assert ask(client).status_code == 421
    assert ask(client, host="localhost:8080").status_code == 200
    assert ask(client, host="127.0.0.1").status_code == 200


def test_the_address_that_was_connected_to_is_answered_whatever_the_machine_is_called(serving, photos: Path) -> None:
    client = serving(photos, host="192.0.2.2")
    assert ask(client).status_code == 200
    assert ask(client, host="192.0.2.2:8080").status_code == 200
    for other in ("192.0.2.3", "192.0.2.2.evil.example.org", "evil.example.org", "[::2]", ""):
        assert ask(client, host=other).status_code == 421, other
    assert ask(serving(photos, host="[2001:db8::2]"), host="[2001:0db8::0002]").status_code == 200


def test_a_token_is_asked_for_everywhere_but_at_the_health_check(serving, photos: Path) -> None:
    client = serving(photos, access=Access(TOKEN))
    for path in ("/", "/v1/galleries", "/metrics", "/openapi.json", "/v1/watch/events", "/v1/nothing"):
        assert client.get(path).status_code == 401, path
    assert ask(client).status_code == 401
    assert ask(client, authorization="Bearer wrong").status_code == 401
    assert ask(client, authorization=b"Bearer \xc3\xa9\xff").status_code == 401
    assert client.get("/healthz").json() == {"status": "ok"}
    assert ask(client, authorization=f"Bearer {TOKEN}").status_code == 200


def test_a_token_in_the_address_becomes_a_cookie_and_leaves_the_address(serving, photos: Path) -> None:
    client = serving(photos, access=Access(TOKEN))
    assert client.get("/?token=wrong").status_code == 401
    entered = client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    kept = client.get(f"/?q=a+red+coat&token={TOKEN}&camera=c1", follow_redirects=False)
    assert kept.headers["location"] == "/?q=a+red+coat&camera=c1"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert client.get("/").status_code == 200
    assert ask(client).status_code == 200
    client.cookies.clear()
    assert client.get(f"/v1/galleries?token={TOKEN}").status_code == 401


def test_cookies_of_other_servers_on_this_machine_do_no_harm(serving, photos: Path) -> None:
    first, second = (serving(photos, access=Access(token)) for token in (TOKEN, TOKEN + "2"))
    cookies = [client.get(f"/?token={token}", follow_redirects=False).headers["set-cookie"].partition(";")[0]
               for client, token in ((first, TOKEN), (second, TOKEN + "2"))]  # fmt: skip
    assert cookies[0].partition("=")[0] != cookies[1].partition("=")[0]
    first.cookies.clear()
    jar = "; ".join(['theme={"dark": 1}', 'x="', *cookies])
    assert first.get("/v1/galleries", headers={"cookie": jar}).status_code == 200
    assert first.get("/v1/galleries", headers={"cookie": cookies[1]}).status_code == 401


def test_a_browser_without_the_token_is_asked_for_it(serving, photos: Path) -> None:
    client = serving(photos, access=Access(TOKEN))
    reply = client.get("/", headers={"accept": "text/html,*/*"})
    assert reply.status_code == 401 and 'name="token"' in reply.text and TOKEN not in reply.text
    assert "form-action 'self'" in reply.headers["content-security-policy"]
    wrong = client.get("/?token=wrong", headers={"accept": "text/html,*/*"})
    assert wrong.status_code == 401 and "not the right one" in wrong.text
    assert client.get("/").json()["error"] == "a token is needed."


def test_pages_of_other_origins_may_not_ask(serving, photos: Path) -> None:
    client = serving(photos, access=Access(origins=frozenset({"https://intranet.example.org"})))
    assert ask(client, origin="http://localhost").status_code == 200
    assert ask(client, origin="https://evil.example.org").status_code == 403
    reply = ask(client, origin="https://intranet.example.org")
    assert reply.headers["access-control-allow-origin"] == "https://intranet.example.org"
    asked = client.options("/v1/search", headers={"origin": "https://intranet.example.org"})
    assert (asked.status_code, asked.headers["access-control-allow-methods"]) == (204, "GET, POST, DELETE")
    plain = ask(client)
    assert "access-control-allow-origin" not in plain.headers


def test_clients_of_other_machines_are_slowed_down(serving, photos: Path) -> None:
    client = serving(photos, access=Access(rate=2.0), client="10.1.2.3")
    codes = [client.get("/healthz").status_code for _ in range(8)]
    assert codes[:4] == [200] * 4 and 429 in codes[4:]
    here = serving(photos, access=Access(rate=2.0))
    assert {here.get("/healthz").status_code for _ in range(20)} == {200}


def test_a_rate_lets_as_many_through_as_it_says() -> None:
    now = [0.0]
    rates = Rates(10.0, clock=lambda: now[0])
    assert sum(rates.take("a") for _ in range(100)) == 20
    assert rates.take("b")
    now[0] += 1.0
    assert sum(rates.take("a") for _ in range(100)) == 10


def test_every_answer_says_what_browsers_may_do_with_it(serving, photos: Path) -> None:
    client = serving(photos)
    for reply in (client.get("/"), ask(client), client.get("/v1/nothing"), client.get("/v1/pictures/x")):
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
    assert ask(client).headers["cache-control"] == "no-store"


def test_the_page_asks_nobody_else(serving, photos: Path) -> None:
    page = serving(photos).get("/").text
    for mark in ("https://", "//cdn", "@import", 'src="http'):
        assert mark not in page
    assert page.count("http://") == page.count("http://www.w3.org/")


@pytest.mark.parametrize(
    ("address", "ours"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False),
     ("0.0.0.0", False), ("example.org", False), ("fe80::1%eth0", False), ("", True)]
)  # fmt: skip
def test_which_addresses_are_of_this_machine(address: str, ours: bool) -> None:
    assert is_loopback(address) is ours


def test_a_server_that_others_can_reach_gets_a_token() -> None:
    assert Address().access().token is None
    made = Address("0.0.0.0").access().token
    assert made is not None and len(made) >= 24
    assert Address("0.0.0.0").access().token != made
    with pytest.raises(UsageError, match="16 printable"):
        Address(token="short").access()
    with pytest.raises(UsageError, match="letters, digits"):
        Address(token="no blanks; in tokens").access()
    with pytest.raises(UsageError, match="--origin"):
        Address(origins=["example.org/"]).access()


def test_an_ipv6_address_is_known_as_browsers_write_it() -> None:
    address = Address("FD00:0:0::1", token=TOKEN)
    assert "[fd00::1]" in address.access().hosts
    assert address.url(address.access(), 8080) == f"http://[fd00::1]:8080/?token={TOKEN}"
    assert Address("localhost").access().token is None


@pytest.mark.parametrize("host", ["a" * 70, "..", "nowhere.invalid", ""])
def test_a_host_that_does_not_resolve_is_one_line(photos: Path, host: str) -> None:
    with pytest.raises(DataError, match="no address of this machine") as told:
        serve("no such model", Given([str(photos)]), Address(host, 0))
    assert "Errno" not in told.value.message


def test_a_full_queue_is_said_at_once_and_its_places_come_back() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        lane = WorkQueue("test", 1, 1)
        running = [asyncio.ensure_future(lane.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await lane.run(lambda: None)
        gone = running.pop()
        gone.cancel()
        await asyncio.sleep(0.01)
        assert lane.inside == 1
        gate.set()
        await running[0]
        assert await lane.run(lambda: 5) == 5
        lane.close()

    asyncio.run(scenario())


def test_who_waits_for_slow_work_is_let_go_when_the_server_ends() -> None:
    async def scenario() -> None:
        gate = threading.Event()
        queue = WorkQueue("test", 1, 5)
        waiting = [asyncio.ensure_future(queue.run(lambda: gate.wait(20))) for _ in range(3)]
        await asyncio.sleep(0.05)
        queue.close()
        assert [type(one) for one in await asyncio.gather(*waiting, return_exceptions=True)] == [Overloaded] * 3
        with pytest.raises(Overloaded):
            await queue.run(lambda: None)
        gate.set()

    asyncio.run(scenario())


def test_an_overloaded_server_answers_503(serving, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serving(photos)
    gate = threading.Event()
    monkeypatch.setattr(client.service, "search", lambda request, client: {"waited": gate.wait(20)})
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(ask(client).status_code)) for _ in range(80)]
    for thread in threads:
        thread.start()
    try:
        refused = None
        for _ in range(400):
            if 503 in codes:
                refused = ask(client)
                break
            threading.Event().wait(0.01)
        assert refused is not None and refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200
    finally:
        gate.set()
        for thread in threads:
            thread.join()
    assert codes.count(200) >= 60 and set(codes) == {200, 503}
