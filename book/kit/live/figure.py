"""A figure that answers to the reader: a still picture, and a script that replaces it.

The script, its data and the picture are in the output itself: no network, no library.
Where scripts do not run (GitHub, a notebook that is not trusted) the picture stays; so
it does when the script fails.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from book.kit.report import display_html

FOLDER = Path(__file__).parent
_START = """(() => {
"use strict";
const figure = document.getElementById("%s");
const data = JSON.parse(figure.querySelector("script").textContent);
"""
# What `build` returns replaces the picture only when nothing has failed.
_END = """
figure.querySelector(".glscl-still").replaceWith(build(data));
})();"""


def script(*names: str) -> str:
    """The text of scripts of this folder, one after the other."""
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


def show_live(
    scripts: Sequence[str],
    data: Mapping[str, Any],
    still: str,
    alt: str,
    caption: str = "",
) -> None:
    """Show ``still`` (markup), which ``scripts`` replace by what ``build(data)`` makes.

    ``scripts`` are files of this folder; the last defines ``build``. ``data`` is stored
    as JSON. ``alt`` is what a terminal shows.
    """
    display_html(markup(scripts, data, still, caption), alt)


def markup(
    scripts: Sequence[str], data: Mapping[str, Any], still: str, caption: str = ""
) -> str:
    """The figure as HTML; the same figure gives the same text."""
    # A caption of a clip must not be able to end the script element.
    stored = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")
    code = script("page.js", *scripts)
    name = "live-" + hashlib.sha256((stored + code).encode()).hexdigest()[:8]
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure id="{name}" class="glscl-figure glscl-live" style="margin:1rem 0">'
        f'<div class="glscl-still">{still}</div>'
        f'<script type="application/json">{stored}</script>'
        f"<script>{_START % name}{code}{_END}</script>{below}</figure>"
    )
