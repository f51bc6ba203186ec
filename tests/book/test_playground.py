"""The playground: what the browser computes equals the package, and the page is usable."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from book.builder import browser, playground
from book.experiments.oracle import oracle_scores
from glscl.backbone import mini_tokenizer
from glscl.evaluate import caption_batches
from glscl.gim import frame_weights, global_similarity, mean_similarity
from glscl.lim import local_similarity
from glscl.mini.grammar import captions_of
from glscl.mini.scenes import draw_clip
from glscl.mini.synthetic import Benchmark, make_benchmark
from glscl.model import GLSCL

ROOT = Path(__file__).resolve().parents[2]
CLIPS, CAPTIONS = 20, 12
PAGE = (
    '<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">'
    '<title>Playground</title><meta name="viewport" content="width=device-width">'
    '<link rel="stylesheet" href="../_static/custom.css"></head>'
    '<body style="background: var(--pst-color-background); '
    'color: var(--pst-color-text-base)"><main class="bd-article"><h1>Playground</h1>'
    "{controls}</main></body></html>"
)
SCORES = """async ([texts, ways]) => {
    const { tokenize, model } = await playground;
    const encoded = texts.map((text) => model.encode(tokenize(text)));
    return ways.map(([pooling, temperature]) => {
        const rated = encoded.map((one) => model.rate(one, pooling, temperature));
        const pick = (choose) => rated.map((row) => row.map(choose));
        return [pick((one) => one.score), pick((one) => [...one.weights])];
    });
}"""
RING = {"shape": "ring"}
ODD = ["a dog's ball!", "Ünïcode ☂ 1234", "A  RED circle", " ".join(["purple"] * 40)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the playground alone, its model, benchmark and encoded videos."""
    root = tmp_path_factory.mktemp("playground")
    benchmark = make_benchmark(root / "benchmark", 1, 1, CLIPS, progress=False)
    model = GLSCL.from_pretrained("mini")
    book = ROOT / "book"
    shutil.copytree(book / "_static", root / "_static")
    videos = playground.encode_videos(model, benchmark)
    playground.write(model, videos, benchmark, root / playground.FOLDER)
    for name in playground.SHARED:
        shutil.copy(ROOT / "glscl/search/assets" / name, root / playground.FOLDER)
    text = (book / playground.PAGE).read_text(encoding="utf-8")
    controls = re.search(r"```\{raw\} html\n(.*?)```", text, re.DOTALL)[1]
    (root / "book").mkdir()
    for theme in browser.THEMES:
        page = PAGE.format(theme=theme, controls=controls)
        (root / f"book/{theme}.html").write_text(page, encoding="utf-8")
    return root, model, benchmark, videos


@pytest.fixture(scope="module")
def opened(made):
    """The page in Chromium; what it requested, and its errors."""
    if browser.program() is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=browser.program(), args=list(browser.LAUNCH)
        )
        context = chromium.new_context(offline=True, reduced_motion="reduce")
        page, visit = context.new_page(), browser.Visit()
        page.on("request", lambda request: visit.requests.append(request.url))
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on("console", lambda message: browser._console(visit, message))
        page.goto((made[0] / "book/light.html").as_uri())
        page.evaluate("playground")
        yield page, visit
        chromium.close()


@pytest.mark.browser
def test_tokens_are_those_of_open_clip(opened):
    texts = [c.text for i in range(200) for c in captions_of(draw_clip("test", i))]
    texts += ODD
    found = opened[0].evaluate(
        "async (texts) => texts.map((await playground).tokenize)", texts
    )
    ids = mini_tokenizer()(texts)
    for text, row, given in zip(texts, ids, found, strict=True):
        assert given == row[: len(given)].tolist(), text
        assert not row[len(given) :].any()


@pytest.mark.browser
def test_the_words_offered_as_known_are_those_of_training_captions(opened):
    clips = (draw_clip("train", i) for i in range(300))
    texts = [c.text.replace(",", " ") for clip in clips for c in captions_of(clip)]
    known = opened[0].evaluate("PLAYGROUND_CLIPS.known.filter((word) => word !== ',')")
    assert set(known) == {word for text in texts for word in text.split()}


@pytest.mark.browser
@torch.no_grad()
def test_scores_and_weights_are_those_of_the_package(opened, made):
    _, model, benchmark, videos = made
    captions = benchmark.captions("test")
    chosen = np.linspace(0, len(captions) - 1, CAPTIONS).astype(int)
    texts = [captions[i].text for i in chosen] + ODD
    (text,) = caption_batches(model, texts, len(texts))
    given = text.captions, videos.frames, videos.mask
    local = model.config.local_weight * local_similarity(text.concepts, videos.concepts)
    ways = [(way, tau) for tau in (100.0, 5.0) for way in ("mean", "gim", "gim+lim")]
    found = opened[0].evaluate(SCORES, [texts, ways])
    for (pooling, tau), (scores, weights) in zip(ways, found, strict=True):
        if pooling == "mean":
            np.testing.assert_allclose(scores, mean_similarity(*given), atol=1e-3)
            continue
        expected = global_similarity(*given, tau) + local * (pooling == "gim+lim")
        np.testing.assert_allclose(scores, expected, atol=1e-3)
        expected = frame_weights(*given, tau)
        np.testing.assert_allclose(weights, expected, atol=5e-3)


@pytest.mark.browser
def test_what_matches_is_what_the_oracle_says(opened):
    clips = [draw_clip("test", i) for i in range(100)]
    items = tuple((clip, tuple(captions_of(clip))) for clip in clips)
    benchmark = Benchmark(None, 0, {"test": items})
    shots = [[shot.named() for shot in clip.shots] for clip in clips]
    texts = [caption.text for caption in benchmark.captions("test")]
    found = opened[0].evaluate(
        """async ([texts, shots]) => {
            const { grammar } = await playground;
            return texts.map((text) => {
                const said = grammar.parse(text);
                return shots.map((clip) => Number(grammar.isTrueOf(said, clip)));
            });
        }""",
        [texts, shots],
    )
    np.testing.assert_array_equal(found, oracle_scores(benchmark, "test"))


@pytest.mark.browser
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a red circle", [{"colour": "red", "shape": "circle"}]),
        ("Circle, then a BOX.", [{"shape": "circle"}, {"shape": "square"}]),
        ("a star rises after a ring", [RING, {"shape": "star", "motion": "up"}]),
        ("a circle on a red background", None),
        ("a small circle grows", None),
        ("a red dog", None),
        ("", None),
    ],
)  # fmt: skip
def test_a_sentence_of_another_form_has_no_known_matches(opened, text, said):
    script = "async (text) => (await playground).grammar.parse(text) ?? null"
    assert opened[0].evaluate(script, text) == said


@pytest.mark.browser
def test_a_reader_types_chooses_and_compares(opened, made):
    page, _ = opened
    cards = page.locator("section >> nth=0").locator(".glscl-card")
    state = page.get_by_role("status").first
    page.get_by_label("Sentence", exact=True).fill("a red circle dances")
    page.get_by_role("status").get_by_text("not known").wait_for()
    assert page.get_by_text("of the benchmark: dances.").is_visible()
    assert cards.count() == 12
    caption = made[2].captions("test")[0].text
    page.get_by_label("Sentence", exact=True).fill(caption)
    page.get_by_role("status").get_by_text("first true match").wait_for()
    first = int(re.search(r"has rank (\d+)", state.inner_text())[1])
    marks = cards.locator("figcaption").all_inner_texts()
    place = min(first, 13) - 1
    assert f"{first}. Clip" in marks[place]
    assert "✓ matches" in marks[place]
    assert all("✗ no match" in mark for mark in marks[:place])
    assert page.locator("section >> nth=1").is_hidden()
    page.get_by_label("Second sentence, to compare").fill("a star")
    page.locator("section >> nth=1").locator(".glscl-card").first.wait_for()
    page.get_by_label("mean pooling").check()
    assert page.get_by_label("τ").is_disabled()
    heights = cards.first.locator(".glscl-bar").evaluate_all(
        "bars => bars.map((bar) => bar.offsetHeight)"
    )
    assert len(set(heights)) == 1
    page.get_by_label("Second sentence, to compare").fill("")


@pytest.mark.browser
def test_clips_rest_for_readers_who_prefer_less_motion(opened):
    page, _ = opened
    paused = "[...document.querySelectorAll('video')].every((v) => v.paused)"
    assert page.evaluate(paused)
    video = page.locator("video").first
    video.focus()
    page.wait_for_function("!document.querySelector('video').paused")
    page.get_by_label("Sentence", exact=True).focus()
    page.wait_for_function(paused)
    page.get_by_role("button", name="Play the clips").press("Enter")
    page.wait_for_function(f"!({paused})")
    page.get_by_role("button", name="Pause the clips").press("Enter")
    page.wait_for_function(paused)


@pytest.mark.browser
@pytest.mark.parametrize("theme", browser.THEMES)
def test_the_page_is_accessible_and_fits(opened, made, theme):
    page, visit = opened
    page.goto((made[0] / f"book/{theme}.html").as_uri())
    page.evaluate("playground")
    page.locator("summary").click()
    page.get_by_role("button", name="purple").click()
    assert "purple" in page.get_by_label("Sentence", exact=True).input_value()
    for width in browser.WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    axe = browser.axe_script(ROOT)
    if axe is not None:
        assert browser._axe_faults(page, axe, []) == []
    local = ("file:", "data:", "blob:")
    assert [url for url in visit.requests if not url.startswith(local)] == []
    assert visit.errors == []


def test_a_model_that_the_page_does_not_compute_is_refused(tmp_path):
    model = GLSCL.from_preset("mini", local=False)
    with pytest.raises(ValueError, match="local=False"):
        playground.write(model, None, None, tmp_path)
