"""Draw the logo and the icon: frames of a video, one of them chosen by the caption.

``python book/builder/logo.py`` writes both into ``book/_static``.
"""

from pathlib import Path

BLUE, ORANGE = "#2b7fd4", "#d87807"
WEIGHTS = (0.25, 0.45, 1.0, 0.35)


def frame(x: float, y: float, size: float, weight: float) -> str:
    """One frame, as opaque as the caption's weight for it."""
    chosen = weight == max(WEIGHTS)
    colour, opacity = (ORANGE, 1.0) if chosen else (BLUE, 0.3 + 0.7 * weight)
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{size:g}" height="{size:g}" '
        f'rx="{size / 6:g}" fill="{colour}" fill-opacity="{opacity:g}"/>'
    )


def bar(x: float, bottom: float, width: float, height: float, chosen: bool) -> str:
    """The weight of one frame, below it."""
    return (
        f'<rect x="{x:g}" y="{bottom - height:g}" width="{width:g}" '
        f'height="{height:g}" rx="1" fill="{ORANGE if chosen else BLUE}"/>'
    )


def logo() -> str:
    """Four frames over their weights."""
    parts = []
    for index, weight in enumerate(WEIGHTS):
        x = 4 + 24 * index
        parts.append(frame(x, 4, 20, weight))
        parts.append(bar(x, 46, 20, 16 * weight, weight == max(WEIGHTS)))
    body = "".join(parts)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 50" role="img" '
        f'aria-label="GLSCL">{body}</svg>\n'
    )


def icon() -> str:
    """The chosen frame between two others."""
    parts = [frame(1, 11, 10, 0.35), frame(21, 11, 10, 0.35), frame(9, 8, 14, 1.0)]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        f"{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    folder = Path(__file__).resolve().parent.parent / "_static"
    (folder / "logo.svg").write_text(logo(), encoding="utf-8")
    (folder / "favicon.svg").write_text(icon(), encoding="utf-8")
