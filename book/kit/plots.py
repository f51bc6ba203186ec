"""The book's figures: one style, readable on a light and on a dark page.

Every function returns a matplotlib ``Figure``, ``frame_strip`` markup that wraps on a
telephone; ``book.kit.report.show`` displays either with its alt text. Text, axes and
grid are drawn in the colour ``INK``, which ``book.kit.svg.to_svg`` replaces by the text
colour of the page, and backgrounds are transparent, so one figure serves both themes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from book.kit.strips import Strips
from glscl.util.shapes import check_shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

#: Distinguishable with any colour vision; contrast of at least 3:1 on both pages.
COLOURS = ("#2b7fd4", "#d87807", "#00a463", "#d60030", "#892afb", "#a74984")
MARKERS = ("o", "s", "^", "D", "v", "P")
SEQUENTIAL = "viridis"
DIVERGING = "PuOr"
#: A placeholder for the text colour of the page, which ``to_svg`` puts in.
INK = "#0b1220"
WIDTH = 6.0  # inches of a figure

_STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    "font.size": 12.0,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
    "axes.labelsize": 12.0,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "legend.fontsize": 11.0,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "image.cmap": SEQUENTIAL,
    "image.interpolation": "none",
    # Text is stored as text, not as outlines: small files, independent of fonts.
    "svg.fonttype": "none",
    "svg.hashsalt": "glscl",
    "mathtext.fontset": "dejavusans",
}

Interval = float | Sequence[float]
Draw = TypeVar("Draw", bound=Callable[..., Any])


def style() -> dict[RcKeyType, Any]:
    """The book's style as matplotlib's rcParams."""
    from cycler import cycler

    return {**_STYLE, "axes.prop_cycle": cycler(color=list(COLOURS))}


def use_style() -> None:
    """Make the book's style matplotlib's default, for a notebook with plots of its own."""
    import matplotlib

    matplotlib.rcParams.update(style())


def styled(draw: Draw) -> Draw:
    """Run ``draw`` in the book's style, and leave matplotlib's defaults as they are."""

    @functools.wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        import matplotlib

        with matplotlib.rc_context(style()):
            return draw(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


@styled
def figure(
    width: float = WIDTH,
    height: float = 3.4,
    rows: int = 1,
    columns: int = 1,
    **options: Any,
) -> tuple[Figure, Any]:
    """A figure of ``width`` × ``height`` inches in the book's style, and its axes.

    The axes are one ``Axes``, or an array of them for several ``rows`` or ``columns``.
    ``options`` go to ``Figure.subplots``. A notebook that plots into the axes itself
    calls ``use_style`` first.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Space between panels, so that each axis label is clearly that of its own panel.
    layout = ConstrainedLayoutEngine(w_pad=0.08)
    made = Figure(figsize=(width, height), layout=layout)
    return made, made.subplots(rows, columns, **options)


def frame_strip(
    frames: ArrayLike,
    weights: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    title: str | None = None,
    labels: Sequence[str] | None = None,
) -> Strips:
    """Frames side by side, one video per row; below each frame a bar of its weight.

    ``frames``: (F, H, W, 3) or (B, F, H, W, 3), uint8. ``weights`` and ``mask`` (True =
    real frame): (F) or (B, F); padding is shown as empty, hatched rectangles. ``labels``
    are put above the F frames of a single video, or above each of the B rows. The bars
    of all rows share one scale from 0. ``ValueError`` for another shape or type.
    """
    pictures = np.asarray(frames)
    single = pictures.ndim == 4
    pictures = pictures[None] if single else pictures
    sizes = check_shape(pictures, "B F H W 3", "frames")
    if pictures.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 pixels, got {pictures.dtype}.")
    rows, count = sizes["B"], sizes["F"]
    bars = _per_frame(weights, rows, count, "weights")
    real = _per_frame(mask, rows, count, "mask")
    real = np.ones((rows, count), bool) if real is None else real.astype(bool)
    places = count if single else rows
    if labels is not None and len(labels) != places:
        what = "frames" if single else "strips"
        raise ValueError(f"{places} {what} need as many labels, got {len(labels)}.")
    above = list(labels) if labels is not None else None
    return Strips(
        pictures,
        real,
        bars,
        COLOURS[0],
        title=title,
        row_labels=None if single else above,
        frame_labels=above if single else None,
    )


def _per_frame(
    values: ArrayLike | None, strips: int, count: int, name: str
) -> NDArray | None:
    if values is None:
        return None
    array = np.asarray(values)
    array = array[None] if array.ndim == 1 else array
    check_shape(array, "B F", name, B=strips, F=count)
    return array


@styled
def heatmap(
    matrix: ArrayLike,
    xlabel: str,
    ylabel: str,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    unit: str = "",
    annotate: bool = False,
    mark: Sequence[tuple[int, int]] = (),
    diverging: bool = False,
) -> Figure:
    """A matrix as colours, with a scale named ``unit``.

    ``mark`` draws a border around cells given as (row, column). ``diverging`` centres
    the colours on zero. ``annotate`` writes each value into its cell.
    """
    values = np.asarray(matrix, dtype=float)
    check_shape(values, "rows columns", "matrix")
    height = float(np.clip(0.32 * len(values) + 0.9, 2.2, 5.6))
    made, ax = figure(height=height)
    limit = float(np.nanmax(np.abs(values)))
    scale = {"vmin": -limit, "vmax": limit, "cmap": DIVERGING} if diverging else {}
    image = ax.imshow(values, aspect="auto", **scale)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(visible=False)
    if rows is not None:
        ax.set_yticks(range(len(rows)), rows)
    if columns is not None:
        slope = 30 if sum(map(len, columns)) > 60 else 0
        ax.set_xticks(range(len(columns)), columns, rotation=slope)
    for row, column in mark:
        _frame_cell(ax, row, column)
    if annotate:
        _write_values(ax, image, values)
    made.colorbar(image, ax=ax, label=unit).outline.set_visible(False)
    return made


def _frame_cell(ax: Axes, row: int, column: int) -> None:
    from matplotlib.patches import Rectangle

    corner = (column - 0.5, row - 0.5)
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, lw=2.2, ec="#ff5a36"))


def _write_values(ax: Axes, image: Any, values: NDArray) -> None:
    """Dark letters on light cells and light ones on dark cells."""
    colours = image.cmap(image.norm(values))[..., :3]
    light = colours @ np.array([0.299, 0.587, 0.114]) > 0.5
    for (row, column), value in np.ndenumerate(values):
        ink = "#101010" if light[row, column] else "#f5f5f5"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink)


@styled
def similarity_matrix(
    similarity: ArrayLike,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    xlabel: str = "videos",
    ylabel: str = "captions",
    mark: Sequence[tuple[int, int]] = (),
) -> Figure:
    """Similarities (A, B) as colours, with a border around the pairs in ``mark``."""
    check_shape(np.asarray(similarity), "A B", "similarity")
    return heatmap(
        similarity, xlabel, ylabel, rows, columns, unit="similarity", mark=mark
    )


def _legend(ax: Axes) -> None:
    """A legend above the axes, where it hides no data and leaves their width as it is."""
    longest = max(map(len, ax.get_legend_handles_labels()[1]))
    columns = 4 if longest < 10 else 3 if longest < 22 else 2
    ax.figure.legend(loc="outside upper left", ncols=columns)


@styled
def lines(
    x: ArrayLike,
    series: Mapping[str, ArrayLike | tuple[ArrayLike, ArrayLike, ArrayLike]],
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    baseline: float | None = None,
    baseline_label: str = "chance",
) -> Figure:
    """Curves over ``x``, each with its own marker; a triple is (middle, low, high)."""
    made, ax = figure()
    for index, (label, values) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        marker = MARKERS[index % len(MARKERS)]
        if isinstance(values, tuple):
            middle, low, high = values
            ax.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        else:
            middle = values
        ax.plot(x, middle, color=colour, marker=marker, label=label)
    if baseline is not None:
        ax.axhline(baseline, color=INK, linestyle="--", lw=1.2, label=baseline_label)
    if logx:
        ax.set_xscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if len(series) > 1 or baseline is not None:
        _legend(ax)
    return made


@styled
def roofline(
    bounds: Mapping[str, float],
    bandwidth: float,
    points: Mapping[str, Mapping[str, tuple[float, float]]],
) -> Figure:
    """A roofline plot: MACs a second against MACs per byte moved, both logarithmic.

    ``bounds``: the largest MACs a second of each precision; ``bandwidth``: bytes a
    second, the slope to the left of these bounds. ``points``: for each precision the
    measurements by name, each with its MACs per byte and MACs a second. ``ValueError``
    for a precision without a bound.
    """
    unknown = sorted(set(points) - set(bounds))
    if unknown:
        raise ValueError(f"points: no roof for {', '.join(unknown)}.")
    fig, ax = figure(height=3.6)
    names = list(dict.fromkeys(name for runs in points.values() for name in runs))
    reached = [x for runs in points.values() for x, _ in runs.values()]
    ridge = max(bounds.values()) / bandwidth
    intensity = np.geomspace(min([*reached, ridge]) / 2, max([*reached, ridge]) * 4)
    for colour, (precision, roof) in zip(COLOURS, bounds.items(), strict=False):
        height = np.minimum(roof, bandwidth * intensity)
        ax.plot(intensity, height, color=colour, label=precision)
        for name, (x, y) in points.get(precision, {}).items():
            ax.scatter(x, y, color=colour, marker=MARKERS[names.index(name)])
    for marker, name in zip(MARKERS, names, strict=False):
        ax.scatter([], [], color=INK, marker=marker, label=name)
    ax.set(xscale="log", yscale="log", xlabel="MACs per byte that must move")
    ax.set_ylabel("MACs a second")
    _legend(ax)
    return fig


#: What ``seed_dots`` shows, for the caption below it.
SEED_DOTS = (
    "Dots: seeds. Lines: 95 % crossed bootstrap over seeds and videos, with the mean."
)


@styled
def seed_dots(
    rows: Mapping[str, tuple[ArrayLike, tuple[float, float]]], xlabel: str
) -> Figure:
    """Differences over seeds, one row each: a dot a seed, the mean, its interval.

    ``rows``: by label the values of the seeds (S,) and the ends of the interval. A
    dashed line marks zero.
    """
    made, ax = figure(width=6.4, height=1.0 + 0.3 * len(rows))
    for y, (each, ends) in enumerate(rows.values()):
        values = np.asarray(each, dtype=float)
        ax.plot(ends, [y, y], color=COLOURS[0], zorder=1)
        ax.plot(values.mean(), y, "|", color=COLOURS[0], ms=16, mew=2.5, zorder=2)
        ax.plot(values, np.full(len(values), y), "o", color=COLOURS[1], zorder=3)
    ax.axvline(0, color=INK, linestyle="--", lw=1.2, zorder=0)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    ax.set(xlabel=xlabel)
    return made


@styled
def bars(
    values: Mapping[str, Interval] | Mapping[str, Mapping[str, Interval]],
    ylabel: str,
    xlabel: str = "",
    baseline: float | None = None,
    baseline_label: str = "chance",
) -> Figure:
    """Bars from 0: one bar for each label, or one group of coloured bars for each.

    ``values`` maps labels to a number or to (middle, low, high), or series names to
    such mappings, which must share their labels.
    """
    if not values:
        raise ValueError("bars needs at least one value.")
    series: dict[str, Mapping[str, Interval]] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            series[name] = value
        else:
            series.setdefault("", {})[name] = value  # type: ignore[index]
    labels = list(next(iter(series.values())))
    if any(list(one) != labels for one in series.values()):
        raise ValueError(f"every series needs the labels {labels} in this order.")
    made, ax = figure()
    width = 0.8 / len(series)
    for index, (name, one) in enumerate(series.items()):
        places = np.arange(len(labels)) + (index - (len(series) - 1) / 2) * width
        middle, low, high = _intervals(one)
        colour = COLOURS[index % len(COLOURS)]
        ax.bar(places, middle, width * 0.92, color=colour, label=name or None)
        if any(high > low):
            spread = [middle - low, high - middle]
            ax.errorbar(places, middle, spread, fmt="none", ecolor=INK, capsize=3)
    if baseline is not None:
        ax.axhline(baseline, color=INK, linestyle="--", lw=1.2, label=baseline_label)
    crowded = len(labels) * max(map(len, labels)) > 60  # letters that fit side by side
    slope = {"rotation": 25, "ha": "right"} if crowded else {}
    ax.set_xticks(range(len(labels)), labels, **slope)
    ax.set(ylabel=ylabel, xlabel=xlabel)
    ax.grid(axis="x", visible=False)
    if len(series) > 1 or baseline is not None:
        _legend(ax)
    return made


def _intervals(one: Mapping[str, Interval]) -> tuple[NDArray, NDArray, NDArray]:
    """Middle, low and high of each value; a plain number is its own interval."""
    triples = [(v, v, v) if np.isscalar(v) else tuple(v) for v in one.values()]  # type: ignore[arg-type]
    middle, low, high = np.array(triples, dtype=float).T
    return middle, low, high
