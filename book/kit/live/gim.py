"""GIM of one caption, live: its weights, the pooled vector, the row of S and the rank."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from book.kit import plots
from book.kit.live.figure import show_live
from book.kit.svg import to_svg
from glscl import gim
from glscl.data.encode import jpeg
from glscl.util.shapes import check_shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DIGITS = 9  # significant ones of the stored inner products; float32 has about 7


def gim_figure(
    text: Tensor,
    frames: Tensor,
    frame_mask: Tensor,
    own: int,
    pictures: NDArray[np.uint8],
    temperature: float = 3.0,
    caption: str = "",
) -> None:
    """Show what τ does for one caption and a gallery; the reader drags τ.

    ``text``: (D), the caption's feature; ``frames``: (B, F, D) and ``frame_mask``:
    (B, F) of the gallery; ``own``: the place of the right video; ``pictures``: its real
    frames, (n, H, W, 3) uint8. ``temperature``: where τ starts; it goes from a hundredth
    to ten times that. ``caption`` goes below the figure. ``ValueError`` for sizes that do
    not fit.

    Without scripts: weights, vectors and similarities at ``temperature``, as a picture.
    """
    sizes = check_shape(frames, "B F D", "frames")
    check_shape(text, "D", "text", D=sizes["D"])
    check_shape(frame_mask, "B F", "frame_mask", **sizes)
    if not 0 <= own < sizes["B"]:
        raise ValueError(f"own must be 0 to {sizes['B'] - 1}, got {own}.")
    real = int(frame_mask[own].sum())
    check_shape(pictures, "n H W 3", "pictures", n=real)
    text, frames = text.double().cpu(), frames.double().cpu()
    mask = frame_mask.cpu()
    plane = _plane(text, frames[own][mask[own]])
    data = {
        "gallery": [
            _inner_products(text, one[m]) for one, m in zip(frames, mask, strict=True)
        ],
        "own": own,
        "length": text.norm().item(),
        "plane": _short(plane),
        "pictures": [
            f"data:image/jpeg;base64,{base64.b64encode(jpeg(one)).decode()}"
            for one in pictures
        ],
        "temperature": temperature,
    }
    alt = (
        f"For one caption at τ = {temperature:g}: weights of {real} frames, the pooled "
        f"vector among the frames, and similarities with {sizes['B']} videos."
    )
    drawn = _still(text, frames, mask, own, plane, temperature)
    show_live(
        ["softmax.js", "pooling.js", "gim.js"], data, to_svg(drawn, alt), alt, caption
    )


def _inner_products(text: Tensor, frames: Tensor) -> dict[str, list]:
    """All that GIM needs of a video: with the caption (F), and of frames (F, F)."""
    return {"products": _short(frames @ text), "gram": _short(frames @ frames.T)}


def _short(values: Tensor) -> list:
    """The numbers of a tensor, rounded so that they take little room in a page."""
    if values.ndim > 1:
        return [_short(one) for one in values]
    return [float(f"{x:.{_DIGITS}g}") for x in values.tolist()]


def _plane(text: Tensor, frames: Tensor) -> Tensor:
    """Frames (F, D) in two dimensions, (F, 2); the map is linear, so means stay means.

    First: the inner product with the unit caption. Second: of what is left, that
    direction in which the frames differ most.
    """
    unit = text / text.norm()
    along = frames @ unit
    rest = frames - along[:, None] * unit
    _, _, directions = torch.linalg.svd(rest - rest.mean(dim=0), full_matrices=False)
    # The sign of a direction is free: most of it should be positive, on any machine.
    second = directions[0] * directions[0].sum().sign()
    return torch.stack([along, rest @ second], dim=1)


@plots.styled
def _still(
    text: Tensor, frames: Tensor, mask: Tensor, own: int, plane: Tensor, tau: float
) -> Figure:
    """The same as a picture: weights, vectors in the plane, similarities."""
    weights = gim.frame_weights(text[None], frames, mask, tau)[0, own][mask[own]]
    scores = gim.global_similarity(text[None], frames, mask, tau)[0].numpy()
    mean = gim.mean_similarity(text[None], frames, mask)[0].numpy()
    made, axes = plots.figure(height=4.6, rows=2, columns=2)
    (bars, sketch), row = axes[0], made.add_subplot(axes[1, 0].get_gridspec()[1, :])
    for ax in axes[1]:
        ax.remove()
    bars.bar(range(1, len(weights) + 1), weights.numpy(), color=plots.COLOURS[0])
    bars.set(xlabel="frame", ylabel="weight", title=f"τ = {tau:g}")
    sketch.scatter(
        *plane.T, color=plots.COLOURS[1], s=20 + 200 * weights.numpy(), alpha=0.6
    )
    for name, point, colour in (
        ("mean", plane.mean(dim=0), plots.INK),
        ("GIM", weights @ plane, plots.COLOURS[2]),
    ):
        sketch.scatter(*point[:, None], color=colour, marker="s", zorder=3)
        sketch.annotate(
            name, point.tolist(), (0, 7), textcoords="offset points", ha="center"
        )
    sketch.set(
        xlabel="along the caption", ylabel="main difference", xticks=[], yticks=[]
    )
    places = np.arange(len(scores))
    colours = [plots.COLOURS[int(b == own)] for b in places]
    row.bar(places, scores, color=colours)
    row.scatter(places, mean, marker="_", color=plots.INK, zorder=3)
    row.set(xlabel="videos (orange: the right one)", ylabel="S", xticks=[])
    row.set_title("bars: GIM, lines: mean pooling")
    return made
