"""Frames of videos in rows, as HTML: rows wrap where the page is narrow."""

from __future__ import annotations

import base64
import html
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from glscl.data.encode import jpeg

_WIDTH = 44  # pixels of the narrowest frame
_WIDEST = 90
_BAR = 34  # pixels of the largest weight
_ROW = (
    f"display:grid;grid-template-columns:repeat(auto-fit,minmax({_WIDTH}px,1fr));"
    "gap:3px;margin:.2rem 0 .6rem;line-height:1.2;text-align:center;font-size:.72rem"
)
_HATCHED = (
    "border:1px dashed;opacity:.4;box-sizing:border-box;background:repeating-linear-"
    "gradient(45deg,transparent 0 6px,currentColor 6px 7px)"
)


class Strips(NamedTuple):
    """Rows of frames with weights and labels; made by ``book.kit.plots.frame_strip``."""

    pictures: NDArray[np.uint8]  # (B, F, H, W, 3)
    real: NDArray[np.bool_]  # (B, F)
    weights: NDArray | None  # (B, F)
    colour: str  # of the weights
    title: str | None = None
    row_labels: list[str] | None = None  # B
    frame_labels: list[str] | None = None  # F

    def html(self, alt: str) -> str:
        """The rows as HTML with ``alt`` as the name of the group."""
        head = f"<div>{html.escape(self.title)}</div>" if self.title else ""
        rows = "".join(map(self._row, range(len(self.pictures))))
        widest = self.pictures.shape[1] * _WIDEST
        return (
            f'<div role="group" aria-label="{html.escape(alt)}" '
            f'style="max-width:{widest}px;font-size:.92rem">{head}{rows}</div>'
        )

    def _row(self, row: int) -> str:
        label = ""
        if self.row_labels is not None:
            label = f"<div>{html.escape(self.row_labels[row])}</div>"
        places = range(self.pictures.shape[1])
        cells = "".join(self._frame(row, place) for place in places)
        return f'{label}<div style="{_ROW}">{cells}</div>'

    def _frame(self, row: int, place: int) -> str:
        """One frame: its label, the picture, and the weight as a bar and a number."""
        _, _, high, wide, _ = self.pictures.shape
        shape = f"display:block;width:100%;aspect-ratio:{wide}/{high};margin:0"
        parts = []
        if self.frame_labels is not None:
            parts.append(html.escape(self.frame_labels[place]))
        if self.real[row, place]:
            source = base64.b64encode(jpeg(self.pictures[row, place])).decode()
            parts.append(
                f'<img alt="frame {place + 1}" style="{shape};padding:0;'
                'border-radius:3px;background:none" '
                f'src="data:image/jpeg;base64,{source}">'
            )
            if self.weights is not None:
                parts.append(self._bar(self.weights[row, place]))
        else:
            parts.append(f'<div title="padding" style="{shape};{_HATCHED}"></div>')
        return f"<div>{''.join(parts)}</div>"

    def _bar(self, weight: float) -> str:
        assert self.weights is not None  # the caller looked
        most = self.weights[self.real].max() or 1.0
        high = max(1.0, _BAR * weight / most)
        return (
            f'<div style="height:{_BAR}px;display:flex;align-items:flex-end">'
            f'<div style="width:100%;height:{high:.1f}px;background:{self.colour}"></div>'
            f"</div>{100 * weight:.0f} %"
        )
