"""Pages are rendered from their sources, with links to the address of the project."""

import pytest
from tiny_book import chapter, tiny_book

from book import build
from book.builder import site


def test_pages_are_rendered_again_only_if_documented_modules_changed(tmp_path, capsys):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    page = "# API\n\n```{eval-rst}\n.. automodule:: glscl.shown\n   :members:\n```\n"
    (project.book / "references.md").write_text(page)
    shown = project.root / "glscl/shown.py"
    shown.write_text('"""A first sentence."""\n')
    (project.book / "intro.md").write_text("# A book\n")

    def rendered():
        assert build.main(["book", "--params", "smoke"], project.root) == 0
        return "pages: rendered" in capsys.readouterr().out

    assert rendered()
    assert "A first sentence." in (project.html / "book/references.html").read_text()
    (project.root / "glscl/search/__init__.py").write_text("x = 1\n")
    (project.root / "glscl/weights.safetensors").touch()
    assert not rendered()
    shown.write_text('"""Another sentence."""\n')
    assert rendered()
    assert "Another sentence." in (project.html / "book/references.html").read_text()


def test_where_a_chapter_was_not_run_its_numbers_say_so():
    own, other = "{glue:text}`x:.1f`", "{glue:text}`/notebooks/02_b.ipynb::y:d`"
    text = f"Here {own}, there {other}."
    said = site.mark_missing_values(text, {"01_a"}, "01_a")
    assert said == f"Here {own}, there (not run)."
    assert site.mark_missing_values(text, {"02_b"}, "01_a").startswith("Here (not run)")


@pytest.mark.parametrize(
    ("configured", "address"),
    [
        ("https://github.com/owner/name", "https://github.com/owner/name"),
        ("https://github.com/owner/name.git", "https://github.com/owner/name"),
        ("git@github.com:owner/name.git", "https://github.com/owner/name"),
        ("ssh://git@example.org/owner/name", "https://example.org/owner/name"),
        ("/somewhere/on/disk", ""),
        ("", ""),
    ],
)
def test_only_a_published_address_counts(tmp_path, configured, address):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    assert site.address(project, {"repository": {"url": configured}}) == address


def test_launch_buttons_need_an_address(tmp_path):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    without = site.configuration(project)
    assert "launch_buttons" not in without
    assert without["repository"]["url"] == ""
    path = tmp_path / "_config.yml"
    address = 'url: "https://github.com/owner/name"'
    path.write_text(path.read_text().replace('url: ""', address))
    config = site.configuration(project)
    assert config["launch_buttons"]["colab_url"].startswith("https://colab.")
    assert config["html"]["use_repository_button"] is True
