"""Moments that a search found, on a notebook's page."""

from __future__ import annotations

from collections.abc import Sequence

from book.kit.report import display_html
from glscl.search import Moment
from glscl.search.page import clock, moments_html


def show_moments(found: Sequence[Moment]) -> None:
    """Show what a search found: each moment as a video, its frames, their weights."""
    lines = [
        f"{one.path.name} {clock(one.start)} to {clock(one.end)} {one.score:.3f}"
        for one in found
    ]
    display_html(moments_html(found), "\n".join(lines))
