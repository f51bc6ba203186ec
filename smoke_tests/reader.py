"""A reader's walk: the book from its archive, offline, to its last page.

    python smoke_tests/reader.py [glscl-book.zip]

Unpacks the archive, opens it from disk in Chromium with no network, follows *Next* from
the first page to the last, opens every solution by keyboard and reads its output, sorts
a table, searches for a word, changes the theme. Says what it did, and stops at the first
thing that does not work.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

from playwright.sync_api import Page, Request, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book"))

from builder import browser  # noqa: E402  (the path of the builder comes first)

SENTENCE = "temperature"  # what the reader searches for


def main() -> None:
    """Walk, or leave with an error that says where."""
    given = sys.argv[1:] or [str(ROOT / "_build/html/glscl-book.zip")]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        with zipfile.ZipFile(given[0]) as archive:
            archive.extractall(folder)
        chromium = play.chromium.launch(
            executable_path=browser.program(), args=list(browser.LAUNCH)
        )
        page = chromium.new_context(offline=True).new_page()
        page.on("pageerror", lambda error: fail(page, f"script error: {error}"))
        page.on("requestfailed", lambda request: failed(page, request))
        page.goto((Path(folder) / "glscl-book/index.html").as_uri())
        page.wait_for_selector("article h1")
        walk(page)
        sort(page, Path(folder) / "glscl-book/notebooks/08_results.html")
        search(page, Path(folder) / "glscl-book/book/intro.html")
        change_theme(page)
        chromium.close()


def failed(page: Page, request: Request) -> None:
    """Stop at what could not be read; leaving a page only aborts what it still read."""
    if request.failure != "net::ERR_ABORTED":
        fail(page, f"{request.failure}: {request.url}")


def fail(page: Page, problem: str) -> None:
    """Stop here."""
    sys.exit(f"{page.url.rpartition('glscl-book/')[2]}: {problem}")


def walk(page: Page) -> None:
    """From page to page by *Next*; solutions are opened on the way."""
    seen, solved = [], 0
    while page.url not in seen:
        seen.append(page.url)
        found = solve(page)
        solved += found
        title = page.locator("article h1").first.inner_text().rstrip("#")
        print(f"{len(seen):3d}. {title}" + (f": {found} exercises" if found else ""))
        following = page.locator("a.right-next")
        if not following.count():
            break
        with page.expect_navigation():
            following.click()
    print(f"read {len(seen)} pages to the end, {solved} exercises solved")


def solve(page: Page) -> int:
    """Open the solution of every exercise by keyboard; how many there are."""
    asked = page.locator("section#exercises ol > li").count()
    solutions = page.locator(".cell.tag_solution")
    if solutions.count() != asked:
        fail(page, f"{asked} exercises and {solutions.count()} solutions")
    for place in range(asked):
        solution = solutions.nth(place)
        output = solution.locator(".cell_output").first
        expect(output).not_to_be_visible()
        solution.locator("summary").first.focus()
        page.keyboard.press("Enter")
        expect(output).to_be_visible()
        said = output.inner_text().strip()
        if not said or "Traceback" in said:
            fail(page, f"solution {place + 1} says {said[:60]!r}")
    return asked


def sort(page: Page, chapter: Path) -> None:
    """Sort the first table with numbers by its first number, by keyboard."""
    page.goto(chapter.as_uri())
    table = page.locator("table:has(th.number button)").first
    column = table.locator("thead th").evaluate_all(
        "heads => heads.findIndex(h => h.matches('.number'))"
    )
    table.locator("th.number button").first.focus()
    page.keyboard.press("Enter")
    cells = table.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()
    numbers = [float(cell.replace(",", "").replace("−", "-")) for cell in cells]
    if numbers not in (sorted(numbers), sorted(numbers, reverse=True)):
        fail(page, f"not sorted: {numbers}")
    print(f"sorted a table of {len(numbers)} rows")


def search(page: Page, start: Path) -> None:
    """Search from the first page, without a server."""
    page.goto(start.as_uri())
    page.keyboard.press("Control+k")
    page.keyboard.type(SENTENCE)
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    count = page.locator("#search-results li").count()
    print(f"searched for {SENTENCE!r}: {count} places")


def change_theme(page: Page) -> None:
    """The button of the theme leads to the dark one within three presses."""
    for _ in range(3):
        page.locator(".theme-switch-button").first.click()
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            print("changed to the dark theme")
            return
    fail(page, "no dark theme")


if __name__ == "__main__":
    main()
