"""ICL and IDL on the unit circle, live: batch size, division by Q or A, descent."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from book.kit import plots
from book.kit.live.figure import show_live
from book.kit.svg import to_svg
from glscl import losses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CONCEPTS = 3  # Q
MOST_PAIRS = 16  # the largest batch
Loss = Callable[[Tensor, Tensor], Tensor]


def circle_figure(
    batch: int = 6,
    beta: float = 0.005,
    target: float = 0.75,
    margin: float = 0.1,
    seed: int = 0,
    caption: str = "",
) -> None:
    """Show concepts of a batch on the circle; the reader chooses losses and descends.

    ``batch``: pairs at the start, from 1 to 16; ``beta``, ``target`` and ``margin`` as
    in ``glscl.losses``; ``seed``: of the first positions; ``caption`` goes below the
    figure. ``ValueError`` for another batch.

    Without scripts: the first positions and where descent on the pairs' term of ICL and
    on IDL ends, divided by A and by Q, as a picture.
    """
    if not 1 <= batch <= MOST_PAIRS:
        raise ValueError(f"batch must be 1 to {MOST_PAIRS}, got {batch}.")
    video, text = first_angles(seed)
    data = {
        "video": video.tolist(),
        "text": text.tolist(),
        "batch": batch,
        "target": target,
        "margin": margin,
        "beta": beta,
    }
    alt = (
        f"{batch} pairs of {CONCEPTS} concepts on the circle: at the start, after descent "
        "on ICL divided by A, and after descent on ICL divided by Q."
    )
    drawn = _still(video[:batch], text[:batch], target, margin)
    scripts = ["concepts.js", "circle.js"]
    show_live(scripts, data, to_svg(drawn, alt), alt, caption)


def first_angles(seed: int) -> tuple[Tensor, Tensor]:
    """Angles of video and of text concepts, (16, 3) each, the modalities apart."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.randn(2, MOST_PAIRS, CONCEPTS, generator=generator).double()
    middles = torch.tensor([[118.0, 133.0, 148.0], [32.0, 60.0, 88.0]]).double()
    angles = torch.deg2rad(middles[:, None] + 7 * spread)
    # Six decimals are the same numbers in the page and here.
    video, text = (1e6 * angles).round() / 1e6
    return video, text


def on_circle(angles: Tensor) -> Tensor:
    """Angles (...) as unit vectors (..., 2)."""
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def descend(
    video: Tensor, text: Tensor, loss: Loss, steps: int, most: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Angles after gradient descent on ``loss(video, text)`` of the unit vectors.

    No point turns by more than ``most`` in a step, and the step is halved until the
    loss falls; where it cannot fall, descent ends.
    """
    for _ in range(steps):
        raw = [x.detach().requires_grad_() for x in (video, text)]
        value = loss(*map(on_circle, raw))
        slopes = torch.autograd.grad(value, raw, materialize_grads=True)
        longest = max(slope.abs().max().item() for slope in slopes)
        angles = itertools.takewhile(
            lambda x: x > 1e-6, (most / 2**k for k in itertools.count())
        )
        for angle in angles if longest >= 1e-9 else ():
            moved = [
                x.detach() - angle / longest * g
                for x, g in zip(raw, slopes, strict=True)
            ]
            if loss(*map(on_circle, moved)) < value:
                video, text = moved
                break
        else:
            break
    return video, text


def pairs_and_diversity(target: float, margin: float, normalise: str) -> Loss:
    """The pairs' term of ICL plus IDL, of video and text concepts (A, Q, 2)."""

    def loss(video: Tensor, text: Tensor) -> Tensor:
        c = losses.concept_agreement(video, text, normalise)  # type: ignore[arg-type]
        pairs = (c - target).square().sum()
        return pairs + losses.intra_diversity(video, margin=margin)

    return loss


@plots.styled
def _still(video: Tensor, text: Tensor, target: float, margin: float) -> Figure:
    """The start and both ends of descent."""
    made, axes = plots.figure(width=6.8, height=2.6, columns=3)
    _draw(axes[0], video, text, "start")
    for ax, normalise, name in (
        (axes[1], "batch", "÷ A"),
        (axes[2], "released", "÷ Q"),
    ):
        loss = pairs_and_diversity(target, margin, normalise)
        _draw(ax, *descend(video, text, loss, 300), name)
    return made


def _draw(ax: Axes, video: Tensor, text: Tensor, name: str) -> None:
    """Video concepts on the circle, text concepts on one inside; lines join partners."""
    circle = on_circle(torch.linspace(0, 2 * torch.pi, 200))
    outer, inner = on_circle(video), 0.7 * on_circle(text)
    for radius in (1.0, 0.7):
        ax.plot(*(radius * circle.T), color=plots.INK, lw=0.5)
    partners = torch.stack([outer, inner]).flatten(1, 2)  # (2, A Q, 2)
    ax.plot(*partners.permute(2, 0, 1), color=plots.INK, lw=0.5, alpha=0.35)
    for points, colour in ((outer, plots.COLOURS[1]), (inner, plots.COLOURS[0])):
        for q, marker in enumerate(plots.MARKERS[:CONCEPTS]):
            x, y = points[:, q].T
            ax.scatter(x, y, s=18, color=colour, marker=marker, zorder=3)
    mean = (video - text).cos().mean()
    ax.set(aspect="equal", title=f"{name}\nmean cosine {mean:.2f}")
    ax.set_axis_off()
