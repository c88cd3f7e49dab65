"""The report as a reader sees it, in headless Chromium: skipped where there is none."""

import shutil

import pytest

from benchmarks.run.environment import ROOT
from tests.plots.conftest import HOSTILE

BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium found; Debian's package is called chromium")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser, large_report):
    """The page, open; at the end nothing was asked of anybody and nothing went wrong in it."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    opened = context.new_page()
    troubles, requests = [], []
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(large_report.as_uri())
    opened.evaluate("document.querySelector('details:has(#rows)').open = true")
    yield opened
    context.close()
    assert troubles == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def column(page, number):
    return page.locator(f"#row-table tbody tr td:nth-child({number})").all_inner_texts()


def test_it_stays_light_whatever_it_shows(page, large_report):
    """Of 5013 rows few are in the document at once, so that it opens in a moment."""
    assert page.evaluate("document.querySelectorAll('*').length") < 30_000
    assert page.locator("#row-table tbody tr").count() == 25
    assert large_report.stat().st_size < 3_000_000
    assert page.locator("figure svg").count() >= 1


def test_sorting_and_filtering(page):
    assert "5013 of 5013 rows, 25 shown" in page.inner_text("#row-count")
    heading = page.get_by_role("button", name="median")
    heading.click()
    assert page.locator("#row-table th[aria-sort=ascending]").inner_text().startswith("median")
    assert set(column(page, 6)) == {"1.00 µs"}
    heading.click()
    assert column(page, 6)[0] == "1.00 ms"
    page.select_option("#row-filters select[name=status]", "crashed")
    assert "1 of 5013 rows" in page.inner_text("#row-count")
    page.select_option("#row-filters select[name=status]", "")
    page.fill("#row-search", "jax P=3 N=4")
    assert page.inner_text("#row-count").startswith("50 of 5013 rows")
    page.get_by_role("button", name="Show more").click()
    assert len(column(page, 1)) == 50
    page.fill("#row-search", "no such thing")
    assert page.inner_text("#row-count").startswith("0 of 5013")


def test_the_explorer_answers(page):
    answer = page.locator("#explorer-answer")
    first = answer.inner_text()
    assert "Use " in first
    assert "How sure: " in first
    page.fill("#explorer-form input[name=D]", "1000")
    page.fill("#explorer-form input[name=P]", "1")
    page.fill("#explorer-form input[name=K]", "1000")
    assert "reverse:native" in answer.locator("strong").inner_text() or "mixed:native" in answer.locator("strong").inner_text()
    assert "extrapolated" in answer.inner_text()
    assert "jac.MLP.random(L=10, D=1000, K=1000, P=1)" in answer.inner_text()
    for name, size in {"L": 2, "D": 3, "K": 5, "P": 4, "N": 1}.items():
        page.fill(f"#explorer-form input[name={name}]", str(size))
    assert "this very problem was measured" in answer.inner_text()
    page.fill("#explorer-form input[name=D]", "0")
    assert "D (inputs) must be a whole number from 1 to 2048" in answer.inner_text()
    slider = page.locator("#explorer-form .size input[type=range]").nth(1)
    slider.fill("1000")
    assert page.input_value("#explorer-form input[name=D]") == "2048"


def test_the_explorer_sets_all_devices_beside_each_other(browser):
    page = browser.new_page()
    page.goto((ROOT / "docs" / "report.html").as_uri())
    field, answer = page.locator("#explorer-form select[name=device]"), page.locator("#explorer-answer")
    field.select_option(label="all devices")
    assert answer.locator("table").first.locator("tbody tr").count() == field.locator("option").count() - 1
    assert "1.00x" in answer.inner_text()
    page.close()


def test_the_keyboard_reaches_everything(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    # From field to field in the explorer, then in the filters and on to the headings and the button below the table.
    for first, last, stops in (("#explorer-form input[name=L]", "device", 12), ("#row-filters select[name=sweep]", "sweep", 6)):
        page.focus(first)
        seen = []
        for _ in range(stops):
            page.keyboard.press("Tab")
            seen.append(page.evaluate("document.activeElement.name || document.activeElement.id || document.activeElement.textContent"))
        assert last in seen, seen
    assert {"device", "method", "status", "row-search"} <= set(seen)
    page.get_by_role("button", name="median").focus()
    page.keyboard.press("Enter")
    assert page.locator("#row-table th[aria-sort=ascending]").count() == 1


def test_hostile_text_is_inert_and_readable(page):
    page.select_option("#row-filters select[name=status]", "crashed")
    assert column(page, 9) == [HOSTILE]
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 4


@pytest.mark.parametrize("width", [380, 800, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_makes_the_page_scroll_sideways(browser, large_report, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened = context.new_page()
    opened.goto(large_report.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    paper, ink = (opened.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert (sum(map(int, paper[4:-1].split(","))) > 384) == (scheme == "light")
    assert paper != ink
    context.close()


@pytest.mark.parametrize("width", [390, 1400])
def test_the_committed_report_is_short_small_and_inside_its_frames(browser, width):
    report = ROOT / "docs" / "report.html"
    assert report.stat().st_size < 1_500_000
    context = browser.new_context(viewport={"width": width, "height": 900})
    opened = context.new_page()
    opened.goto(report.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    wide = """[...document.querySelectorAll(".scroll, .plot")].filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
        .map((e) => e.ariaLabel)"""
    if width == 1400:
        assert opened.evaluate("document.documentElement.scrollHeight") <= 12 * 900
        assert opened.evaluate(wide) == []
    context.close()


def test_it_prints(browser, large_report, tmp_path):
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(large_report.as_uri())
    opened.emulate_media(media="print")
    assert not opened.locator("#explorer").is_visible()
    printed = opened.pdf(path=tmp_path / "report.pdf", format="A4")
    assert printed.startswith(b"%PDF")
    context.close()
