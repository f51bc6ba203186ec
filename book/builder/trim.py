"""Take out of rendered pages what they carry and never use: it doubles their weight.

The theme ships two thousand icons, twice, and source maps; it loads the index of the
search on every page, where only the page of the search reads it. Drawings hold pictures
as PNG, which a lossless WebP says in two thirds.
"""

import base64
import io
import re
from functools import cache
from pathlib import Path

ICONS = "_static/scripts/fontawesome.js"
ICON_STYLES = "_static/styles/pydata-sphinx-theme.css"
# One icon in that script: "name":[width, height, [aliases], "code", paths],
ICON = re.compile(
    r'(?P<name>"[a-z0-9-]+"|[a-z][a-z0-9]*):'
    r'\[\d+,\d+,\[(?P<aliases>[^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?'
)
# And its rule in the styles: one name or several, and the character of the font.
ICON_RULE = re.compile(r'(?:\.fa-[a-z0-9-]+:before,?)+\{content:"[^"]*"\}')
SEARCH = re.compile(
    r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>'
)
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)")


def trim(folder: Path) -> None:
    """Make the rendered pages below ``folder`` lighter; they look the same."""
    for path in folder.glob("_static/**/*.map"):
        path.unlink()
    used = used_icons(folder)
    for name, without in ((ICONS, without_icons), (ICON_STYLES, without_rules)):
        path = folder / name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            path.write_text(without(text, used), encoding="utf-8")
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        if path.name != "search.html":
            text = SEARCH.sub("", text)
        text = PICTURE.sub(lambda found: smaller(found[1]), text)
        path.write_text(text, encoding="utf-8")


def used_icons(folder: Path) -> set[str]:
    """Names of icons in the pages, and in the scripts that may add some."""
    names: set[str] = set()
    scripts = [f for f in folder.glob("_static/**/*.js") if f != folder / ICONS]
    for path in (*folder.rglob("*.html"), *scripts):
        names |= set(re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8")))
    return names


def without_icons(script: str, used: set[str]) -> str:
    """The script with these icons only; with all of them when it has another form."""

    def keep(icon: re.Match[str]) -> str:
        names = {icon["name"].strip('"'), *re.findall(r'"([^"]+)"', icon["aliases"])}
        return icon[0] if names & used else ""

    return ICON.sub(keep, script)


def without_rules(styles: str, used: set[str]) -> str:
    """The styles without the characters of other icons."""

    def keep(rule: re.Match[str]) -> str:
        names = set(re.findall(r"\.fa-([a-z0-9-]+)", rule[0]))
        return rule[0] if names & used else ""

    return ICON_RULE.sub(keep, styles)


@cache
def smaller(encoded: str) -> str:
    """The address of the same pixels: as WebP where that is smaller, else as they are."""
    # Imported late: only pages with pictures need it.
    from PIL import Image

    packed = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        picture.save(packed, "WEBP", lossless=True, exact=True)
    new = base64.b64encode(packed.getvalue()).decode()
    if len(new) >= len(encoded):
        return f"data:image/png;base64,{encoded}"
    return f"data:image/webp;base64,{new}"
