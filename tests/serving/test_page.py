"""The page in a real browser: typing, filters, keys, images that are dropped, boxes that are drawn, alerts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving.conftest import paint, three, until

pytestmark = pytest.mark.xdist_group("page")  # its fixtures take seconds: one worker makes them

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium here: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHILD = """
import sys, threading
from support.encoder import FakeEncoder
from tbps_cli.serving import standing
from tbps_cli.serving.server import Address, Given, serve

def told(url, service):
    def wait():
        served = service.galleries[0]
        while served.busy or served.view is None or len(served.view.gallery) < 64:
            threading.Event().wait(0.02)
        print(url, flush=True)
    threading.Thread(target=wait, daemon=True).start()

standing.SETTLED = 0.2
serve(FakeEncoder(), Given(sys.argv[2:]), Address(port=0), budget=sys.argv[1], ready=told)
"""
STANDS = "({hits: answer?.hits.length, here, top: state.top, asking: Boolean(running), said: $('trouble').textContent})"
"""How a page stands, for whom a test waits in vain."""
HOSTILE = "<img src=x onerror=alert(1)>\"'&.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def crowd(photos: Path) -> None:
    """A few images, one of them with a name that is markup, and a frame with two persons in it."""
    three(photos)
    paint(photos / HOSTILE, "yellow")
    for number in range(60):
        paint(photos / "crowd" / f"{number:02d}.png", ("green", "blue")[number % 2], (16, 30 + number))


@contextmanager
def served(photos: Path, cache: Path, *, budget: str = "1000/h") -> Iterator[str]:
    """The address of a server in a process of its own, which shows all images."""
    words = [sys.executable, "-c", CHILD, budget, str(photos)]
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "TBPS_CACHE_DIR": str(cache)}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=photos.parent)
    try:
        url = child.stdout.readline().strip()
        assert url.startswith("http://"), url
        yield url
    finally:
        child.terminate()
        child.wait(30)
        child.stdout.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests that change nothing in it."""
    place = tmp_path_factory.mktemp("page")
    crowd(place / "photos")
    with served(place / "photos", place / "cache") as url:
        yield url


@contextmanager
def opened(browser, address: str, refused: str | None = None) -> Iterator[object]:
    """The page, of which nothing may go elsewhere or be logged as an error; refused: but for answers of this status."""
    made = browser.new_page(viewport={"width": 1440, "height": 900})
    said: list[str] = []
    elsewhere: list[str] = []

    def hear(message) -> None:
        if message.type in ("error", "warning") and not (refused and f"status of {refused}" in message.text):
            said.append(message.text)

    def see(request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            elsewhere.append(request.url)

    made.on("console", hear)
    made.on("request", see)
    made.on("pageerror", lambda error: said.append(str(error)))
    made.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    made.goto(address)
    wait(made, "galleries.length > 0")
    yield made
    made.close()
    assert said == [] and elsewhere == []


@pytest.fixture
def page(browser, address: str) -> Iterator[object]:
    with opened(browser, address) as made:
        yield made


def first(page) -> str:
    """The path of the first hit, as the page knows it."""
    return str(page.evaluate("answer?.hits[0]?.path ?? ''"))


def wait(page, expression: str) -> None:
    """Until something holds; playwright's own waiting needs `eval`, which the page's policy refuses."""
    found = until(lambda: page.evaluate(f"Boolean({expression})"))
    assert found, (expression, page.evaluate(STANDS))


def test_it_answers_while_one_types_and_the_address_can_be_kept(page, address: str) -> None:
    page.locator("#text").press_sequentially("red")
    wait(page, "answer?.hits[0]?.path === 'red.png' && answer.query === 'red'")
    assert page.url == f"{address}?q=red"
    assert page.locator(".hit").count() == 60
    page.reload()
    wait(page, "answer?.hits[0]?.path === 'red.png'")
    assert page.input_value("#text") == "red"
    page.locator("#more").click()
    wait(page, "document.querySelectorAll('.hit').length === 64")


def test_what_was_understood_is_a_chip_that_can_be_taken_away(page) -> None:
    page.fill("#text", "a red coat at camera cam1")
    wait(page, "answer?.hits.length === 1")
    chip = page.locator(".chip", has_text="cam1")
    assert chip.count() == 1
    chip.locator("button").click()
    wait(page, "answer?.hits.length === 60")
    assert page.input_value("#text") == "a red coat"


def test_cameras_and_times_filter(page, address: str) -> None:
    page.fill("#text", "red")
    page.locator("#cameras label", has_text="cam2").click()
    wait(page, "answer?.hits.length === 1 && answer.hits[0].camera === 'cam2'")
    assert "camera=cam2" in page.url
    page.fill("#until", "2026-01-05T12:00")
    page.locator("#until").dispatch_event("change")
    wait(page, "answer?.hits.length === 0")
    assert page.locator("#empty").inner_text().startswith("No image fits")
    page.locator("#empty button", has_text="Clear all filters").click()
    wait(page, "answer?.hits.length === 60")
    page.go_back()
    wait(page, "answer?.hits.length === 0")


def test_everything_can_be_done_with_keys(page) -> None:
    page.keyboard.press("Escape")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("red")
    wait(page, "answer?.query === 'red' && answer.hits[0]?.path === 'red.png'")  # not that of "re", which is replaced
    page.keyboard.press("ArrowDown")
    page.keyboard.press("c")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("c")
    assert page.locator("#chosen li").count() == 2
    page.keyboard.press("v")
    assert page.locator("#both[open] .pair img").count() == 2
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    wait(page, "document.querySelector('#facts dd')")
    assert page.locator("#detail-title").inner_text() == "1. red.png"
    page.keyboard.press("ArrowRight")
    wait(page, "document.querySelector('#detail-title').textContent.startsWith('2.')")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    wait(page, "state.minus.length === 1 && answer?.terms")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    assert page.locator("#keys[open]").count() == 1


def test_a_key_that_follows_a_closed_dialog_at_once_is_not_undone(page) -> None:
    """A browser tells of the closing a little later: the focus is back by then, or has moved on."""
    page.fill("#text", "red")
    wait(page, "answer?.hits[0]?.path === 'red.png'")
    page.evaluate(
        """() => {
            move(1, true);
            open_($("keys"));
            $("keys").addEventListener("close", () => { window.told = true; }, { once: true });
            $("keys").close();
            document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
        }"""
    )
    wait(page, "window.told")
    assert page.evaluate("[here, document.activeElement.closest('.hit').dataset.place]") == [0, "0"]


def test_more_like_this_and_not_like_this(page) -> None:
    page.fill("#text", "red")
    wait(page, "answer?.hits[0]?.path === 'red.png'")
    page.get_by_label("More like hit 1", exact=True).click()
    wait(page, "answer?.terms?.length === 2")
    assert first(page) == "red.png"
    page.locator(".chip", has_text="like").locator("button").click()
    wait(page, "!answer?.terms")
    page.get_by_label("Not like hit 1", exact=True).click()
    wait(page, "answer?.terms?.length === 2 && answer.terms[1].weight < 0")


def test_an_image_that_is_dropped_is_searched_by(page, photos: Path) -> None:
    data = (photos / "cam2" / "cam2_20260106-180000.jpg").read_bytes()
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], 'x.jpg', { type: 'image/jpeg' }));
            for (const name of ['dragover', 'drop'])
                window.dispatchEvent(new DragEvent(name, { dataTransfer: data, cancelable: true }));
        }""",
        list(data),
    )
    wait(page, "answer?.hits[0]?.path.startsWith('cam2/') || answer?.hits[0]?.path.startsWith('crowd/')")
    assert page.locator(".chip img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_a_box_drawn_on_the_frame_is_searched_by(page) -> None:
    page.fill("#text", "red")
    wait(page, "answer?.hits[0]?.path === 'red.png'")
    page.locator(".hit .open").first.click()
    wait(page, "detail?.facts")
    page.locator("[data-view=frame]").click()
    sheet = page.locator(".sheet.drawable img")
    sheet.evaluate("image => image.decode()")
    box = sheet.bounding_box()
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] - 1)
    page.mouse.up()
    wait(page, "state.plus[0]?.box && answer?.terms")
    assert first(page) == "red.png"
    page.reload()
    wait(page, "state.plus[0]?.box && answer?.hits[0].path === 'red.png'")


def test_a_box_is_drawn_with_keys_alone(page) -> None:
    page.fill("#text", "red")
    wait(page, "answer?.hits[0]?.path === 'red.png'")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    wait(page, "document.querySelector('#detail[open]')")
    page.keyboard.press("b")
    wait(page, "document.activeElement === document.querySelector('.sheet.drawable')")
    said = page.locator("#box-said")
    page.keyboard.press("ArrowRight")
    wait(page, "document.querySelector('#box-said').textContent.startsWith('Box 8 wide and 11 high, 4 from')")
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    wait(page, "document.querySelector('#box-said').textContent.startsWith('Box 9 wide and 10 high, 5 from')")
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Shift+ArrowDown")
    wait(page, "document.querySelector('#box-said').textContent.includes('high, 0 from the left')")
    assert said.text_content() == "Box 9 wide and 20 high, 0 from the left, 12 from the top, of a frame of 16 by 32."
    page.keyboard.press("Escape")  # takes the box away, and leaves the hit open
    wait(page, "document.querySelector('#box-said').textContent === 'No box.'")
    assert page.locator("#detail[open]").count() == 1 and page.locator("rect.drawn").count() == 0
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    wait(page, "state.plus[0]?.box?.join() === '4,11,8,11' && answer?.terms")
    assert first(page) == "red.png"


def test_a_name_that_is_markup_is_shown_as_text(page) -> None:
    page.fill("#text", "yellow <b>bold</b>")
    wait(page, "answer?.hits[0]?.path.includes('onerror')")
    assert HOSTILE in page.locator(".hit").first.inner_text()
    page.locator(".hit .open").first.click()
    wait(page, "document.querySelector('#facts dd')")
    assert HOSTILE in page.locator("#detail").inner_text()
    assert page.locator("#hits b b, #detail img[onerror], #notes b").count() == 0


def test_chosen_hits_are_exported(page) -> None:
    page.fill("#text", "red")
    wait(page, "answer?.hits[0]?.path === 'red.png'")
    page.get_by_label("Choose hit 1", exact=True).click()
    for form, begins in (("csv", b"query,rank"), ("html", b"<!doctype html"), ("zip", b"PK")):
        with page.expect_download() as download:
            page.locator(f"[data-export={form}]").click()
        assert Path(download.value.path()).read_bytes().startswith(begins)
        assert download.value.suggested_filename == f"hits.{form}"


def test_a_saved_question_alerts(browser, photos: Path, tmp_path: Path) -> None:
    crowd(photos)
    with served(photos, tmp_path / "cache") as url, opened(browser, url) as page:
        _alerts(page, photos)


def _alerts(page, photos: Path) -> None:
    page.locator("#watch-open").click()
    page.fill("#watch-text", "red")
    page.locator("#watch-form button").click()
    wait(page, "document.querySelectorAll('#questions li').length === 1")
    page.keyboard.press("Escape")
    paint(photos / "arrived.png", "red", (18, 36))
    page.wait_for_selector(".toast", timeout=40000)
    assert "red" in page.locator(".toast").inner_text()
    assert page.locator("#unread").inner_text() == "1"
    page.locator("#watch-open").click()
    wait(page, "document.querySelector('#alerts small')?.textContent.includes('arrived.png')")


def test_a_bookmark_of_what_is_gone_says_so_and_the_next_search_works(browser, address: str) -> None:
    with opened(browser, address, refused="404") as page:
        page.goto(f"{address}?q=red&gallery=gone&plus=%7B%22picture%22%3A%220.0123456789abcdef%22%7D&sure=99")
        page.wait_for_selector("#trouble:not([hidden])")
        assert "not in a gallery" in page.locator("#trouble").inner_text()
        assert "gone" in page.locator(".toast").inner_text()
        assert page.input_value("#text") == "red"
        page.locator(".chip button").first.click()
        wait(page, "answer?.hits[0]?.path === 'red.png'")
        assert page.locator("#trouble").is_hidden()


def test_a_server_that_is_gone_is_said(browser, address: str) -> None:
    with opened(browser, address) as page:
        page.fill("#text", "red")
        wait(page, "answer?.hits[0]?.path === 'red.png'")
        page.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('Failed to fetch')); }")
        page.fill("#text", "blue")
        page.wait_for_selector("#trouble:not([hidden])")
        assert "cannot be reached" in page.locator("#trouble").inner_text()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "light"), (1440, "dark")])
def test_axe_finds_no_serious_fault(page, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.set_viewport_size({"width": width, "height": 850})
    page.emulate_media(color_scheme=scheme)

    def serious() -> list[str]:
        found = axe.run(page).response["violations"]
        return [
            f"{one['id']}: {node['html'][:120]}"
            for one in found
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    assert serious() == []
    page.fill("#text", "a red coat at camera cam1 without a bag")
    wait(page, "answer?.hits.length === 1")
    page.get_by_label("Choose hit 1", exact=True).click()
    assert serious() == []
    page.locator(".hit .open").first.click()
    wait(page, "detail?.facts && detail?.words")
    assert serious() == []
    page.keyboard.press("Escape")
    page.locator("#watch-open").click()
    wait(page, "document.querySelector('#alerts li')")
    assert serious() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
def test_the_message_of_a_server_that_is_away_goes_when_it_is_back(browser, address: str) -> None:
    made = browser.new_page()
    made.route("**/v1/galleries", lambda route: route.abort())
    made.goto(address)
    wait(made, "!document.querySelector('#trouble').hidden")
    made.unroute("**/v1/galleries")
    wait(made, "document.querySelector('#trouble').hidden && galleries.length")
    made.fill("#text", "red")
    wait(made, "answer")
    made.route("**/v1/search", lambda route: route.fulfill(status=422, json={"error": "refused"}))
    made.fill("#text", "red coat")
    wait(made, "document.querySelector('#trouble').textContent === 'refused'")
    made.fill("#text", "")
    wait(made, "document.querySelector('#trouble').hidden")
    made.close()


def test_closing_one_dialog_leaves_the_next_as_it_is(page) -> None:
    page.fill("#text", "red")
    wait(page, "answer?.hits.length")
    page.evaluate("choose(answer.hits[0]); choose(answer.hits[1]); compare(); $('both').close(); openDetail(0)")
    wait(page, "detail.facts")
    assert page.locator("#canvas img").count() == 1
    assert page.locator("#d-choose").text_content() == "Chosen"


def test_only_the_page_that_is_looked_at_holds_a_connection(page) -> None:
    wait(page, "events && lastEvent")
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true}); listen()")
    assert page.evaluate("events === null")
    page.evaluate("delete document.hidden; listen()")
    wait(page, "events?.url.includes('after=')")
