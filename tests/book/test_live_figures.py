"""Live figures: their numbers are those of the package, and they work by keyboard."""

import json

import numpy as np
import pytest
import torch
from tiny_book import ROOT

from book.builder import browser
from book.kit import live
from book.kit.live import circle, figure
from glscl import gim, losses

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

    def evaluate(scripts, expression, **values):
        code = f"{figure.script(*scripts)}\nreturn {expression};"
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
        contexts.append(
            chromium.new_context(
                java_script_enabled=scripts, offline=True, reduced_motion="reduce"
            )
        )
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
        found = compute(
            ["softmax.js", "contrast.js"], "infoNce(logits)", logits=logits.tolist()
        )
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
    found = [float(word.replace("−", "-")) for word in cells()]
    np.testing.assert_allclose(found, S[chosen][:, chosen].flatten(), atol=0.00501)
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


def gallery(count=4, most=5, channels=6):
    """Frames (B, F, D) and their mask, a different number of real frames in each."""
    mask = torch.arange(most) < torch.tensor([5, 1, 3, 4])[:count, None]
    return random(count, most, channels), mask


def show_gim(text, frames, mask, own=2):
    pictures = np.full((int(mask[own].sum()), 8, 8, 3), 90, np.uint8)
    live.gim_figure(text, frames, mask, own, pictures, temperature=2.0)


@pytest.mark.browser
def test_gim_from_inner_products_is_that_of_the_package(compute, shown):
    text, (frames, mask) = 3 * random(6), gallery()
    show_gim(text, frames, mask)
    stored = json.loads(shown[-1].partition('json">')[2].partition("</script>")[0])
    for tau in (0.02, 2.0, 500.0):
        run = "gallery.map((video) => pool(video, length, tau))"
        given = {"gallery": stored["gallery"], "length": stored["length"], "tau": tau}
        found = compute(["softmax.js", "pooling.js"], run, **given)
        scores = gim.global_similarity(text[None], frames, mask, tau)[0]
        np.testing.assert_allclose([one["score"] for one in found], scores, atol=1e-7)
        weights = gim.frame_weights(text[None], frames, mask, tau)[0]
        for one, w, video, real in zip(found, weights, frames, mask, strict=True):
            np.testing.assert_allclose(one["weights"], w[real], atol=1e-6)
            pooled = (w[:, None] * video).sum(dim=0)
            cosines = torch.cosine_similarity(pooled, video[real], dim=-1)
            np.testing.assert_allclose(one["cosines"], cosines, atol=1e-6)


@pytest.mark.browser
def test_gim_figure_follows_the_temperature(opened, shown):
    text, (frames, mask) = random(6), gallery()
    show_gim(text, frames, mask)
    page = opened()
    mean = gim.mean_similarity(text[None], frames, mask)[0]
    for key, tau in (("Home", 0.02), ("End", 20.0)):
        press(page, "Temperature", key)
        scores = gim.global_similarity(text[None], frames, mask, tau)[0]
        weights = gim.frame_weights(text[None], frames, mask, tau)[0, 2, :3]
        found = page.locator("li").all_text_contents()
        assert found == [f"{100 * x:.0f} %" for x in weights.tolist()]
        said = page.get_by_role("status").text_content().replace("−", "-")
        assert f"cosine {scores[2]:.3f}, rank {1 + (scores > scores[2]).sum()}" in said
        assert f"cosine {mean[2]:.3f}, rank {1 + (mean > mean[2]).sum()}" in said
        words = page.get_by_role("slider").get_attribute("aria-valuetext")
        assert words.startswith(f"τ = {tau:g}, rank")


@pytest.mark.browser
def test_equal_scores_share_their_ranks(compute):
    run = "[0, 1, 2, 3].map((place) => rankOf(scores, place))"
    scores = [0.5, 0.7, 0.5, 0.1]
    assert compute(["pooling.js"], run, scores=scores) == [2.5, 1, 2.5, 4]


def test_gim_figure_needs_a_picture_for_every_real_frame():
    frames, mask = gallery()
    pictures = np.zeros((5, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="pictures"):
        live.gim_figure(random(6), frames, mask, 2, pictures)
    with pytest.raises(ValueError, match="own"):
        live.gim_figure(random(6), frames, mask, 4, pictures)


SETTINGS = {"target": 0.75, "margin": 0.1, "terms": ["gap", "pairs", "diversity"]}


@pytest.mark.browser
@pytest.mark.parametrize("normalise", ["released", "batch"])
def test_losses_on_the_circle_and_their_gradients_are_those_of_the_package(
    compute, normalise
):
    for A, Q, spread in ((1, 3, 0.2), (5, 2, 0.1), (4, 3, 2.0)):
        angles = [(spread * random(A, Q)).requires_grad_() for _ in range(2)]
        video, text = map(circle.on_circle, angles)
        icl = [
            losses.inter_consistency(video, text, b, 0.75, normalise) for b in (0, 0.3)
        ]
        idl = losses.intra_diversity(video)
        points = {"video": angles[0].tolist(), "text": angles[1].tolist()}
        settings = SETTINGS | {"divisor": Q if normalise == "released" else A}
        run = "objective(points, settings)"
        found = compute(["concepts.js"], run, points=points, settings=settings)
        gap, pairs = found["gap"]["value"], found["pairs"]["value"]
        assert gap == pytest.approx(icl[0].item(), abs=1e-12)
        assert gap + 0.3 * pairs == pytest.approx(icl[1].item(), abs=1e-12)
        assert found["diversity"]["value"] == pytest.approx(idl.item(), abs=1e-12)
        total = icl[0] + (icl[1] - icl[0]) / 0.3 + idl
        for side, slope in zip(
            ("video", "text"), torch.autograd.grad(total, angles), strict=True
        ):
            np.testing.assert_allclose(found[side], slope, atol=1e-11)


@pytest.mark.browser
def test_descent_in_the_page_goes_where_descent_by_autograd_goes(compute):
    for normalise, divisor in (("released", 3), ("batch", 8)):
        video, text = (x[:8] for x in circle.first_angles(1))
        settings = SETTINGS | {"divisor": divisor, "terms": ["pairs", "diversity"]}
        points = {"video": video.tolist(), "text": text.tolist()}
        run = (
            "(() => { for (let n = 0; n < 25; n++) points = descend(points, settings);"
        )
        found = compute(
            ["concepts.js"],
            f"{run} return points; }})()",
            points=points,
            settings=settings,
        )
        loss = circle.pairs_and_diversity(0.75, 0.1, normalise)
        expected = circle.descend(video, text, loss, 25)
        assert loss(*map(circle.on_circle, expected)) < loss(
            *map(circle.on_circle, (video, text))
        )
        np.testing.assert_allclose(found["video"], expected[0], atol=1e-6)
        np.testing.assert_allclose(found["text"], expected[1], atol=1e-6)


@pytest.mark.browser
def test_circle_figure_plays_descent_to_the_minimum_of_the_pairs_term(opened, shown):
    live.circle_figure(batch=4)
    page = opened()
    press(page, "Pairs in the batch", "End")
    said = page.get_by_role("status")
    assert said.text_content().startswith("Step 0.")
    page.get_by_role("button", name="One step").click()
    assert said.text_content().startswith("Step 1.")
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(100)
    assert "smallest at 0.141" in said.text_content()  # 0.75 × 3 / 16
    assert "cosine within pairs 0.141" in said.text_content()
    page.get_by_role("button", name="Start again").click()
    page.get_by_role("combobox").select_option("A, a mean")
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(100)
    assert "cosine within pairs 0.750" in said.text_content()


def test_circle_figure_needs_a_batch_that_it_has_points_for():
    with pytest.raises(ValueError, match="batch must be 1 to 16"):
        live.circle_figure(batch=17)


def make_info_nce():
    live.info_nce_figure(*batch_of_five(), hard_negative=2)


def make_gim():
    show_gim(random(6), *gallery())


FIGURES = [make_info_nce, make_gim, live.circle_figure]


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
