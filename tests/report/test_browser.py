"""The page in a real browser: from a file, by keyboard, without a network and without errors."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored import (
    measured_of,
    mock_columns,
    mock_scores,
    report,
    sky_columns,
    sky_measured_of,
    write_scores,
)

from lensfinder import catalogs, schema, shards, tables
from lensfinder.report import document, page
from lensfinder.report.bandpixels import encode

playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.browser
expect = playwright_api.expect
EVIL = "<script>alert(1)</script>"
IDS = [EVIL, "=cmd()", "'quoted", *(f"object {k}" for k in range(12))]


def stamp(k: int) -> np.ndarray:
    """A red galaxy with a blue arc of its own angle, and a corner without data."""
    rng = np.random.default_rng(k)
    yy, xx = np.mgrid[:41, :41] - 20
    radius = np.hypot(xx, yy)
    galaxy = np.exp(-radius / 3.0)
    arc = np.exp(-(((radius - 9) / 1.5) ** 2)) * (np.cos(np.arctan2(yy, xx) - k) > 0.6)
    image_CHW = rng.normal(0, 1, (3, 41, 41))
    image_CHW += np.multiply.outer([20.0, 60.0, 120.0], galaxy)
    image_CHW += np.multiply.outer([40.0, 20.0, 10.0], arc)
    image_CHW[:, :6, :6] = np.nan
    return image_CHW.astype(np.float32)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    n = len(IDS)
    logit_N = 20.0 - np.arange(n)
    sky = {
        "id": IDS, "ra": 180.0 + 0.01 * np.arange(n), "dec": np.full(n, -0.5), "tile": ["t"] * n,
        "x": np.arange(n) * 1.0, "y": np.arange(n) * 2.0, "logit": logit_N,
        "score": 1 / (1 + np.exp(-logit_N)), "outcome": ["ok"] * n, "reason": [""] * n,
        "flags": [0, schema.FLAG_EDGE, *[0] * (n - 2)], "label": [-1] * n,
        "mag_r": 20.0 - 0.1 * np.arange(n), "model_id": ["a" * 64] * n,
    }  # fmt: skip
    write_scores(folder / "sky", sky)
    image_NCHW = np.stack([stamp(k) for k in range(n)])
    blank = {name: [schema.empty_value(name)] * n for name in schema.REQUIRED_COLUMNS}
    header = shards.Header("infer", "kids", ("g", "r", "i"), 0.2, {"made": "stamps"}, {})
    shards.write(
        folder / "sky" / "candidates.h5", header, image_NCHW,
        np.zeros(image_NCHW.shape, np.uint8), {**blank, "id": IDS},
    )  # fmt: skip
    mocks = write_scores(folder / "mocks", mock_scores(60, 400))
    assert report(folder / "out", [mocks], sky=folder / "sky").exit_code == 0
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with playwright_api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


class Tab:
    """A page, and everything that it complained of or asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def graded(self) -> list[str]:
        badges: list[str] = self.page.locator(".grade:not([hidden])").all_inner_texts()
        return badges

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []
        assert all(url.startswith(("file:", "data:", "blob:")) for url in self.requests)


@pytest.fixture
def tab(browser: Any, html: Path) -> Iterator[Tab]:
    opened = Tab(browser, html, viewport={"width": 1280, "height": 900})
    yield opened
    opened.close()


def pixels(tab: Tab, selector: str) -> np.ndarray:
    """RGB of a canvas, (y, x, 3)."""
    width, height, data = tab.page.eval_on_selector(
        selector,
        """c => {
            const copy = document.createElement("canvas");
            [copy.width, copy.height] = [c.width, c.height];
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(c, 0, 0);
            return [c.width, c.height, [...context.getImageData(0, 0, c.width, c.height).data]];
        }""",
    )
    return np.array(data).reshape(height, width, 4)[..., :3]


def export(tab: Tab, path: Path) -> Path:
    with tab.page.expect_download() as download:
        tab.page.click("#export")
    download.value.save_as(path)
    return path


def test_ten_are_graded_by_keyboard_kept_exported_and_merged(
    tab: Tab, html: Path, browser: Any, command: Callable[..., Any], tmp_path: Path
) -> None:
    page_ = tab.page
    page_.fill("#grader", "anna")
    page_.press("#grader", "Enter")  # as a click on "Grade the next"
    for key in "abcx3210ab":
        page_.keyboard.press(key)
    wanted = ["A", "B", "C", "X", "3", "2", "1", "0", "A", "B"]
    assert tab.graded() == wanted
    assert page_.inner_text("#shown") == "15 of 15 shown, 10 graded"
    page_.reload()
    assert tab.graded() == wanted
    assert page_.input_value("#grader") == "anna"

    anna = export(tab, tmp_path / "anna.csv")
    with anna.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [catalogs.from_cell(row["id"]) for row in rows] == IDS[:10]
    assert [row["grade"] for row in rows] == wanted
    assert {row["grader"] for row in rows} == {"anna"}

    # Somebody else takes these grades over, changes one and takes one back.
    other = Tab(browser, html)
    assert other.graded() == []
    other.page.set_input_files("#import", anna)
    expect(other.page.locator("#said")).to_have_text("10 grades taken over")
    assert other.graded() == wanted
    other.page.fill("#grader", "ben")
    other.page.locator(".card").nth(1).focus()
    other.page.keyboard.press("x")
    other.page.keyboard.press("Delete")
    assert other.graded() == ["A", "X", *wanted[3:]]
    ben = export(other, tmp_path / "ben.csv")
    other.close()

    said = command("grades", anna, ben, "-o", tmp_path / "merged")
    assert said.code == 0, said.err
    assert "anna and ben: Cohen's kappa" in said.out
    labels = tables.read_columns(tmp_path / "merged" / "labels.parquet")
    assert dict(zip(labels["id"], labels["label"], strict=True))[EVIL] == 1
    assert set(labels["id"]) <= set(IDS)


def test_an_evil_id_stays_text(tab: Tab) -> None:
    assert tab.page.locator(".id", has_text=EVIL).first.inner_text() == EVIL
    tab.page.locator(".card .picture").first.click()
    assert tab.page.inner_text("#viewer-id").startswith(EVIL)
    assert tab.page.evaluate("document.scripts.length") == 4


def test_letters_grade_nothing_outside_of_cards(tab: Tab) -> None:
    tab.page.focus("#find")
    tab.page.keyboard.type("cab")
    assert tab.graded() == []
    assert tab.page.inner_text("#shown").startswith("0 of 15")
    tab.page.fill("#find", "")
    tab.page.focus("body")
    tab.page.keyboard.press("a")
    assert tab.graded() == []


def test_cards_are_sorted_and_filtered(tab: Tab) -> None:
    def shown() -> list[str]:
        texts: list[str] = tab.page.locator(".card:not([hidden]) .id").all_inner_texts()
        return texts

    tab.page.select_option("#sort", "mag:r")
    assert shown() == IDS[::-1]
    tab.page.check("#unflagged")
    assert shown() == [name for name in IDS[::-1] if name != "=cmd()"]
    tab.page.locator(".card:not([hidden])").first.focus()
    tab.page.keyboard.press("b")
    tab.page.keyboard.press("a")
    tab.page.select_option("#graded", "any")
    assert shown() == IDS[:-3:-1]
    tab.page.select_option("#sort", "grade")
    assert shown() == [IDS[-2], IDS[-1]]
    tab.page.select_option("#graded", "A")
    assert shown() == [IDS[-2]]


def test_stamps_are_stretched_anew_in_colour_and_by_band(tab: Tab) -> None:
    first = ".card:first-child canvas"
    tab.page.locator(".card").first.scroll_into_view_if_needed()
    tab.page.wait_for_selector(first + "[data-drawn='colour 1']")
    colour = pixels(tab, first).astype(int)
    centre = colour[20, 20]
    assert centre[0] > centre[1] > centre[2]
    # Row 0 of the stamp, which has no data in its first columns, lies at the bottom: checks.
    assert set(colour[-6:, :6].ravel()) == {107, 138}

    tab.page.select_option("#view", "0")
    tab.page.wait_for_selector(first + "[data-drawn='0 1']")
    grey = pixels(tab, first).astype(int)
    assert np.ptp(grey, axis=-1).max() == 0
    # The blue band as stored, at the default contrast, by the same formula.
    coded = encode(stamp(0))
    signal = (stamp(0)[0, ::-1][20, 12] - 0.0) / coded.noise_njy[0]
    level = 0.09 + 0.91 * np.arcsinh(signal / 3) / np.arcsinh(coded.white_sigma / 3)
    assert grey[20, 12, 0] == pytest.approx(255 * level, abs=8)

    tab.page.eval_on_selector(
        "#contrast", "e => { e.value = 2; e.dispatchEvent(new Event('input')); }"
    )
    tab.page.wait_for_selector(first + "[data-drawn='0 4']")
    assert pixels(tab, first)[20, 12, 0] > grey[20, 12, 0]


def test_the_viewer_shows_every_band_and_grades(tab: Tab) -> None:
    tab.page.locator(".card").first.focus()
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#views canvas >> nth=3")
    assert tab.page.locator("#views figcaption").all_inner_texts() == ["colour", "g", "r", "i"]
    tab.page.click("#viewer [data-grade='B']")
    expect(tab.page.locator("#viewer-title")).to_contain_text("2. LF")
    tab.page.keyboard.press("ArrowLeft")
    assert tab.page.inner_text("#viewer-grade") == "graded B"
    tab.page.keyboard.press("Escape")
    assert not tab.page.locator("#viewer").is_visible()
    assert tab.graded() == ["B"]


def test_a_browser_that_keeps_nothing_says_so_and_grades_all_the_same(
    browser: Any, html: Path, tmp_path: Path
) -> None:
    tab = Tab.__new__(Tab)
    tab.context = browser.new_context(accept_downloads=True)
    tab.context.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused'); } });"
    )
    tab.page, tab.complaints, tab.requests = tab.context.new_page(), [], []
    tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    tab.page.goto(html.as_uri())
    assert "export the grades" in tab.page.inner_text("#said")
    tab.page.click("#start")
    tab.page.keyboard.press("a")
    assert tab.graded() == ["A"]
    with export(tab, tmp_path / "me.csv").open(encoding="utf-8", newline="") as file:
        assert [row["grade"] for row in csv.DictReader(file)] == ["A"]
    tab.close()


def test_it_fits_a_phone_and_every_control_has_a_name(browser: Any, html: Path) -> None:
    tab = Tab(browser, html, viewport={"width": 390, "height": 844}, has_touch=True)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    nameless = tab.page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter(e =>"
        " !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).length"
    )
    assert nameless == 0
    tab.page.locator(".card .picture").first.tap()
    tab.page.locator("#viewer [data-grade='A']").tap()
    tab.page.locator("#viewer button", has_text="close").tap()
    assert tab.graded() == ["A"]
    tab.close()


@pytest.mark.parametrize("bands", ["r", "gi", "ugri", "ugrizy"])
def test_stamps_of_any_number_of_bands_are_drawn(bands: str, browser: Any, tmp_path: Path) -> None:
    image_CHW = np.random.default_rng(0).normal(0, 1, (len(bands), 21, 21))
    for c in range(len(bands)):
        image_CHW[c, 10, 4 + c] = 1e3
    row = {
        "rank": 1, "name": "x", "id": "x", "ra": 1.0, "dec": 2.0, "logit": 1.0, "score": 0.5,
        "probability": None, "flags": [], "mags": {}, "known": None, "above": True,
        "stamp_arcsec": 4.2,
    }  # fmt: skip
    mocks, used = measured_of(mock_columns(20, 400))
    content = document.build(
        measured=mocks, sky=sky_measured_of(sky_columns(400, 1), mocks, used), known=None,
        candidates={"n_above": 1, "rows": [row]}, histograms={},
        leakage={"n_train": 0, "n_test": 1, "n_hosts": 0, "n_sources": 0},
        simulated=True,
        settings={"model_id": "m", "prevalence": 1e-3, "bands": [], "stamp_bands": list(bands),
                  "inspect_per_hour": 500.0, "calibration": None},
        provenance={"command": "x", "seed": 0, "versions": {}, "inputs": []},
    )  # fmt: skip
    path = tmp_path / "page.html"
    path.write_text(page.render(content, [], [encode(image_CHW)]), encoding="utf-8")
    tab = Tab(browser, path)
    tab.page.locator(".picture").scroll_into_view_if_needed()
    tab.page.wait_for_selector("canvas[data-drawn='colour 1']")
    for c in range(len(bands) if len(bands) > 1 else 0):
        tab.page.select_option("#view", str(c))
        tab.page.wait_for_selector(f"canvas[data-drawn='{c} 1']")
        grey = pixels(tab, ".card canvas")[..., 0]
        # Row 10 is the middle of 21; each band has its one source in a column of its own.
        assert np.unravel_index(grey.argmax(), grey.shape) == (10, 4 + c)
    tab.close()


def test_without_a_script_every_candidate_is_shown(browser: Any, html: Path) -> None:
    tab = Tab(browser, html, java_script_enabled=False)
    assert tab.page.locator(".card").count() == len(IDS)
    assert not tab.page.locator("#controls").is_visible()
    assert tab.page.locator(".card img").first.is_visible()
    tab.context.close()
