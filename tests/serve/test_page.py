"""The page in a real browser, without a head."""

import base64
import csv
import io
import json
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from humanquery.media.video_writer import VideoWriter
from tests.serve.running import Running
from tests.serve.stand_in import StandIn, picture

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium (Debian: apt install chromium)"
)
WAIT = 20_000
"""milliseconds for what takes a few hundred on a quiet machine"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as opened:
        stand_in = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        chromium = opened.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", *stand_in])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = Running(StandIn())
    yield running
    running.stop()
    running.thread.join(10)


@pytest.fixture
def visit(browser):
    """Opens the page of a server; at the end nothing may have gone wrong in its scripts, and
    nobody else may have been asked."""
    troubles, contexts = [], []

    def go(server: Running, width: int = 1440, height: int = 900, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("pageerror", lambda problem: troubles.append(str(problem)))
        page.on(
            "request",
            lambda asked: (
                asked.url.startswith((server.address, "blob:", "data:"))
                or troubles.append(f"asked {asked.url}")
            ),
        )
        page.goto(server.address)
        page.wait_for_selector("#limits:not(:empty)")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not troubles


def photo(name: str = "two.png", size=(150, 200), kind: str = "PNG") -> dict:
    return {"name": name, "mimeType": "image/png", "buffer": picture(size, kind=kind)}


def give(page, file: dict) -> None:
    page.set_input_files("#file", file)
    page.wait_for_selector("#result:not([hidden])")


def pixels(page) -> np.ndarray:
    """What the canvas shows."""
    text = page.evaluate("document.getElementById('canvas').toDataURL()")
    return np.array(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))).convert("RGB"))


def test_a_photo_is_shown_with_its_people(visit, server):
    page = visit(server)
    give(page, photo())
    assert page.inner_text("#count") == "1 person"
    cells = page.locator("#people tr").first.locator("td").all_inner_texts()
    assert [cell.strip() for cell in cells] == ["1", "0.90", "woman", "34", "100 × 150"]
    shown = pixels(page)
    left, right = shown[:, : shown.shape[1] // 3], shown[:, shown.shape[1] * 2 // 3 :]
    assert (left.astype(int).max(-1) - left.min(-1) > 30).mean() > 0.8, "the mask is coloured"
    assert (right == 90).mean() > 0.95, "nobody is drawn where nobody is"


def test_every_switch_changes_the_picture_and_back(visit, server):
    page = visit(server)
    noise = np.random.default_rng(0).integers(0, 255, (150, 200, 3)).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(noise).save(written, "PNG")
    give(page, {"name": "n.png", "mimeType": "image/png", "buffer": written.getvalue()})
    before = pixels(page)
    for name in ("boxes", "masks", "joints", "labels", "faces"):
        page.keyboard.press(name[0])
        after = pixels(page)
        assert (before != after).any() and page.is_checked(f"#{name}") == (name == "faces")
        page.click(f"label:has(#{name})")
        assert (pixels(page) == before).all()


def test_a_row_highlights_its_person_and_a_person_its_row(visit, server):
    page = visit(server)
    give(page, photo())
    before = pixels(page)
    page.hover("#people tr")
    assert (pixels(page) != before).any()
    page.mouse.move(0, 0)
    assert (pixels(page) == before).all() and not page.locator("#people tr.lit").count()
    page.hover("#canvas", position={"x": 20, "y": 90})
    assert page.locator("#people tr.lit").count() == 1
    page.mouse.move(0, 0)
    page.focus("#people tr")  # by keyboard
    assert page.locator("#people tr.lit").count() == 1


def test_what_was_found_can_be_taken_away(visit, server):
    page = visit(server)
    give(page, photo("my photo.png"))
    taken = {}
    for kind in ("json", "csv", "png"):
        with page.expect_download() as download:
            page.click(f"#{kind}")
        assert download.value.suggested_filename == f"my photo_people.{kind}"
        taken[kind] = download.value.path().read_bytes()
    assert len(json.loads(taken["json"])["persons"]) == 1
    (row,) = csv.DictReader(io.StringIO(taken["csv"].decode()))
    assert row["file_name"] == "my photo.png" and row["x2"] == "100" and row["age"] == "34.2"
    assert float(row["nose_score"]) == 0.8
    assert Image.open(io.BytesIO(taken["png"])).size == (200, 150)


def test_the_table_has_the_columns_of_the_command_line(visit, server, tmp_path):
    from humanquery.predict.track_files import CsvPictures
    from tests.predict.fake import people

    table = CsvPictures(tmp_path / "people.csv")
    table.rows(("a.png",), people((300, 400), ("keypoints", "gender", "age")).above(0.5))
    table.close()
    page = visit(server)
    give(page, photo("a.png"))
    with page.expect_download() as download:
        page.click("#csv")
    known = next(csv.reader((tmp_path / "people.csv").open()))
    found = next(csv.reader(io.StringIO(download.value.path().read_text())))
    assert found == [name for name in known if not name.startswith("embedding")]


def test_a_photo_is_taken_with_the_camera(visit, server):
    page = visit(server)
    page.click("#camera")
    page.wait_for_selector("#live:not([hidden])")
    page.wait_for_selector("#shoot:focus")
    page.click("#shoot")
    page.wait_for_selector("#result:not([hidden])")
    assert page.is_hidden("#live") and page.inner_text("#count") == "1 person"


def test_a_photo_is_pasted_or_dropped(visit, server):
    page = visit(server)
    made = """async (kind) => {
      const canvas = Object.assign(document.createElement("canvas"), {width: 80, height: 60});
      canvas.getContext("2d").fillRect(0, 0, 80, 60);
      const blob = await new Promise((done) => canvas.toBlob(done));
      const data = new DataTransfer();
      data.items.add(new File([blob], kind + ".png", {type: "image/png"}));
      const event = kind === "paste" ? new ClipboardEvent("paste", {clipboardData: data})
        : new DragEvent("drop", {dataTransfer: data, cancelable: true});
      window.dispatchEvent(event);
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(made, kind)
        page.wait_for_selector("#result:not([hidden])")
        with page.expect_download() as download:
            page.click("#json")
        assert download.value.suggested_filename == f"{kind}_people.json"
        page.evaluate("document.getElementById('result').hidden = true")


def test_a_clip_is_shown_frame_by_frame(visit, server, tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        for i in range(5):
            video.write(np.full((96, 160, 3), 30 + 40 * i, np.uint8))
    page = visit(server)
    clip = (tmp_path / "a.mp4").read_bytes()
    give(page, {"name": "a.mp4", "mimeType": "video/mp4", "buffer": clip})
    assert page.inner_text("#count") == "1 person in this frame, 1 in the clip"
    page.fill("#seek", "3")
    assert page.inner_text("#when") == "0.30 s"
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert [(row["frame"], row["track_id"]) for row in rows] == [(str(i), "1") for i in range(5)]


def test_what_goes_wrong_is_said(visit, server):
    page = visit(server)
    page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.wait_for_selector("#problem:not([hidden])")
    assert "a.png: this browser cannot show it" in page.inner_text("#problem")
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"})
    assert "neither a photo nor a clip" in page.inner_text("#problem")
    give(page, photo())
    assert page.is_hidden("#problem"), "what is over is not said any more"


def test_a_key_is_asked_for_where_one_is_needed(browser, model):
    server = Running(model, api_keys=("secret-key",))
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    try:
        page.goto(server.address)
        page.wait_for_selector("#key:not([hidden])")
        page.fill("#secret", "secret-key")
        page.keyboard.press("Enter")
        page.wait_for_selector("#limits:not(:empty)")
        assert page.is_hidden("#key")
        give(page, photo())
    finally:
        page.close()
        server.stop()
        server.thread.join(10)


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_the_page_fits_phones_and_desks_in_both_colours(visit, server, tmp_path, width, scheme):
    page = visit(server, width, 844, color_scheme=scheme)
    give(page, photo("a.png", (450, 800)))
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(dark.split("(")[1].split(",")[0]) < 60) == (scheme == "dark")
    for button in page.locator("button:visible, .button:visible").all():
        assert button.bounding_box()["height"] >= 40, "large enough for a thumb"
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_everything_can_be_reached_by_keyboard(visit, server):
    page = visit(server)
    give(page, photo())
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    wanted = ["file", "camera", "boxes", "masks", "joints", "labels", "faces", "TR", "json", "csv"]
    assert [name for name in dict.fromkeys(reached) if name in wanted] == wanted
