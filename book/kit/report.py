"""Output of notebooks: glued values, tables, figures, clips, provenance.

Everything is plain HTML with inline style, so that it looks the same in the book, in
Jupyter and on Colab, and works without a network.
"""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from book.kit.provenance import PACKAGES, commit, versions
from glscl.util.shapes import check_shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from book.kit.attention_player import QueryAttention
    from book.kit.diagrams import Drawing
    from book.kit.strips import Strips

_GLUED = "application/papermill.record/"
_NAME = re.compile(r"(?:ch\d\d|a\d)_[a-z0-9_]+")  # a: appendices
_NO_BREAK = "\u00a0"  # a shape stays on one line
CLIP_FPS = 8  # of clips that are given as pixels
_CLIP_LIMIT = 100_000  # bytes of a file that is embedded without re-encoding


def glue(name: str, value: Any) -> None:
    """Store ``value`` under ``name`` for the prose; the cell shows no output.

    The book inserts it with the role ``{glue:text}``. ``value`` is a number, a string,
    or a tensor or array of one element. ``ValueError`` for a name that is not
    ``chNN_words`` (``aN_words`` in an appendix) or a number that is not finite.
    """
    from IPython.core.formatters import format_display_data
    from IPython.display import display

    if not _NAME.fullmatch(name):
        raise ValueError(f"a glued name looks like 'ch04_mean_rank', got {name!r}.")
    plain = value.item() if hasattr(value, "item") else value
    if not isinstance(plain, (bool, int, float, str)):
        kind = type(plain).__name__
        raise ValueError(f"{name}: only numbers and strings are glued, got {kind}.")
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ValueError(f"{name}: only finite numbers are glued, got {plain}.")
    bundle, about = format_display_data(plain)
    about["scrapbook"] = {"name": name, "mime_prefix": _GLUED}
    hidden = {_GLUED + kind: data for kind, data in bundle.items()}
    display(hidden, raw=True, metadata=about)


def show(figure: Figure | Strips, alt: str, caption: str = "") -> None:
    """Show a figure, or strips of frames, with ``alt`` as its text alternative."""
    from book.kit.strips import Strips
    from book.kit.svg import to_svg

    _need_alt(alt)
    if isinstance(figure, Strips):
        return _display_figure(figure.html(alt), caption, alt)
    scroll = "overflow-x:auto;max-width:100%"
    drawing = f'<div style="{scroll}">{to_svg(figure, alt)}</div>'
    _display_figure(drawing, caption, alt)


def show_diagrams(
    drawings: Sequence[Drawing], alts: Sequence[str], captions: Sequence[str] = ()
) -> None:
    """Show drawings of ``book.kit.diagrams``, side by side where there is room."""
    captions = captions or [""] * len(drawings)
    items = []
    for drawing, alt, caption in zip(drawings, alts, captions, strict=True):
        _need_alt(alt)
        items.append(
            '<figure class="glscl-figure" style="flex:1 1 300px;margin:0">'
            f"{drawing.svg(alt)}{_caption(caption)}</figure>"
        )
    row = "display:flex;flex-wrap:wrap;gap:1.5rem;margin:1rem 0"
    display_html(f'<div style="{row}">{"".join(items)}</div>', " | ".join(alts))


def show_clips(
    clips: Sequence[str | Path | NDArray[np.uint8]],
    alts: Sequence[str],
    captions: Sequence[str] | None = None,
    width: int = 160,
) -> None:
    """Show small videos side by side, embedded in the page.

    ``clips``: paths of videos, or uint8 pixels (T, H, W, 3) at 8 frames a second.
    Small MP4 files are embedded as they are, others as a few resized frames. They do
    not start to play for readers who prefer reduced motion.
    """
    from book.kit.attention_player import PAUSE_IF_REDUCED_MOTION

    captions = list(captions) if captions is not None else [""] * len(clips)
    if not len(clips) == len(alts) == len(captions):
        raise ValueError(
            f"{len(clips)} clips need as many alts and captions, "
            f"got {len(alts)} and {len(captions)}."
        )
    items = []
    for clip, alt, caption in zip(clips, alts, captions, strict=True):
        _need_alt(alt)
        source = base64.b64encode(_clip_bytes(clip, width)).decode()
        items.append(
            f'<figure style="margin:0;max-width:{width}px">'
            f'<video aria-label="{html.escape(alt)}" width="{width}" autoplay loop muted '
            f'playsinline controls onplay="{PAUSE_IF_REDUCED_MOTION}" '
            'style="max-width:100%;image-rendering:pixelated" '
            f'src="data:video/mp4;base64,{source}"></video>'
            f"{_caption(caption)}</figure>"
        )
    row = "display:flex;flex-wrap:wrap;gap:1rem"
    display_html(
        f'<div class="glscl-clips" style="{row}">{"".join(items)}</div>',
        " | ".join(alts),
    )


def show_attention(
    path: Path,
    frames: NDArray[np.uint8],
    queries: Sequence[QueryAttention],
    gallery: int,
) -> None:
    """Show a video, its frames (F, H, W, 3), and the weights (F) of sentences on them.

    ``gallery`` is the number of videos among which each sentence ranks this one.
    """
    from book.kit.attention_player import player_html

    video = _clip_bytes(path, 190)
    lines = [f"“{one.query}” rank {one.rank} of {gallery}" for one in queries]
    display_html(player_html(video, frames, queries, gallery), "\n".join(lines))


def table(frame: DataFrame, caption: str, digits: int = 1) -> None:
    """Show a data frame as a table with ``caption``; numbers get ``digits`` decimals,
    and those of more than four digits commas.

    Missing values are shown as a dash, and a default index is left out.
    """
    if not caption.strip():
        raise ValueError("a table needs a caption that says what it holds.")
    counts = type(frame.index).__name__ == "RangeIndex"
    shown = frame if counts else frame.reset_index(names=frame.index.name or "")
    columns = {str(name): list(shown[name]) for name in shown.columns}
    numeric = {name: all(map(_is_number, values)) for name, values in columns.items()}
    head = "".join(
        f'<th scope="col"{_align(numeric[name])}>{html.escape(name)}</th>'
        if name
        else "<td></td>"
        for name in columns
    )
    body = []
    for row in zip(*columns.values(), strict=True):
        cells = []
        for place, (name, value) in enumerate(zip(columns, row, strict=True)):
            text = html.escape(_cell(value, digits))
            names_row = place == 0 and not counts
            start, end = ('<th scope="row"', "</th>") if names_row else ("<td", "</td>")
            cells.append(f"{start}{_align(numeric[name])}>{text}{end}")
        body.append(f"<tr>{''.join(cells)}</tr>")
    display_html(
        '<div class="glscl-table-box" role="group" tabindex="0" '
        f'aria-label="{html.escape(caption)}" style="overflow-x:auto">'
        f'<table class="glscl-table"><caption>{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>",
        f"{caption}\n{frame.to_string()}",
    )


def _is_number(value: Any) -> bool:
    """Whether a cell is a number or missing."""
    numeric = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return numeric or value is None


def _align(number: bool) -> str:
    return ' class="number" style="text-align:right"' if number else ""


def _cell(value: Any, digits: int) -> str:
    if value is None or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return "–"
    if not _is_number(value):
        return str(value)
    decimals = f".{digits}f" if isinstance(value, (float, np.floating)) else "d"
    # Numbers of more than four digits are easier to read with commas.
    return format(value, f",{decimals}" if abs(value) >= 10_000 else decimals)


def metric_table(
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    caption: str = "Recalls in %, median and mean rank from 1.",
) -> None:
    """Show ``glscl.metrics.retrieval_metrics`` of several methods, both directions.

    The numbers of queries and of gallery items are shown, too: a rank depends on them.
    """
    import pandas as pd

    directions = {"t2v": "text→video", "v2t": "video→text"}
    rows = [
        {"method": method, "direction": words, **found[direction]}
        for method, found in results.items()
        for direction, words in directions.items()
    ]
    names = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "R50": "R@50"}
    frame = pd.DataFrame(rows).rename(columns=names)
    counts = ["queries", "gallery"]
    frame[counts] = frame[counts].astype(int)
    table(frame, caption)


def shape_table(caption: str = "Shapes on the way", **rows: tuple[Any, str]) -> None:
    """Show names, axes and sizes: ``shape_table(frames=(frames, "B F D"), ...)``.

    The letters must agree between the rows, else ``ValueError`` names the axis.
    """
    import pandas as pd

    sizes: dict[str, int] = {}
    lines = []
    for name, (tensor, axes) in rows.items():
        sizes |= check_shape(tensor, axes, name, **sizes)
        shape = f"{_NO_BREAK}×{_NO_BREAK}".join(map(str, tensor.shape))
        letters = f",{_NO_BREAK}".join(axes.split())
        kind = str(tensor.dtype).removeprefix("torch.")
        lines.append((name, f"({letters})", shape, kind))
    table(pd.DataFrame(lines, columns=["tensor", "axes", "size", "type"]), caption)


def provenance(parameters: Mapping[str, Any]) -> None:
    """Show parameters, versions, device and commit of the run."""
    import pandas as pd
    import torch

    cuda = torch.cuda.is_available() and parameters.get("device", "auto") != "cpu"
    found = versions(("glscl", *PACKAGES))
    decord = "decord where it fits, else " if "decord" in found else ""
    rows = {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "videos read by": f"{decord}PyAV",
        **found,
        **{f"parameter {name}": repr(value) for name, value in parameters.items()},
    }
    frame = pd.DataFrame({"what": list(rows), "value": [str(v) for v in rows.values()]})
    table(frame, "What this page was computed with")


def _clip_bytes(clip: str | Path | NDArray[np.uint8], width: int) -> bytes:
    """An MP4 that is small enough to be embedded."""
    from glscl.data.encode import encode_mp4
    from glscl.data.frames import read_frames, resize_crop

    if isinstance(clip, (str, Path)):
        path = Path(clip)
        if path.suffix == ".mp4" and path.stat().st_size <= _CLIP_LIMIT:
            return path.read_bytes()
        clip = resize_crop(read_frames(path, max_frames=32, sample_fps=4.0), width)
    check_shape(clip, "T H W 3", "clip")
    # H.264 stores colours at half the resolution and so needs even sizes.
    return encode_mp4(
        clip[:, : clip.shape[1] // 2 * 2, : clip.shape[2] // 2 * 2], CLIP_FPS
    )


def _need_alt(alt: str) -> None:
    if len(alt.split()) < 3:
        raise ValueError(f"alt text must describe the picture, got {alt!r}.")


def _caption(text: str) -> str:
    return f"<figcaption>{html.escape(text)}</figcaption>" if text else ""


def _display_figure(drawing: str, caption: str, alt: str) -> None:
    figure = f'<figure class="glscl-figure" style="margin:1rem 0">{drawing}'
    display_html(f"{figure}{_caption(caption)}</figure>", alt)


def display_html(markup: str, plain: str) -> None:
    """Show ``markup`` in a browser, or ``plain`` in a terminal."""
    from IPython.display import display

    display({"text/html": markup, "text/plain": plain}, raw=True)
