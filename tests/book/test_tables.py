"""Tables of the book sort by a click or a key, and say so to a screen reader."""

import pytest
from tiny_book import ROOT

from book.builder import browser

PAGE = """<!doctype html><html lang="en"><head><title>Tables</title>
<meta name="viewport" content="width=device-width"></head><body><main><article>
<h1>Tables</h1>
<table id="scores"><caption>Scores</caption>
<thead><tr><th scope="col">method</th><th scope="col">R@1</th></tr></thead><tbody>
<tr><th scope="row">b</th><td>9.5</td></tr><tr><th scope="row">c</th><td>–</td></tr>
<tr><th scope="row">a10</th><td>+1,000.5 ± 2</td></tr>
<tr><th scope="row">a9</th><td>−3.0</td></tr></tbody></table>
<table id="prose"><caption>Prose</caption>
<thead><tr><th scope="col"><p>what</p></th></tr></thead>
<tbody><tr><td>1</td></tr><tr><td>2</td></tr><tr><td>3</td></tr></tbody></table>
<table id="short"><caption>Short</caption><thead><tr><th scope="col">x</th></tr></thead>
<tbody><tr><td>2</td></tr><tr><td>1</td></tr></tbody></table>
<script src="tables.js"></script></article></main></body></html>"""
COMPUTED = ["b", "c", "a10", "a9"]
ORDER = "Array.from(document.querySelectorAll('#scores tbody th'), e => e.textContent)"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if browser.program() is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("tables")
    script = (ROOT / "book/_static/tables.js").read_text()
    (folder / "tables.js").write_text(script)
    (folder / "index.html").write_text(PAGE)
    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=browser.program(), args=list(browser.LAUNCH)
        )
        opened = chromium.new_page()
        opened.goto((folder / "index.html").as_uri())
        yield opened
        chromium.close()


def head(page, name):
    return page.get_by_role("columnheader", name=name)


def test_numbers_sort_up_down_and_back_with_missing_ones_last(page):
    button = page.get_by_role("button", name="R@1")
    for direction, order in (
        ("ascending", ["a9", "b", "a10", "c"]),
        ("descending", ["a10", "b", "a9", "c"]),
        (None, COMPUTED),
    ):
        button.click()
        assert page.evaluate(ORDER) == order
        assert head(page, "R@1").get_attribute("aria-sort") == direction


def test_words_sort_by_a_key_and_one_column_at_a_time(page):
    page.get_by_role("button", name="R@1").click()
    page.get_by_role("button", name="method").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(ORDER) == ["a9", "a10", "b", "c"]
    assert head(page, "method").get_attribute("aria-sort") == "ascending"
    assert head(page, "R@1").get_attribute("aria-sort") is None


def test_every_table_stands_in_a_box_that_can_be_reached_by_keyboard(page):
    for name, label in (("scores", "Scores"), ("short", "Short")):
        box = page.locator(f"#{name}").locator("..")
        assert box.get_attribute("class") == "glscl-table-box"
        assert box.get_attribute("aria-label") == label
        assert box.get_attribute("tabindex") == "0"
        assert box.locator("..").evaluate("e => e.localName") == "article"


def test_a_table_of_two_rows_needs_no_sorting(page):
    assert page.locator("#short button").count() == 0


def test_a_name_that_is_a_paragraph_stays_one(page):
    found = page.locator("#prose th").inner_html()
    assert found == '<p><button type="button" class="table-sort">what</button></p>'
