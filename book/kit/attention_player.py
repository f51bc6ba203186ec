"""One video and the attention of sentences to it: video, frames, and weights.

While the video plays, a line moves over the frames and over the weights of each
sentence. Plain HTML with inline style: it fits a telephone, needs no network, and does
not start to play for readers who prefer reduced motion.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from book.kit.plots import COLOURS
from glscl.data.encode import jpeg
from glscl.util.shapes import check_shape

#: Pauses the automatic first play for readers who prefer reduced motion.
PAUSE_IF_REDUCED_MOTION = (
    "this.onplay=null;"
    "matchMedia('(prefers-reduced-motion: reduce)').matches&&this.pause()"
)
_FOLLOW = (
    "this.closest('figure').style.setProperty('--at',this.currentTime/this.duration)"
)
_LINE = (
    "position:absolute;top:0;bottom:0;width:2px;background:currentColor;opacity:.7;"
    "left:calc(var(--at,0)*100%);transition:left .25s linear"
)
_BAR_HEIGHT = 36  # pixels of the largest weight


class QueryAttention(NamedTuple):
    """A sentence, its attention weights (F), and the rank it gives the video."""

    query: str
    weights: ArrayLike
    rank: int


def player_html(
    video: bytes,
    frames: NDArray[np.uint8],
    queries: Sequence[QueryAttention],
    gallery: int,
) -> str:
    """The player as HTML.

    ``video``: an MP4; ``frames``: (F, H, W, 3), uint8; ``gallery``: the number of ranked
    videos. ``ValueError`` when a sentence has not as many weights as there are frames.
    """
    count = check_shape(frames, "F H W 3", "frames")["F"]
    for one in queries:
        check_shape(np.asarray(one.weights), "F", "weights", F=count)
    most = max(float(np.asarray(one.weights).max()) for one in queries)
    rows = "".join(_row(one, most, gallery) for one in queries)
    moving = base64.b64encode(video).decode()
    still = base64.b64encode(jpeg(np.concatenate(list(frames), axis=1))).decode()
    return (
        '<figure class="glscl-attention" style="margin:1rem 0;padding:0;display:flex;'
        'flex-wrap:wrap;gap:1rem;align-items:flex-start">'
        '<video aria-label="The video that the sentences are about" width="190" '
        f'autoplay loop muted playsinline controls onplay="{PAUSE_IF_REDUCED_MOTION}" '
        f'ontimeupdate="{_FOLLOW}" style="flex:0 0 190px;border-radius:6px;'
        f'image-rendering:pixelated" src="data:video/mp4;base64,{moving}"></video>'
        '<div style="flex:1 1 18rem;min-width:0">'
        '<div style="position:relative">'
        f'<img alt="{count} frames of the video, in order" style="display:block;'
        'width:100%;max-width:none;margin:0;border-radius:4px" '
        f'src="data:image/jpeg;base64,{still}"><span style="{_LINE}"></span></div>'
        f"{rows}</div></figure>"
    )


def _row(one: QueryAttention, most: float, gallery: int) -> str:
    """One sentence: its text, the rank of the video, and the weights as bars."""
    weights = np.asarray(one.weights, dtype=float)
    percent = ", ".join(f"{100 * w:.0f}" for w in weights)
    bars = "".join(
        f'<span style="flex:1;margin:0 2px;border-radius:2px 2px 0 0;background:'
        f'{COLOURS[0]};height:{max(1, _BAR_HEIGHT * w / most):.0f}px"></span>'
        for w in weights
    )
    return (
        '<div style="display:flex;justify-content:space-between;gap:1rem;'
        f'margin-top:.7rem;line-height:1.3"><span>“{html.escape(one.query)}”</span>'
        f'<strong style="white-space:nowrap">rank {one.rank} of {gallery}</strong>'
        f'</div><div role="img" aria-label="Weights of the frames in percent: {percent}" '
        f'style="position:relative;display:flex;align-items:flex-end;height:{_BAR_HEIGHT}px;'
        f'border-bottom:1px solid;margin-top:.2rem">{bars}'
        f'<span style="{_LINE}"></span></div>'
    )
