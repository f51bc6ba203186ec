"""Smoke test of the playground: the built page against the package, and the clock.

    python smoke_tests/playground.py [FOLDER]

Opens the page of the pages in FOLDER from disk in Chromium without a network. Scores of
200 captions for all clips must equal PyTorch's, and the tokens of all captions those of
open_clip. The first answer must come soon after opening, later ones at once. Prints each
measurement and stops at the first failure.
"""

import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from book.builder import browser, playground  # noqa: E402  (found through the line above)
from glscl import GLSCL  # noqa: E402
from glscl.backbone import mini_tokenizer  # noqa: E402
from glscl.evaluate import caption_batches  # noqa: E402
from glscl.gim import global_similarity, mean_similarity  # noqa: E402
from glscl.lim import local_similarity  # noqa: E402
from glscl.mini.synthetic import load_benchmark  # noqa: E402

CAPTIONS = 200
TOLERANCE = 1e-3  # of a score
# Milliseconds until the first answer, and for a later one, on a quiet machine.
FIRST, LATER = 1500, 100
SCORES = """async (texts) => {
    const { tokenize, model } = await playground;
    const temperature = PLAYGROUND_MODEL.temperature;
    return texts.map((text) => {
        const encoded = model.encode(tokenize(text));
        return ["mean", "gim", "gim+lim"].map((pooling) =>
            model.rate(encoded, pooling, temperature).map((one) => one.score));
    });
}"""
SHOW = """async (texts) => {
    const { show } = await playground;
    const input = document.getElementById("playground-first");
    return texts.map((text) => {
        input.value = text;
        const start = performance.now();
        show();
        return performance.now() - start;
    });
}"""
ANSWERED = "performance.getEntriesByName('playground answered')[0].startTime"


def main() -> None:
    """Compare and measure; exit with a message at the first failure."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "_build/html"
    benchmark = load_benchmark(ROOT / "_build/playground/benchmark")
    texts = [caption.text for caption in benchmark.captions("test")]
    chosen = [texts[i] for i in np.linspace(0, len(texts) - 1, CAPTIONS).astype(int)]
    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=browser.program(), args=list(browser.LAUNCH)
        )
        page = chromium.new_context(offline=True).new_page()
        page.goto((folder / "book/playground.html").resolve().as_uri())
        page.evaluate("playground")
        compare_tokens(page, texts)
        compare_scores(page, chosen, benchmark)
        measure(page, chosen[:30])
        chromium.close()


def compare_tokens(page: Page, texts: list[str]) -> None:
    """The ids of every caption are those of open_clip."""
    found = page.evaluate("async (x) => x.map((await playground).tokenize)", texts)
    for text, ids, row in zip(texts, found, mini_tokenizer()(texts), strict=True):
        if ids != row[: len(ids)].tolist() or row[len(ids) :].any():
            sys.exit(f"other tokens: {text}")
    print(f"tokens of {len(texts)} captions are equal")


@torch.no_grad()
def compare_scores(page: Page, texts: list[str], benchmark: object) -> None:
    """The scores of all clips, in the three ways, are those of the package."""
    model = GLSCL.from_pretrained("mini")
    videos = playground.encode_videos(model, benchmark)
    (text,) = caption_batches(model, texts, len(texts))
    given = text.captions, videos.frames, videos.mask
    pooled = global_similarity(*given, model.config.temperature)
    local = local_similarity(text.concepts, videos.concepts)
    expected = (
        mean_similarity(*given),
        pooled,
        pooled + model.config.local_weight * local,
    )
    found = np.array(page.evaluate(SCORES, texts)).swapaxes(0, 1)
    for name, one, other in zip(
        ("mean", "GIM", "GIM + LIM"), found, expected, strict=True
    ):
        worst = np.abs(one - other.numpy()).max()
        print(f"{name}: {one.size} scores differ by at most {worst:.1e}")
        if not worst < TOLERANCE:
            sys.exit(f"{name}: expected less than {TOLERANCE}")


def measure(page: Page, texts: list[str]) -> None:
    """Milliseconds until the first answer, and for new sentences after that."""
    first, later = page.evaluate(ANSWERED), page.evaluate(SHOW, texts)
    middle = statistics.median(later)
    print(
        f"first answer after {first:.0f} ms (wanted: {FIRST}), later ones in "
        f"{middle:.0f} ms (median; wanted: {LATER})"
    )


if __name__ == "__main__":
    main()
