"""Committed notebooks are checked, and all faults are reported at once."""

import nbformat
import pytest
from tiny_book import chapter, tiny_book, write_chapter

from book.builder import sources
from book.builder.project import BuildError


def spoil(notebook, how):
    body = notebook.cells[-1]
    if how == "output":
        body.outputs = [nbformat.v4.new_output("stream", text="x")]
    elif how == "count":
        body.execution_count = 1
    elif how == "papermill":
        notebook.metadata["papermill"] = {}
    elif how == "bootstrap":
        notebook.cells[1].source += "\nx = 1"
    elif how == "no parameters":
        notebook.cells[2].metadata["tags"] = []
    elif how == "runtime":
        notebook.cells[0].source = "# A chapter"
    elif how == "wide":
        body.source = "x = " + "1" * 76
    else:
        body.source = "x = 1\n" * (sources.MAX_LINES + 1)
    return notebook


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("output", "holds outputs"),
        ("count", "holds outputs"),
        ("papermill", "papermill or widget metadata"),
        ("bootstrap", "the bootstrap cell differs"),
        ("no parameters", "one cell tagged `parameters`, found 0"),
        ("runtime", "expected one `<!-- runtime -->"),
        ("wide", "wider than 79 columns"),
        ("long", "at most 20 are allowed"),
    ],
)
def test_a_source_that_is_not_clean_is_refused(tmp_path, how, message):
    project = tiny_book(tmp_path, {"01_a": spoil(chapter(), how)})
    with pytest.raises(BuildError, match=message):
        sources.load(project)


def test_every_fault_of_every_source_is_reported_at_once(tmp_path):
    bad = {"01_a": spoil(chapter(), "wide"), "02_b": spoil(chapter(), "output")}
    with pytest.raises(BuildError, match=r"01_a.*wider[\s\S]*02_b.*outputs"):
        sources.load(tiny_book(tmp_path, bad))


def test_notebooks_and_table_of_contents_must_agree(tmp_path):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    write_chapter(project, "02_b", chapter())
    with pytest.raises(BuildError, match=r"02_b\.ipynb is missing from _toc\.yml"):
        sources.chapters(project)
    (project.notebooks / "01_a.ipynb").unlink()
    with pytest.raises(BuildError, match="names notebooks/01_a, which does not exist"):
        sources.chapters(project)


def test_bootstrap_is_inserted_refreshed_and_given_the_address(tmp_path):
    fresh = chapter()
    del fresh.cells[1]
    project = tiny_book(tmp_path, {"01_a": fresh, "02_b": chapter()})
    config = (tmp_path / "_config.yml").read_text()
    address = "https://example.org/owner/name"
    (tmp_path / "_config.yml").write_text(
        config.replace('url: ""', f'url: "{address}"')
    )
    assert list(sources.update_bootstrap(project)) == [
        "notebooks/01_a.ipynb",
        "notebooks/02_b.ipynb",
    ]
    assert list(sources.update_bootstrap(project)) == []
    assert len(sources.load(project)) == 2
    cells = [
        sources.tagged(sources.read(path), "bootstrap")[0].source
        for path in sorted(project.notebooks.glob("*.ipynb"))
    ]
    assert cells[0] == cells[1]
    assert f'REPOSITORY = "{address}"' in cells[0]
