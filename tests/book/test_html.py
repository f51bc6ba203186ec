"""The page checks accept a good page and catch each fault that they are for."""

import base64

import pytest
from tiny_book import ROOT

from book.builder import browser, pages

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)
GOOD = """<!doctype html><html lang="en"><head><title>Page</title>
<meta name="viewport" content="width=device-width"><style>body {margin: 1rem}</style>
</head><body><main><article><h1 id="top">Page</h1>
<p>Words, <a href="#top">a link</a>, <a href="other.html#there">another</a>.</p>
<img src="pixel.png" alt="A dot."> FAULT
</article></main></body></html>"""
OTHER = """<!doctype html><html lang="en"><head><title>Other</title></head><body>
<main><article><h1 id="there">Other</h1></article></main></body></html>"""


def book(folder, fault=""):
    """Two pages and a picture; the first page holds ``fault``."""
    (folder / "pixel.png").write_bytes(base64.b64decode(PIXEL))
    (folder / "index.html").write_text(GOOD.replace("FAULT", fault))
    (folder / "other.html").write_text(OTHER)
    return folder


# ---- without a browser -------------------------------------------------------------


def test_a_good_page_has_no_fault(tmp_path):
    drawing = '<figure><svg role="img" aria-label="A line."><path/></svg></figure>'
    code = "<pre>Traceback (most recent call last) {glue:text}</pre>"
    outside = '<a href="https://example.org/x">outside</a>'
    data = '<video aria-label="A video." src="data:video/mp4;base64,AA"></video>'
    docstring = '<dl class="py function"><dt>f</dt><dd>{glue:text}</dd></dl>'
    good = drawing + code + outside + data + docstring
    assert list(pages.check(book(tmp_path, good))) == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ('<script src="https://example.org/x.js"></script>', "from outside"),
        ('<link rel="stylesheet" href="//example.org/x.css">', "from outside"),
        ('<img alt="x" src="http://example.org/x.png">', "from outside"),
        ('<p style="background: url(https://example.org/x)">x</p>', "from outside"),
        ("<style>@font-face{src:url('https://example.org/f')}</style>", "from outside"),
        ('<img alt="x" src="lost.png">', "which is not there"),
        ('<img src="pixel.png">', "<img> without alt"),
        (
            '<div class="cell_output"><img src="pixel.png" alt="../a/b.png"></div>',
            "a figure without alt text",
        ),
        ("<figure><svg><path/></svg></figure>", "a drawing without role=img"),
        ('<svg role="img"></svg>', "<svg> without aria-label"),
        ('<video src="data:video/mp4,x"></video>', "<video> without aria-label"),
        ('<a href="lost.html">x</a>', "link to lost.html, which is not there"),
        ('<a href="other.html#lost">x</a>', "no such place on the page"),
        ('<a href="#lost">x</a>', "no such place on the page"),
        ("<p>{glue:text}`x`</p>", "the page shows `{glue:text}`"),
        ("<p><code>{glue:text}</code>x</p>", "the page shows `{glue:text}`"),
        ("<p>a.ipynb::ch01_x</p>", "the page shows `.ipynb::`"),
        ("<p>{doc}`x`</p>", "the page shows `{doc}`"),
        ("<p>Traceback (most recent call last)</p>", "the page shows `Traceback"),
        ("<p>x</p><!-- runtime -->", "the page shows `<!-- runtime -->`"),
        (
            '<dl class="py class"><dt>c</dt><dd>Alias for field number 0</dd></dl>',
            "the reference shows `Alias for field number`",
        ),
        (
            '<dl class="py data"><dt>d = &lt;typer at 0x7f12ab34&gt;</dt></dl>',
            "the reference shows ` at 0x7f12ab34`",
        ),
        ("<h1>Second</h1>", "2 top headings"),
        ('<p id="top">x</p>', "two elements have the id top"),
        ("<p>" + "x" * pages.MAX_BYTES + "</p>", "bytes, at most"),
        ("<p><b>x</p>", "line "),
        ("<div>", "line "),
        ('<p class="a" class="b">x</p>', "line "),
        ("<table><p>x</p></table>", "line "),
    ],
)
def test_each_fault_is_found_without_a_browser(tmp_path, fault, message):
    found = list(pages.check(book(tmp_path, fault)))
    assert any(message in line for line in found), found
    assert all(line.startswith("index.html: ") for line in found)


def test_downloadable_chapters_are_no_pages_of_the_book(tmp_path):
    book(tmp_path)
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/copy.html").write_text(OTHER)
    assert {page.name for page in pages.pages_below(tmp_path)} > {"copy.html"}
    assert {page.name for page in pages.book_pages(tmp_path)} == {
        "index.html",
        "other.html",
    }


def test_an_empty_folder_is_a_fault(tmp_path):
    assert list(pages.check(tmp_path)) == [f"{tmp_path}: no pages here"]


# ---- with a browser ----------------------------------------------------------------

FAULTS = {
    "script": ('<script src="https://example.org/x.js"></script>', "from the network"),
    "fetch": ('<script>fetch("https://example.org/x")</script>', "from the network"),
    "picture": ('<img alt="x" src="lost.png">', "failed: file://"),
    "thrown": ("<script>throw new Error('thrown')</script>", "page error: thrown"),
    "console": ("<script>console.error('said')</script>", "console: said"),
    "wide": ('<p style="width:900px">wide</p>', "px wide in a window of 390 px"),
    "cut-table": (
        '<div style="overflow:hidden"><table style="width:900px"><tbody><tr><td>wide'
        "</td></tr></tbody></table></div>",
        "cut off at 768 px: <table> wide",
    ),
    "cut-formula": (
        '<p style="overflow:clip;width:9rem"><span class="math" style="display:'
        'inline-block"><mjx-container style="display:inline-block;width:12rem">x'
        "</mjx-container></span></p>",
        "cut off at 1280 px: <mjx-container> x",
    ),
    "hidden-table": (
        '<div class="glscl-table-box" tabindex="0" style="overflow-x:auto">'
        '<p style="width:1350px">wide</p></div>',
        "must be scrolled at 1280 px: <div> wide",
    ),
    "hidden-listing": (
        '<pre tabindex="0" style="overflow-x:auto;width:9rem">so many words, one line'
        "</pre>",
        "must be scrolled at 1440 px: <pre> so many",
    ),
    "loose": (
        '<div class="glscl-table-box" tabindex="0" style="overflow-x:auto"><table '
        'style="width:900px"><tbody><tr><th>a</th><td>b</td></tr></tbody></table></div>',
        "scrolls at 390 px without its first column: <div> ab",
    ),
    "theme": (
        '<script>document.documentElement.dataset.theme="dark"</script>',
        "shows the theme dark",
    ),
    "video": (
        '<video aria-label="x" src="data:video/mp4;base64,AA"></video>',
        "videos that do not play",
    ),
    "undrawn": ('<span class="math">\\(x\\)</span>', "only 0 of 1 formulas"),
    "heavy": ('<script src="heavy.js"></script>', "without videos, at most"),
    "waiting": ('<span class="math">\\(x\\)</span>', "formulas are not drawn"),
}
AXE_FAULTS = {
    "pale": (
        '<p style="color:#bbb;background:#fff">pale words</p>',
        "axe color-contrast",
    ),
    "wordless": ('<img src="pixel.png">', "axe image-alt"),
    # Known faults are excused by rule and place: another rule in that place counts.
    "known place": (
        '<p class="search-button-field" style="color:#bbb;background:#fff">pale words</p>',
        "axe color-contrast",
    ),
}


#: Boxes that scroll as they should, on a phone: no fault.
SCROLLING = """<style>th {position: sticky; left: 0}</style>
<div class="glscl-table-box" tabindex="0" style="overflow-x:auto"><table
style="width:900px"><tbody><tr><th>a</th><td>b</td></tr></tbody></table></div>
<pre tabindex="0" style="overflow-x:auto"><span style="padding:0 300px">x</span></pre>"""


def look_at(folder, faults, axe=None):
    """Open one page for each fault, and one without; the faults found on each."""
    book(folder)
    (folder / "heavy.js").write_text("//" + "x" * browser.MAX_LOADED)
    for name, (fault, _) in faults.items():
        (folder / f"{name}.html").write_text(GOOD.replace("FAULT", fault))
    (folder / "scrolling.html").write_text(GOOD.replace("FAULT", SCROLLING))
    found = {name: [] for name in ("index", "other", "scrolling", *faults)}
    for line in browser.check(folder, axe, themes=("light",)):
        found[line.split(".html")[0]].append(line)
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    if browser.program() is None:
        pytest.skip("needs Chromium")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browser, "TIMEOUT", 2000)
        return look_at(tmp_path_factory.mktemp("pages"), FAULTS)


@pytest.fixture(scope="module")
def seen_by_axe(tmp_path_factory):
    axe = browser.axe_script(ROOT)
    if browser.program() is None or axe is None:
        pytest.skip("needs Chromium, and axe-core in node_modules")
    return look_at(tmp_path_factory.mktemp("pages"), AXE_FAULTS, axe)


@pytest.mark.browser
def test_good_pages_open_without_a_fault(seen):
    assert seen["index"] == seen["other"] == []


@pytest.mark.browser
def test_a_table_and_a_listing_may_scroll_in_their_box_on_a_phone(seen):
    assert seen["scrolling"] == []


@pytest.mark.browser
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_by_the_browser(seen, name):
    assert any(FAULTS[name][1] in line for line in seen[name]), seen[name]


@pytest.mark.browser
def test_the_first_paint_of_a_page_is_measured(tmp_path):
    if browser.program() is None:
        pytest.skip("needs Chromium")
    book(
        tmp_path, "<script>for (const t = Date.now(); Date.now() - t < 300;);</script>"
    )
    slow = browser.first_paint(tmp_path / "index.html", tries=1)
    assert 0.3 <= slow < 60
    assert browser.first_paint(tmp_path / "other.html", tries=1) > 0


@pytest.mark.browser
def test_axe_accepts_good_pages(seen_by_axe):
    assert seen_by_axe["index"] == seen_by_axe["other"] == []


@pytest.mark.browser
@pytest.mark.parametrize("name", AXE_FAULTS)
def test_axe_finds_what_readers_with_other_senses_miss(seen_by_axe, name):
    assert any(AXE_FAULTS[name][1] in line for line in seen_by_axe[name])
