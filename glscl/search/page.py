"""Search results as one HTML file that needs no network and no other file.

Each moment is a small silent video of the window, its frames side by side, and under
each frame the attention weight of the sentence, if the method has such weights.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glscl.data.encode import encode_mp4, jpeg
from glscl.data.frames import resize_shorter
from glscl.data.video import VideoError, VideoReader
from glscl.data.videofiles import State
from glscl.search.windows import read_resized
from glscl.util.files import printable, write_text

ASSETS = Path(__file__).parent / "assets"
PREVIEW_SIDE = 180  # pixels of the shorter side of a preview
PREVIEW_FPS = 8
FRAME_SIDE = 72  # and of a frame beside it
PREVIEW_SECONDS = 30.0  # at most; of a longer window the beginning is shown


class Moment(NamedTuple):
    """A window that was found: seconds ``start`` to ``end`` of the video at ``path``.

    ``frame_times`` (n,) are the seconds of its frames and ``frame_weights`` (n,) the
    attention weights of the sentence on them, ``None`` where the method has none;
    ``row`` is its number in this version of the index, ``state`` that of the file when
    it was indexed.
    """

    path: Path
    start: float
    end: float
    score: float
    frame_times: NDArray[np.float32]
    frame_weights: NDArray[np.float32] | None
    row: int
    state: State


def clock(seconds: float) -> str:
    """Seconds as a clock: ``1:02:03.4``."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{start}:{rest // 10:02d}.{rest % 10}"


def frames_at(path: Path, times: NDArray[np.floating], side: int) -> NDArray[np.uint8]:
    """The frames at ``times`` (n,) seconds, ascending: uint8 (n, h, w, 3).

    The shorter side has ``side`` pixels. Raises ``VideoError``.
    """
    reader = VideoReader(path)
    wanted = reader.timeline.index_at(times)
    indices, inverse = np.unique(wanted, return_inverse=True)
    return read_resized(reader, indices, resize_shorter, side)[inverse]


def preview(moment: Moment) -> bytes:
    """The window of a moment as a small MP4 without sound. Raises ``VideoError``."""
    end = min(moment.end, moment.start + PREVIEW_SECONDS)
    step = 1 / PREVIEW_FPS
    times = np.arange(moment.start, max(end, moment.start + step), step)
    pixels = frames_at(moment.path, times, PREVIEW_SIDE)
    even = pixels[:, : pixels.shape[1] // 2 * 2, : pixels.shape[2] // 2 * 2]
    return encode_mp4(even, PREVIEW_FPS)


def moment_html(moment: Moment, rank: int) -> str:
    """A moment as a card, marked up as by ``card.js``; or why its file is unreadable."""
    name = html.escape(printable(moment.path.name))
    where = f"{clock(moment.start)} to {clock(moment.end)}"
    head = (
        f"<figcaption><strong>{rank}. {name}</strong><span>{where}</span>"
        f"<span>score {moment.score:.3f}</span></figcaption>"
    )
    try:
        video = base64.b64encode(preview(moment)).decode()
        frames = frames_at(moment.path, moment.frame_times, FRAME_SIDE)
    except VideoError as error:
        problem = html.escape(printable(str(error)))
        return f'<figure class="glscl-card">{head}<p>{problem}</p></figure>'
    label = "frames" if moment.frame_weights is None else "frames and their weights"
    items = []
    for i, (pixels, seconds) in enumerate(zip(frames, moment.frame_times, strict=True)):
        picture = base64.b64encode(jpeg(pixels)).decode()
        items.append(
            f'<li><img alt="Frame at {clock(float(seconds))}" '
            f'src="data:image/jpeg;base64,{picture}">{_bar(moment.frame_weights, i)}</li>'
        )
    return (
        f'<figure class="glscl-card">{head}'
        f'<video controls muted loop playsinline aria-label="{name}, {where}" '
        f'src="data:video/mp4;base64,{video}"></video>'
        f'<ol class="glscl-frames" tabindex="0" aria-label="{label}">'
        f"{''.join(items)}</ol></figure>"
    )


def _bar(weights: NDArray[np.float32] | None, i: int) -> str:
    """The weight of frame i as a bar and a number."""
    if weights is None:
        return ""
    return (
        f'<span class="glscl-bar" style="--share: {weights[i] / weights.max():.3f}"></span>'
        f'<span class="glscl-percent">{100 * weights[i]:.1f} %</span>'
    )


def moments_html(moments: Sequence[Moment]) -> str:
    """Several moments, with their style, to be put into a page."""
    style = (ASSETS / "card.css").read_text(encoding="utf-8").strip()
    parts = [moment_html(one, rank) for rank, one in enumerate(moments, 1)]
    return f"<style>{style}</style>{''.join(parts) or '<p>Nothing was found.</p>'}"


def write_page(path: Path, found: Mapping[str, Sequence[Moment]]) -> None:
    """Write what was found for each sentence as one HTML file."""
    parts = [
        f"<h2>{html.escape(text)}</h2>{moments_html(moments)}"
        for text, moments in found.items()
    ]
    page = Template((ASSETS / "moments.html").read_text(encoding="utf-8"))
    write_text(path, page.substitute(moments="".join(parts)))
