"""Look at the rendered pages: ``python book/check_html.py [FOLDER]``.

Without a browser: nothing is loaded from outside, every picture has words, links lead
somewhere, nothing was left unrendered, the markup is what the standard calls HTML. With
Chromium, from disk and with no network: formulas are drawn, nothing is requested or goes
wrong, nothing is wider than the window, in both themes; no page is heavy, the heaviest
shows itself soon; and axe-core finds nothing, where it is installed.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from book.builder import browser, pages

ROOT = Path(__file__).resolve().parent.parent
MAX_PAINT = 2.0  # seconds, of the heaviest page, from disk


def main(arguments: list[str] | None = None) -> int:
    """Print every fault; the exit status is 0 only when there is none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "_build/html")
    parser.add_argument(
        "--static", action="store_true", help="leave the browser out on purpose"
    )
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    faults = list(pages.check(options.folder))
    looked = "without a browser"
    if options.static:
        print("browser part left out: --static")
    elif browser.program() is None:
        print("browser part left out: no Chromium is installed")
    else:
        axe = browser.axe_script(ROOT)
        if axe is None:
            print("axe-core left out: node_modules/axe-core is not installed")
        faults += browser.check(options.folder, axe)
        heaviest = max(pages.book_pages(options.folder), key=lambda p: p.stat().st_size)
        seconds = browser.first_paint(heaviest)
        print(f"first paint of {heaviest.name}: {seconds:.2f} s")
        if seconds > MAX_PAINT:
            faults.append(f"{heaviest.name}: first paint after {seconds:.1f} s")
        looked = "with Chromium" + (" and axe-core" if axe else "")
    for fault in faults:
        print(fault, file=sys.stderr)
    count = len(pages.pages_below(options.folder))
    seconds = time.perf_counter() - start
    print(f"{count} pages, {looked}: {len(faults)} faults ({seconds:.0f} s)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
