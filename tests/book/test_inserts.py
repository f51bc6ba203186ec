"""Prose pages show what cells of the chapters put out, and say so when they cannot."""

import nbformat
import pytest
from tiny_book import chapter, tiny_book

from book.builder import inserts, sources
from book.builder.project import BuildError

MARK = "Before.\n\n<!-- output: 01_a body -->\n\nAfter.\n"


def executed(project, *outputs):
    """Pretend that 01_a was run and its last cell had these outputs."""
    notebook = sources.read(project.notebooks / "01_a.ipynb")
    notebook.cells[-1].outputs = list(outputs)
    sources.write(notebook, project.executed / "01_a.ipynb")


def displayed(markup):
    data = {"text/html": markup, "text/plain": "words"}
    return nbformat.v4.new_output("display_data", data=data)


@pytest.fixture
def project(tmp_path):
    return tiny_book(tmp_path, {"01_a": chapter()})


def test_an_output_stands_on_the_page_as_the_cell_showed_it(project):
    printed = nbformat.v4.new_output("stream", text="printed")
    executed(project, printed, displayed("<b>1</b>"), displayed("<i>2</i>"))
    page = inserts.fill(project, "intro.md", MARK)
    wanted = "Before.\n\n```{raw} html\n<b>1</b>\n<i>2</i>\n```\n\nAfter.\n"
    assert page == wanted


def test_a_chapter_that_was_not_run_is_said(project):
    assert "Shown when the chapters" in inserts.fill(project, "intro.md", MARK)
    executed(project)
    assert "Shown when the chapters" in inserts.fill(project, "intro.md", MARK)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("output: 02_b body", "intro.md: No chapter '02_b'"),
        ("output: 01_a nothing", "intro.md: 01_a has no cell 'nothing'"),
        ("drawing: a house", "intro.md: No drawing 'a house'"),
    ],
)
def test_a_mark_that_leads_nowhere_is_refused(project, mark, message):
    with pytest.raises(BuildError, match=message):
        inserts.fill(project, "intro.md", f"<!-- {mark} -->\n")


def test_other_comments_stay(project):
    text = "<!-- a note -->\nIn a line <!-- drawing: method --> it is a note, too.\n"
    assert inserts.fill(project, "intro.md", text) == text
