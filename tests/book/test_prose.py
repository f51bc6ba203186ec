"""A typed result stops the build; quoted, cited and excused numbers do not."""

import pytest
from tiny_book import ROOT, chapter, tiny_book

from book import build
from book.builder import prose

PUBLISHED = {48.1, 1000.5}
EXCUSED = {"95 % interval": "a level is chosen"}


def found(text):
    return list(prose.typed(text, PUBLISHED, EXCUSED, set()))


@pytest.mark.parametrize(
    "text",
    [
        "We reach 51.3 % of it.",
        "It gains\n2.1 points.",
        "Half of them, or 50 percent.",
        "An R@1 of 48.3.",
        "R@10 is 7 here.",
        "| R@1 | 45.0 |",
        "The mean rank of 3.4 is better.",
        "MdR = 2",
        "As {cite}`someone` says, 48.2 %.",  # not the published number
        "It is 48.1 %.",  # published, and not cited
        "{cite}`someone` it is.\n\nAnd 48.1 % here.",  # cited somewhere else
        "A 90 % interval.",
        "`code` and then 3 %",
    ],
)
def test_a_typed_result_is_found(text):
    assert len(found(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "R@1, R@5 and R@10, in %.",
        "{glue:text}`ch01_share:.1f` % of them, R@1 {glue:text}`ch01_x:.1f`.",
        "`50 %` and ``R@1 50``",
        "```text\nR@1 50.0 %\n```",
        "$50\\%$ of it, and $$\n50 \\%\n$$",
        "<!-- 50 % -->",
        "{cite}`someone` reports 48.1 %\nand 1,000.5 points.",
        "with a 95 %\ninterval",
        "Twelve frames, 1000 videos, a learning rate of 0.1.",
    ],
)
def test_what_no_cell_has_to_compute_may_be_typed(text):
    assert found(text) == []


def test_a_typed_result_stops_the_build_and_names_its_place(tmp_path, capsys):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    (project.book / "extra.md").write_text("# More\n\nIt reaches 51.3 %.\n")
    first = project.notebooks / "01_a.ipynb"
    first.write_text(first.read_text().replace("A formula", "An R@5 of 70 and"))
    for command in (["sources"], ["book", "--params", "smoke"]):
        assert build.main(command, tmp_path) == 1
        said = capsys.readouterr().err
        assert "book/extra.md: '51.3 %' is a typed result" in said
        assert "notebooks/01_a.ipynb, cell glance: 'R@5 of 70'" in said
    assert not project.html.exists()


def test_an_excuse_that_nothing_needs_must_go(tmp_path, capsys):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    (project.book / "typed_numbers.yml").write_text("7 % of all: a test\n")
    assert build.main(["sources"], tmp_path) == 1
    assert "no page says '7 % of all'" in capsys.readouterr().err


def test_this_book_types_no_result():
    assert list(prose.check(build.Project(ROOT))) == []
