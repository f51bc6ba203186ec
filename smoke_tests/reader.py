"""Smoke test of a reader: the whole book, offline, from its archive.

    python smoke_tests/reader.py [glscl-book.zip]

Unpacks the archive, opens it from disk in Chromium without a network, follows *Next* from
the first page to the last, opens every solution by keyboard and checks its output, sorts
a table, searches for a word, and changes the theme. Prints each step and stops at the
first failure.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

from playwright.sync_api import Page, Request, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from book.builder import browser  # noqa: E402  (found through the line above)

QUERY = "temperature"  # what is searched for


def main() -> None:
    """Take all steps; exit with a message that names the page of the first failure."""
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
        read_all_pages(page)
        sort(page, Path(folder) / "glscl-book/notebooks/09_results.html")
        search(page, Path(folder) / "glscl-book/book/intro.html")
        change_theme(page)
        chromium.close()


def failed(page: Page, request: Request) -> None:
    """Stop at a failed request; requests aborted by leaving the page do not count."""
    if request.failure != "net::ERR_ABORTED":
        fail(page, f"{request.failure}: {request.url}")


def fail(page: Page, problem: str) -> None:
    """Exit with the page and the problem."""
    sys.exit(f"{page.url.rpartition('glscl-book/')[2]}: {problem}")


def read_all_pages(page: Page) -> None:
    """Follow *Next* from page to page and open the solutions of each."""
    visited, exercises = [], 0
    while page.url not in visited:
        visited.append(page.url)
        found = open_solutions(page)
        exercises += found
        title = page.locator("article h1").first.inner_text().rstrip("#")
        print(f"{len(visited):3d}. {title}" + (f": {found} exercises" if found else ""))
        following = page.locator("a.right-next")
        if not following.count():
            break
        with page.expect_navigation():
            following.click()
    print(f"read all {len(visited)} pages and {exercises} solutions")


def open_solutions(page: Page) -> int:
    """Open every solution by keyboard; the number of exercises.

    An exercise below *Open* may have none. A cell without output prepares the next.
    """
    listed = "section#exercises {}ol > li"
    exercises = page.locator(listed.format("")).count()
    free = page.locator(listed.format('p:has(strong:text-is("Open")) + ')).count()
    solutions = page.locator(".cell.tag_solution:has(.cell_output)")
    count = solutions.count()
    if not exercises - free <= count <= exercises:
        fail(page, f"{exercises} exercises, {free} of them open, {count} solutions")
    for index in range(count):
        solution = solutions.nth(index)
        output = solution.locator(".cell_output").first
        expect(output).not_to_be_visible()
        solution.locator("summary").first.focus()
        page.keyboard.press("Enter")
        expect(output).to_be_visible()
        text = output.inner_text().strip()
        if not text or "Traceback" in text:
            fail(page, f"solution {index + 1} shows {text[:60]!r}")
    return exercises


def sort(page: Page, chapter: Path) -> None:
    """Sort the first table with numbers by its first numeric column, by keyboard."""
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
    """Search the book from its first page, without a server."""
    page.goto(start.as_uri())
    page.keyboard.press("Control+k")
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    count = page.locator("#search-results li").count()
    print(f"searched for {QUERY!r}: {count} results")


def change_theme(page: Page) -> None:
    """The theme button selects the dark theme within three clicks."""
    for _ in range(3):
        page.locator(".theme-switch-button").first.click()
        if page.evaluate("document.documentElement.dataset.theme") == "dark":
            print("changed to the dark theme")
            return
    fail(page, "no dark theme")


if __name__ == "__main__":
    main()
