"""Checks of the pages in a browser that opens them from disk, offline."""

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from book.builder.pages import pages_below

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LAUNCH = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--hide-scrollbars",
)
#: The widest first: formulas are typeset there, as for a reader with a large window.
WIDTHS = (1440, 1280, 768, 390)
WIDE = 1280  # from this width on, no formula, table or listing needs scrolling
THEMES = ("light", "dark")
#: Violations by the theme itself: rules of axe-core, and the elements they concern.
THEME_VIOLATIONS = {
    "label-content-name-mismatch": (
        ".search-button-field",
        ".search-button__button",
        ".theme-switch-button",
        "summary",
    ),
    "region": (".navbar-brand",),
    "aria-allowed-role": (".citation",),
    "aria-deprecated-role": (".citation",),
    "aria-required-children": (".citation-list",),
}
TIMEOUT = 20_000  # milliseconds for the formulas of one page
#: Bytes that a page may load from disk, itself included and without videos. Most of it
#: is MathJax (2.1 MB) and the theme's icons (1.5 MB), the same files for every page.
MAX_LOADED = 6_000_000
#: And bytes of the playground's own files: its model and its clips.
MAX_PLAYGROUND = 8_000_000
REDIRECT = 'http-equiv="Refresh"'
_LAYOUT = (Path(__file__).parent / "layout.js").read_text(encoding="utf-8")
_READY = """() => document.readyState === 'complete' &&
  document.querySelectorAll('mjx-container').length >=
  document.querySelectorAll('span.math, div.math').length"""

#: The theme makes listings that scroll reachable by keyboard 0.3 s after a new width.
_REACHABLE = """() => [...document.querySelectorAll('pre')].every(
  (listing) => listing.scrollWidth <= listing.clientWidth || listing.tabIndex === 0)"""
REACHABLE_WITHIN = 5_000  # milliseconds; what is not by then is a fault that axe names

_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@dataclass
class Visit:
    """Requests and errors of one page while it was open."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def program() -> str | None:
    """The installed Chromium, if there is one."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def axe_script(root: Path) -> Path | None:
    """axe-core, where it is installed in the project's ``node_modules``."""
    path = root / "node_modules/axe-core/axe.min.js"
    return path if path.is_file() else None


def check(
    folder: Path,
    axe: Path | None = None,
    widths: Iterable[int] = WIDTHS,
    themes: Iterable[str] = THEMES,
) -> Iterator[str]:
    """Open every page below ``folder`` in each theme and width; yield the faults."""
    from playwright.sync_api import sync_playwright

    widths, themes = tuple(widths), tuple(themes)
    pages = [p for p in pages_below(folder) if REDIRECT not in p.read_text()]
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program(), args=list(LAUNCH))
        for theme in themes:
            context = chromium.new_context(
                offline=True, color_scheme=theme, reduced_motion="reduce"
            )
            # The theme complains on the console when neither is stored.
            context.add_init_script(
                f"localStorage.setItem('mode', '{theme}');"
                f"localStorage.setItem('theme', '{theme}');"
            )
            for path in pages:
                name = f"{path.relative_to(folder).as_posix()} ({theme})"
                page = context.new_page()
                faults = _visit(page, path, theme, widths, axe, theme == themes[0])
                yield from (f"{name}: {fault}" for fault in faults)
                page.close()
            context.close()
        chromium.close()


def _visit(
    page: Any,
    path: Path,
    theme: str,
    widths: tuple[int, ...],
    axe: Path | None,
    first: bool,
) -> list[str]:
    from playwright import sync_api as playwright

    visit = Visit()
    page.on("request", lambda request: visit.requests.append(request.url))
    page.on(
        "requestfailed", lambda request: visit.errors.append(f"failed: {request.url}")
    )
    page.on("pageerror", lambda error: visit.errors.append(f"page error: {error}"))
    page.on("console", lambda message: _console(visit, message))
    page.set_viewport_size({"width": widths[0], "height": 900})
    page.goto(path.resolve().as_uri())
    page.wait_for_load_state("load")
    faults = []
    try:
        page.wait_for_function(_READY, timeout=TIMEOUT)
    except playwright.TimeoutError:
        faults.append(f"the formulas are not drawn after {TIMEOUT / 1000:g} s")
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        faults += _layout_faults(page.evaluate(_LAYOUT), theme, width)
    if axe is not None:
        with contextlib.suppress(playwright.TimeoutError):
            page.wait_for_function(_REACHABLE, timeout=REACHABLE_WITHIN)
        # Only colours differ between themes; all other rules are checked once.
        faults += _axe_faults(page, axe, [] if first else ["color-contrast"])
    local = ("file:", "data:", "blob:", "about:")
    outside = [url for url in visit.requests if not url.startswith(local)]
    faults += [f"requests {url[:100]} from the network" for url in outside]
    weight, own = _weight(path, visit.requests)
    if weight > MAX_LOADED:
        faults.append(f"loads {weight} bytes without videos, at most {MAX_LOADED}")
    if own > MAX_PLAYGROUND:
        faults.append(f"the playground loads {own} bytes, at most {MAX_PLAYGROUND}")
    return faults + visit.errors


def _weight(page: Path, requests: Iterable[str]) -> tuple[int, int]:
    """Bytes of what a page loads from disk, itself included, without videos.

    The second number: of the files of the playground, which the first leaves out.
    """
    files = {Path(url2pathname(urlsplit(url).path)) for url in requests}
    sizes = {f: f.stat().st_size for f in files if f.is_file() and f.suffix != ".mp4"}
    own = sum(size for f, size in sizes.items() if f.parent.name == "playground")
    videos = re.findall(r"data:video/[^\"']+", page.read_text(encoding="utf-8"))
    return sum(sizes.values()) - own - sum(map(len, videos)), own


def first_paint(page: Path, tries: int = 3) -> float:
    """Seconds until a new browser paints the first content, the least of ``tries``."""
    from playwright.sync_api import sync_playwright

    measured = []
    with sync_playwright() as play:
        for _ in range(tries):
            chromium = play.chromium.launch(
                executable_path=program(), args=list(LAUNCH)
            )
            opened = chromium.new_page()
            opened.goto(page.resolve().as_uri())
            opened.wait_for_function(_PAINTED, timeout=TIMEOUT)
            measured.append(opened.evaluate(_PAINTED) / 1000)
            chromium.close()
    return min(measured)


def _console(visit: Visit, message: Any) -> None:
    if message.type == "error":
        visit.errors.append(f"console: {message.text[:200]}")


def _layout_faults(found: dict[str, Any], theme: str, width: int) -> list[str]:
    faults = []
    if found["theme"] not in (None, theme):
        faults.append(f"shows the theme {found['theme']}")
    if found["wide"]:
        faults.append(f"{found['wide']} px wide in a window of {width} px")
    faults += [f"cut off at {width} px: {x}" for x in found["cut"]]
    faults += [
        f"scrolls at {width} px without its first column: {x}" for x in found["loose"]
    ]
    if width >= WIDE:
        faults += [f"must be scrolled at {width} px: {x}" for x in found["hidden"]]
    if found["broken"]:
        faults.append(f"{found['broken']} formulas with an error")
    if found["drawn"] < found["maths"]:
        faults.append(f"only {found['drawn']} of {found['maths']} formulas are drawn")
    faults += [f"picture that does not load: {source}" for source in found["images"]]
    if found["videos"]:
        faults.append(f"{found['videos']} videos that do not play")
    return faults


def _axe_faults(page: Any, axe: Path, rules: list[str]) -> list[str]:
    """Violations of these rules of axe-core, of all its rules if ``rules`` is empty."""
    page.add_script_tag(path=str(axe))
    # With `preload` axe would fetch every stylesheet, which fails for a page on disk.
    options: dict[str, Any] = {"preload": False, "resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = rules
    faults = []
    found = page.evaluate("(options) => axe.run(document, options)", options)
    for violation in found["violations"]:
        excused = ", ".join(THEME_VIOLATIONS.get(violation["id"], ()))
        for node in violation["nodes"]:
            selector = str(node["target"][0])
            inside = "([s, a]) => a && !!document.querySelector(s)?.closest(a)"
            if page.evaluate(inside, [selector, excused]):
                continue
            faults.append(f"axe {violation['id']}: {selector}")
    return faults
