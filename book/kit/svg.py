"""A matplotlib figure as inline SVG that takes the colours and font of the page."""

from __future__ import annotations

import hashlib
import html
import io
import re
from typing import TYPE_CHECKING

from book.kit.plots import INK, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def to_svg(made: Figure, alt: str) -> str:
    """``made`` as inline SVG with ``alt`` as its accessible name.

    The same figure gives the same text, with no date and no random identifier in it.
    """
    memory = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    made.savefig(memory, format="svg", metadata=nothing, bbox_inches="tight")
    drawing = memory.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"\s*<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    # Its rules would reach the whole page; letters take the font of the page.
    drawing = re.sub(r"\s*<style.*?</style>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r" font-family: [^;\"]*;?", "", drawing)
    drawing = _own_ids(drawing.replace(INK, "currentColor"))
    box = re.search(r'viewBox="0 0 (\S+) (\S+)"', drawing)
    assert box is not None  # matplotlib always writes one
    width = round(float(box[1]) * 4 / 3)  # points to CSS pixels
    head = (
        f'<svg role="img" aria-label="{html.escape(alt)}" '
        f'viewBox="0 0 {box[1]} {box[2]}" stroke-linejoin="round" '
        f'style="width:100%;max-width:{width}px;height:auto" '
        'xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return head + drawing[drawing.index(">") + 1 :].strip()


def _own_ids(drawing: str) -> str:
    """Keep only the ids that are referred to, and make them this drawing's own.

    Several drawings share one page; matplotlib names the parts of each alike.
    """
    mine = "f" + hashlib.sha256(drawing.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', drawing))

    def name(match: re.Match[str]) -> str:
        return f' id="{mine}-{match[1]}"' if match[1] in used else ""

    drawing = re.sub(r' id="([^"]*)"', name, drawing)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{mine}-", drawing)
