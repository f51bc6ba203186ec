"""A page shows the code of the idea; glue, tables, plots and set-up are out of sight."""

import ast
import builtins

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from tiny_book import ROOT

from book.builder import sources, visible
from book.builder.project import Project

PROJECT = Project(ROOT)


def shown(*cells, tags=(), outputs=()):
    """The cells of a page: its code without a click, or the caption it is folded under."""
    made = [new_code_cell(text, id=f"c{i}") for i, text in enumerate(cells)]
    made[0].metadata["tags"] = list(tags)
    made[0].outputs = list(outputs)
    return visible.fold(new_notebook(cells=made)).cells


def open_code(*cells, tags=()):
    return ["\n".join(visible.lines(cell)) for cell in shown(*cells, tags=tags)]


def test_glue_and_tables_are_cut_and_the_computation_stays():
    cell = 'x = f(1)\nreport.glue("a", x)\nreport.table(g(x), caption="c")'
    assert open_code(cell) == ["x = f(1)"]
    (alone,) = shown('report.glue("a", x)\nreport.metric_table({"a": x})')
    assert alone.metadata["tags"] == ["remove-input"]
    assert alone.source  # without it MyST-NB would drop the output
    loop = 'y = f(2)\nfor k in y:\n    z = 2 * k\n    report.glue(f"a_{k}", z)'
    assert open_code(loop) == ["y = f(2)"]
    inner = "for k in y:\n    print(g(k))\n    total += k\n    report.glue('a', k)"
    assert open_code(inner, "total()") == [
        "for k in y:\n    print(g(k))\n    total += k",
        "total()",
    ]


def test_a_figure_is_folded_below_what_it_draws():
    cell = 'y = f(1)\nfig = plots.bars(y)\nalt = "Bars."\nreport.show(fig, alt=alt)'
    stream = new_output("stream", text="said")
    html = new_output("display_data", {"text/html": "drawn"})
    above, below = shown(cell, outputs=[html, stream])
    assert above.source == "y = f(1)"
    assert above.outputs == [stream]
    assert (
        below.source == 'fig = plots.bars(y)\nalt = "Bars."\nreport.show(fig, alt=alt)'
    )
    assert below.outputs == [html]
    assert below.metadata["mystnb"]["code_prompt_show"] == "How this figure is drawn"


def test_a_function_that_draws_and_its_calls_are_folded():
    function = "def show(a):\n    report.show(plots.lines(a), alt='Some lines.')"
    assert open_code(function, "show(1)") == ["", ""]


def test_a_live_figure_is_folded_by_its_import():
    imported = "from book.kit.live.one import figure_of\nx = f(1)"
    above, below = shown(imported, "figure_of(x)")
    assert above.source == imported
    assert below.metadata["mystnb"]["code_prompt_show"] == "How this figure is drawn"


def test_what_a_drawing_computes_on_the_way_is_not_lost():
    cell = "fig, ax = plots.figure()\nfor a in b:\n    c = f(a)\n    draw(ax, c)\n"
    (folded,) = shown(cell + "print(c)")
    assert folded.source == cell + "print(c)"
    assert "hide-input" in folded.metadata["tags"]


@pytest.mark.parametrize("text", ['a = "words"', "a = b.c", 'a = {"x": d["y"]}'])
def test_a_value_that_is_only_written_down_is_cut_unless_code_uses_it(text):
    assert open_code(f"{text}\nreport.table(a)") == [""]
    assert open_code(f"{text}\nreport.table(a)", "g(a)")[0] == text
    assert open_code(text, "def f():\n    return a", "f()")[0] == text
    assert open_code(text, "a += 1\nprint(a)")[0] == text
    assert open_code(text, "a = 1\nprint(a)")[0] == ""


def test_a_value_that_is_computed_stays_even_if_only_the_prose_uses_it():
    assert open_code('a = b / c\nreport.glue("x", a)') == ["a = b / c"]


def test_an_interval_for_a_claim_is_folded_with_it():
    cell = "x = f(1)\ngap = evidence.difference(x, y)\nclaims.claim(gap)"
    above, below = shown(cell)
    assert above.source == "x = f(1)"
    assert below.source == "gap = evidence.difference(x, y)\nclaims.claim(gap)"
    assert below.metadata["mystnb"]["code_prompt_show"] == "How this claim is tested"


def test_set_up_is_folded_and_the_values_of_the_run_stand_with_the_parameters():
    cells = [
        new_code_cell("bootstrap()", metadata={"tags": ["bootstrap"]}),
        new_code_cell("a = 1  # one", metadata={"tags": ["parameters"]}),
        new_code_cell("a = 2", metadata={"tags": ["injected-parameters"]}),
        new_code_cell("import os", id="imports"),
        new_code_cell("assert os", metadata={"tags": ["check"]}),
    ]
    found = visible.fold(new_notebook(cells=cells)).cells
    assert [cell.source for cell in found] == [
        "a = 1  # one\n\n# In this run\na = 2",
        "import os",
        "assert os",
    ]
    assert all("hide-input" in cell.metadata["tags"] for cell in found)
    assert cells[1].source == "a = 1  # one"  # the notebook itself is as before


def names(cells):
    """Names that these cells use, and those that they define."""
    used, defined = set(), set(dir(builtins))
    for node in (node for cell in cells for node in ast.walk(ast.parse(cell.source))):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).split(".")[0])
    return used, defined


@pytest.mark.parametrize("name", sources.chapters(PROJECT))
def test_no_chapter_shows_glue_or_cuts_what_the_code_it_shows_needs(name):
    notebook = nbformat.read(PROJECT.notebooks / f"{name}.ipynb", as_version=4)
    cells = [c for c in visible.fold(notebook).cells if c.cell_type == "code"]
    open_ones = [cell for cell in cells if visible.lines(cell)]
    assert not [cell.id for cell in open_ones if "glue(" in cell.source]
    assert names(open_ones)[0] <= names(cells)[1]
