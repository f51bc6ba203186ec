"""Live figures: their numbers are those of the package, and they work by keyboard."""

import json

import numpy as np
import pytest
import torch
from tiny_book import ROOT

from book.builder import browser
from book.kit import live
from book.kit.live import figure
from glscl import losses

FOLDER = ROOT / "book/kit/live"
PAGE = '<!doctype html><html lang="en"><title>Live</title><main>{}</main></html>'
GENERATOR = torch.Generator().manual_seed(3)


def random(*shape):
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def unit(*shape):
    return torch.nn.functional.normalize(random(*shape), dim=-1)


@pytest.fixture(scope="module")
def chromium():
    if browser.program() is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(
            executable_path=browser.program(), args=list(browser.LAUNCH)
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def compute(chromium):
    """The value of an expression with the functions of one script."""
    page = chromium.new_page()

    def evaluate(script, expression, **values):
        code = f"{figure.script(script)}\nreturn {expression};"
        names, given = list(values), list(values.values())
        run = "([names, code, given]) => new Function(...names, code)(...given)"
        return page.evaluate(run, [names, code, given])

    return evaluate


@pytest.fixture
def shown(monkeypatch):
    """The markup that a figure displays."""
    found = []
    monkeypatch.setattr(figure, "display_html", lambda markup, _: found.append(markup))
    return found


@pytest.fixture
def opened(chromium, shown, tmp_path):
    """The page of the figure that was shown, with or without scripts."""
    contexts = []

    def open_page(scripts=True):
        path = tmp_path / "index.html"
        path.write_text(PAGE.format(shown[-1]), encoding="utf-8")
        contexts.append(chromium.new_context(java_script_enabled=scripts, offline=True))
        page = contexts[-1].new_page()
        page.set_default_timeout(3000)
        page.errors, requests = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        assert requests == [path.as_uri()]  # nothing else was asked for
        return page

    yield open_page
    for context in contexts:
        context.close()


def press(page, name, key, times=1):
    page.get_by_role("slider", name=name).focus()
    for _ in range(times):
        page.keyboard.press(key)


def batch_of_five():
    """Similarities (6, 6) with a hard negative, and the sentences."""
    return (unit(6, 4) @ unit(6, 4).T).tolist(), [
        f"caption {i} </li>" for i in range(6)
    ]


@pytest.mark.browser
def test_contrastive_loss_and_gradients_are_those_of_the_package(compute):
    for count, scale in ((1, 3.0), (5, 14.0), (8, 1000.0)):
        logits = (scale * (unit(count, 7) @ unit(count, 7).T)).requires_grad_()
        loss = losses.info_nce(logits)
        found = compute("contrast.js", "infoNce(logits)", logits=logits.tolist())
        assert found["loss"] == pytest.approx(loss.item(), rel=1e-9, abs=1e-9)
        (gradient,) = torch.autograd.grad(loss, logits)
        for name, value in (
            ("textToVideo", logits.softmax(dim=1)),
            ("videoToText", logits.softmax(dim=0)),
        ):
            np.testing.assert_allclose(found[name], value.detach(), atol=1e-9)
        np.testing.assert_allclose(found["gradients"]["both"], gradient, atol=1e-9)
        one_way = -logits.log_softmax(dim=1).diagonal().mean()
        (rows,) = torch.autograd.grad(one_way, logits)
        np.testing.assert_allclose(found["gradients"]["rows"], rows, atol=1e-9)


@pytest.mark.browser
def test_contrastive_figure_follows_the_scale_and_the_hard_negative(opened, shown):
    similarities, captions = batch_of_five()
    live.info_nce_figure(similarities, captions, hard_negative=2, kappa=10)
    page = opened()
    chosen = [0, 1, 5, 3, 4]
    S = torch.tensor(similarities)
    cells = page.locator("tbody td").all_text_contents
    shares = 100 * (10 * S[:5, :5]).softmax(dim=1)
    assert cells() == [f"{x:.0f}" for x in shares.flatten().tolist()]
    page.get_by_role("checkbox").check()
    press(page, "Scale", "End")
    loss = losses.info_nce(100 * S[chosen][:, chosen]).item()
    assert f"InfoNCE {loss:.3f}" in page.get_by_role("status").text_content()
    slider = page.get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == f"κ = 100.0, loss {loss:.3f}"
    page.get_by_role("combobox").select_option("cosine")
    words = [f"{x:.2f}".replace("-", "−") for x in S[chosen][:, chosen].flatten()]
    assert cells() == words
    assert page.locator("li").all_text_contents()[2] == f"{captions[5]} (hard negative)"


def test_contrastive_figure_needs_a_batch_that_fits_its_captions():
    similarities, captions = batch_of_five()
    for wrong in (
        {"captions": captions[:5]},
        {"hard_negative": 5},
        {"kappa": 0.5},
        {"similarities": similarities[:4]},
    ):
        given = {"similarities": similarities, "captions": captions} | wrong
        with pytest.raises(ValueError, match=r"captions|hard_negative|kappa|similari"):
            live.info_nce_figure(**given)


def make_info_nce():
    live.info_nce_figure(*batch_of_five(), hard_negative=2)


FIGURES = [make_info_nce]


@pytest.mark.browser
@pytest.mark.parametrize("make", FIGURES)
def test_the_picture_stays_where_scripts_do_not_run_or_fail(make, opened, shown):
    make()
    page = opened(scripts=False)
    assert page.get_by_role("img").first.is_visible()
    assert page.get_by_role("slider").count() == 0
    data = shown[-1].partition('json">')[2].partition("</script>")[0]
    assert json.loads(data)
    shown[-1] = shown[-1].replace(data, "{}")
    page = opened()
    assert page.errors
    assert page.get_by_role("img").first.is_visible()


@pytest.mark.parametrize("make", FIGURES)
def test_the_same_figure_is_the_same_text(make, shown):
    state = GENERATOR.get_state()
    make()
    GENERATOR.set_state(state)
    make()
    assert shown[0] == shown[1]


def test_scripts_are_short():
    for path in FOLDER.glob("*.js"):
        assert len(path.read_text().splitlines()) <= 200, path.name
