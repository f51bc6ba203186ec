"""The modules as diagrams: SVG drawn by code, in the book's notation.

Text features are blue, video features orange, scores green; learned parameters and
headings have the text colour of the page. A diagram is 360 units wide, so its text can
be read on a telephone; ``book.kit.report.show_diagrams`` displays it with its alt text.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from book.kit.plots import COLOURS
from glscl.util.shapes import check_shape

TEXT, VIDEO, SCORE = COLOURS[:3]
PLAIN = "currentColor"
WIDTH = 360.0  # units, and pixels where there is room
FONT_SIZE = 13.0
SMALL = 11.0  # the font size of secondary lines


@dataclass
class Drawing:
    """Shapes on an area of ``WIDTH`` × ``height`` units, in the order of drawing."""

    height: float
    parts: list[str] = field(default_factory=list)

    def svg(self, alt: str, role: str = "img") -> str:
        """The drawing as inline SVG with ``alt`` as its accessible name."""
        return (
            f'<svg role="{role}" aria-label="{html.escape(alt)}" '
            f'viewBox="0 0 {WIDTH:g} {self.height:g}" '
            f'style="width:100%;max-width:{1.2 * WIDTH:g}px;height:auto" '
            f'fill="currentColor" font-size="{FONT_SIZE:g}" text-anchor="middle" '
            f'xmlns="http://www.w3.org/2000/svg">{"".join(self.parts)}</svg>'
        )

    def text(self, x: float, y: float, words: str, size: float = FONT_SIZE) -> None:
        """A line of words or mathematics, centred at ``x``, with its baseline at ``y``."""
        markup = "".join(_markup(words, size))
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}">{markup}</text>'
        )

    def line(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        colour: str = PLAIN,
        width: float = 1.2,
        opacity: float = 1.0,
        heads: int = 0,
    ) -> None:
        """A straight line; ``heads``: 0 none, 1 at the end, 2 at both ends."""
        (x0, y0), (x1, y1) = start, end
        self.parts.append(
            f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" fill="none" '
            f'stroke="{colour}" stroke-width="{width:g}" '
            f'stroke-opacity="{opacity:.2f}"/>'
        )
        for tip, tail in ((end, start), (start, end))[:heads]:
            self._head(tip, tail, colour)

    def _head(
        self, tip: tuple[float, float], tail: tuple[float, float], colour: str
    ) -> None:
        angle = math.atan2(tip[1] - tail[1], tip[0] - tail[0])
        sides = [
            (tip[0] - 7 * math.cos(angle + turn), tip[1] - 7 * math.sin(angle + turn))
            for turn in (-0.45, 0.45)
        ]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in [tip, *sides])
        self.parts.append(f'<polygon points="{corners}" fill="{colour}"/>')

    def cell(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: str,
        opacity: float = 0.16,
        dashed: bool = False,
    ) -> None:
        """A box with its upper left corner at (``x``, ``y``)."""
        dash = ' stroke-dasharray="3 3"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="4" fill="{colour}" fill-opacity="{opacity:g}" stroke="{colour}"'
            f' stroke-width="1.2"{dash}/>'
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        words: Sequence[str],
        colour: str = PLAIN,
    ) -> None:
        """A box centred at ``x`` with its upper edge at ``y``: a name, then small lines."""
        height = box_height(words)
        opacity = 0.05 if colour == PLAIN else 0.16
        self.cell(x - width / 2, y, width, height, colour, opacity)
        for row, line in enumerate(words):
            self.text(x, y + 18 + 15 * row, line, SMALL if row else FONT_SIZE)

    def dot(self, x: float, y: float, colour: str, name: str = "") -> None:
        """A circle with a number in it: one concept."""
        self.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="{colour}" '
            f'fill-opacity="0.2" stroke="{colour}" stroke-width="1.2"/>'
        )
        self.text(x, y + 4, name, SMALL)


def box_height(words: Sequence[str]) -> float:
    """The height of a box with that many lines."""
    return 28.0 + 15 * (len(words) - 1)


def _markup(words: str, size: float) -> Iterator[str]:
    """Words as SVG: ``_{…}`` is a subscript, single letters are set in italics."""
    for part in re.split(r"(_\{[^}]*\})", words):
        if part.startswith("_{"):
            drop = f"{0.25 * size:.1f}"
            yield (
                f'<tspan dy="{drop}" font-size="{0.75 * size:.1f}" '
                f'font-style="italic">{html.escape(part[2:-1])}</tspan>'
                f'<tspan dy="-{drop}">&#8203;</tspan>'
            )
        else:
            yield re.sub(
                r"(?<![\w'])([A-Za-zτ])(?![^\W_])",
                r'<tspan font-style="italic">\1</tspan>',
                html.escape(part, quote=False),
            )


def pooling(
    weights: ArrayLike,
    mask: ArrayLike | None = None,
    query: Sequence[str] = ("captions_{a}", "(D)"),
    keys: str = "frames_{b}",
    values: str = "",
    weight: str = "w_{abf} = softmax_{f} (captions_{a} · frames_{bf} / τ)",
    pooled: str = "pooled_{ab} = Σ_{f} w_{abf} frames_{bf}",
    score: str = "global_{ab} = unit(captions_{a}) · unit(pooled_{ab})",
) -> Drawing:
    """Text-guided pooling: attention of a text query to the frames of a video.

    ``weights``: (F), drawn as bars; ``mask``: (F), true for a real frame, all if not
    given. ``query`` labels the query, ``keys`` the keys; ``values`` labels the values
    where they are not the keys. ``weight``, ``pooled`` and ``score`` are the formulas.
    The defaults show GLSCL's GIM, other labels EERCF's TIB and GLCCL's GLIM.
    """
    w = np.asarray(weights, dtype=float)
    check_shape(w, "F", "weights")
    real = np.ones(len(w), bool) if mask is None else np.asarray(mask, dtype=bool)
    check_shape(real, "F", "mask", F=len(w))
    cell = (WIDTH - 20) / len(w)
    middles = 10 + cell * (np.arange(len(w)) + 0.5)
    drawn = Drawing(392 if values else 344)
    _query(drawn, query, middles, real)
    _row(drawn, middles, 78, cell, real)
    drawn.text(WIDTH / 2, 122, f"{keys}  (F, D)", SMALL)
    drawn.text(WIDTH / 2, 150, weight)
    _bars(drawn, middles, 214, cell, w)
    y = 220.0
    if values:
        _row(drawn, middles, 226, cell, real)
        drawn.text(WIDTH / 2, 270, f"{values}  (F, D)", SMALL)
        y = 278.0
    for x, share in zip(middles, w / w.max(), strict=True):
        if share > 0.01:
            drawn.line((x, y), (WIDTH / 2, y + 34), VIDEO, 0.6 + 2 * share, 0.7)
    drawn.box(WIDTH / 2, y + 34, 250, [pooled], VIDEO)
    drawn.line((WIDTH / 2, y + 62), (WIDTH / 2, y + 84), SCORE, heads=1)
    drawn.box(WIDTH / 2, y + 84, 330, [score], SCORE)
    return drawn


def _query(
    drawn: Drawing, query: Sequence[str], middles: np.ndarray, real: np.ndarray
) -> None:
    """The box of the query, with a line to each frame, faint to padding."""
    drawn.box(WIDTH / 2, 4, 200, query, TEXT)
    top = 4 + box_height(query)
    for x, there in zip(middles, real, strict=True):
        drawn.line((WIDTH / 2, top), (x, 78), TEXT, opacity=0.6 if there else 0.15)


def _row(
    drawn: Drawing, middles: np.ndarray, y: float, cell: float, real: np.ndarray
) -> None:
    """One cell per frame; padding is empty and dashed."""
    for x, there in zip(middles, real, strict=True):
        left = x - 0.42 * cell
        opacity = 0.16 if there else 0.0
        drawn.cell(left, y, 0.84 * cell, 28, VIDEO, opacity, not there)


def _bars(
    drawn: Drawing, middles: np.ndarray, bottom: float, cell: float, w: np.ndarray
) -> None:
    """The weights as bars on a line; the largest is 48 units high."""
    for x, share in zip(middles, w / w.max(), strict=True):
        tall = 48 * share
        left = x - 0.3 * cell
        drawn.cell(left, bottom - tall, 0.6 * cell, tall, TEXT, opacity=0.75)
    drawn.line((10, bottom), (WIDTH - 10, bottom))


def frame_transformer(num_layers: int = 4, frames: int = 6, real: int = 5) -> Drawing:
    """The frame transformer: positions, blocks of self-attention, a residual path.

    ``frames`` of which the first ``real`` are real; padding attends, but no frame
    attends to it.
    """
    cell = (WIDTH - 60) / frames
    middles = 40 + cell * (np.arange(frames) + 0.5)
    there = np.arange(frames) < real
    drawn = Drawing(388)

    def row(y: float, name: str) -> None:
        _row(drawn, middles, y, cell, there)
        drawn.text(WIDTH / 2, y + 44, name, SMALL)

    row(4, "frames_{b}  (F, D)")
    drawn.text(WIDTH / 2, 72, "+")
    for f, x in enumerate(middles):
        drawn.cell(x - 0.42 * cell, 80, 0.84 * cell, 24, PLAIN, 0.05)
        drawn.text(x, 97, f"{f + 1}", SMALL)
    drawn.text(WIDTH / 2, 120, "position embeddings pos  (F, D)", SMALL)
    drawn.cell(20, 130, WIDTH - 28, 128, PLAIN, 0.03)
    drawn.text(WIDTH / 2 + 6, 148, f"T: {num_layers} blocks, each")
    for x in middles:
        for to in middles[there]:
            drawn.line((x, 194), (to, 162), VIDEO, 0.9, 0.45)
    drawn.text(WIDTH / 2 + 6, 212, "self-attention; padding is no key", SMALL)
    words = "and feed-forward layer, frame by frame"
    drawn.text(WIDTH / 2 + 6, 230, words, SMALL)
    drawn.text(WIDTH / 2 + 6, 248, "both with LayerNorm and residual path", SMALL)
    drawn.line((WIDTH / 2, 258), (WIDTH / 2, 282), VIDEO, heads=1)
    drawn.box(WIDTH / 2, 282, 36, ["+"], VIDEO)
    # The residual path around T: the frames without positions.
    drawn.line((36, 18), (8, 18), VIDEO)
    drawn.line((8, 18), (8, 296), VIDEO)
    drawn.line((8, 296), (WIDTH / 2 - 18, 296), VIDEO, heads=1)
    drawn.line((WIDTH / 2, 310), (WIDTH / 2, 334), VIDEO, heads=1)
    row(338, "frames'_{b}  (F, D)")
    return drawn


def local(num_queries: int = 8, num_layers: int = 3) -> Drawing:
    """The local interaction module: one decoder for text and video, Q cosines.

    Learned queries attend to the tokens of either modality; concept q of the text is
    compared with concept q of the video.
    """
    left, middle, right = 70.0, WIDTH / 2, WIDTH - 70
    drawn = Drawing(244 + 24 * num_queries)
    drawn.box(left, 4, 112, ["tokens_{a}", "(L, D)"], TEXT)
    drawn.box(middle, 4, 92, ["queries", "(Q, D)"])
    drawn.box(right, 4, 112, ["frames_{b}", "(F, D)"], VIDEO)
    for x, colour in ((left, TEXT), (middle, PLAIN), (right, VIDEO)):
        drawn.line((x, 47), (x, 66), colour, heads=1)
    steps = ["self-attention among queries", "cross-attention to the item's tokens"]
    steps += ["feed-forward layer, per query"]
    name = f"decoder, {num_layers} layers, shared by both"
    drawn.box(middle, 66, 330, [name, *steps])
    for x, colour in ((left, TEXT), (right, VIDEO)):
        drawn.line((x, 139), (x, 158), colour, heads=1)
    drawn.text(left, 174, "text_concepts_{a}", SMALL)
    drawn.text(right, 174, "video_concepts_{b}", SMALL)
    for q in range(num_queries):
        y = 192 + 24.0 * q
        drawn.line((left + 9, y), (right - 9, y), SCORE)
        drawn.dot(left, y, TEXT, str(q + 1))
        drawn.dot(right, y, VIDEO, str(q + 1))
    drawn.text(middle, 186, "cosine", SMALL)
    y = 192 + 24.0 * num_queries
    words = "local_{ab} = 1/Q Σ_{q} text_{aq} · video_{bq}"
    drawn.line((middle, y - 16), (middle, y + 4), SCORE, heads=1)
    drawn.box(middle, y + 4, 300, [words], SCORE)
    return drawn


def losses(num_concepts: int = 4, target: float = 0.75, margin: float = 0.1) -> Drawing:
    """The aims of the auxiliary losses for one pair: ICL attracts, IDL repels.

    ``target``: of ICL for the cosine of text and video concept q. ``margin``: of IDL,
    which penalises cosines of two video concepts above 1 - ``margin``.
    """
    push = COLOURS[3]
    places = np.linspace(50, WIDTH - 50, num_concepts)
    deepest = 34 * (num_concepts - 1) / 2
    drawn = Drawing(244 + deepest)
    drawn.text(WIDTH / 2, 16, "text_concepts_{a}  (Q, D)", SMALL)
    drawn.text(WIDTH / 2, 118, f"ICL: agree_{{q}} towards {target:g}")
    for q, x in enumerate(places):
        drawn.dot(x, 36, TEXT, str(q + 1))
        drawn.dot(x, 172, VIDEO, str(q + 1))
        drawn.line((x, 47), (x, 98), SCORE, 2, heads=1)
        drawn.line((x, 161), (x, 128), SCORE, 2, heads=1)
    for one, other in combinations(places, 2):
        deep = 34 * (other - one) / (places[1] - places[0])
        drawn.parts.append(
            f'<path d="M{one:.1f} 184Q{(one + other) / 2:.1f} {184 + deep:.1f} '
            f'{other:.1f} 184" fill="none" stroke="{push}" stroke-width="1.4" '
            'stroke-dasharray="5 4"/>'
        )
    for q, x in enumerate(places):
        for way in (-1, 1):
            if 0 <= q + way < num_concepts:
                drawn.line((x + 22 * way, 172), (x + 11 * way, 172), push, 2, heads=1)
    bottom = 196 + deepest
    words = f"IDL: C_{{qr}} at most {1 - margin:g} for q ≠ r"
    drawn.text(WIDTH / 2, bottom + 14, words)
    drawn.text(WIDTH / 2, bottom + 36, "video_concepts_{b}  (Q, D)", SMALL)
    return drawn


def towers(patches: int = 16) -> Drawing:
    """CLIP's two towers: which tokens enter each, and which output is its feature.

    ``patches``: how many patches a picture is cut into.
    """
    left, right = 90.0, WIDTH - 90
    drawn = Drawing(330)
    drawn.text(left, 16, "caption")
    drawn.text(right, 16, "picture")
    shown = ["CLS", "1", "2", "…", str(patches)]
    text_cells = _tokens(drawn, left, ["BOS", "the", "red", "circle", "EOS"], 4, TEXT)
    image_cells = _tokens(drawn, right, shown, 0, VIDEO)
    drawn.text(right + 17, 70, f"{patches} patches", SMALL)
    for x, words, colour, at in (
        (left, ["each token attends to", "itself and those before"], TEXT, text_cells),
        (right, ["all tokens attend to", "each other"], VIDEO, image_cells),
    ):
        side = "text" if colour == TEXT else "image"
        drawn.line((x, 76), (x, 96), colour, heads=1)
        drawn.box(x, 96, 168, [f"{side} transformer", *words], colour)
        drawn.line((at, 154), (at, 196), colour, heads=1)
        drawn.box(x, 196, 168, ["linear layer", "D channels"], colour)
    drawn.text(text_cells - 46, 180, "output at EOS", SMALL)
    drawn.text(image_cells + 50, 180, "output at CLS", SMALL)
    for x, name, colour, aside in (
        (left, "captions_{a}", TEXT, 50),
        (right, "frames_{b}", VIDEO, -48),
    ):
        drawn.line((x, 239), (x, 284), colour, heads=1)
        drawn.text(x + aside, 266, f"{name}  (D)", SMALL)
    drawn.box(WIDTH / 2, 284, 300, ["S_{ab} = unit(caption) · unit(picture)"], SCORE)
    return drawn


def _tokens(
    drawn: Drawing, middle: float, names: Sequence[str], main: int, colour: str
) -> float:
    """A row of tokens, the one whose output counts stronger; its centre is returned."""
    width = 34.0
    first = middle - width * (len(names) - 1) / 2
    for place, name in enumerate(names):
        x = first + width * place
        drawn.cell(x - 16, 26, 32, 26, colour, 0.45 if place == main else 0.12)
        drawn.text(x, 44, name, SMALL)
    return first + width * main


def method(links: Mapping[str, str] | None = None) -> Drawing:
    """The whole method, from a sentence and a video to ranks.

    ``links`` maps names of boxes to addresses; these boxes become links.
    """
    left, middle, right = 92.0, WIDTH / 2, WIDTH - 92
    boxes: dict[str, tuple[float, float, float, list[str], str]] = {
        "sentence": (left, 4, 160, ["sentence"], TEXT),
        "video": (right, 4, 160, ["video", "F frames and their mask"], VIDEO),
        "text tower": (left, 76, 160, ["CLIP text tower", "captions, tokens"], TEXT),
        "image tower": (right, 76, 160, ["CLIP image tower", "frame by frame"], VIDEO),
        "temporal": (
            right,
            148,
            160,
            ["frame transformer", "order of the frames"],
            VIDEO,
        ),
        "global": (
            left,
            224,
            164,
            ["GIM", "caption-conditioned", "frame weights"],
            PLAIN,
        ),
        "local": (
            right,
            224,
            164,
            ["LIM", "Q learned queries,", "shared by both"],
            PLAIN,
        ),
        "score": (middle, 316, 250, ["S = global + ½ local"], SCORE),
        "losses": (left, 372, 160, ["InfoNCE, ICL, IDL", "training objective"], PLAIN),
        "ranks": (right, 372, 160, ["ranks", "retrieval metrics"], PLAIN),
        "training": (left, 444, 160, ["training"], PLAIN),
        "search": (right, 444, 160, ["search your videos"], PLAIN),
    }
    arrows = (
        ((left, 32), (left, 76), TEXT),
        ((right, 47), (right, 76), VIDEO),
        ((right, 119), (right, 148), VIDEO),
        ((left - 20, 119), (left - 20, 224), TEXT),
        ((left + 50, 119), (right - 60, 224), TEXT),
        ((right - 50, 191), (left + 60, 224), VIDEO),
        ((right + 20, 191), (right + 20, 224), VIDEO),
        ((left, 282), (middle - 60, 316), SCORE),
        ((right, 282), (middle + 60, 316), SCORE),
        ((middle - 60, 344), (left, 372), SCORE),
        ((middle + 60, 344), (right, 372), SCORE),
        ((left, 415), (left, 444), PLAIN),
        ((right, 415), (right, 444), PLAIN),
    )
    drawn = Drawing(476)
    for start, end, colour in arrows:
        drawn.line(start, end, colour, heads=1)
    for name, box in boxes.items():
        address = (links or {}).get(name)
        drawn.parts += [f'<a href="{html.escape(address)}">'] if address else []
        drawn.box(*box)
        drawn.parts += ["</a>"] if address else []
    return drawn
