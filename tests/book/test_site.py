"""Pages are rendered from their sources, with links to the address of the project."""

import subprocess

import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output
from tiny_book import chapter, tiny_book

from book import build
from book.builder import address, colab_notebooks, outputs, pages, site, sources


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


def test_with_an_address_a_build_has_buttons_notebooks_for_them_and_a_site_map(
    tmp_path,
):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    configure(project, repository={"url": "https://github.com/owner/name"})
    assert list(sources.update_bootstrap(project)) == ["notebooks/01_a.ipynb"]
    assert build.main(["book", "--params", "smoke"], project.root) == 0
    page = (project.html / "notebooks/01_a.html").read_text()
    assert f'href="{colab_notebooks.link(project, "01_a")}"' in page
    for made in (project.build / "colab/notebooks", project.html / "downloads"):
        first = sources.tagged(sources.read(made / "01_a.ipynb"), "bootstrap")[0]
        assert 'REPOSITORY = "https://github.com/owner/name"' in first.source
    base = "https://owner.github.io/name/"
    assert page.count('rel="canonical"') == 1
    assert (
        f"<loc>{base}notebooks/01_a.html</loc>"
        in (project.html / "sitemap.xml").read_text()
    )
    faults = [fault for fault in pages.check(project.html) if "a figure" not in fault]
    assert faults == []


def test_where_a_chapter_was_not_run_its_numbers_say_so():
    own, other = "{glue:text}`x:.1f`", "{glue:text}`/notebooks/02_b.ipynb::y:d`"
    text = f"Here {own}, there {other}."
    said = site.mark_missing_values(text, {"01_a"}, "01_a")
    assert said == f"Here {own}, there (not run)."
    assert site.mark_missing_values(text, {"02_b"}, "01_a").startswith("Here (not run)")


def configure(project, **values):
    path = project.root / "_config.yml"
    config = yaml.safe_load(path.read_text())
    for name, value in values.items():
        config[name] = config[name] | value
    path.write_text(yaml.safe_dump(config))


ADDRESSES = [
    ("https://github.com/owner/name", "https://github.com/owner/name"),
    ("https://github.com/owner/name.git", "https://github.com/owner/name"),
    ("git@github.com:owner/name.git", "https://github.com/owner/name"),
    ("ssh://git@example.org/owner/name", "https://example.org/owner/name"),
    ("/somewhere/on/disk", ""),
    ("", ""),
]


@pytest.mark.parametrize(("given", "found"), ADDRESSES)
@pytest.mark.parametrize("where", ["configured", "remote"])
def test_only_an_address_of_the_web_counts(tmp_path, given, found, where):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    if where == "configured":
        configure(project, repository={"url": given})
        assert address.configured(project) == found
    else:
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
        add = ["git", "remote", "add", "origin", given or "/nowhere"]
        subprocess.run(add, cwd=tmp_path, check=True)
        assert address.configured(project) == ""
    assert address.repository(project) == found


def test_the_setting_comes_before_the_ci_run(tmp_path, monkeypatch):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    monkeypatch.setenv("CI_PROJECT_URL", "https://gitlab.com/owner/name")
    assert address.repository(project) == "https://gitlab.com/owner/name"
    assert address.pages(project) == "https://owner.gitlab.io/name/"
    assert not address.on_colab(project)
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://github.com")
    monkeypatch.setenv("GITHUB_REPOSITORY", "Other/name")
    assert address.repository(project) == "https://github.com/Other/name"
    assert address.pages(project) == "https://other.github.io/name/"
    assert address.on_colab(project)
    configure(
        project,
        repository={"url": "https://github.com/me/me.github.io"},
        html={"baseurl": ""},
    )
    assert address.pages(project) == "https://me.github.io/"
    configure(project, html={"baseurl": "https://example.org/book"})
    assert address.pages(project) == "https://example.org/book/"


def test_launch_buttons_need_an_address_and_open_the_notebooks_for_colab(tmp_path):
    project = tiny_book(tmp_path, {"01_a": chapter()})
    without = site.configuration(project)
    assert "launch_buttons" not in without
    assert "baseurl" not in without["html"]
    assert without["repository"]["url"] == ""
    configure(project, repository={"url": "https://github.com/owner/name"})
    config = site.configuration(project)
    assert config["launch_buttons"]["colab_url"].startswith("https://colab.")
    assert config["html"]["use_repository_button"] is True
    assert config["html"]["baseurl"] == "https://owner.github.io/name/"
    assert config["repository"]["branch"] == address.COLAB_BRANCH


def test_an_output_that_a_page_lacks_fails_the_build(tmp_path):
    cells = [new_code_cell("report.table(x)", id=f"cell-{i}") for i in range(2)]
    for cell in cells:
        cell.outputs = [new_output("display_data", {"text/html": "<table>"})]
    value = {"application/papermill.record/text/plain": "1"}
    cells.append(new_code_cell("report.glue('a', 1)", id="glue"))
    cells[-1].outputs = [new_output("display_data", value)]
    sources.write(new_notebook(cells=cells), tmp_path / "tree/notebooks/01_a.ipynb")
    page = tmp_path / "pages/notebooks/01_a.html"
    page.parent.mkdir(parents=True)
    shown = '<div class="cell_output docutils container"></div>'
    page.write_text(2 * shown, encoding="utf-8")
    assert not list(outputs.check(tmp_path / "tree", tmp_path / "pages"))
    page.write_text(shown, encoding="utf-8")
    (fault,) = outputs.check(tmp_path / "tree", tmp_path / "pages")
    assert fault == "01_a: 2 cells have an output, its page shows 1"
