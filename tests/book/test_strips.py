"""Strips of frames: weights to scale, padding empty, frames large enough on a telephone."""

import numpy as np
import pytest
from bs4 import BeautifulSoup

from book.builder import browser
from book.kit import plots, report


def clip(rows=None, count=5, height=8, width=10):
    shape = (count, height, width, 3)
    shape = shape if rows is None else (rows, *shape)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def parsed(strips):
    return BeautifulSoup(strips.html("Frames & <weights>"), "html.parser")


def bar_heights(soup):
    bars = soup.select("div[style*=flex-end] > div")
    return [float(bar["style"].split("height:")[1].split("px")[0]) for bar in bars]


def test_bars_below_frames_have_the_weights_as_heights():
    weights = np.array([[0.1, 0.2, 0.3, 0.4, 0.0], [0.8, 0.1, 0.1, 0.0, 0.0]])
    soup = parsed(plots.frame_strip(clip(2), weights, labels=["a", "<b>"]))
    heights = np.array(bar_heights(soup)).reshape(2, 5)
    np.testing.assert_allclose(heights / heights.max(), weights / 0.8, atol=0.03)
    said = soup.get_text(" ")
    assert "<b>" in said
    assert "80 %" in said
    assert soup.div["aria-label"] == "Frames & <weights>"


def test_padding_has_neither_picture_nor_bar():
    mask = np.array([True, True, True, False, False])
    soup = parsed(
        plots.frame_strip(clip(), np.full(5, 0.2), mask, labels=list("abcde"))
    )
    assert len(soup.select("img")) == len(bar_heights(soup)) == 3
    assert len(soup.select("[title=padding]")) == 2
    assert "e" in soup.get_text()


def test_strips_are_shown_like_other_figures(monkeypatch):
    found = []
    monkeypatch.setattr(report, "display_html", lambda *shown: found.append(shown))
    strips = plots.frame_strip(clip(), title="A title")
    report.show(strips, alt="Five frames of noise", caption="Nothing else.")
    ((markup, plain),) = found
    assert "A title" in markup
    assert "<figcaption>Nothing else.</figcaption>" in markup
    assert plain == "Five frames of noise"


@pytest.mark.browser
def test_twelve_frames_are_wide_enough_on_a_telephone_and_one_row_on_a_screen():
    if browser.program() is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    markup = plots.frame_strip(clip(count=12), np.full(12, 1 / 12)).html("Frames")
    places = (
        "Array.from(document.images, i => { const b = i.getBoundingClientRect();"
        " return [b.width, b.top, b.right]; })"
    )
    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=browser.program(), args=list(browser.LAUNCH)
        )
        page = chromium.new_page()
        page.set_content(f"<main>{markup}</main>")
        for width, rows in ((390, 2), (1280, 1)):
            page.set_viewport_size({"width": width, "height": 700})
            found = np.array(page.evaluate(places))
            assert found[:, 0].min() >= 40
            assert found[:, 2].max() <= width
            assert len(set(found[:, 1])) == rows
        chromium.close()
