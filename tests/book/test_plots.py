"""Figures serve both themes, any colour vision, and come out the same every time."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from book.kit import plots
from book.kit.svg import to_svg

PAGES = ("#fdfcfa", "#14181e")  # the light and the dark page
# Machado et al. 2009, full severity, on linear RGB.
VISIONS = {
    "all cones": np.eye(3),
    "no red cones": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "no green cones": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "no blue cones": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear(colour):
    """Linear RGB of a hex colour."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def lab(rgb):
    """CIE L*a*b* (white D65) of linear RGB."""
    to_xyz = np.array(
        [
            [0.4124, 0.3576, 0.1805],
            [0.2126, 0.7152, 0.0722],
            [0.0193, 0.1192, 0.9505],
        ]
    )
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("colour", plots.COLOURS)
def test_every_colour_stands_out_on_both_pages(page, colour):
    pair = sorted([luminance(page) + 0.05, luminance(colour) + 0.05])
    assert pair[1] / pair[0] >= 3


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_differ_for_every_colour_vision(vision):
    seen = [lab(VISIONS[vision] @ linear(colour)) for colour in plots.COLOURS]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest > 15


def clip(strips=None, count=5, height=8, width=10):
    shape = (count, height, width, 3)
    shape = shape if strips is None else (strips, *shape)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def all_figures():
    rng = np.random.default_rng(0)
    return {
        "matrix": plots.similarity_matrix(rng.normal(size=(4, 6)), mark=[(0, 0)]),
        "heatmap": plots.heatmap(
            rng.normal(size=(3, 2)), "x", "y", list("abc"), list("de"), annotate=True
        ),
        "diverging": plots.heatmap(rng.normal(size=(2, 2)), "x", "y", diverging=True),
        "lines": plots.lines(
            [1, 10], {"a": [1, 2], "b": ([2, 3], [1, 2], [3, 4])}, "x", "y", logx=True
        ),
        "bars": plots.bars({"a": 1.0, "b": (2.0, 1.5, 2.5)}, "y", baseline=1.0),
        "groups": plots.bars({"s": {"a": 1, "b": 2}, "t": {"a": 3, "b": 4}}, "y"),
        "seed dots": plots.seed_dots({"a": ([1, 3], (0, 4)), "b": ([2], (1, 3))}, "x"),
    }


@pytest.fixture(scope="module")
def drawings():
    return {name: to_svg(made, "Words") for name, made in all_figures().items()}


@pytest.mark.parametrize("name", list(all_figures()))
def test_a_drawing_is_the_same_every_time_and_well_formed(drawings, name):
    assert to_svg(all_figures()[name], "Words") == drawings[name]
    root = ET.fromstring(drawings[name])
    assert root.get("role") == "img"
    assert root.get("aria-label") == "Words"
    assert root.get("viewBox")


@pytest.mark.parametrize("name", list(all_figures()))
def test_ink_follows_the_page_and_nothing_is_painted_behind(drawings, name):
    drawing = drawings[name]
    assert "currentColor" in drawing
    assert plots.INK not in drawing
    assert not re.search(r"#000000|#ffffff|: (?:black|white)\b", drawing)
    assert "<style" not in drawing
    assert "font-family" not in drawing


def test_drawing_leaves_the_defaults_of_matplotlib_alone(drawings):
    import matplotlib

    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30.0}):
        before = dict(matplotlib.rcParams)
        again = {name: to_svg(m, "Words") for name, m in all_figures().items()}
        assert dict(matplotlib.rcParams) == before
    assert again == drawings


def test_a_page_that_draws_itself_asks_for_the_style():
    import matplotlib

    with matplotlib.rc_context():
        plots.use_style()
        _, ax = plots.figure()
        (line,) = ax.plot([1, 2])
    assert line.get_linewidth() == 1.8
    assert line.get_color() == plots.COLOURS[0]


def test_ids_of_two_drawings_never_meet(drawings):
    ids = [re.findall(r' id="([^"]+)"', drawing) for drawing in drawings.values()]
    together = list(itertools.chain(*ids))
    assert together
    assert len(set(together)) == len(together)
    for drawing, own in zip(drawings.values(), ids, strict=True):
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', drawing))
        assert used == set(own)


def test_alt_text_with_quotes_and_angles_stays_an_attribute():
    drawing = to_svg(plots.lines([1, 2], {"a": [1, 2]}, "x", "y"), 'a "b" <c> & d')
    assert ET.fromstring(drawing).get("aria-label") == 'a "b" <c> & d'


def test_a_diverging_map_is_centred_on_zero():
    made = plots.heatmap([[-1.0, 0.2], [0.0, 0.3]], "x", "y", diverging=True)
    assert made.axes[0].images[0].get_clim() == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.frame_strip(clip().astype(float)), "uint8 pixels, got float64"),
        (lambda: plots.frame_strip(clip()[..., :2]), "axis 4 .* must have size 3"),
        (lambda: plots.frame_strip(clip(), np.ones(4)), r"weights: axis 1 \(F\)"),
        (
            lambda: plots.frame_strip(clip(), labels=["a"]),
            "5 frames need as many labels",
        ),
        (lambda: plots.frame_strip(clip(2), labels=["a"]), "2 strips need as many"),
        (lambda: plots.bars({}, "y"), "at least one value"),
        (lambda: plots.bars({"s": {"a": 1}, "t": {"b": 1}}, "y"), "needs the labels"),
        (
            lambda: plots.similarity_matrix(np.ones(3)),
            "similarity must have the 2 axes",
        ),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_row_of_seed_dots_has_its_seeds_its_mean_and_its_interval():
    (ax,) = plots.seed_dots({"one": ([1, 3], (0, 4)), "two": ([5], (4, 6))}, "x").axes
    interval, mean, seeds = (line.get_xydata().tolist() for line in ax.lines[:3])
    assert interval == [[0, 0], [4, 0]]
    assert mean == [[2, 0]]
    assert seeds == [[1, 0], [3, 0]]
    assert [x.get_text() for x in ax.get_yticklabels()] == ["one", "two"]
    assert ax.yaxis_inverted()


def test_a_roofline_bends_where_memory_no_longer_limits():
    points = {"fp32": {"GIM": (100.0, 2e11)}, "bf16": {"product": (50.0, 1e12)}}
    made = plots.roofline({"fp32": 1e12, "bf16": 4e12}, 1e10, points)
    for line, roof in zip(made.axes[0].lines, (1e12, 4e12), strict=True):
        x, y = line.get_data()
        assert y.max() == roof
        below = y < roof
        np.testing.assert_allclose(y[below], 1e10 * x[below])
        assert x[~below].min() >= roof / 1e10
    with pytest.raises(ValueError, match="no roof for tf32"):
        plots.roofline({"fp32": 1e12}, 1e10, {"tf32": {}})
