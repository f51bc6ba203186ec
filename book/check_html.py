"""Check the rendered pages: ``python book/check_html.py [FOLDER]``.

Without a browser: nothing is loaded from another host, every picture has alt text, every
link has a target, no markup is left unrendered, and the HTML is valid. With Chromium,
from disk and offline, in both themes: all formulas are drawn, no request or script
fails, nothing is wider than the window, every page is below the size limit, the first
paint of the largest page is below the time limit, and axe-core, where it is installed,
reports no violation.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from book.builder import browser, pages

ROOT = Path(__file__).resolve().parent.parent
MAX_PAINT = 2.0  # seconds until the first paint of the largest page, from disk


def main(arguments: list[str] | None = None) -> int:
    """Print every fault; the exit status is 0 only when there is none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "_build/html")
    parser.add_argument(
        "--static", action="store_true", help="skip the checks in a browser"
    )
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    faults = list(pages.check(options.folder))
    method = "without a browser"
    if options.static:
        print("checks in a browser skipped: --static")
    elif browser.program() is None:
        print("checks in a browser skipped: no Chromium is installed")
    else:
        axe = browser.axe_script(ROOT)
        if axe is None:
            print("axe-core skipped: node_modules/axe-core is not installed")
        faults += browser.check(options.folder, axe)
        largest = max(pages.book_pages(options.folder), key=lambda p: p.stat().st_size)
        seconds = browser.first_paint(largest)
        print(f"first paint of {largest.name}: {seconds:.2f} s")
        if seconds > MAX_PAINT:
            faults.append(f"{largest.name}: first paint after {seconds:.1f} s")
        method = "with Chromium" + (" and axe-core" if axe else "")
    for fault in faults:
        print(fault, file=sys.stderr)
    count = len(pages.pages_below(options.folder))
    seconds = time.perf_counter() - start
    print(f"{count} pages, {method}: {len(faults)} faults ({seconds:.0f} s)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
