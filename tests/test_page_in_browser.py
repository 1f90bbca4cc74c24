"""The page of a campaign in a real browser: nothing goes wrong, crystals are drawn, tables sort, it can be printed."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from csp_al import open_run
from csp_al.report.page import write_report

api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: pip install 'csp_al[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium"),
]
SOFTWARE_GL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE = 120_000
"""ms; without a GPU, and beside other tests, a page takes its time."""
A4 = 703
"""Pixels within its margins."""


@dataclass
class Opened:
    """A page in the browser, and what was complained of or asked for since it was opened."""

    page: api.Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def pixels(self, place: str) -> np.ndarray:
        """What is seen there, (height, width, 3), 0 to 1."""
        from matplotlib.image import imread

        return imread(io.BytesIO(self.page.locator(place).first.screenshot()))[:, :, :3]


@pytest.fixture(scope="module")
def run(finished_run):
    return open_run(finished_run)


@pytest.fixture(scope="module")
def browser() -> Iterator[api.Browser]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_GL, timeout=PATIENCE)
        yield browser
        browser.close()


def opened(browser: api.Browser, path: Path) -> Opened:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page.set_default_timeout(PATIENCE)
    it = Opened(page)
    page.on("console", lambda message: it.complaints.append(message.text) if message.type != "log" else None)
    page.on("pageerror", lambda error: it.complaints.append(str(error)))
    page.on("request", lambda request: it.requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", state="attached")
    return it


@pytest.fixture(scope="module")
def it(browser, finished_run, tmp_path_factory) -> Opened:
    return opened(browser, write_report(finished_run, tmp_path_factory.mktemp("page") / "report.html"))


def drawn(pixels: np.ndarray) -> float:
    """The share of the pixels that are neither white nor nearly so."""
    return float((pixels < 0.9).any(axis=2).mean())


def test_every_crystal_is_drawn_and_can_be_seen_large_turned_and_repeated(it, run):
    cards = it.page.locator("#gallery button")
    assert cards.count() == len(run.result_rows) > 1
    for number in range(cards.count()):
        assert drawn(it.pixels(f"#gallery button:nth-child({number + 1}) img")) > 0.02
    first = it.pixels("#viewer")
    assert drawn(first) > 0.02
    cards.nth(1).click()
    assert f"{run.result_rows[1]['energy_per_atom']:.4f}" in it.page.locator("#caption").inner_text()
    second = it.pixels("#viewer")
    assert np.abs(second - first).max() > 0.3
    box = it.page.locator("#viewer").bounding_box()
    it.page.mouse.move(box["x"] + 200, box["y"] + 200)
    it.page.mouse.down()
    it.page.mouse.move(box["x"] + 300, box["y"] + 260, steps=4)
    it.page.mouse.up()
    turned = it.pixels("#viewer")
    assert np.abs(turned - second).max() > 0.3
    it.page.locator("#repeat").select_option("3")
    assert np.abs(it.pixels("#viewer") - second).max() > 0.3


def test_the_cif_that_is_saved_is_the_crystal(it, run, tmp_path):
    it.page.locator("#gallery button").first.click()
    with it.page.expect_download() as download:
        it.page.locator("#save").click()
    assert download.value.suggested_filename == run.result_rows[0]["cif"]
    download.value.save_as(tmp_path / "saved.cif")
    atoms = read(tmp_path / "saved.cif")
    assert atoms.get_volume() / len(atoms) == pytest.approx(run.result_rows[0]["volume_per_atom"], rel=0.01)


def test_a_click_on_a_heading_sorts_the_table_and_another_turns_it_round(it, run):
    table = it.page.locator("#found table")
    column = [text.split("\n")[0] for text in table.locator("th").all_inner_texts()].index("reached")
    for direction in ("ascending", "descending"):
        table.locator("th button").nth(column).click()
        assert table.locator("th").nth(column).get_attribute("aria-sort") == direction
        shown = [int(row.split("\t")[column]) for row in table.locator("tbody tr").all_inner_texts()]
        expected = sorted(row["times_reached"] for row in run.result_rows)
        assert shown == (expected if direction == "ascending" else expected[::-1])
    cycles = it.page.locator("#convergence table")
    errors = [text.split("\n")[0] for text in cycles.locator("th").all_inner_texts()].index("energy error")
    for _ in range(2):
        cycles.locator("th button").nth(errors).click()
        assert cycles.locator("tbody tr").last.locator("td").nth(errors).inner_text() == "-"  # unknown ones come last


def test_pointing_at_the_map_shows_the_candidate(it, run):
    it.page.locator("#map").scroll_into_view_if_needed()
    words = it.page.locator("#which")
    api.expect(words).to_contain_text(f"Candidate {run.ranking()['id'][0]},")
    before = it.pixels("#pointed")
    assert drawn(before) > 0.01
    figure = it.page.locator("[data-figure=map]")
    points = run.pool_map()
    far = points.loc[(points["x"] - points["x"].median()).abs().idxmax()]
    at = figure.evaluate(
        "(map, [x, y]) => { const { xaxis, yaxis } = map._fullLayout; const box = map.getBoundingClientRect();"
        "return [box.x + xaxis._offset + xaxis.l2p(x), box.y + yaxis._offset + yaxis.l2p(y)]; }",
        [far["x"], far["y"]],
    )
    it.page.mouse.move(*at)
    api.expect(words).to_contain_text(f"Candidate {far['id']},")
    assert np.abs(it.pixels("#pointed") - before).max() > 0.3


def test_links_lead_to_their_sections(it):
    links = it.page.locator("nav a")
    for number in range(links.count()):
        links.nth(number).click()
        target = it.page.locator(links.nth(number).get_attribute("href"))
        api.expect(target).to_be_in_viewport()


def test_printing_cuts_nothing_off_and_leaves_out_what_paper_cannot_do(it):
    it.page.emulate_media(media="print")
    it.page.set_viewport_size({"width": A4, "height": 1000})
    assert it.page.evaluate("document.documentElement.scrollWidth") <= A4
    assert not it.page.locator("#viewer").is_visible()
    assert not it.page.locator("nav").is_visible()
    assert it.page.locator("#gallery img").first.is_visible()
    printed = it.page.pdf(prefer_css_page_size=True)
    it.page.emulate_media(media="screen")
    it.page.set_viewport_size({"width": 1280, "height": 900})
    assert printed.startswith(b"%PDF")
    assert 3 <= printed.count(b"/Type /Page\n") <= 12


@pytest.mark.parametrize("state", ["finished", "running", "begun"])
def test_nothing_goes_wrong_and_nothing_is_loaded(state, browser, it, finished_run, tmp_path):
    if state != "finished":
        shutil.copytree(finished_run, tmp_path / "run")
        left_out = (
            ["winners"] if state == "running" else ["winners", "cycle-00", "cycle-01", "cycle-02", "check", "pool"]
        )
        for name in left_out:
            shutil.rmtree(tmp_path / "run" / name)
        it = opened(browser, write_report(tmp_path / "run"))
        assert it.page.locator("#gallery button").count() == (2 if state == "running" else 0)
    assert it.complaints == []
    assert [url[:60] for url in it.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert sum(url.startswith("file:") for url in it.requests) == 1
