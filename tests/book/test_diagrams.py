"""Diagrams are well formed, have an accessible name, and stay inside their area."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from book.builder import inserts
from book.kit import diagrams

SVG = "{http://www.w3.org/2000/svg}"
WEIGHTS = np.array([0.5, 0.2, 0.3, 0.0, 0.0])
MASK = [True, True, True, True, False]
DRAWINGS = {
    "gim": lambda: diagrams.pooling(WEIGHTS),
    "tib": lambda: diagrams.pooling(WEIGHTS, values="others"),
    "lim": lambda: diagrams.local(5, 2),
    "one concept": lambda: diagrams.local(1, 1),
    "frame transformer": lambda: diagrams.frame_transformer(2, 5, 3),
    "losses": lambda: diagrams.losses(3),
    "towers": diagrams.towers,
    "method": diagrams.method,
}


def parsed(drawing, alt="What it shows", **options):
    return ElementTree.fromstring(drawing.svg(alt, **options))


def said(tree):
    return ["".join(text.itertext()) for text in tree.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_has_a_name_and_stays_inside_its_area(name):
    tree = parsed(DRAWINGS[name](), "Weights & sums")
    assert tree.get("role") == "img"
    assert tree.get("aria-label") == "Weights & sums"
    width, height = map(float, tree.get("viewBox").split()[2:])
    for box in tree.iter(f"{SVG}rect"):
        x, y, w, h = (float(box.get(k)) for k in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
    for text in tree.iter(f"{SVG}text"):
        assert 0 < float(text.get("y")) <= height
        assert 0 < float(text.get("x")) < width


@pytest.mark.parametrize("name", DRAWINGS)
def test_letters_have_the_colour_of_the_page(name):
    tree = parsed(DRAWINGS[name]())
    assert tree.get("fill") == "currentColor"
    assert all(text.get("fill") is None for text in tree.iter(f"{SVG}text"))


def test_bars_are_as_high_as_the_weights_and_padding_is_dashed():
    tree = parsed(diagrams.pooling(WEIGHTS, MASK))
    solid = [r for r in tree.iter(f"{SVG}rect") if r.get("fill-opacity") == "0.75"]
    heights = np.array([float(bar.get("height")) for bar in solid])
    np.testing.assert_allclose(heights / heights.max(), WEIGHTS / WEIGHTS.max())
    dashed = [r for r in tree.iter(f"{SVG}rect") if r.get("stroke-dasharray")]
    assert len(dashed) == 1


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match="mask"):
        diagrams.pooling(WEIGHTS, MASK[:4])


def test_indices_are_lowered_and_single_letters_slanted():
    drawing = diagrams.Drawing(20)
    drawing.text(10, 10, "s_{ab} < τ of one's")
    tree = parsed(drawing)
    assert said(tree)[0].replace("\u200b", "") == "sab < τ of one's"
    slanted = [t.text for t in tree.iter(f"{SVG}tspan") if t.get("font-style")]
    assert slanted == ["s", "ab", "τ"]


def test_every_concept_is_compared_with_its_own():
    words = said(parsed(diagrams.local(5, 2)))
    for q in "12345":
        assert words.count(q) == 2
    assert "decoder, 2 layers, shared by both" in words


def test_only_named_boxes_are_links():
    tree = parsed(diagrams.method({"global": "03.html?a&b"}), role="group")
    (link,) = tree.iter(f"{SVG}a")
    assert link.get("href") == "03.html?a&b"
    assert "GIM" in said(link)
    assert tree.get("role") == "group"


def test_the_map_links_every_box_to_a_chapter_that_exists(root_project):
    links = [f"{name}.ipynb" for name in set(inserts.CHAPTERS.values())]
    assert all((root_project.notebooks / name).is_file() for name in links)
    tree = ElementTree.fromstring(inserts.drawing(root_project, "method"))
    assert len(list(tree.iter(f"{SVG}a"))) == len(inserts.CHAPTERS)
    boxes = len(list(tree.iter(f"{SVG}rect")))
    assert boxes == len(inserts.CHAPTERS)


@pytest.fixture
def root_project():
    from tiny_book import ROOT

    from book.builder.project import Project

    return Project(ROOT)


def test_no_line_of_the_frame_transformer_ends_at_padding():
    drawn = diagrams.frame_transformer(2, frames=4, real=3)
    lines = [part for part in drawn.parts if 'stroke-opacity="0.45"' in part]
    assert len(lines) == 4 * 3
