"""Take out what the theme ships and no page uses: it would double a page's weight."""

import re
from pathlib import Path

ICONS = "_static/scripts/fontawesome.js"
# One icon in that script: "name":[width, height, [aliases], "code", paths],
ICON = re.compile(
    r'(?P<name>"[a-z0-9-]+"|[a-z][a-z0-9]*):'
    r'\[\d+,\d+,\[(?P<aliases>[^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?'
)


def trim(folder: Path) -> int:
    """Drop unused icons and source maps from rendered pages; bytes that were saved."""
    saved = 0
    for path in folder.glob("_static/**/*.map"):
        saved += path.stat().st_size
        path.unlink()
    icons = folder / ICONS
    if icons.is_file():
        script = icons.read_text(encoding="utf-8")
        kept = without_icons(script, used_icons(folder))
        icons.write_text(kept, encoding="utf-8")
        saved += len(script) - len(kept)
    return saved


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
