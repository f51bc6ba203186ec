"""Search results as one HTML file that needs no network and no other file.

Each moment is a small silent video of the window, its frames side by side, and under
each frame the attention weight of the sentence.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glscl.data.encode import encode_mp4, jpeg
from glscl.data.frames import VideoError, VideoReader, resize_shorter
from glscl.search.index import Moment
from glscl.util.files import write_text

PREVIEW_SIDE = 180  # pixels of the shorter side of a preview
PREVIEW_FPS = 8
FRAME_SIDE = 72  # and of a frame beside it
PREVIEW_SECONDS = 30.0  # longer windows are shown up to here
FRAMES_AT_ONCE = 32  # frames of full size held in memory

STYLE = """
.glscl-moment {margin: 0 0 1.5rem; max-width: 60rem}
.glscl-moment video {display: block; max-width: 100%; background: #000}
.glscl-strip {display: flex; overflow-x: auto; margin: .3rem 0; padding: 0}
.glscl-strip li {list-style: none; margin-right: 2px; font-size: .7rem}
.glscl-strip img {display: block}
.glscl-strip meter {display: block; width: 100%; height: .7rem}
""".strip()


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
    wanted = np.round(times * reader.fps).astype(int).clip(0, reader.count - 1)
    indices, places = np.unique(wanted, return_inverse=True)
    parts = [
        resize_shorter(reader.read(indices[first : first + FRAMES_AT_ONCE]), side)
        for first in range(0, len(indices), FRAMES_AT_ONCE)
    ]
    return np.concatenate(parts)[places]


def preview(moment: Moment) -> bytes:
    """The window of a moment as a small MP4 without sound. Raises ``VideoError``."""
    end = min(moment.end, moment.start + PREVIEW_SECONDS)
    step = 1 / PREVIEW_FPS
    times = np.arange(moment.start, max(end, moment.start + step), step)
    pixels = frames_at(moment.path, times, PREVIEW_SIDE)
    even = pixels[:, : pixels.shape[1] // 2 * 2, : pixels.shape[2] // 2 * 2]
    return encode_mp4(even, PREVIEW_FPS)


def moment_html(moment: Moment, rank: int) -> str:
    """A moment as a figure: video, frames, weights. A missing file is named."""
    name = html.escape(_printable(moment.path.name))
    where = f"{clock(moment.start)} to {clock(moment.end)}"
    head = f"{rank}. {name}, {where}, score {moment.score:.3f}"
    try:
        moving = base64.b64encode(preview(moment)).decode()
        stills = frames_at(moment.path, moment.frame_times, FRAME_SIDE)
    except VideoError as error:
        problem = html.escape(_printable(str(error)))
        return f'<figure class="glscl-moment"><p>{head}</p><p>{problem}</p></figure>'
    most = float(moment.frame_weights.max())
    items = []
    for pixels, seconds, weight in zip(
        stills, moment.frame_times, moment.frame_weights, strict=True
    ):
        picture = base64.b64encode(jpeg(pixels)).decode()
        at = clock(float(seconds))
        items.append(
            f'<li><img alt="Frame at {at}" src="data:image/jpeg;base64,{picture}">'
            f'<meter aria-label="weight of the frame at {at}" min="0" max="{most:.4f}" '
            f'value="{weight:.4f}">{weight:.2f}</meter>{weight:.2f}</li>'
        )
    return (
        f'<figure class="glscl-moment"><figcaption>{head}</figcaption>'
        f'<video controls muted loop playsinline aria-label="{name}, {where}" '
        f'src="data:video/mp4;base64,{moving}"></video>'
        f'<ol class="glscl-strip" tabindex="0" aria-label="frames and their weights">'
        f"{''.join(items)}</ol></figure>"
    )


def moments_html(moments: Sequence[Moment]) -> str:
    """Several moments, with their style, to be put into a page."""
    parts = [moment_html(one, rank) for rank, one in enumerate(moments, 1)]
    return f"<style>{STYLE}</style>{''.join(parts) or '<p>Nothing was found.</p>'}"


def write_page(path: Path, found: Mapping[str, Sequence[Moment]]) -> None:
    """Write what was found for each sentence as one HTML file."""
    parts = [
        f"<h2>{html.escape(text)}</h2>{moments_html(moments)}"
        for text, moments in found.items()
    ]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        "<title>Moments found</title><style>:root {color-scheme: light dark} "
        "body {font: 1rem/1.4 system-ui, sans-serif; margin: 1rem auto; "
        "max-width: 60rem; padding: 0 1rem}</style></head><body><main>"
        f"<h1>Moments found</h1>{''.join(parts)}</main></body></html>\n"
    )
    write_text(path, page)


def _printable(text: str) -> str:
    """File names may hold bytes that are no letters in any encoding."""
    return text.encode("utf-8", "replace").decode()
