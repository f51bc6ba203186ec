"""The contrastive loss of one batch, live: κ, softmax and gradient of every cell."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from book.kit.diagrams import SMALL, TEXT, WIDTH, Drawing
from book.kit.live.figure import show_live
from glscl.util.shapes import check_shape

#: The scale that CLIP starts its training with.
CLIP_KAPPA = 1 / 0.07


def info_nce_figure(
    similarities: ArrayLike,
    captions: Sequence[str],
    hard_negative: int | None = None,
    kappa: float = CLIP_KAPPA,
    caption: str = "",
) -> None:
    """Show the matrix of a batch of N pairs; the reader drags κ from 1 to 100.

    ``similarities``: (N, N), cosines of caption a (row) and video b (column), pairs on
    the diagonal; ``captions``: the N sentences. With ``hard_negative=p`` both have one
    pair more, the last: the reader can put it in the place of pair p (from 0), so
    ``similarities`` is (N + 1, N + 1). ``kappa``: the scale at the start; ``caption``
    goes below the figure. Every cell shows the cosine, the softmax of either direction
    or the gradient of ``glscl.losses.info_nce`` with respect to its logit, times N.
    ``ValueError`` for other shapes, a pair that does not exist, or κ out of range.

    Without scripts: the softmax over videos at ``kappa``, as a picture.
    """
    cosines = np.asarray(similarities, dtype=float)
    total = check_shape(cosines, "A A", "similarities")["A"]
    if len(captions) != total:
        raise ValueError(f"{total} pairs need as many captions, got {len(captions)}.")
    count = total if hard_negative is None else total - 1
    if hard_negative is not None and not 0 <= hard_negative < count:
        raise ValueError(
            f"hard_negative must be 0 to {count - 1}, got {hard_negative}."
        )
    if not 1 <= kappa <= 100:
        raise ValueError(f"kappa must be 1 to 100, got {kappa}.")
    data = {
        "similarities": cosines.tolist(),
        "captions": list(captions),
        "hardNegative": hard_negative,
        "kappa": kappa,
    }
    alt = (
        f"The softmax over the videos for each of {count} captions at κ = {kappa:.1f}; "
        "the right pairs are on the diagonal."
    )
    drawn = _matrix(cosines[:count, :count], kappa).svg(alt)
    sentences = "".join(f"<li>{html.escape(x)}</li>" for x in captions[:count])
    still = f'{drawn}<ol style="margin:.3rem 0;padding-left:1.6rem">{sentences}</ol>'
    show_live(["softmax.js", "contrast.js", "info_nce.js"], data, still, alt, caption)


def _matrix(cosines: np.ndarray, kappa: float) -> Drawing:
    """The softmax of every row, in per cent."""
    count = len(cosines)
    powers = np.exp(kappa * (cosines - cosines.max(axis=1, keepdims=True)))
    shares = powers / powers.sum(axis=1, keepdims=True)
    side = (WIDTH - 32) / count
    drawn = Drawing(math.ceil(46 + count * side))
    drawn.text(WIDTH / 2, 14, "softmax over videos, text→video, in %", SMALL)
    for a, row in enumerate(shares):
        middle = 45 + (a + 0.5) * side
        drawn.text(14, middle, f"t{a + 1}", SMALL)
        drawn.text(30 + (a + 0.5) * side, 34, f"v{a + 1}", SMALL)
        for b, share in enumerate(row):
            left, top = 30 + b * side, 42 + a * side
            drawn.cell(left, top, side - 2, side - 2, TEXT, round(0.6 * share, 3))
            drawn.text(left + side / 2 - 1, middle, f"{100 * share:.0f}", SMALL)
    return drawn
